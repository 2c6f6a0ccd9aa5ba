"""The ledger of claims as notebook 08 and the report show it.

`claims.ledger` counts a category as above the margin where every part of a claim is. Of a claim for which one part of
each setting is enough (``combine`` is "either"; C07) or one part at all ("any"; C74b), this is too strict; here the
count follows the claim. Verdicts are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from diffad_utils.study import RunRecord, claims, evidence, verdicts

FEWEST_IMAGES = 30
"""Findings from fewer images do not count for `side`."""


def ledger(records: Sequence[RunRecord]) -> pd.DataFrame:
    """`claims.ledger`, its reasons with the categories in which the claim, as it is combined, is above the margin; a
    column ``in_every_task`` has `side`."""
    table, found = claims.ledger(records), claims.findings(records)
    table["in_every_task"] = [side(row.claim_id, row.verdict, found) for row in table.itertuples()]
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


def side(claim: str, verdict: str, found: pd.DataFrame) -> str:
    """On which side of its margin a claim lies in every task: "supported" (above), "not supported", or empty.

    Its evidence must be from `FEWEST_IMAGES` images at least, in two or more tasks. If its verdict is one of the two,
    all findings must lie on that side. If it varies, categories may differ in size only: in every task, for every part
    of the claim, the mean over seeds of the interval's nearer end must lie beyond the margin.
    """
    rows = found[(found["claim_id"] == claim) & (found["objection"] == "") & (found["variant"] != "")]
    if rows.empty or (rows["n"] < FEWEST_IMAGES).any() or rows["dataset_category"].nunique() < 2:
        return ""
    nearer = {claims.SUPPORTED: ("low", 1), claims.NOT_SUPPORTED: ("high", -1)}
    if verdict in nearer:
        _, sign = nearer[verdict]
        return verdict if (sign * (rows["effect"] - rows["margin"]) > 0).all() else ""
    if verdict == claims.VARIES:
        for name, (end, sign) in nearer.items():
            distance = sign * (rows[end] - rows["margin"])
            if (distance.groupby([rows["variant"], rows["dataset_category"]]).mean() > 0).all():
                return name
    return ""
