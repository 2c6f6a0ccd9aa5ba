"""The rule: what the findings of many runs say about one claim of ``data/published/claims.csv``.

Everything that decides is fixed in that table before a run: scope, measure and its variants (rivals, prompts), margin,
smallest n, kind and family. The steps, in order:

1. *Evidence.* A finding counts if its data set is in the claim's scope, its measure is the one that was fixed and its
   n is large enough. What does not count is named in the reason. The margin is always the table's.
2. *Pooling* (`pooling`). For each variant images, seeds and categories give one effect and one 95 % interval.
   Student's t has fewer degrees of freedom than categories minus one, because effects over categories are not Gaussian.
   Several measures of one category under one variant (settings, pairs of steps) are never averaged: each is a part of
   its own. Where each category has one measure, its words may differ, such as the metrics that a data set allows.
3. *Several parts.* "Better than every" is an intersection-union test (Berger, Technometrics 24, 1982): supported if
   every part is, at no cost in level; not supported if one is refuted, after Holm over the parts. The claim that some
   setting is no worse (``combine`` is "any") is the other way round. A range over settings has two bounds: cross-fitted
   it is too small on average and can only support, on the same images it is too large and can only refute.
4. *A family* of claims shares the 5 %, by Holm. Claims that cannot be decided whatever the effects are, for lack of
   images, seeds or categories, take no share.
5. *Decided* needs two categories, none of which alone lies wholly on the other side of the margin, and three seeds
   each for a claim between trainings; categories with fewer are left out. Where some categories lie clearly above the
   margin and others clearly below, and no part is refuted in all, or the effect is undecided and categories differ
   beyond chance (Cochran's Q by Welch's test, at 0.5 % over the parts), the verdict is *varies*. Else it is
   *inconclusive*, with the smallest effect that these data would have shown with a power of 80 %.

A claim that says "some" is *supported* by one case, a measure in a category, at 98 % after Holm over the cases, or
*open*: a lack of cases refutes nothing. A claim about printed numbers is read off them once. Error rates and power:
`benchmarks.verdicts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
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
"""Of a claim between trainings, in each category."""


@dataclass(frozen=True)
class Variant:
    """One part of a claim, which has to hold by itself: a rival, prompt or setting, over its categories.

    phrase : of claims.csv; name : the same, or the measure where a phrase has several. measures : those pooled here.
    by_category : one row a category: dataset_category, effect, low, high, n, seeds, most, least (`pooling.SeedMean`).
    obstacles : why it cannot be decided whatever its effect is, in words.
    """

    name: str
    phrase: str
    measures: tuple[str, ...]
    by_category: pd.DataFrame = field(repr=False)
    pooled: pooling.Pooled
    p_above: float
    p_below: float
    p_heterogeneity: float
    crosses: bool
    obstacles: tuple[str, ...] = ()


@dataclass
class Judgement:
    """What is known of one claim; `decide` turns it into a verdict.

    variants : its parts. p_above, p_below : that the claim holds, that it does not; 1 where the evidence cannot decide.
    p_heterogeneity : the smallest of the parts, after Holm. p : the smaller one of the first two, after Holm over the
    family. why_not : what stands against a decision, in words. left_out : which categories do not count, and why; in
    every reason. blocked : too few images or seeds for any verdict. crosses : categories lie clearly on both sides of
    the margin. case : of a claim that says "some", the clearest one, a row of `Variant.by_category`.
    """

    claim_id: str
    margin: float
    combine: str = "all"
    verdict: str = NOT_TESTED
    reason: str = ""
    variants: list[Variant] = field(default_factory=list)
    p_above: float = 1.0
    p_below: float = 1.0
    p: float = float("nan")
    why_not: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    blocked: bool = False
    crosses: bool = False
    p_heterogeneity: float = 1.0
    case: Mapping[str, Any] | None = None

    @property
    def weakest(self) -> Variant | None:
        """The part that decides: the one for which the claim is least certain, or most where one is enough."""
        pick = min if self.combine == "any" else max
        return pick(self.variants, key=lambda v: (v.p_above, -float(v.pooled.effect)), default=None)

    @property
    def can_be_decided(self) -> bool:
        """Whether images, seeds and categories are enough for a verdict, whatever the effects are."""
        return not self.blocked and any(not v.obstacles for v in self.variants)

    @property
    def detectable(self) -> float:
        """The largest of the variants' smallest detectable distances from the margin; NaN without evidence.

        With one category: what its images would have shown in that category.
        """

        def of(variant: Variant) -> float:
            if variant.pooled.categories == 1:
                z = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(0.8)
                return float(z * np.sqrt(variant.by_category["most"].iloc[0]))
            return float(pooling.smallest_detectable(variant.pooled.standard_error, variant.pooled.categories, LEVEL))

        return max(map(of, self.variants), default=float("nan"))


def standard_error(low: ArrayLike, high: ArrayLike, level: float = LEVEL) -> np.ndarray:
    """Of an effect over test images, from its interval: half of the width over the normal quantile.

    A percentile interval of a mean or an AUROC is as wide as its bootstrap standard deviation says, to a few per cent
    (tests/unit/study/test_claims.py), so a finding needs no further number, and those of earlier runs can be pooled.
    """
    return (np.asarray(high) - np.asarray(low)) / (2 * stats.norm.ppf((1 + level) / 2))


# --- evidence ---------------------------------------------------------------------------------------------------------


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


# --- one claim --------------------------------------------------------------------------------------------------------


def by_category(rows: pd.DataFrame) -> pd.DataFrame:
    """Findings of one variant, a row a category: seeds averaged, their interval of ``most`` variance; see `Variant`."""
    found = []
    for name, part in rows.groupby("dataset_category", sort=True):
        by_seed = part.groupby("seed").agg({"effect": "mean", "standard_error": "mean"})
        n = int(part["n"].min())
        variances = by_seed["standard_error"].to_numpy() ** 2 * n / max(n - 1, 1)  # resampling n makes it too small
        mean = pooling.mean_over_seeds(by_seed["effect"].to_numpy(), variances)
        half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(mean.most)
        found.append(
            {
                "dataset_category": name,
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


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Findings (columns variant, measure, dataset_category, seed) with a column part, the name of what is pooled.

    A variant of which a category has several measures has a part for each; any other is one part.
    """
    several = rows.groupby(["variant", "dataset_category", "seed"])["measure"].transform("nunique") > 1
    split = rows["variant"].isin(rows.loc[several, "variant"])
    return rows.assign(part=rows["measure"].where(split, rows["variant"]))


