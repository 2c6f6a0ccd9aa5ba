"""Bootstrap over images for many settings at once: a resample is how often it draws each image.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals), with normal and
anomalous images drawn apart, as in `metrics.bootstrap_interval`. The first row of `multiplicities` is the data itself, so
every statistic of rows comes with the value that its interval is for::

    times = multiplicities(labels)
    interval(auroc(scores, labels, times)[:, 0] - 0.5)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def multiplicities(labels: Sequence[int], n: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image is drawn: int64 [n + 1, N], a row of ones and then ``n`` resamples, stratified by label [N].

    Raises ``ValueError`` for no images.
    """
    labels = np.asarray(labels)
    if len(labels) == 0:
        raise ValueError("nothing to resample: no images")
    rng, times = np.random.default_rng(seed), np.ones((n + 1, len(labels)), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        times[1:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n)
    return times


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
    drawn, among = times[:, anomalous].astype(float), times[:, ~anomalous].astype(float)
    pairs = drawn.sum(axis=1) * among.sum(axis=1)
    columns = []
    for row in scores:
        high, low = row[anomalous][:, None], row[~anomalous][None]
        above = (high > low) + 0.5 * (high == low)
        columns.append(((drawn @ above) * among).sum(axis=1) / pairs)
    return np.stack(columns, axis=1)


def each(statistic: Callable[[np.ndarray], float], times: np.ndarray) -> np.ndarray:
    """``statistic(indices)`` of the images that each resample draws, repeated as often as it draws them: float64 [R]."""
    images = np.arange(times.shape[1])
    return np.array([statistic(np.repeat(images, row)) for row in times], dtype=np.float64)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(value of the data, low, high) of a statistic over `multiplicities`, [R] with the data first."""
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(values[0]), float(low), float(high)
