"""One source of resamples and one interval: the bootstrap over images.

A resample is a row of counts: how often it draws each image. Every statistic that is a sum over images is then a
product with these counts, for many settings and resamples at once. Normal and anomalous images are drawn apart
(stratified), so every resample has both. What depends on a metric is built on this in `metrics.intervals`.

Sources
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: the percentile interval; section 8.3:
    resampling within strata.

Example
    The first row of `bootstrap_counts` is the data itself, so a statistic comes with the value its interval is for.

    >>> import numpy as np
    >>> values = np.array([1.0, 2.0, 3.0, 4.0])
    >>> counts = bootstrap_counts(np.zeros(4), n=200)
    >>> mean, low, high = bootstrap_percentiles(bootstrap_means(values, counts)[:, 0])
    >>> low < mean == 2.5 < high
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

# Upper bound on (resamples x images) held at once while bootstrapping: 8 MB an array.
BOOTSTRAP_BLOCK = 2**20


# --- draws ------------------------------------------------------------------------------------------------------------


def bootstrap_draws(labels: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of how often each image is drawn in ``n`` resamples; each class keeps its size (stratified).

    Each class has its own generator, so that the draws do not depend on the size of the blocks. A single block is kept
    for the next one who asks, as methods are compared on the same images, and cannot be written to.

    Parameters
    ----------
    labels : bool [N], True is anomalous; one class may be absent.
    n : number of resamples.
    seed : of numpy's default generator.

    Yields
    ------
    int64 [b, N], ``n`` rows in all.
    """
    if n * labels.size <= BOOTSTRAP_BLOCK:
        yield _single_block(labels.tobytes(), n, seed)
    else:
        yield from _blocks(labels, n, seed)


@lru_cache(maxsize=4)
def _single_block(labels: bytes, n: int, seed: int) -> np.ndarray:
    (times,) = _blocks(np.frombuffer(labels, dtype=bool), n, seed)
    times.flags.writeable = False
    return times


def _blocks(labels: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    generators = np.random.default_rng(seed).spawn(2)
    block = max(1, BOOTSTRAP_BLOCK // labels.size)
    for start in range(0, n, block):
        rows = min(block, n - start)
        times = np.empty((rows, labels.size), dtype=np.int64)
        for generator, members in zip(generators, (~labels, labels), strict=True):
            size = int(members.sum())
            if size == 0:
                continue
            times[:, members] = generator.multinomial(size, np.full(size, 1.0 / size), size=rows)
        yield times


def bootstrap_counts(labels: Sequence[int], n: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image is drawn: int64 [n + 1, N], a row of ones and then the resamples of `bootstrap_draws`.

    Parameters
    ----------
    labels : [N], 1 is anomalous; images of one kind may all be 0.
    n, seed : as `bootstrap_draws`.

    Raises
    ------
    ValueError
        No images.
    """
    labels = np.asarray(labels) == 1
    if len(labels) == 0:
        raise ValueError("nothing to resample: no images")
    return np.concatenate([np.ones((1, len(labels)), dtype=np.int64), *bootstrap_draws(labels, n, seed)])


# --- statistics of resamples ------------------------------------------------------------------------------------------


def bootstrap_means(values: ArrayLike, counts: np.ndarray) -> np.ndarray:
    """Means over images in each resample.

    Parameters
    ----------
    values : [S, N] of S settings, or [N] of one; finite.
    counts : [R, N] as `bootstrap_counts`.

    Returns
    -------
    float64 [R, S].

    Raises
    ------
    ValueError
        Values that are not finite.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} values are not finite: leave those images out")
    return counts @ values.T / counts.sum(axis=1, keepdims=True)


def resampled_means(values: Sequence[float], n: int, seed: int) -> np.ndarray:
    """Means [n + 1] of values [N] over resampled images, the first over all of them.

    Values of one seed and length are resampled together, so differences of two results are paired.
    """
    return bootstrap_means(values, bootstrap_counts(np.zeros(len(values)), n, seed))[:, 0]


def bootstrap_statistic(statistic: Callable[[np.ndarray], float], counts: np.ndarray) -> np.ndarray:
    """``statistic(indices)`` of the images that each resample of ``counts`` [R, N] draws, repeated as often as it draws
    them: float64 [R]."""
    images = np.arange(counts.shape[1])
    return np.array([statistic(np.repeat(images, row)) for row in counts], dtype=np.float64)


def spearman_draws(x: Sequence[float], y: Sequence[float], n: int, seed: int) -> np.ndarray:
    """Rank correlation of x and y [N], draws [n + 1] over resampled pairs, the first of all pairs; 0 where one is
    constant."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)

    def correlation(rows):
        constant = np.ptp(x[rows]) == 0 or np.ptp(y[rows]) == 0
        return 0.0 if constant else spearmanr(x[rows], y[rows]).statistic

    return bootstrap_statistic(correlation, bootstrap_counts(np.zeros(len(x)), n, seed))


# --- intervals --------------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A mean and its bootstrap interval, each [...] as the values without their first dimension."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The central ``level`` of bootstrap values [n]: (low, high)."""
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def bootstrap_percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(value of the data, low, high) of a statistic over `bootstrap_counts`: values [R] with the data first."""
    return float(values[0]), *percentile_interval(values[1:], level)


def mean_interval(values: ArrayLike, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean over images and its percentile bootstrap interval.

    For a paired comparison give the differences; it is significant where the interval leaves out 0. Columns are
    resampled together.

    Parameters
    ----------
    values : [N, ...] array or tensor, finite, N >= 2.
    n, seed : as `bootstrap_draws`.
    level : in (0, 1).

    Raises
    ------
    ValueError
        Fewer than two images, or values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs at least 2 images with finite values, got {len(values)}, "
            f"{int((~np.isfinite(values)).sum())} values not finite"
        )
    counts = bootstrap_counts(np.zeros(len(values)), n, seed)[1:]
    means = np.tensordot(counts, values, axes=1) / len(values)  # one row a resample
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(values.mean(axis=0), low, high)