UNDECIDED = (1.0, 1.0, 1.0, False)
"""Both p-values, that of heterogeneity and crosses of a part that nothing can decide."""


def pool_variant(name: str, rows: pd.DataFrame, margin: float, needs_seeds: bool = False) -> Variant:
    """One part's findings (columns variant, measure, dataset_category, seed, effect, standard_error, n) against the
    margin; ``needs_seeds`` for a claim between trainings."""
    categories = by_category(rows)
    images = categories["n"].clip(lower=2)
    found = pooling.compare(categories["effect"], categories["most"], categories["least"], margin, LEVEL, images)
    obstacles, seeds = [], int(categories["seeds"].min())
    if len(categories) < FEWEST_CATEGORIES:
        obstacles.append(f"{len(categories)} category, a verdict needs {FEWEST_CATEGORIES}")
    if needs_seeds and seeds < FEWEST_SEEDS:
        obstacles.append(f"{seeds} seed{'s' if seeds > 1 else ''}, a claim between trainings needs {FEWEST_SEEDS}")
    return Variant(
        name,
        rows["variant"].iloc[0],
        tuple(rows["measure"].unique()),
        categories,
        found.pooled,
        *(UNDECIDED if obstacles else (*map(float, found[1:4]), bool(found.crosses))),
        tuple(obstacles),
    )


def judge(claim: Mapping, rows: pd.DataFrame, datasets: set[str]) -> Judgement:
    """One claim of claims.csv (a row with its claim_id) before the family is looked at.

    Parameters
    ----------
    rows : the claim's findings, as `claims.findings` gives them; may be empty.
    datasets : those of all runs, to tell "not tested here" from "out of scope here".
    """
    found = Judgement(claim["claim_id"], float(claim["margin"]), claim["combine"])
    if claim["kind"] == "arithmetic":
        found.verdict = SUPPORTED if claim["own_tables"] == "yes" else NOT_SUPPORTED
        found.reason = f"by the printed numbers: {claim['own_tables_note']}"
        return found
    here = rows[[in_scope(claim, dataset) for dataset in rows["dataset"]]] if len(rows) else rows
    if not len(here):
        outside = claim["datasets"] != "any" and not (set(claim["datasets"].split()) & datasets)
        found.verdict = OUT_OF_SCOPE if outside else NOT_TESTED
        found.reason = f"a statement about {claim['scope']}" if outside else "no finding"
        return found
    known = np.isfinite(here[["effect", "low", "high"]].to_numpy(dtype=np.float64)).all(axis=1)
    if not known.any():
        found.verdict, found.reason = INCONCLUSIVE, "no finding is a number"
        return found
    here = here[known]
    records = here.to_dict("records")
    fits = here[[variant_of(claim, measure) is not None for measure in here["measure"]]]
    large = here[[not objection(claim, row) for row in records]]
    evidence = large if len(large) else fits  # too small for a verdict, shown with what it could have found
    found.blocked = not len(large)
    if found.blocked:
        found.why_not = list(dict.fromkeys(objection(claim, row) for row in records))
    if not len(fits):
        found.verdict, found.reason = INCONCLUSIVE, "; ".join(found.why_not)
        return found
    _leave_out(found, set(fits["dataset_category"]) - set(evidence["dataset_category"]), f"n below {claim['min_n']}")
    if claim["kind"] == "mathematical":
        row = evidence.iloc[0]
        side = SUPPORTED if row["low"] > found.margin else NOT_SUPPORTED if row["high"] < found.margin else INCONCLUSIVE
        found.verdict, found.reason = side, "does not depend on data; recorded once"
        return found
    named = parts(evidence.assign(variant=[variant_of(claim, measure) for measure in evidence["measure"]]))
    trained = claim["kind"] == "between trainings"
    for name, part in named.groupby("part", sort=False):
        enough = with_enough_seeds(part) if trained else part
        _leave_out(
            found, set(part["dataset_category"]) - set(enough["dataset_category"]), f"fewer than {FEWEST_SEEDS} seeds"
        )
        found.variants.append(pool_variant(name, enough, found.margin, trained))
    if claim["kind"] == "existential":
        _existential(found, named)
    else:
        _universal(found, claim)
    return found


