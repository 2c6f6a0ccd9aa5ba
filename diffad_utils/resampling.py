"""Bootstrap over images for many settings at once: a resample is how often it draws each image.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals), with normal and
anomalous images drawn apart, as in `metrics.bootstrap_interval`. The first row of `multiplicities` is the data itself,
so every statistic of rows comes with the value that its interval is for::

    times = multiplicities(labels)
    interval(auroc(scores, labels, times)[:, 0] - 0.5)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffad_utils import metrics


def multiplicities(labels: Sequence[int], n: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image is drawn: int64 [n + 1, N], a row of ones and then the ``n`` resamples of
    `metrics.bootstrap_draws`, stratified by label [N] (0 or 1; images of one kind may all be 0).

    Raises ``ValueError`` for no images.
    """
    labels = np.asarray(labels) == 1
    if len(labels) == 0:
        raise ValueError("nothing to resample: no images")
    return np.concatenate([np.ones((1, len(labels)), dtype=np.int64), *metrics.bootstrap_draws(labels, n, seed)])


def means(values, times: np.ndarray) -> np.ndarray:
    """Means over images of values [S, N] in each resample of ``times`` [R, N]: float64 [R, S].

    Raises ``ValueError`` for values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} values are not finite: leave those images out")
    return times @ values.T / times.sum(axis=1, keepdims=True)


def auroc(scores, labels: Sequence[int], times: np.ndarray) -> np.ndarray:
    """I-AUROC of scores [S, N] in each resample of ``times`` [R, N]: float64 [R, S]; ties count half.

    Raises ``ValueError`` unless both labels occur.
    """
    scores, anomalous = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    if not anomalous.any() or anomalous.all():
        raise ValueError("I-AUROC needs normal and anomalous images")
    return np.stack([metrics.resampled(metrics.image_auroc, row, anomalous, times) for row in scores], axis=1)


def each(statistic: Callable[[np.ndarray], float], times: np.ndarray) -> np.ndarray:
    """``statistic(indices)`` of the images that each resample draws, repeated as often as it draws them: float64
    [R]."""
    images = np.arange(times.shape[1])
    return np.array([statistic(np.repeat(images, row)) for row in times], dtype=np.float64)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(value of the data, low, high) of a statistic over `multiplicities`, [R] with the data first."""
    return float(values[0]), *metrics.percentile_interval(values[1:], level)
