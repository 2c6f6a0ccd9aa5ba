"""Which defects each method finds, by their size. Used by notebook 08; entry point: `recall_by_size`."""

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

    Columns task, method, family ("" for the trivial baseline), seed, bin (0 is smallest), area (median, percent of the
    image), recall, low, high (Wilson), n. The threshold is the quantile of the normal test images, as in any ROC point;
    no method knows it in use. Places without masks are left out; the areas are those of any run with masks there.
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
        images = images_of(record).set_index("key")
        score = (
            pd.Series(baseline_scores(images.reset_index())[1], images.index)
            if record.method == BASELINE
            else images["score"]
        )
        threshold = np.quantile(score[images["label"] == 0], 1 - false_alarms, method="higher")
        hit = (score > threshold)[(images["label"] == 1) & images.index.isin(area.index)]
        group = pd.qcut(area[hit.index].rank(method="first"), bins, labels=False)
        for b, part in hit.groupby(group):
            low, high = stats.binomtest(int(part.sum()), len(part)).proportion_ci(method="wilson")
            rows.append(
                [
                    f"{record.dataset}/{record.category}",
                    record.method,
                    "" if record.method == BASELINE else family_of(record),
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


def over_seeds(sizes: pd.DataFrame) -> pd.DataFrame:
    """`recall_by_size` averaged over seeds: task, method, family, bin, area, recall."""
    return sizes.groupby(["task", "method", "family", "bin"], as_index=False)[["area", "recall"]].mean()