def _leave_out(found: Judgement, categories: set[str], why: str) -> None:
    """Note in words which categories do not count."""
    if categories:
        text = f"left out, {why}: {', '.join(sorted(categories))}"
        found.left_out += [text] if text not in found.left_out else []


def with_enough_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Findings of one part (columns dataset_category, seed) of the categories with at least `FEWEST_SEEDS`; all of them
    where fewer than `FEWEST_CATEGORIES` would be left: those are shown, and decide nothing."""
    enough = rows[rows.groupby("dataset_category")["seed"].transform("nunique") >= FEWEST_SEEDS]
    return enough if enough["dataset_category"].nunique() >= FEWEST_CATEGORIES else rows


def case_p_values(z: ArrayLike, images: ArrayLike) -> np.ndarray:
    """Two-sided p-values of cases [..., M] whose effects are ``z`` standard errors above the margin, after Holm."""
    return pooling.holm(2 * stats.t.sf(z, np.maximum(np.asarray(images) - 1, 1)))


def _existential(found: Judgement, rows: pd.DataFrame) -> None:
    """Supported by one case, else open. Every measure in every category is a case of its own."""
    cases = pd.concat([by_category(part) for _, part in rows.groupby("measure", sort=False)], ignore_index=True)
    z = (cases["effect"] - found.margin) / np.sqrt(cases["most"]).clip(lower=1e-300)
    p = case_p_values(z.to_numpy(), cases["n"].to_numpy())
    best = cases.iloc[int(p.argmin())]
    count = f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
    found.p, found.case = float(p.min()), best.to_dict()
    if found.p < 1 - CASE_LEVEL and not found.blocked:
        found.verdict = SUPPORTED
        found.reason = (
            f"{best['dataset_category']} is a case: {best['effect']:+.3f} [{best['low']:+.3f}, {best['high']:+.3f}]"
        )
    else:
        found.verdict = OPEN
        found.reason = "; ".join([f"no case found in {count}", *found.why_not, *found.left_out])


def _universal(found: Judgement, claim: Mapping) -> None:
    """Both p-values over the parts, and what stands against a decision; `decide` does the rest."""
    missing = [phrase for phrase in phrases(claim) if phrase not in {v.phrase for v in found.variants}]
    above, below = (np.array([getattr(v, side) for v in found.variants]) for side in ("p_above", "p_below"))
    found.p_heterogeneity = float(pooling.holm([v.p_heterogeneity for v in found.variants]).min())
    if claim["combine"] == "bounds":
        lower, upper = phrases(claim)
        p = {v.phrase: (v.p_above, v.p_below) for v in found.variants}
        found.p_above, found.p_below = p.get(lower, (1.0, 1.0))[0], p.get(upper, (1.0, 1.0))[1]
        sides = {v.phrase: _clear_sides(v, found.margin) for v in found.variants}  # a low lower bound says nothing
        found.crosses = bool(sides.get(lower, (False, False))[0] and sides.get(upper, (False, False))[1])
    elif claim["combine"] == "any":  # what is missing may be the one that holds
        found.p_above = float(pooling.holm(above).min())
        found.p_below = float(below.max()) if not missing else 1.0
        found.crosses = all(v.crosses for v in found.variants)
    else:  # what is missing may be the one that fails
        found.p_above = float(above.max()) if not missing else 1.0
        found.p_below = float(pooling.holm(below).min())
        found.crosses = any(v.crosses for v in found.variants)
    if missing:
        found.why_not.append("no finding for " + ", ".join(repr(name) for name in missing))
    found.why_not += dict.fromkeys(text for v in found.variants for text in v.obstacles)
    found.blocked = found.blocked or all(v.obstacles for v in found.variants)
    if found.blocked:
        found.p_above = found.p_below = 1.0
    found.verdict = ""


def _clear_sides(variant: Variant, margin: float) -> tuple[bool, bool]:
    """Whether a category lies clearly above the margin, and one below, at the level over all of them together."""
    rows, level = variant.by_category, 1 - (1 - LEVEL) / variant.pooled.categories
    above, below = pooling.clear_sides(rows["effect"], rows["most"], margin, level, rows["n"].clip(lower=2))
    return bool(above), bool(below)


# --- the family -------------------------------------------------------------------------------------------------------


def decide(judgements: list[Judgement]) -> None:
    """Verdicts of one family's claims that `judge` left open, in place: Holm over them, then step 5 of the rule."""
    pending = [found for found in judgements if not found.verdict]
    if not pending:
        return
    counted = [found for found in pending if found.can_be_decided]  # the others take no share of the 5 %
    adjusted = dict(zip(map(id, counted), pooling.holm([min(f.p_above, f.p_below) for f in counted]), strict=True))
    for found in pending:
        found.p = p = float(adjusted.get(id(found), 1.0))
        whole = "; ".join([_parts_in_words(found), *found.left_out])
        if found.blocked:
            found.verdict, found.reason = INCONCLUSIVE, "; ".join([*found.why_not, whole])
        elif p < 1 - LEVEL and found.p_below < found.p_above:  # one part that fails everywhere refutes the claim
            found.verdict, found.reason = NOT_SUPPORTED, whole
        elif found.crosses:
            found.verdict, found.reason = VARIES, f"categories on both sides of the margin: {whole}"
        elif p < 1 - LEVEL:
            found.verdict, found.reason = SUPPORTED, whole
        elif found.p_heterogeneity < HETEROGENEITY:
            found.verdict, found.reason = VARIES, f"categories differ beyond chance: {_sides(found)}{whole}"
        else:
            found.verdict = INCONCLUSIVE
            found.reason = "; ".join([*found.why_not, whole])


