"""Exact metrics of image scores: I-AUROC, I-AP, I-F1max, ties included."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from diffad_utils.metrics.checks import image_input, warn_if_constant


class LabelCounts(NamedTuple):
    """What each threshold (the last axis, descending) accepts; leading axes are resamples.

    Thresholds without an anomalous item may be left out: they change none of the metrics below.
    """

    hits: np.ndarray  # anomalous items at the threshold
    false_above: np.ndarray  # normal items above the threshold
    false: np.ndarray  # normal items at or above it
    anomalous: int  # all anomalous items
    normal: int  # all normal items


def count_labels(scores: np.ndarray, labels: np.ndarray) -> LabelCounts:
    """Counts at every distinct score of an anomalous item, descending; scores and boolean labels of one shape."""
    normal, anomalous = scores[~labels], scores[labels]
    normal.sort()
    anomalous.sort()
    anomalous = anomalous[::-1]
    first = np.flatnonzero(np.r_[True, anomalous[1:] != anomalous[:-1]])
    thresholds = anomalous[first]
    hits = np.diff(np.r_[first, anomalous.size])
    false_above = normal.size - np.searchsorted(normal, thresholds, side="right")
    false = normal.size - np.searchsorted(normal, thresholds, side="left")
    return LabelCounts(hits, false_above, false, anomalous.size, normal.size)


def auroc_from_counts(counts: LabelCounts) -> np.ndarray:
    # Mann-Whitney: a pair counts 1 if the anomalous item is higher, 1/2 if tied. Doubled, so that it is exact in int64.
    below_twice = 2 * counts.normal - counts.false - counts.false_above
    return (counts.hits * below_twice).sum(-1) / (2 * counts.anomalous * counts.normal)


def ap_from_counts(counts: LabelCounts) -> np.ndarray:
    true = np.cumsum(counts.hits, -1)
    precision = true / np.maximum(true + counts.false, 1)
    return (counts.hits * precision).sum(-1) / counts.anomalous


def f1max_from_counts(counts: LabelCounts) -> np.ndarray:
    true = np.cumsum(counts.hits, -1)
    # 2PR / (P + R); at a threshold with normal items only it is lower than at the anomalous score above it.
    return (2 * true / (true + counts.false + counts.anomalous)).max(-1)


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve over images: the chance that an anomalous image scores above a normal one (ties 1/2).

    Parameters
    ----------
    scores : [N] real, finite; higher is more anomalous.
    labels : [N] in {0, 1}.

    Returns
    -------
    float in [0, 1]; 0.5 with a ``UserWarning`` if all scores are equal.

    Raises
    ------
    ValueError
        no anomalous or no normal image; NaN or infinite scores; shapes that differ or are not [N]; labels
        outside {0, 1}; empty input.

    Examples
    --------
    Of the four pairs of a normal and an anomalous image one is in the wrong order, (0.4, 0.35).

    >>> image_auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    scores, labels = image_input(scores, labels)
    warn_if_constant(scores, "scores")
    return float(auroc_from_counts(count_labels(scores, labels)))


def image_ap(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision over images: sum over thresholds of (recall step) x precision, without interpolation.

    This is scikit-learn's ``average_precision_score``; the trapezoid under the precision-recall curve is not the same.
    Arguments and errors as `image_auroc`. Constant scores give the share of anomalous images.

    Examples
    --------
    Half of the anomalous images are found at precision 1, the other half at 2/3.

    >>> round(image_ap([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
    0.8333
    """
    return float(ap_from_counts(count_labels(*image_input(scores, labels))))


def image_f1max(scores: ArrayLike, labels: ArrayLike) -> float:
    """Largest F1 over all thresholds, an upper bound on the F1 that any threshold chosen without labels can reach.

    Arguments and errors as `image_auroc`.

    Examples
    --------
    At the threshold 0.35: recall 1, precision 2/3, so 2 x (1 x 2/3) / (1 + 2/3).

    >>> image_f1max([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.8
    """
    return float(f1max_from_counts(count_labels(*image_input(scores, labels))))
