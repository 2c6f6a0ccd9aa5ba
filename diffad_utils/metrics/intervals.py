"""Intervals of metrics over images: of one method, of the difference of two, of many settings at once.

The draws are those of `bootstrap`. Entry points: `bootstrap_interval`,
`paired_bootstrap_difference`, `paired_bootstrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffad_utils.metrics.bootstrap import bootstrap_counts, bootstrap_draws, percentile_interval
from diffad_utils.metrics.checks import image_input, pixel_input
from diffad_utils.metrics.image import (
    LabelCounts,
    ap_from_counts,
    auroc_from_counts,
    f1max_from_counts,
    image_ap,
    image_auroc,
    image_f1max,
)
from diffad_utils.metrics.pixel import aupro, check_fpr_limit
from diffad_utils.metrics.pixel_counts import metrics_from_counts, pixel_counts

_FROM_COUNTS = {image_auroc: auroc_from_counts, image_ap: ap_from_counts, image_f1max: f1max_from_counts}


def resampled(metric: Callable, scores: np.ndarray, labels: np.ndarray, times: np.ndarray) -> np.ndarray:
    """``metric`` of scores [N] with labels bool [N] for each row of ``times`` [b, N], how often each image is drawn:
    float64 [b]."""
    if metric not in _FROM_COUNTS:
        rows = (np.repeat(np.arange(labels.size), row) for row in times)
        return np.array([metric(scores[row], labels[row]) for row in rows], dtype=np.float64)
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    times, labels = times[:, order], labels[order]
    hits = np.add.reduceat(times * labels, first, axis=1)
    at_threshold = np.add.reduceat(times * ~labels, first, axis=1)
    false = np.cumsum(at_threshold, axis=1)
    return _FROM_COUNTS[metric](LabelCounts(hits, false - at_threshold, false, int(labels.sum()), int((~labels).sum())))


def _check_bootstrap(metric: Callable, n: int, level: float) -> None:
    if not callable(metric):
        raise ValueError(f"metric must be a function of (scores, labels) such as metrics.image_auroc, got {metric!r}")
    if n < 1:
        raise ValueError(f"n, the number of resamples, must be at least 1, got {n}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def bootstrap_interval(
    metric: Callable, scores: ArrayLike, labels: ArrayLike, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of an image-level metric over the images of one test set.

    Normal and anomalous images are resampled separately (stratified), so every resample has both. It says how far
    another draw of images could have moved the number; it does not include the training's own variation (use several
    seeds for that), and it has no width where the classes are perfectly separated.

    Args:
        metric: image_auroc, image_ap or image_f1max (vectorised: 1000 resamples of 500 images take well under a
            second), or any function of (scores [N], labels bool [N]) (called once a resample).
        scores, labels: as `image_auroc`.
        n: resamples.
        seed: of numpy's default generator; the same seed gives the same interval.
        level: confidence level in (0, 1).

    Returns:
        (low, high)

    Raises:
        ValueError: as `image_auroc`; metric not callable, n < 1 or level outside (0, 1).
    """
    _check_bootstrap(metric, n, level)
    scores, labels = image_input(scores, labels)
    values = [resampled(metric, scores, labels, times) for times in bootstrap_draws(labels, n, seed)]
    return percentile_interval(np.concatenate(values), level)


