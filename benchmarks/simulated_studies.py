"""Simulated studies for `benchmarks.verdicts`: what runs of many categories and seeds would have found.

Images are shared by the seeds of a category, categories and trainings vary, and the truth is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from diffad_utils import metrics
from diffad_utils.metrics import bootstrap, intervals

# --- simulated findings: (effect, variance over images), each [simulations, categories, seeds] ------------------------


def auroc_parts(anomalous: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC of scores [..., A] against [..., B] and the placements of either, as DeLong et al. (Biometrics 44, 1988)
    need them: ([...], [..., A], [..., B])."""
    wins = anomalous[..., :, None] > normal[..., None, :]
    return wins.mean(axis=(-2, -1)), wins.mean(axis=-1), wins.mean(axis=-2)


def auroc_difference(rng, shape, images, offset, correlation=0.6, own=0.5, level=1.466):
    """Paired I-AUROC difference of two methods. offset [...] of ``shape``: what method a's separation has more.

    correlation : of the two methods' scores of an image. own : share of the rest that changes with the seed. A level of
    1.466 standard deviations is an AUROC of 0.85.
    """
    sims, categories, seeds = shape
    scores = []
    for count, centre in ((images, level), (images, 0.0)):
        shared = rng.standard_normal((sims, categories, 1, 1, count)).astype(np.float32)
        method = rng.standard_normal((sims, categories, 1, 2, count)).astype(np.float32)
        training = rng.standard_normal((sims, categories, seeds, 2, count)).astype(np.float32)
        noise = np.sqrt(1 - own) * method + np.sqrt(own) * training
        scores.append(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * noise + np.float32(centre))
    scores[0][:, :, :, 0] += offset[..., None].astype(np.float32)
    value, above, below = auroc_parts(*scores)
    gap, a, b = (part[:, :, :, 0] - part[:, :, :, 1] for part in (value, above, below))
    return gap, a.var(axis=-1, ddof=1) / images + b.var(axis=-1, ddof=1) / images


def auroc_level(rng, shape, images, offset, level=0.7416):
    """I-AUROC minus 0.7."""
    sims, categories, seeds = shape
    normal, anomalous = (rng.standard_normal((sims, categories, 1, images)) for _ in range(2))
    fresh = [rng.standard_normal((sims, categories, seeds, images)) for _ in range(2)]
    high = np.sqrt(0.7) * anomalous + np.sqrt(0.3) * fresh[0] + level + offset[..., None]
    value, above, below = auroc_parts(high, np.sqrt(0.7) * normal + np.sqrt(0.3) * fresh[1])
    return value - 0.7, above.var(axis=-1, ddof=1) / images + below.var(axis=-1, ddof=1) / images


def image_mean(draw: Callable) -> Callable:
    """Mean over images of a quantity; draw(rng, shape) has mean 0."""

    def simulate(rng, shape, images, offset):
        sims, categories, seeds = shape
        values = draw(rng, (sims, categories, 1, images)) + 0.5 * draw(rng, (sims, categories, seeds, images))
        return values.mean(axis=-1) + offset, values.var(axis=-1) / images

    return simulate


def share(rng, shape, images, offset):
    """Share of images minus 1/2, by a threshold on a Gaussian quantity."""
    sims, categories, seeds = shape
    quantity = np.sqrt(0.7) * rng.standard_normal((sims, categories, 1, images))
    quantity = quantity + np.sqrt(0.3) * rng.standard_normal((sims, categories, seeds, images)) + offset[..., None]
    found = (quantity > 0).mean(axis=-1)
    return found - 0.5, found * (1 - found) / images


def rank_correlation(rng, shape, images, offset, resamples=200):
    """Spearman's correlation of two quantities over images; ranks are taken once and resampled."""
    sims, categories, seeds = shape
    x = rng.standard_normal((sims, categories, 1, images)) + np.zeros((1, 1, seeds, 1))
    y = offset[..., None] * x + rng.standard_normal((sims, categories, seeds, images))
    x, y = (stats.rankdata(values, axis=-1) / images for values in (x, y))
    weights = bootstrap.bootstrap_counts(np.zeros(images), resamples, 0) / images

    def mean(values):
        return values @ weights.T

    covariance = mean(x * y) - mean(x) * mean(y)
    drawn = covariance / np.sqrt((mean(x * x) - mean(x) ** 2) * (mean(y * y) - mean(y) ** 2))
    return drawn[..., 0], drawn[..., 1:].var(axis=-1)


