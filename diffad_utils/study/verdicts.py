"""The rule: what the findings of many runs say about one claim of ``data/published/claims.csv``.

Everything that decides is fixed in that table before a run: scope, measure and its variants (rivals, prompts), margin,
smallest n, kind and family. The steps, in order:

1. *Evidence.* A finding counts if its data set is in the claim's scope, its measure is the one that was fixed and its
   n is large enough. What does not count is named in the reason. The margin is always the table's.
2. *Pooling* (`pooling`). For each variant images, seeds and categories give one effect and one 95 % interval.
   Student's t has fewer degrees of freedom than categories minus one, because effects over categories are not Gaussian.
   Several measures of one category under one variant (settings, pairs of steps) are never averaged: each is a part of
   its own. Where each category has one measure, its words may differ, such as the metrics that a data set allows.
   Categories of one training (a unified model) are resampled with its seeds; with fewer than three they count as one.
3. *Several parts.* "Better than every" is an intersection-union test (Berger, Technometrics 24, 1982): supported if
   every part is, at no cost in level; not supported if one is refuted, after Holm over the parts. The claim that some
   setting is no worse (``combine`` is "any") is the other way round; with "either" one of two measures has to hold at
   each setting. The smaller or larger of two means, or the size of a difference, is never one measure: it is biased,
   and over many categories that decides. A range over settings has two bounds: cross-fitted it is too small on average
   and can only support, on the same images it is too large and can only refute. So has a best setting.
4. *A family* of claims shares the 5 %, by Holm. Claims that cannot be decided whatever the effects are, for lack of
   images, seeds or categories, take no share.
5. *Decided* needs two categories, none of which alone lies wholly on the other side of the margin, and three seeds
   each for a claim between trainings; categories with fewer are left out. Where some categories lie clearly above the
   margin and others clearly below, and no part is refuted in all, or the effect is undecided and categories differ
   beyond chance (Cochran's Q by Welch's test, at 0.5 % over the parts), the verdict is *varies*. Else it is
   *inconclusive*, with the smallest effect that these data would have shown with a power of 80 %, in each part by
   itself. With few categories that is large: 9.3 standard errors with three.

A claim that says "some" is *supported* by one case, a measure in a category, at 98 % after Holm over the cases, or
*open*: a lack of cases refutes nothing. A claim about printed numbers is read off them once. Error rates and power:
`benchmarks.verdicts`. What counts as evidence is in `evidence`, the arithmetic in `outcomes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from diffad_utils.metrics import pooling
from diffad_utils.study import numbers, outcomes
from diffad_utils.study.evidence import (
    UNDECIDED,
    Variant,
    alternatives,
    by_category,
    in_scope,
    names,
    objection,
    parts,
    phrases,
    pool_variant,
    standard_error,
    variant_of,
    with_enough_seeds,
)
from diffad_utils.study.outcomes import (
    CASE_LEVEL,
    DECIDED,
    FEWEST_CATEGORIES,
    FEWEST_SEEDS,
    INCONCLUSIVE,
    LEVEL,
    NOT_SUPPORTED,
    NOT_TESTED,
    OPEN,
    OUT_OF_SCOPE,
    SUPPORTED,
    VARIES,
)

__all__ = [
    "DECIDED",
    "INCONCLUSIVE",
    "LEVEL",
    "NOT_SUPPORTED",
    "NOT_TESTED",
    "OPEN",
    "OUT_OF_SCOPE",
    "SUPPORTED",
    "VARIES",
    "Judgement",
    "Variant",
    "decide",
    "judge",
    "names",
    "objection",
    "phrases",
    "standard_error",
    "variant_of",
    "what_would_change",
]


@dataclass
class Judgement:
    """What is known of one claim; `decide` turns it into a verdict.

    variants : its parts. together : what they say, None where nothing can be decided. p : of the claim, after Holm over
    the family. why_not : what stands against a decision, in words. left_out : which categories do not count, and why;
    in every reason. blocked : too few images or seeds for any verdict. case : of a claim that says "some", the clearest
    one, a row of `Variant.by_category`.
    """

    claim_id: str
    margin: float
    combine: str = "all"
    verdict: str = NOT_TESTED
    reason: str = ""
    variants: list[Variant] = field(default_factory=list)
    together: outcomes.Evidence | None = None
    p: float = float("nan")
    why_not: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    blocked: bool = False
    case: Mapping[str, Any] | None = None

    @property
    def weakest(self) -> Variant | None:
        """The part that decides: the one for which the claim is least certain, or most where one is enough."""
        return (min if self.combine == "any" else max)(self.deciding, key=_doubt, default=None)

    @property
    def deciding(self) -> list[Variant]:
        """Its parts; of alternatives at one setting the more certain one."""
        if self.combine == "either":
            return [min(group, key=_doubt) for group in alternatives(self.variants)]
        return self.variants

    @property
    def detectable(self) -> float:
        """The largest of the parts' smallest detectable distances from the margin; NaN without evidence.

        Each by itself: that all of several parts are that far is shown less often, and so is a claim of a large family.
        """
        return max((variant.detectable for variant in self.variants), default=float("nan"))


def _doubt(variant: Variant) -> tuple[float, float]:
    return float(variant.compared.p_above), -float(variant.pooled.effect)


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


def _existential(found: Judgement, rows: pd.DataFrame) -> None:
    """Supported by one case, else open. Every measure in every category is a case of its own."""
    cases = pd.concat([by_category(part) for _, part in rows.groupby("measure", sort=False)], ignore_index=True)
    z = (cases["effect"] - found.margin) / np.sqrt(cases["most"]).clip(lower=1e-300)
    p = outcomes.case_p_values(z.to_numpy(), cases["n"].to_numpy())
    best = cases.iloc[int(p.argmin())]
    count = f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
    found.p, found.case = float(p.min()), best.to_dict()
    if found.p < 1 - CASE_LEVEL and not found.blocked:
        found.verdict = SUPPORTED
        found.reason = (
            f"{best['dataset_category']} is a case: {numbers.effect([best['effect'], best['low'], best['high']])}"
        )
    else:
        found.verdict = OPEN
        found.reason = "; ".join([f"no case found in {count}", *found.why_not, *found.left_out])


def _universal(found: Judgement, claim: Mapping) -> None:
    """What the parts say together, and what stands against a decision; `decide` does the rest."""
    by_phrase = {variant.phrase: variant.compared for variant in found.variants}
    missing = [phrase for phrase in phrases(claim) if phrase not in by_phrase]
    if missing:
        found.why_not.append("no finding for " + ", ".join(repr(name) for name in missing))
    found.why_not += dict.fromkeys(text for variant in found.variants for text in variant.obstacles)
    found.blocked = found.blocked or all(variant.obstacles for variant in found.variants)
    found.verdict = ""
    if found.blocked:
        return
    compared = [variant.compared for variant in found.variants]
    if claim["combine"] == "bounds":
        nothing = compared[0]._replace(**UNDECIDED)
        compared = [by_phrase.get(phrase, nothing) for phrase in phrases(claim)]
    if claim["combine"] == "either":  # removed or kept, at each setting
        groups = [[variant.compared for variant in group] for group in alternatives(found.variants)]
        found.together = outcomes.combine([outcomes.combine(group, "any") for group in groups], "all", bool(missing))
    else:
        found.together = outcomes.combine(compared, claim["combine"], bool(missing))


# --- the family -------------------------------------------------------------------------------------------------------


def decide(judgements: list[Judgement]) -> None:
    """Verdicts of one family's claims that `judge` left open, in place: Holm over them, then step 5 of the rule."""
    pending = [found for found in judgements if not found.verdict]
    for found in pending:
        whole = "; ".join([_parts_in_words(found), *found.left_out])
        found.p, found.verdict, found.reason = 1.0, INCONCLUSIVE, "; ".join([*found.why_not, whole])
    counted = [found for found in pending if found.together is not None]  # the others take no share of the 5 %
    if not counted:
        return
    adjusted = pooling.holm([float(outcomes.smaller(found.together)) for found in counted])
    for found, p in zip(counted, adjusted, strict=True):
        found.p, found.verdict = float(p), str(outcomes.outcome(p, found.together))
        whole = "; ".join([_parts_in_words(found), *found.left_out])
        if found.verdict in DECIDED:
            found.reason = whole
        elif found.verdict == VARIES and found.together.crosses:
            found.reason = f"categories on both sides of the margin: {whole}"
        elif found.verdict == VARIES:
            found.reason = f"categories differ beyond chance: {_sides(found)}{whole}"


