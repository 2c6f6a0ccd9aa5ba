"""What the figures of 08 draw where there are many tasks: means over tasks, and the tasks with the most methods.

Used by notebook 08; entry points: `answer_rows`, `control_rows`, `most_methods` (with few tasks they return their table
as it is) and `mean_over_tasks`. Intervals of a mean over tasks are Student's over tasks (`metrics.pooling`): they say
what to expect of another task of the kind, not of these alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from diffad_utils.metrics import pooling

MANY = 6
"""Tasks that a figure has room for."""

PANELS = 8
"""Tasks that a grid of small panels has room for."""

FEWEST = 4
"""Tasks of which Student's interval of a mean says something: of three it is as wide as the scale."""

MATRICES = 2
"""Tasks whose pairs of methods a figure has room for."""

BESIDE_MEAN = 3
"""Tasks that are drawn beside a mean over all."""

MOST_ROWS = 60
"""Rows that a chart of intervals has room for."""


def most_methods(table: pd.DataFrame, tasks: int = MANY) -> pd.DataFrame:
    """The rows of the ``tasks`` tasks (column task) with the most rows, in their order."""
    counts = table["task"].value_counts()
    return table[table["task"].isin(counts.head(tasks).index)].reset_index(drop=True)


def left_out(table: pd.DataFrame, tasks: int = MANY) -> str:
    """That `most_methods` leaves tasks out, as a sentence; empty if it leaves none."""
    count = table["task"].nunique()
    return f" The figure has the {tasks} of {count} tasks with the most methods." if count > tasks else ""


def answer_rows(table: pd.DataFrame) -> pd.DataFrame:
    """`diffusion_controls.against_controls`; of more than `MANY` tasks first the means over all, of the methods that
    have every one, then the tasks with the most methods."""
    count = table["task"].nunique()
    if count <= MANY:
        return table
    everywhere = table[table.groupby("method")["task"].transform("nunique") == count]
    means = [_mean_answer(part, f"mean of {count} tasks") for _, part in everywhere.groupby("method")]
    first = pd.DataFrame(means, columns=table.columns).sort_values("I-AUROC", ascending=False)
    return pd.concat([first, most_methods(table, BESIDE_MEAN if means else MANY)], ignore_index=True)


def control_rows(table: pd.DataFrame) -> pd.DataFrame:
    """`diffusion_controls.controls`; of more than `MOST_ROWS` rows the mean over tasks of each method and kind of
    control, those on one task as they are."""
    if len(table) <= MOST_ROWS:
        return table
    rows = []
    for _, part in table.groupby(["method", "kind"], sort=False):
        row = part.iloc[0].copy()
        if len(part) > 1:
            row["task"], row["I-AUROC"] = f"mean of {len(part)} tasks", part["I-AUROC"].mean()
            row["difference"], row["low"], row["high"] = mean_over_tasks(part["difference"], part["low"], part["high"])
        rows.append(row)
    return pd.DataFrame(rows, columns=table.columns).sort_values("difference", ascending=False, ignore_index=True)


def _mean_answer(part: pd.DataFrame, name: str) -> dict:
    row = {"task": name, "method": part["method"].iloc[0], "family": part["family"].iloc[0], "above both": False}
    row |= dict(
        zip(("I-AUROC", "low", "high"), mean_over_tasks(part["I-AUROC"], part["low"], part["high"]), strict=True)
    )
    ends = mean_over_tasks(part["baseline"], part["baseline low"], part["baseline high"])
    row |= dict(zip(("baseline", "baseline low", "baseline high"), ends, strict=True))
    gain = part["I-AUROC"] - part["control"]
    half = (part["control high"] - part["control low"]) / 2  # of the paired difference
    _, low, high = mean_over_tasks(gain, gain - half, gain + half)
    row |= {"control": part["control"].mean(skipna=False)}
    return row | {"control low": row["I-AUROC"] - high, "control high": row["I-AUROC"] - low}


def mean_over_tasks(effects: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> tuple[float, float, float]:
    """Mean of the effects [K] of K >= 1 tasks, and the ends of its 95 % interval: Student's over tasks, and not
    narrower than images and seeds would make it; of one task its own. NaN where a task's effect or interval is unknown.
    The variances of single tasks are those of normal intervals with these ends."""
    effects, lows, highs = (np.asarray(values, dtype=np.float64) for values in (effects, lows, highs))
    if np.isnan([effects, lows, highs]).any():
        return (np.nan,) * 3
    if len(effects) == 1:
        return float(effects[0]), float(lows[0]), float(highs[0])
    found = pooling.pool(effects, ((highs - lows) / 3.92) ** 2)
    return float(found.effect), float(found.low), float(found.high)