def aupro_difference(rng, shape, images, offset, side=12):
    """Paired AUPRO difference of two maps with one square defect in every second image; 100 resamples."""
    sims, categories, seeds = shape
    effect, variance = np.empty(shape), np.empty(shape)
    masks = np.zeros((images, side, side), dtype=bool)
    masks[::2, 3:7, 3:7] = True
    times = bootstrap.bootstrap_counts(masks.any(axis=(1, 2)), 100, 0)
    for index in np.ndindex(sims, categories):
        strength = 1.5 + rng.standard_normal((images, 1, 1))  # some defects are plain, others hidden, for both
        for seed in range(seeds):
            draws = []
            for more in (offset[(*index, seed)], 0.0):
                maps = rng.standard_normal(masks.shape) + masks * (strength + more)
                draws.append(metrics.metrics_from_counts(metrics.pixel_counts(maps, masks, 60), times)["AUPRO"])
            gap = draws[0] - draws[1]
            effect[(*index, seed)], variance[(*index, seed)] = gap[0], gap[1:].var()
    return effect, variance


Runs = tuple[np.ndarray, np.ndarray]
"""Effect and variance over images of each run, [simulations, categories, seeds]."""


def two_ways(rng, shape, images, offset, bound=0.2) -> list[Runs]:
    """Two methods differ by at most ``bound``, and do by just that: a part for each direction (Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 15, 1987)."""
    effect, variance = image_mean(_normal)(rng, shape, images, offset)
    return [(-effect, variance), (2 * bound + effect, variance)]


def either_of_two(rng, shape, images, offset) -> list[Runs]:
    """Two quantities of the same images, of which one has to be below its bound; both are at it."""
    return [image_mean(_normal)(rng, shape, images, offset) for _ in range(2)]


def _normal(rng, shape):
    return rng.standard_normal(shape)


class Measure(NamedTuple):
    """simulate : (rng, shape, images, offset) -> `Runs`, or a list of them for a claim of several parts. images : of
    each class for an I-AUROC, else in all; the smallest n of claims.csv. claims : those that are judged by such a
    measure. combine : how the parts are."""

    simulate: Callable
    images: int
    claims: str
    combine: str = "all"


MEASURES = {
    "I-AUROC difference, paired": Measure(
        auroc_difference,
        30,
        "C15a C24a C30 C32b C33 C35 C36 C37 C38 C39 C41 C42 C43 C44 C46 C47a C51 C52 C55 C56 C57 C58a C58b C59 "
        "C64 C68 C70 C71 C72 C73 C85 C87a C87b C91 C94 C95 C96 C98",
    ),
    "I-AUROC against 0.7": Measure(auroc_level, 30, ""),
    "mean over images": Measure(
        image_mean(_normal),
        30,
        "C01 C02 C04 C05a C05b C06 C09 C10 C11 C12 C13 C14 C17a C17b C18 C21 C24b C24c C28 C31 C45 C46 C49a C49b C50a "
        "C54 C38 C57 C58b C59 C66 C75a C76 C77 C78 C79a C82",
    ),
    "mean over images, skewed (log-normal)": Measure(
        image_mean(lambda rng, shape: rng.lognormal(0, 0.75, shape) - np.exp(0.75**2 / 2)),
        30,
        "C08 C12 C19 C20 C53 C80 C81",
    ),
    "mean over five repetitions (times)": Measure(image_mean(_normal), 5, "C40 C47b C60b C92a C92b C97"),
    "share of images": Measure(share, 30, "C03 C79b C93"),
    "rank correlation over images": Measure(rank_correlation, 60, "C22 C27 C69 C75b C77"),
    "AUPRO difference, paired": Measure(aupro_difference, 30, "C24a C30 C43 C68 C74b C86 C87a C89 C90"),
    "difference within a bound, a part each way": Measure(two_ways, 30, "C13 C74a C88"),
    "one of two means below its bound": Measure(either_of_two, 30, "C07", "any"),
}
"""Kind of measure -> its simulation. C29 and C34, a range over settings, have a table of their own; claims that say
"some" too, and those of `benchmarks.ones_of_their_kind`."""

FAST = [name for name, measure in MEASURES.items() if measure.simulate is not aupro_difference]
ONE_PART = [name for name in FAST if MEASURES[name].simulate not in (two_ways, either_of_two)]


def offsets(rng, shape, between_categories=0.0, between_seeds=0.0, effect=0.0) -> np.ndarray:
    """Separation, mean or slope that each run has more: [simulations, categories, seeds]."""
    categories = between_categories * rng.standard_normal((*shape[:2], 1))
    return effect + categories + between_seeds * rng.standard_normal(shape)


