"""What counts as evidence for a claim, and what it says by category: the first two steps of the rule in `verdicts`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from diffad_utils.metrics import pooling
from diffad_utils.study import outcomes
from diffad_utils.study.outcomes import FEWEST_CATEGORIES, FEWEST_SEEDS, LEVEL


def standard_error(low: ArrayLike, high: ArrayLike, level: float = LEVEL) -> np.ndarray:
    """Of an effect over test images, from its interval: half of the width over the normal quantile.

    A percentile interval of a mean or an AUROC is as wide as its bootstrap standard deviation says, to a few per cent
    (tests/unit/study/test_claims.py), so a finding needs no further number, and those of earlier runs can be pooled.
    """
    return (np.asarray(high) - np.asarray(low)) / (2 * stats.norm.ppf((1 + level) / 2))


def phrases(claim: Mapping) -> list[str]:
    """The variants of a claim's measure, as they appear in a finding's ``measure``."""
    return [part.strip() for part in str(claim["variants"]).split(";") if part.strip()]


def variant_of(claim: Mapping, measure: str) -> str | None:
    """The variant that a finding's measure names, the longest if several do; None if it is another measure."""
    return max((phrase for phrase in phrases(claim) if names(measure, phrase)), key=len, default=None)


@lru_cache
def _whole(phrase: str) -> re.Pattern:
    before = r"(?<!\w)(?<!\w[-+.])" if re.match(r"\w", phrase) else ""
    after = r"(?!\w)(?![-+.]\w)" if re.search(r"\w$", phrase) else ""
    return re.compile(before + re.escape(phrase) + after)


def names(measure: str, phrase: str) -> bool:
    """Whether a measure holds a phrase as a whole: names and numbers go on over "-", "+" and ".".

    >>> [names("a minus T = 20", name) for name in ("T = 20", "T = 2")]
    [True, False]
    >>> [names("P-AUROC of ESM-sigma minus ESM, mean", name) for name in ("minus ESM", "of ESM", "AUROC of ESM-sigma")]
    [True, False, False]
    """
    return _whole(phrase).search(measure) is not None


def in_scope(claim: Mapping, dataset: str) -> bool:
    """Whether a claim may be judged on a data set."""
    return claim["datasets"] in ("any", "none") or dataset in claim["datasets"].split()


def objection(claim: Mapping, row: Mapping) -> str:
    """Why a finding is no evidence for a claim; empty if it is."""
    if not in_scope(claim, row["dataset"]):
        return f"{row['dataset']} is outside the scope ({claim['datasets']})"
    if variant_of(claim, row["measure"]) is None:
        return f"another measure than the one fixed: {row['measure']!r}"
    return "" if large_enough(claim, row) else f"n = {row['n']} is below the smallest n, {claim['min_n']}"


def large_enough(claim: Mapping, row: Mapping) -> bool:
    """Whether a finding has the claim's smallest n."""
    return row["n"] >= int(claim["min_n"])


