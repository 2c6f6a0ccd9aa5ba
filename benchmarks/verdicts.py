"""How often the rule for claims decides wrongly, and what it can find: simulated error rates and power.

    python -m benchmarks.verdicts [--quick] [--null] [--far] [--some] [--shared] [--several] [--estimators] [--power]
                                  [--every] [--settings] [--kinds]

Each switch makes one table, and keeps the others of an earlier run; without one, all are made, each kept when it is
done. The truth is known: categories, trainings and images vary, the seeds of a category share test images. The rule is
`diffad_utils.study.outcomes`, as the ledger calls it, on arrays of simulated studies; tests/unit/study/test_outcomes.py
compares it with `verdicts.judge` and `verdicts.decide` study by study. "Wrong" is a decided verdict at the null, and
"varies" too where all categories are alike. "Before" is the rule until November 2026: one interval a category, all
agree or the claim is inconclusive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, stats

from benchmarks import harness
from benchmarks.ones_of_their_kind import KINDS, Kind
from benchmarks.simulated_studies import (
    FAST,
    GAIN_OF_FEW,
    MEASURES,
    ONE_PART,
    TRUE_RANGES,
    Runs,
    auroc_difference,
    better_than_every,
    gain_of_three_points,
    images_of,
    in_blocks,
    ranges,
    settings_of,
)
from diffad_utils.analyses import img2img_settings
from diffad_utils.metrics import bootstrap, pooling
from diffad_utils.study import outcomes
from diffad_utils.study.outcomes import NOT_SUPPORTED, SUPPORTED, VARIES

# --- rules ------------------------------------------------------------------------------------------------------------


def compared(runs: Runs, margin=0.0, images=100, unified=False) -> pooling.Comparison:
    """One part of a claim as the rule sees it; ``unified`` where each seed is one training for all categories."""
    effects, variances = runs
    means = outcomes.category(effects, np.sqrt(variances), images)
    shared = [pooling.shared_training(effects, effects.shape[1])] if unified else []
    return outcomes.part(means, images, margin, shared)


def verdict(parts: Sequence[pooling.Comparison], combine="all") -> np.ndarray:
    """The rule's verdict on one claim, alone in its family: [simulations]."""
    evidence = outcomes.combine(parts, combine)
    return outcomes.outcome(outcomes.smaller(evidence), evidence)


def by_rule(effects, variances, margin=0.0, images=100, unified=False) -> np.ndarray:
    """`verdict` on a claim with one part."""
    return verdict([compared((effects, variances), margin, images, unified)])


def decided(verdicts: np.ndarray) -> np.ndarray:
    return np.isin(verdicts, outcomes.DECIDED)


def percent(of: np.ndarray) -> dict[str, float]:
    """Share of True and the simulation's standard error, both in per cent."""
    share = float(np.mean(of))
    return {"%": 100 * share, "error": 100 * float(np.sqrt(share * (1 - share) / len(of)))}


def before_decides(runs: Runs) -> np.ndarray:
    old = before(*runs)
    return old["supported"] | old["not supported"]


def before(effects, variances, margin=0.0) -> dict[str, np.ndarray]:
    """The earlier rule: one interval a category (the first seed), all agree."""
    half = 1.96 * np.sqrt(variances[..., 0])
    low, high = effects[..., 0] - half, effects[..., 0] + half
    return {"supported": (low > margin).all(axis=-1), "not supported": (high < margin).all(axis=-1)}


