"""The ledger of claims as readers see it: what is exactly zero reads 0, and an interval that says nothing is left out.

`study.claims` has the numbers as the rule of `study.verdicts` needs them. Used by notebook 08 and the report; entry
points: `for_readers`, `beside_printed`, `zeros`, `forest_rows`.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from diffad_utils.study import claims
from diffad_utils.study.verdicts import Judgement

ONE = "one category gives no interval"
FEW = "two categories give no useful interval"
"""Student's t has one degree of freedom there: the interval is 12.7 standard errors wide to either side."""


def zeros(text: str) -> str:
    """A text of `study.numbers` in which what is exactly zero reads 0; nothing else is rounded to zero there.

    Examples
    --------
    >>> zeros("steps: +0.000 on a/b and +1.000 on c/d"), zeros("-0.0004 [-0.010, 0.00000]")
    ('steps: 0 on a/b and +1.000 on c/d', '-0.0004 [-0.010, 0]')
    """
    return re.sub(r"(?<![\w.])[+-]?0\.0+(?![\d%])", "0", text)


def says_nothing(rows: pd.DataFrame, margin: float | pd.Series) -> pd.Series:
    """Which pooled effects, by ``categories``, ``low`` and ``high``, are of two categories and undecided.

    Where such an interval is wholly on one side of the margin it does decide, and is shown.
    """
    return (rows["categories"] == 2) & (rows["low"] <= margin) & (rows["high"] >= margin)


def for_readers(ledger: pd.DataFrame) -> pd.DataFrame:
    """`claims.ledger` with `zeros` in its reasons, and after ``high`` a column ``interval``: why an interval tells
    nothing, else ""."""
    shown = ledger.assign(reason=ledger["reason"].map(zeros))
    few = says_nothing(ledger, ledger["margin"])
    why = np.select([few, np.isinf(ledger["low"])], [FEW, ONE], "")
    shown.insert(shown.columns.get_loc("high") + 1, "interval", why)
    return shown


def beside_printed(ledger: pd.DataFrame) -> pd.DataFrame:
    """`claims.beside_printed` of `for_readers` without the intervals that tell nothing; ``ours`` says why."""
    shown = for_readers(ledger)
    bare = shown["interval"] != ""
    table = claims.beside_printed(shown.assign(low=shown["low"].mask(bare), high=shown["high"].mask(bare)))
    why = shown.set_index("claim_id")["interval"].reindex(table["claim"].str.partition(":")[0]).to_numpy()
    return table.assign(ours=np.where(why == "", table["ours"], table["ours"] + " (" + why + ")"))


def forest_rows(judgement: Judgement, found: pd.DataFrame) -> pd.DataFrame:
    """`claims.forest_rows` with the pooled effect of two categories as a point where its interval `says_nothing`, so
    that the axis shows the categories; its label says why."""
    rows = claims.forest_rows(judgement, found)
    pooled = rows["level"] == "pooled"
    two = rows.assign(categories=np.where(pooled & rows["label"].str.startswith("2 "), 2, 0))
    bare = says_nothing(two, judgement.margin)
    return rows.assign(
        low=rows["low"].mask(bare, rows["effect"]),
        high=rows["high"].mask(bare, rows["effect"]),
        label=rows["label"].mask(bare, f"2 categories together:\n{FEW.removeprefix('two categories give ')}"),
    )