MOST_IN_WORDS = 4
"""Parts of a claim that its reason names; of more, those that speak least and most for it."""


def _parts_in_words(found: Judgement) -> str:
    if len(found.variants) <= MOST_IN_WORDS:
        return "; ".join(map(_pooled_in_words, found.variants))
    ends = sorted(found.variants, key=lambda v: (v.p_above - v.p_below, -float(v.pooled.effect)))
    which = f"of {len(ends)} the one that speaks"
    return f"{which} least for it, {_pooled_in_words(ends[-1])}; most, {_pooled_in_words(ends[0])}"


def _pooled_in_words(variant: Variant) -> str:
    pooled, k = variant.pooled, variant.pooled.categories
    interval = f" [{float(pooled.low):+.3f}, {float(pooled.high):+.3f}]" if k > 1 else ""
    return f"{variant.name}: {float(pooled.effect):+.3f}{interval} over {k} categor{'ies' if k > 1 else 'y'}"


def _sides(found: Judgement) -> str:
    effects = pd.concat([v.by_category.set_index("dataset_category")["effect"] for v in found.variants])
    above = (effects > found.margin).groupby(level=0).all()  # by every variant or bound
    return f"{int(above.sum())} of {len(above)} above the margin; " if above.any() else "none above the margin; "


def what_would_change(found: Judgement) -> str:
    """What would change a verdict, in words: more categories, seeds or images, or another result."""
    if found.verdict in (NOT_TESTED, OUT_OF_SCOPE):
        return f"a run on it: {found.reason}" if found.verdict == OUT_OF_SCOPE else "an experiment"
    if not found.variants:
        return "a finding with the fixed measure" if found.verdict == INCONCLUSIVE else "nothing measured here"
    if found.verdict == OPEN:
        return "one case whose interval lies above the margin"
    if found.verdict == VARIES:
        return "what tells the categories apart; shown one by one"
    if found.case is not None:
        distance = found.case["effect"] - found.margin
        return f"an effect {distance:.3g} lower than measured in {found.case['dataset_category']}"
    weakest = found.weakest
    distance, k = float(weakest.pooled.effect) - found.margin, weakest.pooled.categories
    if found.verdict in DECIDED:
        return f"an effect {abs(distance):.3g} {'lower' if distance > 0 else 'higher'} than measured"
    wanted = list(found.why_not)
    if k >= FEWEST_CATEGORIES:
        needed = pooling.categories_needed(distance, float(weakest.pooled.standard_error) * np.sqrt(k))
        wanted.append(f"{needed} categories at this effect" if needed else "more than 200 categories at this effect")
        wanted.append(f"or an effect of {found.detectable:.3g} beyond the margin")
    return "; ".join(wanted)
