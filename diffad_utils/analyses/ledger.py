"""The ledger of claims as notebook 08 and the report show it.

`claims.ledger` counts a category as above the margin where every part of a claim is. Of a claim for which one part of
each setting is enough (``combine`` is "either"; C07) or one part at all ("any"; C74b), this is too strict; here the
count follows the claim. What a run measured on all categories of a data set counts once (`distinct`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pandas as pd

from diffad_utils.study import RunRecord, claims, evidence, verdicts

FEWEST_IMAGES = 30
"""Findings from fewer images do not count for `side`."""


EXPLORATORY = ("C07", "C13", "C23", "C32a", "C38", "C62", "C67", "C74a", "C74b", "C85", "C88", "C94")
"""Claims whose measure or scope was changed after runs had been seen (data/published/README.md)."""


SURVEYED = "categories surveyed"
"""In the note of a finding that a run measured on all categories of its data set."""


def distinct(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records without findings that another has already.

    02 surveys all categories of a data set in every run (C01 to C04), so its runs on several categories record the same
    numbers. They are evidence once a data set and seed, and not once a category.
    """
    seen, kept = set(), []
    for record in records:
        own = []
        for entry in record.claims:
            key = json.dumps([record.dataset, record.seed, entry], sort_keys=True, default=str)
            if SURVEYED not in entry.get("note", "") or key not in seen:
                own.append(entry)
            seen.add(key)
        kept.append(dataclasses.replace(record, claims=own))
    return kept


def ledger(records: Sequence[RunRecord]) -> pd.DataFrame:
    """`claims.ledger` of the `distinct` findings, its reasons with the categories in which the claim, as it is
    combined, is above the margin; a column ``in_every_task`` has `side`."""
    records = distinct(records)
    table, found = claims.ledger(records), claims.findings(records)
    table["in_every_task"] = [side(row.claim_id, row.verdict, found) for row in table.itertuples()]
    combine = claims.published_claims()["combine"]
    for name, judged in claims.judgements(records).items():
        if combine[name] in ("either", "any") and judged.verdict == claims.VARIES:
            reason = judged.reason.replace(verdicts._sides(judged), sides(judged, combine[name]), 1)
            table.loc[table["claim_id"] == name, "reason"] = reason
    unclear = (table["verdict"] == claims.VARIES) & (table["in_every_task"] == "")
    table.loc[unclear, "reason"] = table.loc[unclear, "reason"].str.replace(
        "but by different amounts", "by different amounts, but not clearly in each", regex=False
    )
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
    """On which side of its margin a claim lies in every task where it was measured: "supported" (above), "not
    supported", or empty.

    Its evidence must be from `FEWEST_IMAGES` images at least, in two or more tasks. In each, for every part of the
    claim, the mean over seeds of the interval's nearer end must lie beyond the margin. A claim with one of these two
    verdicts must lie on that side; one that varies may lie on either, so that its tasks differ in size only.
    """
    rows = found[(found["claim_id"] == claim) & (found["objection"] == "") & (found["variant"] != "")]
    if rows.empty or (rows["n"] < FEWEST_IMAGES).any() or rows["dataset_category"].nunique() < 2:
        return ""
    nearer = {claims.SUPPORTED: ("low", 1), claims.NOT_SUPPORTED: ("high", -1)}
    for name, (end, sign) in nearer.items():
        distance = sign * (rows[end] - rows["margin"])
        clear = (distance.groupby([rows["variant"], rows["dataset_category"]]).mean() > 0).all()
        if clear and verdict in (name, claims.VARIES):
            return name
    return ""
