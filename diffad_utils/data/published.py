"""Counts of images against the published ones, which stand in each data set's layout.

What may be touched: nothing for a new data set; its numbers go into its own file in `layouts`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from diffad_utils.data.layouts import LAYOUTS, Layout
from diffad_utils.data.problems import Problem


def published_counts(dataset: str) -> dict[str, dict[str, int]]:
    """{category: {group: number of images}} where published; groups are splits ("train", "test normal", "test
    anomalous") or, where the data set has no split of its own, defects. Empty for the other data sets."""
    return LAYOUTS[dataset].published if dataset in LAYOUTS else {}


def groups_of(rows: pd.DataFrame, by_defect: bool) -> Counter:
    """Images by group, as `Layout.published` has them: by split and label, or by defect."""
    if by_defect:
        return Counter(rows["defect"])
    return Counter(
        "train" if row.split == "train" else ("test anomalous" if row.label else "test normal")
        for row in rows.itertuples()
    )


def count_problems(dataset: str, index: pd.DataFrame, root: str | Path, only: str | None = None) -> list[Problem]:
    """Differences between the index and the published numbers: missing categories, and counts a category and group.
    only: a category; the others are not looked for."""
    problems = []
    for category, expected in published_counts(dataset).items():
        rows = index[index["category"] == category]
        if len(rows) == 0:
            total = sum(expected.values())
            if only is None:
                message = f"category {category} is missing ({total} images expected)"
                problems.append(Problem(str(root), "count", message))
            continue
        found = groups_of(rows, LAYOUTS[dataset].published_by_defect)
        for group in [*expected, *sorted(set(found) - set(expected))]:
            if found[group] != expected.get(group, 0):
                what = f"category {category}, {group}: {found[group]} images, {expected.get(group, 0)} expected"
                problems.append(Problem(str(root), "count", what))
    if LAYOUTS[dataset].published_totals and only is None:
        problems += _total_problems(LAYOUTS[dataset], index, root)
    return problems


def _total_problems(layout: Layout, index: pd.DataFrame, root: str | Path) -> list[Problem]:
    absent = sorted(set(layout.known_categories) - set(index["category"]))
    if absent:
        return [Problem(str(root), "count", f"category {category} is missing") for category in absent]
    found = groups_of(index, by_defect=False)
    return [
        Problem(str(root), "count", f"{group}: {found[group]} images, {expected} expected")
        for group, expected in layout.published_totals.items()
        if found[group] != expected
    ]