def in_blocks(simulate, rng, shape, images, *spread, effect=0.0, block=500):
    """``simulate`` with `offsets` of this ``spread`` and ``effect``, 500 simulations at a time."""
    blocks = []
    for start in range(0, shape[0], block):
        part = (min(block, shape[0] - start), *shape[1:])
        blocks.append(simulate(rng, part, images, offsets(rng, part, *spread, effect)))
    if isinstance(blocks[0], list):
        return [tuple(map(np.concatenate, zip(*of, strict=True))) for of in zip(*blocks, strict=True)]
    return tuple(map(np.concatenate, zip(*blocks, strict=True)))


def images_of(name: str) -> int:  # of both classes
    return MEASURES[name].images * (2 if "I-AUROC" in name else 1)


def gain_of_three_points(*spread: float) -> float:
    """What a separation of 1.466 standard deviations, an AUROC of 0.85, has to gain on average for a mean AUROC of
    0.88 where the gain has these standard deviations."""
    return float(np.sqrt(2 + sum(sd**2 for sd in spread)) * stats.norm.ppf(0.88) - 1.466)


GAIN_OF_FEW = 0.232
"""An AUROC of 0.885 instead of 0.85."""


def better_than_every(rng, shape, images, gain, rivals=4, correlation=0.7):
    """I-AUROC of one variant minus each rival, on the same images: (effects, variances), [rivals, sims, categories, 1],
    and the first category's AUROC over 300 resamples, [sims, 301, variants], for the earlier rule."""
    sims, categories = shape
    scores = []
    for centre in (1.466, 0.0):
        image = rng.standard_normal((sims, categories, 1, images))
        own = rng.standard_normal((sims, categories, rivals + 1, images))
        scores.append(np.sqrt(correlation) * image + np.sqrt(1 - correlation) * own + centre)
    scores[0][:, :, 0] += gain
    value, above, below = auroc_parts(*scores)
    gaps = [part[:, :, :1] - part[:, :, 1:] for part in (value, above, below)]
    variance = (gaps[1].var(axis=-1, ddof=1) + gaps[2].var(axis=-1, ddof=1)) / images
    drawn = np.empty((sims, 301, rivals + 1))
    counts = bootstrap.bootstrap_counts(np.r_[np.ones(images), np.zeros(images)], 300, 0)
    high, low = counts[:, :images], counts[:, images:]
    for i in range(sims):
        wins = (scores[0][i, 0, :, :, None] > scores[1][i, 0, :, None, :]).astype(np.float64)
        drawn[i] = np.einsum("ra,vab,rb->rv", high, wins, low, optimize=True) / images**2
    return np.moveaxis(gaps[0], 2, 0)[..., None], np.moveaxis(variance, 2, 0)[..., None], drawn


def settings_of(normal: int, anomalous: int, ends: tuple[float, float], rng) -> tuple[np.ndarray, np.ndarray]:
    """Scores [28, N] of settings whose true I-AUROC runs from one end to the other, and labels [N]."""
    labels = np.r_[np.zeros(normal), np.ones(anomalous)]
    levels = np.sqrt(2) * stats.norm.ppf(np.linspace(*ends, 28))
    noise = [rng.standard_normal((size, len(labels))) for size in (1, 28)]
    return labels * levels[:, None] + np.sqrt(0.7) * noise[0] + np.sqrt(0.3) * noise[1], labels


def ranges(repeats: int, categories: int, ends: tuple[float, float], rng) -> list[Runs]:
    """Range of I-AUROC over 28 settings, 40 + 60 images a category: the lower and the upper bound."""
    found = np.empty((2, 2, repeats, categories, 1))  # bound; effect, variance
    for index in np.ndindex(repeats, categories):
        drawn, there = settings_of(40, 60, ends, rng)
        low = intervals.crossfitted_range(drawn, there, 50, 60)[0]
        by_setting = intervals.auroc(drawn, there, bootstrap.bootstrap_counts(there, 60))
        high = by_setting[:, by_setting[0].argmax()] - by_setting[:, by_setting[0].argmin()]
        for bound, draws in zip(found, (low, high), strict=True):
            bound[(slice(None), *index, 0)] = draws[0], draws[1:].var()
    return [tuple(bound) for bound in found]


TRUE_RANGES = {"none": (0.75, 0.75), "0.05, the margin": (0.725, 0.775), "0.66 to 0.87": (0.66, 0.87)}
