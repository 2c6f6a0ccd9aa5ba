"""`evaluate`: every metric that a prediction and its batch allow; `Evaluation`: of a test set that arrives in parts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from diffad_utils.metrics.checks import check_binary, check_scores, to_numpy
from diffad_utils.metrics.image import image_ap, image_auroc, image_f1max
from diffad_utils.metrics.pixel import PixelMetrics, aupro, pixel_ap, pixel_auroc, pixel_f1max, pixel_metrics

IMAGE_METRICS: dict[str, Callable] = {"I-AUROC": image_auroc, "I-AP": image_ap, "I-F1max": image_f1max}


PIXEL_METRICS: dict[str, Callable] = {"P-AUROC": pixel_auroc, "P-AP": pixel_ap, "P-F1max": pixel_f1max, "AUPRO": aupro}


MAPS_AT_ONCE = 2**28
"""Pixels of maps that are sorted in memory (1 GiB of float32); `evaluate` sorts more in files."""


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

    Beyond `MAPS_AT_ONCE` pixels the maps are taken in parts (`Evaluation`), with the same result.

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
    if math.prod(anomaly_map.shape) > MAPS_AT_ONCE:
        return results | _in_parts(anomaly_map, mask, labels)
    maps = check_scores(anomaly_map, "prediction.anomaly_map", "NHW")
    masks = check_binary(mask, maps.shape, "masks", "prediction.anomaly_map")
    if len(maps) != len(scores):
        raise ValueError(f"shapes differ: prediction.score [{len(scores)}], prediction.anomaly_map {list(maps.shape)}")
    rows = with_masks(labels, masks)
    if not rows.any() or masks[rows].all():
        return results
    if not rows.all():
        _warn_of_images_without_masks((~rows).sum(), labels.sum())
        maps, masks = maps[rows], masks[rows]
    return results | pixel_metrics(maps, masks)


class Evaluation:
    """`evaluate` of a test set that arrives in batches, in memory that does not grow with its pixels.

        with Evaluation() as collected:
            for prediction, batch in detector.predict_batches(dataset):
                collected.update(prediction, batch)
            results = collected.compute()

    The metrics are those of `evaluate`, those of pixels to rounding (1e-12); `PixelMetrics` keeps 4 bytes a pixel in
    files of a temporary folder.
    """

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._labels: list[bool] = []
        self._pixels = PixelMetrics()
        self._localises, self._left_out = True, 0
        self._kinds: set[bool] = set()  # of pixels that were seen

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, *error: object) -> None:
        self._pixels.__exit__(*error)

    def update(self, prediction: Any, batch: dict) -> None:
        """Take in a prediction and its batch, as for `evaluate`; raises as it does."""
        scores = check_scores(prediction.score, "prediction.score", "N")
        if "label" not in batch:
            raise ValueError(f"batch must have 'label' [N], got {sorted(batch)}")
        labels = check_binary(batch["label"], scores.shape, "labels", "prediction.score")
        self._scores += scores.tolist()
        self._labels += labels.tolist()
        maps, masks = getattr(prediction, "anomaly_map", None), batch.get("mask")
        self._localises &= maps is not None and masks is not None
        if self._localises:
            self._add_pixels(maps, masks, labels)

    def _add_pixels(self, maps: Any, masks: Any, labels: np.ndarray) -> None:
        maps = check_scores(maps, "prediction.anomaly_map", "NHW")
        masks = check_binary(masks, maps.shape, "masks", "prediction.anomaly_map")
        with_masks(labels, masks)  # refuses normal images whose masks are not empty
        rows = ~labels | masks.any(axis=(1, 2))
        self._left_out += int((~rows).sum())
        if rows.any():
            self._kinds |= {True} if masks[rows].any() else set()
            self._kinds |= set() if masks[rows].all() else {False}
            self._pixels.update(maps[rows], masks[rows])

    def compute(self) -> dict[str, float]:
        """The metrics of all batches so far, by name. ``ValueError`` without any."""
        if not self._scores:
            raise ValueError("no batch to evaluate: the data set is empty")
        scores, labels = np.array(self._scores), np.array(self._labels)
        results = {}
        if labels.any() and not labels.all():
            results |= {name: metric(scores, labels) for name, metric in IMAGE_METRICS.items()}
        return results | self.of_pixels(int(labels.sum()))

    def of_pixels(self, anomalous: int) -> dict[str, float]:
        """P-AUROC, P-AP, P-F1max and AUPRO, where there are maps and an anomalous image of ``anomalous`` has a mask."""
        if not self._localises or self._kinds != {True, False}:
            return {}
        if self._left_out:
            _warn_of_images_without_masks(self._left_out, anomalous)
        return self._pixels.compute()


def _in_parts(maps: Any, masks: Any, labels: np.ndarray, images: int = 32) -> dict[str, float]:
    """Metrics of pixels of maps that are sorted in files."""
    if tuple(masks.shape) != tuple(maps.shape) or len(maps) != len(labels):
        raise ValueError(f"shapes differ: maps {list(maps.shape)}, masks {list(masks.shape)}, labels {len(labels)}")
    with Evaluation() as collected:
        for start in range(0, len(maps), images):
            part = slice(start, start + images)
            collected._add_pixels(maps[part], masks[part], labels[part])
        return collected.of_pixels(int(labels.sum()))


def _warn_of_images_without_masks(count: int, anomalous: int) -> None:
    warnings.warn(
        f"{count} of {anomalous} anomalous images have no mask; metrics of pixels leave them out",
        UserWarning,
        stacklevel=3,
    )