MOST_IN_WORDS = 4
"""Parts of a claim that its reason names; of more, those that speak least and most for it."""


def _parts_in_words(found: Judgement) -> str:
    if len(found.deciding) <= MOST_IN_WORDS:
        return "; ".join(_pooled_in_words(variant, found.margin) for variant in found.deciding)
    ends = sorted(found.deciding, key=lambda v: (v.compared.p_above - v.compared.p_below, -v.pooled.effect))
    which = f"of {len(ends)} the one that speaks"
    least, most = (_pooled_in_words(variant, found.margin) for variant in (ends[-1], ends[0]))
    return f"{which} least for it, {least}; most, {most}"


def _pooled_in_words(variant: Variant, margin: float) -> str:
    """Mean and interval over categories; of two the effects, where the interval decides nothing: with one degree of
    freedom it reaches far beyond what either shows."""
    pooled, k, of = variant.pooled, variant.pooled.categories, variant.by_category
    effect = pooled.effect, pooled.low, pooled.high
    if k == len(of) == 2 and pooled.low <= margin <= pooled.high:
        each = zip(of["effect"], of["dataset_category"], strict=True)
        return f"{variant.name}: " + " and ".join(f"{numbers.number(e, sign='+')} on {name}" for e, name in each)
    shown = numbers.effect(effect) if k > 1 else numbers.number(float(pooled.effect), sign="+")
    return f"{variant.name}: {shown} over {k} categor{'ies' if k > 1 else 'y'}"


ABOVE_IN_ALL = "above the margin in all"
NONE_ABOVE = "none above the margin"


def above_in_all(reason: str) -> bool:
    """Whether the reason of a claim that varies is that effects differ in size, all of them above the margin."""
    return ABOVE_IN_ALL in reason


def _sides(found: Judgement) -> str:
    effects = pd.concat([v.by_category.set_index("dataset_category")["effect"] for v in found.variants])
    above = (effects > found.margin).groupby(level=0).all()  # by every variant or bound
    if above.all():
        return f"{ABOVE_IN_ALL} {len(above)}, but by different amounts; "
    return f"{int(above.sum())} of {len(above)} above the margin; " if above.any() else f"{NONE_ABOVE}; "


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
        where = "in each part by itself" if len(found.variants) > 1 else ""
        wanted.append(f"or an effect of {found.detectable:.3g} beyond the margin {where}".rstrip())
    return "; ".join(wanted)