def estimators(effects, variances) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """95 % intervals of the mean over categories by several estimators: name -> (low, high), [simulations] each."""
    rng = np.random.default_rng(0)
    seeds = pooling.mean_over_seeds(effects, variances)
    y, v, k = seeds.effect, seeds.most, effects.shape[1]
    pooled = pooling.pool(y, seeds.least)
    found = {"t over categories (the rule)": (pooled.low, pooled.high)}

    def weighted(tau2):
        w = 1 / (v + tau2[:, None])
        mean = (w * y).sum(axis=1) / w.sum(axis=1)
        return mean, 1 / np.sqrt(w.sum(axis=1)), (w * (y - mean[:, None]) ** 2).sum(axis=1)

    zero = np.zeros(len(y))
    w = 1 / v
    dl = np.maximum(0, (weighted(zero)[2] - (k - 1)) / (w.sum(axis=1) - (w**2).sum(axis=1) / w.sum(axis=1)))
    paule = np.array([_paule_mandel(*row) for row in zip(y, v, strict=True)])
    for name, tau2, adjusted in (
        ("DerSimonian-Laird, normal", dl, False),
        ("Paule-Mandel, Hartung-Knapp", paule, True),
    ):
        mean, error, q = weighted(tau2)
        half = error * np.sqrt(np.maximum(1, q / (k - 1))) * stats.t.ppf(0.975, k - 1) if adjusted else 1.96 * error
        found[name] = mean - half, mean + half
    draws = np.empty((300, len(y)))
    for row in draws:  # categories, then seeds, then images
        category = rng.integers(k, size=y.shape)
        seed = rng.integers(effects.shape[2], size=effects.shape)
        drawn = np.take_along_axis(np.take_along_axis(effects, category[..., None], axis=1), seed, axis=2)
        images = np.sqrt(np.take_along_axis(variances.mean(axis=2), category, axis=1))
        row[:] = (drawn.mean(axis=2) + images * rng.standard_normal(y.shape)).mean(axis=1)
    found["bootstrap of three levels"] = tuple(np.quantile(draws, [0.025, 0.975], axis=0))
    return found


def _paule_mandel(y: np.ndarray, v: np.ndarray) -> float:
    """tau^2 that makes Cochran's Q its expectation (Paule and Mandel, J. Res. NBS 87, 1982)."""

    def excess(tau2):
        w = 1 / (v + tau2)
        return (w * (y - (w * y).sum() / w.sum()) ** 2).sum() - (len(y) - 1)

    return 0.0 if excess(0.0) <= 0 else optimize.brentq(excess, 0.0, 100 * (y.var() + v.max()) + 1e-9)


# --- tables -----------------------------------------------------------------------------------------------------------


def null_row(name: str, categories: int, seeds: int, scatter: float, trainings: float, repeats: int) -> dict:
    """Wrong decisions of one measure at the null, in per cent, with the simulation's standard error."""
    measure, n = MEASURES[name], images_of(name)
    rng = np.random.default_rng([0, categories, seeds, int(10 * scatter)])
    runs = in_blocks(measure.simulate, rng, (repeats, categories, seeds), measure.images, scatter, trainings)
    parts = runs if isinstance(runs, list) else [runs]
    one = len(parts) == 1
    effect = parts[0][0]
    found = verdict([compared(p, float(effect.mean()) if scatter and one else 0.0, n) for p in parts], measure.combine)
    wrong = percent(decided(found) if scatter else decided(found) | (found == VARIES))
    return {
        "measure": name,
        "categories": categories,
        "seeds": seeds,
        "images": n,
        "sd between categories": float(effect.mean(axis=2).std()) if scatter else 0.0,
        "trainings differ": "yes" if trainings else "no",
        "wrong, %": wrong["%"],
        "simulation's error, %": wrong["error"],
        "varies, %": percent(found == VARIES)["%"],
        "before: wrong, %": percent(before_decides(parts[0]))["%"] if one else float("nan"),
        "simulations": repeats,
    }


