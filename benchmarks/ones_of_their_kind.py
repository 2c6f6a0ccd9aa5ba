"""Simulated studies of four claims whose measures no other claim has, for `benchmarks.verdicts`.

Effects and intervals are those of the functions that the notebooks call, on simulated images; the truth is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from diffad_utils.analyses import img2img_settings, joint_claims
from diffad_utils.metrics import bootstrap, intervals
from diffad_utils.study import verdicts

SETTINGS, RESAMPLES, SPLITS = 12, 60, 20  # fewer than in the notebooks, which have 31, 1000 and 50


def finding(draws: np.ndarray) -> tuple[float, float]:
    """Effect and variance over images, as a finding has them."""
    effect, low, high = bootstrap.bootstrap_percentiles(draws)
    return effect, float(verdicts.standard_error(low, high)) ** 2


def labelled(images: int) -> np.ndarray:
    return np.arange(images) % 2


def by_run(categories: int, seeds: int, one: Callable[[int, int], list[tuple[float, float]]]) -> np.ndarray:
    """``one(category, seed)``, a list of (effect, variance), of each run: [parts, 2, categories, seeds]."""
    return np.moveaxis(np.array([[one(c, s) for s in range(seeds)] for c in range(categories)]), (2, 3), (0, 1))


def scale_of_share(correlation: float, share: float, alpha: float = 0.3) -> float:
    """Standard deviation of the squared error over that of the CLIP distance at which its share of the raw score's
    variance is ``share``."""

    def excess(x):  # x: ratio of both terms' standard deviations
        return (x**2 + x * correlation) / (x**2 + 2 * x * correlation + 1) - share

    return optimize.brentq(excess, 0, 10) * (1 - alpha) / alpha


def shares(rng, categories, seeds, correlation, share, images=100, skew=0.4):
    """C23: ``share`` of the variance is due to the squared error at alpha 0.3. Over images that is log-normal, and
    ``skew`` the standard deviation of its logarithm; in the committed runs it is 0.3 to 0.4."""
    spread = np.sqrt(np.expm1(skew**2))
    scale = scale_of_share(correlation * skew / spread, share)
    counts = bootstrap.bootstrap_counts(labelled(images), 200)
    cov = np.array([[1, correlation], [correlation, 1]])
    shared = rng.multivariate_normal([0, 0], cov, (categories, images))

    def one(c, _):
        z = np.sqrt(0.7) * shared[c] + np.sqrt(0.3) * rng.multivariate_normal([0, 0], cov, images)
        mse, clip = scale * np.exp(skew * z[:, 0] - skew**2 / 2) / spread, z[:, 1]
        low, high = (img2img_settings.mse_shares(mse, clip, alpha, counts) for alpha in (0.3, 0.9))
        return [finding(draws) for draws in (low, 1 - high, np.minimum(low, 1 - high))]

    return by_run(categories, seeds, one)


def two_ranges(rng, categories, seeds, of_mse, of_clip, noise=(0.02, 0.5), images=100):
    """C32a: true I-AUROC runs between these ends over the settings, whose scores differ by ``noise`` of the variance:
    less for the squared error than for the CLIP distance."""
    labels = labelled(images)
    counts = bootstrap.bootstrap_counts(labels, RESAMPLES)

    def one(*_):
        scores = []
        for ends, own in zip((of_mse, of_clip), noise, strict=True):
            levels = np.sqrt(2) * stats.norm.ppf(np.linspace(*ends, SETTINGS))
            image, setting = (rng.standard_normal((size, images)) for size in (1, SETTINGS))
            scores.append(labels * levels[:, None] + np.sqrt(1 - own) * image + np.sqrt(own) * setting)
        bounds = intervals.range_difference(*scores, labels, SPLITS, RESAMPLES)
        mse, clip = (np.ptp(intervals.auroc(values, labels, counts), axis=1) for values in scores)
        return [finding(draws) for draws in (*bounds, mse - clip)]

    return by_run(categories, seeds, one)


def best_steps(rng, categories, seeds, loss, alike, images=60, noise=0.3):
    """C62: three T_d, of which a category loses ``loss`` I-AUROC with all but its best. That is another one in each
    third of the categories, or, with ``alike``, the same in two of them."""
    labels = labelled(images)
    image = rng.standard_normal((categories, 1, images))
    found = np.empty((2, 2, categories, seeds))
    for seed in range(seeds):
        scores = []
        for c in range(categories):
            best = min(c % 3, 1) if alike else c % 3
            levels = np.sqrt(2) * stats.norm.ppf(np.where(np.arange(3) == best, 0.85, 0.85 - loss))
            own = rng.standard_normal((3, images))
            scores.append(labels * levels[:, None] + np.sqrt(1 - noise) * image[c] + np.sqrt(noise) * own)
        drawn = joint_claims.choice_for_each(scores, [labels] * categories, SPLITS, RESAMPLES)
        found[..., seed] = np.array([[finding(draws) for draws in bounds] for bounds in drawn]).transpose(1, 2, 0)
    return found


def deviations(rng, categories, seeds, times, trainings=3):
    """C67: the printed difference is ``times`` two standard deviations between trainings."""
    deviation = joint_claims.PRINTED_GAIN / 2 / times

    def one(*_):
        differences = deviation * rng.standard_normal(trainings)
        effect, *ends = joint_claims.against_chance(differences)
        s, freedom = differences.std(ddof=1), trainings - 1
        high, low = s * np.sqrt(freedom / stats.chi2.ppf([0.025, 0.975], freedom))
        former = joint_claims.PRINTED_GAIN - 2 * s, float(verdicts.standard_error(2 * low, 2 * high)) ** 2
        return [(effect, float(verdicts.standard_error(*ends)) ** 2), former]

    return by_run(categories, seeds, one)


class Kind(NamedTuple):
    """simulate : (rng, categories, seeds) -> effect and variance [parts, 2, categories, seeds] of one study. The parts
    are those of the claim, and after them the claim's earlier measure, if it was simulated. null : the effect is the
    margin; else it is above. alike : the effect is the same in all categories, so that "varies" is wrong at the null.
    """

    claim: str
    what: str
    simulate: Callable
    images: int
    margin: float
    combine: str
    parts: int
    sizes: tuple[tuple[int, int], ...]
    null: bool = True
    alike: bool = True


_GRID = ((2, 1), (3, 1), (3, 3), (9, 1), (9, 3))
_RANGES, _STEPS, _TRAININGS = ((3, 1), (9, 1)), ((3, 3), (9, 3)), ((2, 1), (3, 1), (5, 1), (9, 1))
_C23, _C32A, _C62, _C67 = (100, 0.1, "all", 2), (100, 0.0, "bounds", 2), (60, 0.02, "bounds", 2), (160, 0.0, "all", 1)
KINDS = [
    Kind("C23", "one part at 0.1", partial(shares, correlation=0.8, share=0.1), *_C23, _GRID),
    Kind("C23", "both parts at 0.1", partial(shares, correlation=0.34, share=0.1), *_C23, _GRID),
    Kind("C23", "both parts at 0.155", partial(shares, correlation=0.8, share=0.155), *_C23, _GRID, null=False),
    Kind(
        "C32a", "neither has a range", partial(two_ranges, of_mse=(0.75, 0.75), of_clip=(0.75, 0.75)), *_C32A, _RANGES
    ),
    Kind("C32a", "ranges of 0.1", partial(two_ranges, of_mse=(0.7, 0.8), of_clip=(0.7, 0.8)), *_C32A, _RANGES),
    Kind(
        "C32a",
        "ranges of 0.25 and 0.05",
        partial(two_ranges, of_mse=(0.6, 0.85), of_clip=(0.7, 0.75)),
        *_C32A,
        _RANGES,
        null=False,
    ),
    Kind("C62", "0.02, none is best for all", partial(best_steps, loss=0.03, alike=False), *_C62, _STEPS, alike=False),
    Kind("C62", "0.02, one is best for most", partial(best_steps, loss=0.06, alike=True), *_C62, _STEPS, alike=False),
    Kind("C62", "0.1", partial(best_steps, loss=0.15, alike=False), *_C62, _STEPS, null=False, alike=False),
    Kind("C67", "two deviations", partial(deviations, times=1), *_C67, _TRAININGS),
    Kind("C67", "eight deviations", partial(deviations, times=4), *_C67, _TRAININGS, null=False),
]
