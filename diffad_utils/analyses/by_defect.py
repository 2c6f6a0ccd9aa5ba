"""How many defective images each method finds at a share of false alarms: of all, by size and by kind of defect.

Used by notebook 08; entry points: `recall`, `recall_by_kind`, `recall_by_size`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from diffad_utils.analyses.method_results import BASELINE, areas_of, baseline_scores, family_of, images_of
from diffad_utils.study import RunRecord


def recall_by_size(records: Sequence[RunRecord], false_alarms: float = 0.05, bins: int = 3) -> pd.DataFrame:
    """Share of defective images found, by the area of their defects, where ``false_alarms`` of the normal ones are
    flagged.

    Columns task, method, family (`recall`), seed, bin (0 is smallest), area (median, percent of the
    image), recall, low, high (Wilson), n. Places without masks are left out; the areas are those of any run with masks
    there.
    """
    areas: dict[tuple, pd.Series] = {}
    for record in records:
        task, here = (record.dataset, record.category), areas_of(record)
        if here is not None:
            here = here * 100
            areas[task] = here.combine_first(areas[task]) if task in areas else here
    rows = []
    for record in records:
        area = areas.get((record.dataset, record.category))
        if area is None or not (record.folder / "scores.parquet").is_file():
            continue
        hit = _hits(record, false_alarms)["hit"]
        hit = hit[hit.index.isin(area.index)]
        group = pd.qcut(area[hit.index].rank(method="first"), bins, labels=False)
        for b, part in hit.groupby(group):
            low, high = stats.binomtest(int(part.sum()), len(part)).proportion_ci(method="wilson")
            rows.append(
                [
                    f"{record.dataset}/{record.category}",
                    record.method,
                    _family(record),
                    record.seed,
                    int(b),
                    float(area[part.index].median()),
                    float(part.mean()),
                    low,
                    high,
                    len(part),
                ]
            )
    return pd.DataFrame(rows, columns=["task", "method", "family", "seed", "bin", "area", "recall", "low", "high", "n"])


def _hits(record: RunRecord, false_alarms: float) -> pd.DataFrame:
    """The defective test images of a run by key: hit, whether the score is above the threshold, and defect."""
    images = images_of(record).set_index("key")
    score = images["score"] if record.method != BASELINE else baseline_scores(images.reset_index())[1]
    images = images.assign(score=score)
    threshold = np.quantile(images.loc[images["label"] == 0, "score"], 1 - false_alarms, method="higher")
    return images.assign(hit=images["score"] > threshold).loc[images["label"] == 1, ["hit", "defect"]]


def recall(records: Sequence[RunRecord], false_alarms: float = 0.05) -> pd.DataFrame:
    """Share of defective images found where ``false_alarms`` of the normal ones are flagged: task, method, family
    ("" for the trivial baseline), recall (mean over seeds), n (defective images of a seed).

    The threshold is the quantile of the normal test images, as in any ROC point; no method knows it in use.
    """
    return _shares(records, false_alarms, ["task", "method", "family"])


def recall_by_kind(records: Sequence[RunRecord], false_alarms: float = 0.05) -> pd.DataFrame:
    """`recall` by kind of defect, on the tasks that have several: task, method, family, defect, recall (mean over
    seeds), n."""
    found = _shares(records, false_alarms, ["task", "method", "family", "defect"])
    return found[found.groupby("task")["defect"].transform("nunique") > 1].reset_index(drop=True)


def _shares(records: Sequence[RunRecord], false_alarms: float, keys: list[str]) -> pd.DataFrame:
    """``keys``, recall (mean over seeds) and n (images of a seed, the fewest) of the runs with scores."""
    parts = [
        _hits(record, false_alarms).assign(
            task=f"{record.dataset}/{record.category}", method=record.method, family=_family(record), seed=record.seed
        )
        for record in records
        if (record.folder / "scores.parquet").is_file()
    ]
    if not parts:
        return pd.DataFrame(columns=[*keys, "recall", "n"])
    by_seed = pd.concat(parts).groupby([*keys, "seed"], sort=False)["hit"].agg(recall="mean", n="size").reset_index()
    return by_seed.groupby(keys, as_index=False, sort=False).agg({"recall": "mean", "n": "min"})


def _family(record: RunRecord) -> str:
    return "" if record.method == BASELINE else family_of(record)


def by_method(found: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table of recall: a row a method, those of diffusion first, best mean first; a column each value of ``column``
    (task or defect), averaged over tasks, and last the mean of these columns where a method has all of them."""
    table = found.pivot_table("recall", ["family", "method"], column, aggfunc="mean", sort=False)
    table["mean"] = table.mean(axis="columns", skipna=False)
    order = table.assign(first=table.index.get_level_values("family") == "diffusion")
    return table.loc[order.sort_values(["first", "mean"], ascending=False).index].reset_index().drop(columns="family")


def over_seeds(sizes: pd.DataFrame) -> pd.DataFrame:
    """`recall_by_size` averaged over seeds: task, method, family, bin, area, recall."""
    return sizes.groupby(["task", "method", "family", "bin"], as_index=False)[["area", "recall"]].mean()
