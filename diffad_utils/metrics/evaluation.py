"""`evaluate`: every metric that a prediction and its batch allow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from diffad_utils.metrics.checks import check_binary, check_scores, to_numpy
from diffad_utils.metrics.image import image_ap, image_auroc, image_f1max
from diffad_utils.metrics.pixel import aupro, pixel_ap, pixel_auroc, pixel_f1max, pixel_metrics

IMAGE_METRICS: dict[str, Callable] = {"I-AUROC": image_auroc, "I-AP": image_ap, "I-F1max": image_f1max}


PIXEL_METRICS: dict[str, Callable] = {"P-AUROC": pixel_auroc, "P-AP": pixel_ap, "P-F1max": pixel_f1max, "AUPRO": aupro}


def with_masks(labels: Any, masks: Any) -> np.ndarray:
    """Which images metrics of pixels are computed over: normal ones, and anomalous ones whose mask has a pixel.

    Some data sets know only labels, or masks for part of the defects. Taking an empty mask of an anomalous image for
    ground truth would count a defect that was found as false alarms. This is the one rule for it: index maps and masks
    with what it returns before any metric of pixels, and state how many images it leaves out, ``(~rows).sum()``.

    Parameters
    ----------
    labels : [N] in {0, 1}.
    masks : [N,H,W] boolean, or numbers in {0, 1}; None where the data have none.

    Returns
    -------
    bool [N]; all False where no anomalous image has a mask, so that ``rows.any()`` says whether there are masks.

    Raises
    ------
    ValueError
        shapes that differ or are not [N] and [N,H,W]; values outside {0, 1}; a normal image whose mask is not empty.
    """
    labels = to_numpy(labels, "labels")
    labels = check_binary(labels, labels.shape, "labels", "labels")
    if masks is None:
        return np.zeros(labels.shape, bool)
    masks = to_numpy(masks, "masks")
    if labels.ndim != 1 or masks.ndim != 3 or len(masks) != len(labels):
        raise ValueError(f"labels [N] and masks [N,H,W] expected, got {list(labels.shape)} and {list(masks.shape)}")
    marked = check_binary(masks, masks.shape, "masks", "masks").any(axis=(1, 2))
    contradictory = np.flatnonzero(marked & ~labels)
    if contradictory.size:
        raise ValueError(f"images {contradictory[:5].tolist()} are labelled normal, but their masks are not empty")
    return ~labels | marked if marked.any() else np.zeros(labels.shape, bool)


def evaluate(prediction: Any, batch: dict) -> dict[str, float]:
    """Every metric that the data allow; the others are absent, never 0.

    Parameters
    ----------
    prediction : has ``score`` [B] and ``anomaly_map`` [B,H,W] or None (``methods.Prediction``).
    batch : mapping with ``label`` [B] in {0, 1} and, where there is ground truth for pixels, ``mask`` [B,H,W].

    Returns
    -------
    I-AUROC, I-AP, I-F1max if both classes occur; P-AUROC, P-AP, P-F1max, AUPRO over the images that have masks
    (`with_masks`), if there are maps and one anomalous image at least has a mask. A ``UserWarning`` says how many
    images the latter leave out.

    Raises
    ------
    ValueError
        as `image_auroc` and `pixel_auroc` for what is there; a normal image whose mask is
        not empty.
    """
    scores = check_scores(prediction.score, "prediction.score", "N")
    if "label" not in batch:
        raise ValueError(f"batch must have 'label' [N], got {sorted(batch)}")
    labels = check_binary(batch["label"], scores.shape, "labels", "prediction.score")
    results = {}
    if labels.any() and not labels.all():
        results |= {name: metric(scores, labels) for name, metric in IMAGE_METRICS.items()}
    anomaly_map, mask = getattr(prediction, "anomaly_map", None), batch.get("mask")
    if anomaly_map is None or mask is None:
        return results
    maps = check_scores(anomaly_map, "prediction.anomaly_map", "NHW")
    masks = check_binary(mask, maps.shape, "masks", "prediction.anomaly_map")
    if len(maps) != len(scores):
        raise ValueError(f"shapes differ: prediction.score [{len(scores)}], prediction.anomaly_map {list(maps.shape)}")
    rows = with_masks(labels, masks)
    if not rows.any() or masks[rows].all():
        return results
    if not rows.all():
        warnings.warn(
            f"{(~rows).sum()} of {labels.sum()} anomalous images have no mask; metrics of pixels leave them out",
            UserWarning,
            stacklevel=2,
        )
        maps, masks = maps[rows], masks[rows]
    return results | pixel_metrics(maps, masks)