def null_table(repeats: int) -> list[dict]:
    """`null_row` for every measure, categories all alike or scattered about the margin."""
    rows = []
    for name in MEASURES:
        slow = name not in FAST
        for categories, seeds in ((2, 1), (3, 1), (3, 3), (5, 3), (9, 1), (9, 3)):
            for scatter, trainings in ((0.0, 0.0), (0.0, 0.15), (0.5, 0.15)):
                if (seeds == 1 and trainings and not scatter) or (slow and categories * seeds > 9):
                    continue
                count = max(repeats // 8, 20) if slow else repeats
                rows.append(null_row(name, categories, seeds, scatter, trainings, count))
    return rows


def far_table(repeats: int) -> list[dict]:
    """`null_row` where categories differ so much that effects run into the ends of their scale."""
    return [null_row(name, categories, 3, 1.0, 0.15, repeats) for name in ONE_PART for categories in (3, 5, 9)]


def some_table(repeats: int, seed: int = 5) -> list[dict]:
    """A claim that says "some" where no category is a case: how often is it called supported?"""
    rows = []
    for name in ONE_PART:
        measure, n = MEASURES[name], images_of(name)
        for categories in (1, 3, 9):
            rng = np.random.default_rng([seed, categories])
            effect, variance = in_blocks(measure.simulate, rng, (repeats, categories, 1), measure.images, 0.0, 0.0)
            means = outcomes.category(effect, np.sqrt(variance), n)
            p = outcomes.case_p_values(means.effect / np.sqrt(np.maximum(means.most, 1e-300)), n)
            wrong = percent(p.min(axis=-1) < 1 - outcomes.CASE_LEVEL)
            row = {"measure": name, "categories": categories, "wrong, %": wrong["%"]}
            rows.append(row | {"simulation's error, %": wrong["error"], "simulations": repeats})
    return rows


def shared_table(repeats: int, seed: int = 6) -> list[dict]:
    """One model for all categories: what a seed adds is in all of them. Wrong decisions at the null, and decisions at a
    true difference of 0.03, with the trainings taken for each category's own, and resampled together."""
    rows, images = [], 100
    for categories, seeds in ((3, 3), (9, 3), (15, 3), (9, 5)):
        for together in (0.0, 0.1, 0.3):
            row = {"categories": categories, "seeds": seeds, "sd of a shared training": round(0.153 * together, 3)}
            for label, gain in (("wrong", 0.0), ("0.03 found", gain_of_three_points(0.05, together))):
                rng = np.random.default_rng([seed, categories, seeds])
                shape = (repeats, categories, seeds)

                def simulate(rng, shape, images, offset, together=together):
                    joint = together * rng.standard_normal((shape[0], 1, shape[2]))
                    return auroc_difference(rng, shape, images, offset + joint)

                runs = in_blocks(simulate, rng, shape, images, 0.05, 0.0, effect=gain, block=100)
                for name, unified in (("own trainings", False), ("one training", True)):
                    margin = 0.0 if gain else float(runs[0].mean())
                    found = by_rule(*runs, margin, 2 * images, unified)
                    share = percent(decided(found) if not gain else found == SUPPORTED)
                    row |= {f"as {name}: {label}, %": share["%"], f"as {name}: {label}, error": share["error"]}
            rows.append(row | {"simulations": repeats})
    return rows


def several_table(repeats: int, seed: int = 7) -> list[dict]:
    """A claim that has to hold at each of several settings, of which one is at the null and the others far above."""
    rows, images = [], 30
    for settings in (2, 4, 9):
        for categories, seeds in ((3, 3), (9, 3)):
            rng, shape = np.random.default_rng([seed, settings, categories]), (repeats, categories, seeds)
            runs = [
                in_blocks(MEASURES["mean over images"].simulate, rng, shape, images, 0.0, 0.15, effect=effect)
                for effect in (0.0, *[1.0] * (settings - 1))
            ]
            average = tuple(np.mean(values, axis=0) for values in zip(*runs, strict=True))
            single = verdict([compared(part, 0.0, images) for part in runs])
            wrong, averaged = percent(decided(single)), percent(decided(by_rule(*average, 0.0, images)))
            row = {"settings": settings, "categories": categories, "before, their average: wrong, %": averaged["%"]}
            rows.append(row | {"each by itself: wrong, %": wrong["%"], "simulation's error, %": wrong["error"]})
    return rows


def estimator_table(repeats: int, seed: int = 1) -> list[dict]:
    """Wrong decisions at the null, and decisions at a true difference of 0.03, of the estimators; I-AUROC, paired."""
    rows = []
    for categories, seeds in ((2, 1), (3, 3), (5, 3), (9, 3)):
        for scatter in (0.0, 0.1, 0.4):
            row = {"categories": categories, "seeds": seeds, "sd between categories": scatter}
            for label, gain in (("null", 0.0), ("0.03", gain_of_three_points())):
                rng = np.random.default_rng([seed, categories, seeds])
                shape = (repeats, categories, seeds)
                found = in_blocks(auroc_difference, rng, shape, 50, scatter, 0.1, effect=gain)
                for name, (low, high) in estimators(*found).items():
                    counted = (low > 0) | (high < 0) if label == "null" else low > 0
                    row[f"{name}: {label}, %"] = 100 * float(counted.mean())
            rows.append(row)
    return rows


def power_table(repeats: int, seed: int = 2) -> list[dict]:
    """How often a paired I-AUROC difference of 0.03 is found with 100 + 100 images a category."""
    rows = []
    for categories, seeds in ((3, 1), (3, 3), (5, 3), (9, 1), (9, 3)):
        for scatter, trainings in ((0.0, 0.0), (0.05, 0.05), (0.1, 0.1)):
            rng = np.random.default_rng([seed, categories, seeds])
            shape = (repeats, categories, seeds)
            gain = gain_of_three_points(scatter, trainings)
            runs = in_blocks(auroc_difference, rng, shape, 100, scatter, trainings, effect=gain, block=100)
            found, old = by_rule(*runs, images=200), before(*runs)
            power = percent(found == SUPPORTED)
            rows.append(
                {
                    "categories": categories,
                    "seeds": seeds,
                    "sd of I-AUROC between categories": round(scatter * 0.153, 3),
                    "between trainings": round(trainings * 0.153, 3),
                    "true difference": float(runs[0].mean()),
                    "supported, %": power["%"],
                    "simulation's error, %": power["error"],
                    "not supported, %": percent(found == NOT_SUPPORTED)["%"],
                    "before: supported, %": percent(old["supported"])["%"],
                    "simulations": repeats,
                }
            )
    return rows


def every_row(gain: float, categories: int, images: int, repeats: int, seed: int = 3) -> dict[str, float]:
    """C73 for a true gain in separation: verdicts of the earlier rule in one category, and of this one, in per cent."""
    rng = np.random.default_rng([seed, categories, images])
    effects, variances, drawn = better_than_every(rng, (repeats, categories), images, gain)
    margins = drawn[:, :, 0] - drawn[:, :, 1:].max(axis=-1)
    low, high = np.quantile(margins[:, 1:], [0.025, 0.975], axis=1)
    parts = [compared(runs, 0.0, 2 * images) for runs in zip(effects, variances, strict=True)]
    found, said = verdict(parts), [pooling.smallest_detectable(part.pooled) for part in parts]
    return {
        "before, one category: supported, %": 100 * float((low > 0).mean()),
        "before, one category: not supported, %": 100 * float((high < 0).mean()),
        "supported, %": percent(found == SUPPORTED)["%"],
        "not supported, %": percent(found == NOT_SUPPORTED)["%"],
        "varies, %": percent(found == VARIES)["%"],
        "one rival alone: supported, %": 100 * float((parts[0].p_above < 1 - outcomes.LEVEL).mean()),
        "said to be detectable (median)": float(np.median(said)) if categories > 1 else float("nan"),
        "simulations": repeats,
    }


def every_table(repeats: int) -> list[dict]:
    """C73: is the dynamic step better than every static one? Five variants, equal or the first better."""
    return [
        {"true gain": label, "categories": categories, "images each": 2 * images}
        | every_row(gain, categories, images, repeats)
        for gain, label in ((0.0, "0: all equal"), (GAIN_OF_FEW, "0.035"), (0.675, "0.085"))
        for categories, images in ((1, 16), (3, 16), (3, 100), (9, 100))
    ]


def sensitivity_row(label: str, repeats: int, margin: float = 0.05, seed: int = 4) -> dict:
    """C29, is the range of I-AUROC over 28 settings above 0.05? For one true range."""
    rng, ends = np.random.default_rng(seed), TRUE_RANGES[label]
    draws = (img2img_settings.sensitivity(*settings_of(10, 10, ends, rng), 200) for _ in range(repeats))
    old = np.array([bootstrap.bootstrap_percentiles(values) for values in draws])
    row = {
        "true range": label,
        "before, 20 images: supported, %": percent(old[:, 1] > margin)["%"],
        "before, 20 images: not supported, %": percent(old[:, 2] < margin)["%"],
    }
    bounds = ranges(repeats, 9, ends, rng)
    for categories in (3, 9):
        some = [tuple(values[:, :categories] for values in runs) for runs in bounds]
        found = verdict([compared(runs, margin, 100) for runs in some], "bounds")
        for name in (SUPPORTED, NOT_SUPPORTED):
            share = percent(found == name)
            row[f"{categories} categories of 100: {name}, %"] = share["%"]
            row[f"{categories} categories of 100: {name}, error"] = share["error"]
    return row | {"simulations": repeats}


def sensitivity_table(repeats: int) -> list[dict]:
    """`sensitivity_row` of every true range."""
    return [sensitivity_row(label, repeats) for label in TRUE_RANGES]


def kind_row(kind: Kind, categories: int, seeds: int, repeats: int, seed: int = 8) -> dict:
    """Verdicts on one claim whose measure is one of its kind, in per cent, and on its earlier measure."""
    rng = np.random.default_rng([seed, KINDS.index(kind), categories, seeds])
    studies = np.stack([kind.simulate(rng, categories, seeds) for _ in range(repeats)])
    runs = [compared((part[:, 0], part[:, 1]), kind.margin, kind.images) for part in np.moveaxis(studies, 1, 0)]
    found = verdict(runs[: kind.parts], kind.combine)
    former = verdict(runs[kind.parts :]) if len(runs) > kind.parts else None
    row = {"claim": kind.claim, "truth": kind.what, "at the null": "yes" if kind.null else "no"}
    row |= {"categories": categories, "seeds": seeds, "images": kind.images}
    wrong = decided(found) | ((found == VARIES) & kind.alike) if kind.null else found == NOT_SUPPORTED
    share = percent(wrong)
    row |= {"wrong, %": share["%"], "simulation's error, %": share["error"]}
    row |= {f"{name}, %": percent(found == name)["%"] for name in (SUPPORTED, NOT_SUPPORTED, VARIES)}
    before = float("nan") if former is None else percent(decided(former) if kind.null else former == SUPPORTED)["%"]
    return row | {"earlier measure: decided, %": before, "simulations": repeats}


def kind_table(repeats: int) -> list[dict]:
    """`kind_row` of C23, C32a, C62 and C67; a fifth of the studies where settings are chosen, which is slow."""
    return [
        kind_row(kind, *size, max(repeats // 5, 10) if kind.combine == "bounds" else repeats)
        for kind in KINDS
        for size in kind.sizes
    ]


TABLES: dict[str, tuple[str, Callable[[int], list[dict]], int, str]] = {
    "null": (
        "Wrong decisions at the null, every kind of measure",
        null_table,
        1200,
        "at the smallest n of claims.csv; bound: 6 %, the simulation's error counted",
    ),
    "far": (
        "Wrong decisions at the null where categories differ very much",
        far_table,
        4000,
        "an I-AUROC difference with a standard deviation of 0.18 between categories",
    ),
    "some": ("Wrong decisions at the null for claims that say 'some'", some_table, 3000, ""),
    "shared": (
        "One training for all categories: paired I-AUROC difference, 100 + 100 images",
        shared_table,
        300,
        "sd of I-AUROC; 0.008 between categories besides",
    ),
    "several": ("A claim of several settings, one of them at the null", several_table, 2000, ""),
    "estimators": (
        "Estimators: decided at the null, and at a true difference of 0.03",
        estimator_table,
        300,
        "paired I-AUROC difference, 50 + 50 images; sd in units of the separation: 0.1 is 0.015 in AUROC",
    ),
    "power": ("Power: a paired I-AUROC difference of 0.03, 100 + 100 images", power_table, 600, ""),
    "every": ("C73, better than every one of four rivals", every_table, 200, ""),
    "settings": (
        "C29, sensitive to settings",
        sensitivity_table,
        200,
        "I-AUROC of the best minus the worst of 28 settings, margin 0.05",
    ),
    "kinds": (
        "Measures that one claim has alone: C23, C32a, C62, C67",
        kind_table,
        1000,
        "at the smallest n of claims.csv; not at the null, a decision for the claim is right",
    ),
}
"""Switch -> title, how the rows are made, simulated studies, note."""


def main() -> None:
    switches = {name: f"the table {title!r}" for name, (title, *_) in TABLES.items()}
    options = harness.arguments("verdicts", __doc__, **switches)
    wanted = [name for name in TABLES if getattr(options, name)] or list(TABLES)
    path = harness.RESULTS / "verdicts-cpu.json"
    earlier = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.is_file() and not options.quick else []
    kept = {table["title"]: table for table in earlier}
    for name in wanted:
        title, make, repeats, note = TABLES[name]
        kept[title] = {"title": title, "rows": make(20 if options.quick else repeats), "note": note}
        titles = [title for title, *_ in TABLES.values() if title in kept]
        harness.write("verdicts", options, [kept[title] for title in titles])


if __name__ == "__main__":
    main()