def paired_bootstrap_difference(
    metric: Callable,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Difference of a metric between two methods on the same images, with its percentile bootstrap interval.

    Both methods are evaluated on the same resampled images, so what makes an image hard for both cancels; an interval
    that excludes 0 speaks for a difference on this kind of images.

    Args:
        scores_a, scores_b: [N] scores of the two methods for the same images in the same order.
        metric, labels, n, seed, level: as `bootstrap_interval`.

    Returns:
        (metric of a - metric of b, low, high)

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    _check_bootstrap(metric, n, level)
    scores_a, checked = image_input(scores_a, labels)
    scores_b, labels = image_input(scores_b, labels)
    values = [
        resampled(metric, scores_a, labels, times) - resampled(metric, scores_b, labels, times)
        for times in bootstrap_draws(labels, n, seed)
    ]
    difference = float(metric(scores_a, checked) - metric(scores_b, labels))
    return (difference, *percentile_interval(np.concatenate(values), level))


def paired_aupro_difference(
    maps_a: ArrayLike,
    maps_b: ArrayLike,
    masks: ArrayLike,
    fpr_limit: float = 0.3,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Difference in `aupro` between two methods on the same images, with its percentile bootstrap interval.

    Images are drawn with all their pixels and regions, normal and anomalous ones separately, as in
    `paired_bootstrap_difference`. The difference itself is exact. The resamples use
    `pixel_counts`; on the images as they are that moves AUPRO by less than 0.001 (measured in the tests).

    Args:
        maps_a, maps_b: [N, H, W] anomaly maps of the two methods in the same order. masks: as `pixel_auroc`.
        fpr_limit: as `aupro`. n, seed, level: as `bootstrap_interval`.

    Returns:
        (AUPRO of a - AUPRO of b, low, high)

    Raises:
        ValueError: as `aupro` and `bootstrap_interval`; no image without an anomalous pixel is fine.
    """
    check_fpr_limit(fpr_limit)
    _check_bootstrap(aupro, n, level)
    pairs = [pixel_input(maps, masks) for maps in (maps_a, maps_b)]
    times = np.concatenate([*bootstrap_draws(pairs[0][1].any(axis=(1, 2)), n, seed)])
    a, b = (metrics_from_counts(pixel_counts(*pair), times, fpr_limit)["AUPRO"] for pair in pairs)
    difference = aupro(maps_a, masks, fpr_limit) - aupro(maps_b, masks, fpr_limit)
    return (difference, *percentile_interval(a - b, level))


def paired_bootstrap(
    metric: Callable, scores: ArrayLike, labels: ArrayLike, n: int = 1000, seed: int = 0
) -> np.ndarray:
    """A metric of several methods on the same resampled images: float64 [n, K], for intervals of any function of them.

    Args:
        scores: K sequences [N], the methods' scores for the same images in the same order.
        metric, labels, n, seed: as `bootstrap_interval`, and with the same draws.

    Raises:
        ValueError: as `bootstrap_interval`; no scores.
    """
    _check_bootstrap(metric, n, 0.95)
    if len(scores) == 0:
        raise ValueError("paired_bootstrap: no scores given, expected those of at least one method")
    checked = [image_input(values, labels) for values in scores]
    labels = checked[0][1]
    draws = bootstrap_draws(labels, n, seed)
    return np.concatenate(
        [np.stack([resampled(metric, values, labels, times) for values, _ in checked], axis=1) for times in draws]
    )


def auroc(scores: ArrayLike, labels: Sequence[int], times: np.ndarray) -> np.ndarray:
    """I-AUROC of scores [S, N] in each resample of ``times`` [R, N]: float64 [R, S]; ties count half.

    Raises ``ValueError`` unless both labels occur.
    """
    scores, anomalous = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    if not anomalous.any() or anomalous.all():
        raise ValueError("I-AUROC needs normal and anomalous images")
    return np.stack([resampled(image_auroc, row, anomalous, times) for row in scores], axis=1)


def crossfitted_range(
    scores: ArrayLike, labels: Sequence[int], splits: int = 50, n: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """I-AUROC of the best setting minus that of the worst, found on one half of the images and measured on the other.

    The range on the images themselves would be above 0 even if all settings were equally good; measured on other images
    it is 0 then on average. Both halves play both parts, and the mean is taken over ``splits`` random halves, as one
    split leaves the result to chance. Source of the idea: cross-fitting, Chernozhukov et al., "Double/debiased machine
    learning", Econometrics Journal 21 (2018), section 3.

    Parameters
    ----------
    scores : [S, N] of S settings; higher is more anomalous.
    labels : [N] in {0, 1}, at least four images of each.
    splits, n, seed : random halves, resamples and the seed of both.

    Returns
    -------
    range : float64 [n + 1], as `bootstrap_percentiles` takes it: the data first, then resamples of the images
        that are measured on.
    chosen : int64 [2 splits, 2], the best and the worst setting of each half.

    Raises
    ------
    ValueError
        Fewer than four images of a kind, or shapes that differ.
    """
    scores, anomalous = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    if scores.shape[1] != len(anomalous) or min(anomalous.sum(), (~anomalous).sum()) < 4:
        raise ValueError(
            f"expected scores [S, N] and labels [N] with four images of each kind, got {scores.shape}, "
            f"{int(anomalous.sum())} anomalous and {int((~anomalous).sum())} normal"
        )
    wins, counts = pair_wins(scores, anomalous), bootstrap_counts(anomalous, n, seed)
    generator = np.random.default_rng(seed)
    total, chosen = np.zeros(len(counts)), []
    for _ in range(splits):
        half = random_half(anomalous, generator)
        for chosen_on in (half, ~half):
            found = aurocs_on(wins, anomalous, chosen_on)
            best, worst = int(found.argmax()), int(found.argmin())
            chosen.append((best, worst))
            total += mean_over_pairs(wins[best] - wins[worst], anomalous, ~chosen_on, counts)
    return total / (2 * splits), np.array(chosen)


def range_difference(
    a: ArrayLike, b: ArrayLike, labels: Sequence[int], splits: int = 50, n: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Range of I-AUROC over the settings ``a`` minus that over the settings ``b``: a lower and an upper bound.

    A cross-fitted range (`crossfitted_range`) is too small on average, one on the same images too large. So that of
    ``a`` cross-fitted minus that of ``b`` on the same images is too small, and the other way round too large. The
    difference of two ranges of one kind is neither: its bias is that of the noisier settings.

    Parameters
    ----------
    a, b : [S, N] and [T, N] of S and T settings, for the same images.
    labels, splits, n, seed : as `crossfitted_range`.

    Returns
    -------
    lower, upper : float64 [n + 1] each, as `bootstrap_percentiles` takes it.

    Raises
    ------
    ValueError
        As `crossfitted_range`.
    """
    counts = bootstrap_counts(labels, n, seed)
    fitted = [crossfitted_range(scores, labels, splits, n, seed)[0] for scores in (a, b)]
    same = [np.ptp(auroc(scores, labels, counts), axis=1) for scores in (a, b)]
    return fitted[0] - same[1], same[0] - fitted[1]


def pair_wins(scores: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """The pairs that an AUROC counts, of scores [S, N] and bool [N]: float64 [S, anomalous, normal], 1 where the
    anomalous image has the higher score, 0.5 where both have the same."""
    high, low = scores[:, anomalous, None], scores[:, None, ~anomalous]
    return (high > low) + 0.5 * (high == low)


def random_half(anomalous: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Half of the images of each kind (bool [N]): bool [N]."""
    half = np.zeros(len(anomalous), dtype=bool)
    for kind in (True, False):
        size = int((anomalous == kind).sum())
        half[anomalous == kind] = generator.permutation(size) < size // 2
    return half


def aurocs_on(wins: np.ndarray, anomalous: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """I-AUROC [S] on some of the images, bool [N], from `pair_wins` of all."""
    return wins[:, rows[anomalous]][:, :, rows[~anomalous]].mean(axis=(1, 2))


def mean_over_pairs(values: np.ndarray, anomalous: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of values [anomalous, normal] over the pairs of some images, bool [N], in resamples ``counts`` [R, N]: [R].

    0 in a resample without one of the kinds among these images: it says nothing about them.
    """
    of_high, of_low = counts[:, anomalous & rows], counts[:, ~anomalous & rows]
    sums = ((of_high @ values[rows[anomalous]][:, rows[~anomalous]]) * of_low).sum(axis=1)
    pairs = of_high.sum(axis=1) * of_low.sum(axis=1)
    return np.divide(sums, pairs, out=np.zeros(len(counts)), where=pairs > 0)
