"""Which defects each method finds: recall by their size, and the maps of the same defects by every method.

Used by notebook 08; entry points: `recall_by_size`, `wall`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from diffad_utils.analyses.method_results import BASELINE, baseline_scores, images_of, maps_of
from diffad_utils.study import RunRecord


def recall_by_size(records: Sequence[RunRecord], false_alarms: float = 0.05, bins: int = 3) -> pd.DataFrame:
    """Share of defective images found, by the area of their defects, where ``false_alarms`` of the normal ones are
    flagged.

    Columns place, method, bin (0 is smallest), area (median, percent of the image), recall, low, high (Wilson), n. The
    threshold is the quantile of the normal test images, as in any ROC point; no method knows it in use. Places without
    masks are left out; the areas are those of any run with masks there.
    """
    areas: dict[tuple, pd.Series] = {}
    for record in records:
        place, found = (record.dataset, record.category), maps_of(record)
        if found is not None:
            here = pd.Series(found[2].mean(axis=(1, 2)) * 100, index=found[0])
            areas[place] = here.combine_first(areas[place]) if place in areas else here
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
                    record.seed,
                    int(b),
                    float(area[part.index].median()),
                    float(part.mean()),
                    low,
                    high,
                    len(part),
                ]
            )
    return pd.DataFrame(rows, columns=["place", "method", "seed", "bin", "area", "recall", "low", "high", "n"])


class Wall(NamedTuple):
    """The same defects for every method: keys [n], masks bool [n, H, W] or None, method -> maps float32 [n, h, w]."""

    keys: list[str]
    masks: np.ndarray | None
    maps: dict[str, np.ndarray]


def wall(records: Sequence[RunRecord], count: int) -> Wall | None:
    """Maps of ``count`` anomalous images of one category, from small defects to large ones where there are masks.

    One run a method (the first seed); methods without maps are left out. None if no run has any.
    """
    first = {record.method: record for record in reversed(records) if record.seed == records[0].seed}
    kept = {name: found for name, record in sorted(first.items()) if (found := record.maps()) is not None}
    if not kept:
        return None
    with_masks = next((m for record in first.values() if (m := maps_of(record)) is not None), None)
    if with_masks is None:
        keys = images_of(records[0]).query("label == 1")["key"].tolist()
    else:
        area = with_masks[2].mean(axis=(1, 2))
        keys = with_masks[0][np.argsort(area, kind="stable")][(area == 0).sum() :].tolist()
    keys = [key for key in keys if all(key in maps[0] for maps in kept.values())]
    keys = [keys[i] for i in np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)]
    masks = None if with_masks is None else with_masks[2][[with_masks[0].tolist().index(key) for key in keys]]

    def rows(maps):
        return maps[1][[maps[0].tolist().index(key) for key in keys]].astype(np.float32)

    return Wall(keys, masks, {name: rows(maps) for name, maps in kept.items()})