def alternatives(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Parts by setting, where ``combine`` is "either": measures that differ in what follows the last ": "."""
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        found.setdefault(variant.name.rpartition(": ")[0] or variant.name, []).append(variant)
    return list(found.values())


# --- by category ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One part of a claim, which has to hold by itself: a rival, prompt or setting, over its categories.

    phrase : of claims.csv; name : the same, or the measure where a phrase has several. measures : those pooled here.
    by_category : one row a category: dataset_category, training, effect, low, high, n, seeds, most, least
    (`pooling.SeedMean`). compared : all of them against the margin. obstacles : why it cannot be decided whatever its
    effect is, in words.
    """

    name: str
    phrase: str
    measures: tuple[str, ...]
    by_category: pd.DataFrame = field(repr=False)
    compared: pooling.Comparison
    obstacles: tuple[str, ...] = ()

    @property
    def pooled(self) -> pooling.Pooled:
        """The mean over categories, those of one training together as one where it has too few seeds."""
        return self.compared.pooled

    @property
    def detectable(self) -> float:
        """The smallest distance from the margin that these data would have shown; with one category, or one training of
        too few seeds, that its images would have."""
        if self.pooled.categories > 1:
            return float(pooling.smallest_detectable(self.pooled, LEVEL))
        z = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(0.8)
        return float(z * np.sqrt(self.by_category["most"].sum()) / len(self.by_category))


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Findings (columns variant, measure, dataset_category, seed) with a column part, the name of what is pooled.

    A variant of which a category has several measures has a part for each; any other is one part.
    """
    several = rows.groupby(["variant", "dataset_category", "seed"])["measure"].transform("nunique") > 1
    split = rows["variant"].isin(rows.loc[several, "variant"])
    return rows.assign(part=rows["measure"].where(split, rows["variant"]))


def with_enough_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Findings of one part (columns dataset_category, seed) of the categories with at least `FEWEST_SEEDS`; all of them
    where fewer than `FEWEST_CATEGORIES` would be left: those are shown, and decide nothing."""
    enough = rows[rows.groupby("dataset_category")["seed"].transform("nunique") >= FEWEST_SEEDS]
    return enough if enough["dataset_category"].nunique() >= FEWEST_CATEGORIES else rows


def by_category(rows: pd.DataFrame) -> pd.DataFrame:
    """Findings of one part, a row a category: seeds averaged, their interval of ``most`` variance; see `Variant`."""
    found = []
    for name, of in rows.groupby("dataset_category", sort=True):
        by_seed = of.groupby("seed").agg({"effect": "mean", "standard_error": "mean"})
        n = int(of["n"].min())
        mean = outcomes.category(by_seed["effect"].to_numpy(), by_seed["standard_error"].to_numpy(), n)
        half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(mean.most)
        found.append(
            {
                "dataset_category": name,
                "training": of["training"].iloc[0],
                "effect": float(mean.effect),
                "low": float(mean.effect - half),
                "high": float(mean.effect + half),
                "n": n,
                "seeds": len(by_seed),
                "most": float(mean.most),
                "least": float(mean.least),
            }
        )
    return pd.DataFrame(found)


def seeds_of_trainings(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Effects [G, S] of each training that G > 1 categories share, at the S seeds that all of them have."""
    wide = rows.pivot_table(index=["training", "dataset_category"], columns="seed", values="effect")
    return {name: of.dropna(axis="columns").to_numpy() for name, of in wide.groupby(level="training") if len(of) > 1}


def one_where_seeds_are_few(categories: pd.DataFrame, few: list[str]) -> pd.DataFrame:
    """`by_category`'s rows; those of each training in ``few`` together as one, their mean."""
    alone = categories[~categories["training"].isin(few)]
    joint = [
        {
            "effect": of["effect"].mean(),
            "most": of["most"].sum() / len(of) ** 2,
            "least": of["least"].sum() / len(of) ** 2,
            "n": of["n"].min(),
        }
        for _, of in categories[categories["training"].isin(few)].groupby("training")
    ]
    return pd.concat([alone, pd.DataFrame(joint)], ignore_index=True) if joint else alone


def pool_variant(name: str, rows: pd.DataFrame, margin: float, needs_seeds: bool = False) -> Variant:
    """One part's findings (columns variant, measure, dataset_category, training, seed, effect, standard_error, n)
    against the margin; ``needs_seeds`` for a claim between trainings.

    Categories of one training with at least `FEWEST_SEEDS` seeds are pooled with what a seed adds to all of them
    (`pooling.shared_training`). With fewer that cannot be estimated, and they count as one category.
    """
    categories, together = by_category(rows), seeds_of_trainings(rows)
    few = [training for training, effects in together.items() if effects.shape[1] < FEWEST_SEEDS]
    pooled = one_where_seeds_are_few(categories, few)
    shared = [pooling.shared_training(of, len(pooled)) for training, of in together.items() if training not in few]
    means = pooling.SeedMean(*(pooled[column].to_numpy() for column in ("effect", "most", "least")))
    compared = outcomes.part(means, pooled["n"].to_numpy(), margin, shared)
    obstacles, seeds = [], int(categories["seeds"].min())
    if len(categories) < FEWEST_CATEGORIES:
        obstacles.append(f"{len(categories)} category, a verdict needs {FEWEST_CATEGORIES}")
    elif len(pooled) < FEWEST_CATEGORIES:
        obstacles.append(f"{len(categories)} categories share one training, a verdict needs {FEWEST_SEEDS} seeds of it")
    if needs_seeds and seeds < FEWEST_SEEDS:
        obstacles.append(f"{seeds} seed{'s' if seeds > 1 else ''}, a claim between trainings needs {FEWEST_SEEDS}")
    if obstacles:
        compared = compared._replace(**UNDECIDED)
    return Variant(
        name, rows["variant"].iloc[0], tuple(rows["measure"].unique()), categories, compared, tuple(obstacles)
    )


UNDECIDED: dict[str, Any] = {
    "p_above": 1.0,
    "p_below": 1.0,
    "p_heterogeneity": 1.0,
    "some_above": False,
    "some_below": False,
}
"""Of a part that nothing can decide."""
