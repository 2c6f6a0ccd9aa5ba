"""Pixel metrics of many resamples at once, from counts at thresholds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from diffad_utils.kernels.threshold_counts import EIGHT_NEIGHBOURS


class PixelCounts(NamedTuple):
    """What each of K descending thresholds accepts in each of N images; float64 unless said otherwise.

    normal, anomalous : [N, K] pixels at or above the threshold. overlap : [N, K] sum over the image's regions of the
    share of the region at or above it. normals, anomalies, regions : [N] totals.
    """

    normal: np.ndarray
    anomalous: np.ndarray
    overlap: np.ndarray
    normals: np.ndarray
    anomalies: np.ndarray
    regions: np.ndarray


def pixel_counts(maps: np.ndarray, masks: np.ndarray, points: int = 600) -> PixelCounts:
    """Counts of maps [N, H, W] with masks bool [N, H, W] on a grid of at most 3 ``points`` thresholds.

    The thresholds are quantiles of the anomalous pixels, and of the normal ones evenly and towards their upper end,
    where average precision and AUPRO are decided. With the default the grid moves each metric by less than 0.002.
    """
    normal, anomalous = np.sort(maps[~masks]), np.sort(maps[masks])
    even, upper = np.linspace(0, 1, points), 1 - np.geomspace(1 / max(normal.size, 2), 1, points)

    def at(values, shares):
        return values[np.round(np.asarray(shares) * (values.size - 1)).astype(int)]

    grid = np.unique(np.concatenate([at(normal, even), at(normal, upper), at(anomalous, even)]))[::-1]

    def above(values):
        return values.size - np.searchsorted(np.sort(values), grid, side="left")

    shape = len(maps), len(grid)
    totals = (~masks).sum((1, 2)) * 1.0, masks.sum((1, 2)) * 1.0, np.zeros(len(maps))
    counts = PixelCounts(np.zeros(shape), np.zeros(shape), np.zeros(shape), *totals)
    for i, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        counts.normal[i] = above(values[~mask])
        if mask.any():
            labelled, counts.regions[i] = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
            counts.anomalous[i] = above(values[mask])
            counts.overlap[i] = sum(
                above(values[labelled == r]) / (labelled == r).sum() for r in range(1, int(counts.regions[i]) + 1)
            )
    return counts


def metrics_from_counts(counts: PixelCounts, times: np.ndarray, fpr_limit: float = 0.3) -> dict[str, np.ndarray]:
    """P-AUROC, P-AP, P-F1max and AUPRO of resamples: ``times`` [b, N] says how often each image is drawn; float64 [b]
    each."""
    fp, tp, overlap = (times @ part for part in (counts.normal, counts.anomalous, counts.overlap))
    normals, anomalies, regions = (
        (times @ part)[:, None] for part in (counts.normals, counts.anomalies, counts.regions)
    )
    start = np.zeros((len(times), 1))
    fpr, tpr, pro = (np.hstack([start, part]) for part in (fp / normals, tp / anomalies, overlap / regions))
    precision = tp / np.maximum(tp + fp, 1)
    return {
        "P-AUROC": np.trapezoid(np.hstack([tpr, start + 1]), np.hstack([fpr, start + 1]), axis=1),
        "P-AP": (np.diff(tpr, axis=1) * precision).sum(axis=1),
        "P-F1max": (2 * tp / (tp + fp + anomalies)).max(axis=1),
        "AUPRO": _area_up_to(fpr, pro, fpr_limit),
    }


def _area_up_to(fpr: np.ndarray, pro: np.ndarray, limit: float) -> np.ndarray:
    """Area under rows of a curve [b, K] up to ``limit``, linear between points, over the limit: [b]."""
    width = np.diff(fpr, axis=1)
    inside = np.clip(limit - fpr[:, :-1], 0, width)
    slope = np.divide(np.diff(pro, axis=1), width, out=np.zeros_like(width), where=width > 0)
    return (inside * (pro[:, :-1] + slope * inside / 2)).sum(axis=1) / limit
