"""The arithmetic of the rule for claims: from effects to outcomes, on arrays.

`verdicts` calls it for the findings of runs, `benchmarks.verdicts` for simulated ones, a study along the first axes: so
the error rates that are simulated are those of the rule itself. What it does, step by step, is told in `verdicts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from diffad_utils.metrics import pooling

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
VARIES, OPEN = "varies", "open"
NOT_TESTED, OUT_OF_SCOPE = "not tested here", "out of scope here"
DECIDED = (SUPPORTED, NOT_SUPPORTED)

LEVEL = 0.95
CASE_LEVEL = 0.98
"""Of a case of "some": the largest of several I-AUROCs also has the smallest variance, which makes 95 % too easy."""
HETEROGENEITY = 0.005
"""Level of Welch's test, low because "varies" is a wrong verdict too where a null effect is the same everywhere: with
the 5 % of the interval that happens in at most 6 %."""
FEWEST_CATEGORIES = 2
FEWEST_SEEDS = 3
"""Of a claim between trainings, in each category, and of a training that several categories share."""


def category(effects: ArrayLike, errors: ArrayLike, images: ArrayLike) -> pooling.SeedMean:
    """A category over its seeds.

    effects, errors : [..., S], with the standard error of each over test images, from resampling them. images : how
    many; [...] or a number.
    """
    n = np.asarray(images, dtype=np.float64)
    resampled = n / np.maximum(n - 1, 1)  # resampling n images makes a variance too small by this
    return pooling.mean_over_seeds(effects, np.asarray(errors) ** 2 * resampled[..., None])


def part(
    means: pooling.SeedMean, images: ArrayLike, margin: float, shared: Sequence[pooling.Shared] = ()
) -> pooling.Comparison:
    """One part of a claim, [..., K] categories, against the margin; ``images`` [..., K] or a number."""
    least = np.maximum(images, 2)
    return pooling.compare(means.effect, means.most, means.least, margin, LEVEL, least, shared)


class Evidence(NamedTuple):
    """What all parts of a claim say together; each [...].

    p_above, p_below : that it holds, that it does not. p_heterogeneity : that the categories of some part differ, after
    Holm over the parts; of both, where the parts are bounds. crosses : categories lie clearly on both sides of the
    margin.
    """

    p_above: np.ndarray
    p_below: np.ndarray
    p_heterogeneity: np.ndarray
    crosses: np.ndarray


def combine(parts: Sequence[pooling.Comparison | Evidence], how: str = "all", missing: bool = False) -> Evidence:
    """Several parts to one claim.

    how : "all", each has to hold, an intersection-union test; "any", one is enough; "bounds", of two parts the first is
    a lower and the second an upper bound of the effect. missing : a part has no finding, and may be the one that fails,
    or with "any" the one that holds.
    """
    above, below, differ, crosses = (
        np.stack([np.asarray(getattr(part, name)) for part in parts], axis=-1)
        for name in ("p_above", "p_below", "p_heterogeneity", "crosses")
    )
    if how == "bounds":  # a low lower bound says nothing, nor a high upper one
        lower, upper = cast("Sequence[pooling.Comparison]", parts)
        # of two bounds one alone may differ by the choice of settings, which its interval does not hold
        return Evidence(lower.p_above, upper.p_below, differ.max(axis=-1), lower.some_above & upper.some_below)
    differ = pooling.holm(differ).min(axis=-1)
    if how == "any":
        p_below = np.ones(below.shape[:-1]) if missing else below.max(axis=-1)
        return Evidence(pooling.holm(above).min(axis=-1), p_below, differ, crosses.all(axis=-1))
    p_above = np.ones(above.shape[:-1]) if missing else above.max(axis=-1)
    return Evidence(p_above, pooling.holm(below).min(axis=-1), differ, crosses.any(axis=-1))


def smaller(evidence: Evidence) -> np.ndarray:
    """The p-value with which a claim enters its family."""
    return np.minimum(evidence.p_above, evidence.p_below)


def outcome(p: ArrayLike, evidence: Evidence) -> np.ndarray:
    """Verdicts [...] of claims that could be decided; p [...] : `smaller` after Holm over the family.

    One part that fails everywhere refutes a claim, though another part varies.
    """
    decided = np.asarray(p) < 1 - LEVEL
    differ = np.asarray(evidence.p_heterogeneity) < HETEROGENEITY
    cases = [decided & (evidence.p_below < evidence.p_above), evidence.crosses, decided, differ]
    return np.select(cases, [NOT_SUPPORTED, VARIES, SUPPORTED, VARIES], INCONCLUSIVE)


def case_p_values(z: ArrayLike, images: ArrayLike) -> np.ndarray:
    """Two-sided p-values of cases [..., M] whose effects are ``z`` standard errors above the margin, after Holm. A
    claim that says "some" is supported below 1 - `CASE_LEVEL`."""
    return pooling.holm(2 * stats.t.sf(z, np.maximum(np.asarray(images) - 1, 1)))
