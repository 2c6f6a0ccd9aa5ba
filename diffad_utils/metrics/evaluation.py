"""`evaluate`: every metric that a prediction and its batch allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffad_utils.metrics.checks import check_binary, check_scores
from diffad_utils.metrics.image import image_ap, image_auroc, image_f1max
from diffad_utils.metrics.pixel import aupro, pixel_ap, pixel_auroc, pixel_f1max, pixel_metrics

IMAGE_METRICS: dict[str, Callable] = {"I-AUROC": image_auroc, "I-AP": image_ap, "I-F1max": image_f1max}


PIXEL_METRICS: dict[str, Callable] = {"P-AUROC": pixel_auroc, "P-AP": pixel_ap, "P-F1max": pixel_f1max, "AUPRO": aupro}


def evaluate(prediction: Any, batch: dict) -> dict[str, float]:
    """Every metric that the data allow; the others are absent, never 0.

    Parameters
    ----------
    prediction : has ``score`` [B] and ``anomaly_map`` [B,H,W] or None (``methods.Prediction``).
    batch : mapping with ``label`` [B] in {0, 1} and, where there is ground truth for pixels, ``mask`` [B,H,W].

    Returns
    -------
    I-AUROC, I-AP, I-F1max if both classes occur; P-AUROC, P-AP, P-F1max, AUPRO if there are maps, and masks in
    which every anomalous image (one at least) has an anomalous pixel. Some data sets know only labels, or masks
    for part of the defects: treating their empty masks as ground truth would count found defects as false alarms.

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
    marked = masks.any(axis=(1, 2))
    contradictory = np.flatnonzero(marked & ~labels)
    if contradictory.size:
        raise ValueError(f"images {contradictory[:5].tolist()} are labelled normal, but their masks are not empty")
    if labels.any() and marked[labels].all() and not masks.all():
        results |= pixel_metrics(maps, masks)
    return results
