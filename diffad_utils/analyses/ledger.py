"""The ledger of claims as notebook 08 and the report show it.

`claims.ledger` counts a category as above the margin where every part of a claim is. Of a claim for which one part of
each setting is enough (``combine`` is "either"; C07) or one part at all ("any"; C74b), this is too strict; here the
count follows the claim. Verdicts are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from diffad_utils.study import RunRecord, claims, evidence, verdicts


def ledger(records: Sequence[RunRecord]) -> pd.DataFrame:
    """`claims.ledger`, its reasons with the categories in which the claim, as it is combined, is above the margin."""
    table = claims.ledger(records)
    combine = claims.published_claims()["combine"]
    for name, judged in claims.judgements(records).items():
        if combine[name] in ("either", "any") and judged.verdict == claims.VARIES:
            reason = judged.reason.replace(verdicts._sides(judged), sides(judged, combine[name]), 1)
            table.loc[table["claim_id"] == name, "reason"] = reason
    return table


def sides(judged: verdicts.Judgement, combine: str) -> str:
    """In how many categories a claim is above its margin, as the reason of a verdict says it: by one part of each
    setting (``combine`` "either"), or by any part."""
    settings = evidence.alternatives(judged.variants) if combine == "either" else [judged.variants]
    by_setting = [
        (pd.concat([part.by_category.set_index("dataset_category")["effect"] for part in parts]) > judged.margin)
        .groupby(level=0)
        .any()
        for parts in settings
    ]
    above = pd.concat(by_setting, axis=1).apply(lambda known: known.dropna().astype(bool).all(), axis=1)
    if above.all():
        return f"{verdicts.ABOVE_IN_ALL} {len(above)}, but by different amounts; "
    return f"{int(above.sum())} of {len(above)} above the margin; " if above.any() else f"{verdicts.NONE_ABOVE}; "
