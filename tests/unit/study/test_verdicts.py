"""The rule, case by case: what decides, what varies, what stays open, and what is no evidence."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import ledger as before_and_after
from diffad_utils.study import claims, verdicts

CLAIM = {
    "claim_id": "C44",
    "datasets": "any",
    "scope": "two methods",
    "kind": "universal",
    "family": "accuracy",
    "variants": "a minus b",
    "combine": "all",
    "margin": "0",
    "min_n": "30",
    "own_tables": "no numbers",
    "own_tables_note": "",
}


def rows(effects, error=0.01, seeds=1, measure="a minus b", n=100, dataset="textures"):
    """Findings of categories with these effects, an interval of +-1.96 errors each."""
    return pd.DataFrame(
        [
            {
                "dataset": dataset,
                "dataset_category": f"{dataset}/{chr(97 + i)}",
                "seed": seed,
                "training": f"{dataset}/{chr(97 + i)}",
                "effect": effect + 0.001 * seed,
                "low": effect - 1.96 * error,
                "high": effect + 1.96 * error,
                "standard_error": error,
                "margin": 0.0,
                "n": n,
                "measure": measure,
            }
            for i, effect in enumerate(effects)
            for seed in range(seeds)
        ]
    )


def judged(findings, family=(), **claim):
    """The verdict on CLAIM with these changes, alone or in a family of other judgements."""
    found = verdicts.judge(CLAIM | claim, findings, {"textures"})
    verdicts.decide([found, *family])
    return found


SIX = [0.05, 0.06, 0.04, 0.07, 0.05, 0.045]


def test_many_categories_decide():
    found = judged(rows(SIX))
    assert found.verdict == "supported" and found.p < 0.002 and "over 6 categories" in found.reason
    assert judged(rows([-e for e in SIX])).verdict == "not supported"
    assert judged(rows(SIX), margin="0.1").verdict == "not supported"


def test_more_categories_make_it_sharper():
    """The earlier rule became less conclusive with each category that alone was undecided."""
    rng = np.random.default_rng(0)
    p = [judged(rows(0.03 + 0.02 * rng.standard_normal(k), error=0.02)).p for k in (2, 4, 8, 16)]
    assert p[0] > 0.05 > p[2] > p[3]


def test_inconclusive_says_what_it_could_have_shown_and_what_would_be_enough():
    found = judged(rows([0.01, -0.02, 0.03], error=0.03))
    assert found.verdict == "inconclusive" and 0.05 < found.detectable < 0.2
    assert f"an effect of {found.detectable:.3g} beyond the margin" in verdicts.what_would_change(found)
    assert "categories at this effect" in verdicts.what_would_change(found)


def test_one_category_is_never_decided():
    found = judged(rows([0.9], error=0.001))
    assert found.verdict == "inconclusive" and "1 category, a verdict needs 2" in found.reason
    assert found.detectable == pytest.approx(2.80 * 0.001, rel=0.01)  # what its images could have shown there


def test_a_claim_between_trainings_needs_three_seeds():
    found = judged(rows(SIX), kind="between trainings")
    assert found.verdict == "inconclusive" and "1 seed, a claim between trainings needs 3" in found.reason
    assert judged(rows(SIX, seeds=3), kind="between trainings").verdict == "supported"
    differing = rows([0.3, -0.3], error=0.001)  # two trainings: that may be the seed
    assert judged(differing, kind="between trainings").verdict == "inconclusive"


def test_categories_that_differ_are_shown():
    found = judged(rows([0.3, -0.3, 0.1]))
    assert found.verdict == "varies" and "both sides of the margin" in found.reason
    above = judged(rows([0.3, 0.02]))
    assert above.verdict == "varies" and "above the margin in all 2, but by" in above.reason
    assert verdicts.above_in_all(above.reason) and not verdicts.above_in_all(found.reason)
    assert " on textures/a and +" in above.reason and "[" not in above.reason  # two effects, no interval of thousands
    assert judged(rows([0.03, 0.02])).verdict == "inconclusive"


def test_better_than_every_needs_every_rival():
    """Intersection-union: each pairwise difference, not the maximum's bootstrap."""
    variants = "minus T = 20; minus T = 80"
    both = pd.concat([rows(SIX, measure="minus T = 20"), rows(SIX, measure="minus T = 80")])
    assert judged(both, variants=variants).verdict == "supported"
    half = judged(rows(SIX, measure="minus T = 20"), variants=variants)
    assert half.verdict == "inconclusive" and "no finding for 'minus T = 80'" in half.reason
    worse = pd.concat([rows(SIX, measure="minus T = 20"), rows([-e for e in SIX], measure="minus T = 80")])
    assert judged(worse, variants=variants).verdict == "not supported"


def test_a_range_is_supported_from_below_and_refuted_from_above():
    claim = {"variants": "cross-fitted; same images", "combine": "bounds", "margin": "0.02"}

    def found(low, high):
        return judged(pd.concat([rows(low, measure="cross-fitted"), rows(high, measure="same images")]), **claim)

    ten = [e / 10 for e in SIX]
    assert found(SIX, SIX).verdict == "supported" and found(ten, ten).verdict == "not supported"
    assert found(ten, SIX).verdict == "inconclusive"
    assert judged(rows(ten, measure="cross-fitted"), **claim).verdict == "inconclusive"


@pytest.mark.parametrize(
    "effects, verdict",
    [
        ([0.3, -0.3], "supported"),
        ([-0.3, -0.2], "open"),
        ([0.001, -0.3], "open"),
        ([0.019], "open"),
        ([0.3], "supported"),
    ],
)
def test_some_is_supported_by_a_case_or_open(effects, verdict):
    found = judged(rows(effects), kind="existential")
    assert found.verdict == verdict
    if verdict == "open":
        assert "no case found" in found.reason and "one case" in verdicts.what_would_change(found)


def test_some_pays_for_looking_at_many_cases():
    one, forty = [0.026], [0.026] + [0.0] * 39
    assert judged(rows(one), kind="existential").verdict == "supported"
    assert judged(rows(forty), kind="existential").verdict == "open"


def test_a_family_shares_its_level():
    weak = rows([0.05, 0.027, 0.06, 0.035], error=0.015)
    alone = judged(weak)
    assert alone.verdict == "supported" and 0.02 < alone.p < 0.05
    others = [verdicts.judge(CLAIM, rows([0.03, -0.03, 0.01], error=0.05), set()) for _ in range(3)]
    together = judged(weak, others)
    assert together.verdict != "supported" and together.p == pytest.approx(4 * alone.p)


@pytest.mark.parametrize(
    "findings, claim, verdict, reason",
    [
        (rows(SIX), {"datasets": "visa"}, "out of scope here", "a statement about two methods"),
        (rows([]), {"datasets": "visa"}, "out of scope here", "a statement about"),
        (rows([]), {}, "not tested here", "no finding"),
        (rows(SIX, measure="a minus the best of b, c"), {}, "inconclusive", "another measure than the one fixed"),
        (rows(SIX, n=20), {}, "inconclusive", "n = 20 is below the smallest n, 30"),
        (rows([]), {"kind": "arithmetic", "own_tables": "no"}, "not supported", "printed numbers"),
        (rows([0.5], dataset="-"), {"kind": "mathematical", "datasets": "none"}, "supported", "recorded once"),
    ],
)
def test_what_is_no_evidence(findings, claim, verdict, reason):
    found = judged(findings, **claim)
    assert found.verdict == verdict and reason in found.reason


def test_too_few_images_still_say_what_they_could_have_shown():
    found = judged(rows(SIX, n=20))
    assert found.verdict == "inconclusive" and 0 < found.detectable < 0.1
    mixed = pd.concat([rows(SIX), rows([5.0], n=20).assign(dataset_category="textures/z", training="z")])
    assert judged(mixed).variants[0].pooled.categories == 6  # what is too small does not join the others
    assert judged(mixed).reason.endswith("left out, n below 30: textures/z")


def test_the_longest_variant_that_fits_is_the_one():
    claim = {"variants": "minus T = 2; minus T = 20"}
    assert verdicts.variant_of(claim, "dynamic minus T = 20") == "minus T = 20"
    assert verdicts.variant_of(claim, "dynamic plus T = 20") is None


@pytest.mark.parametrize(
    "phrase, within",
    [
        ("minus T = 2", "dynamic minus T = 20"),
        ("strength 0", "removal at strength 0.1"),
        ("50 steps", "150 steps, no guidance"),
        ("minus subset cos", "four detectors minus subset cos+u"),
        ("minus ESM", "I-AUROC of SGM minus ESM-sigma"),
        ("AUROC of ESM", "P-AUROC of ESM minus SGM"),
    ],
)
def test_a_variant_is_not_found_inside_another_name(phrase, within):
    assert phrase in within and verdicts.variant_of({"variants": phrase}, within) is None
    assert verdicts.variant_of({"variants": phrase}, f"of {phrase}, mean over images") == phrase


def test_no_variant_of_a_claim_names_another():
    for name, claim in claims.published_claims().iterrows():
        phrases = verdicts.phrases(claim)
        inside = [(a, b) for a in phrases for b in phrases if a != b and verdicts.names(b, a)]
        assert not inside, f"{name}: {inside}"


@pytest.mark.slow
def test_the_committed_runs_are_judged():
    """No claim that names data is judged elsewhere, and every decided one has two categories."""
    from pathlib import Path

    from diffad_utils import study

    folder = Path(__file__).parents[3] / "reports/reference/smoke"
    records = [study.load_run(path.parent) for path in sorted(folder.rglob("claims.json"))]
    ledger = claims.ledger(records).set_index("claim_id")
    assert ledger.loc["C85", "verdict"] == "out of scope here"
    assert ledger.loc["C48", ["findings", "data"]].tolist() == [1, "-"]
    measured = ledger[ledger["verdict"].isin(claims.DECIDED) & (ledger["categories"] > 0)]
    existential = claims.published_claims()["kind"] == "existential"
    assert (measured.loc[~existential[measured.index], "categories"] >= 2).all()
    assert (ledger.loc[existential, "verdict"] != "not supported").all()
    assert ledger["would_change"].str.len().min() > 5
    changes = before_and_after.before_and_after(records)
    assert (changes["reason"].str.len() > 0).all() and changes["changed"].any()


TWO = {"variants": "a minus b; a minus c"}


def both(first, second, **more):
    """Findings of two variants."""
    named = {"a minus b": first, "a minus c": second}
    return pd.concat([rows(effects, measure=name, **more) for name, effects in named.items()], ignore_index=True)


def test_a_variant_that_fails_everywhere_refutes_though_another_varies():
    varied = [0.2, -0.2, 0.2, -0.2, 0.2, -0.2]
    assert judged(both(varied, [-e for e in SIX]), **TWO).verdict == "not supported"
    assert judged(both(varied, SIX), **TWO).verdict == "varies"


def test_a_low_lower_bound_says_nothing():
    bounds = TWO | {"combine": "bounds", "margin": "0.05"}
    found = judged(both([0.2, 0.01, 0.2, 0.01], [0.3, 0.3, 0.3, 0.3]), **bounds)
    assert not found.together.crosses and "both sides" not in found.reason
    assert judged(both([0.2, -0.2, 0.2, -0.2], [0.3, -0.1, 0.3, -0.1]), **bounds).together.crosses


def test_claims_that_cannot_be_decided_take_no_share_of_a_family():
    close, few = rows([0.035, 0.005, 0.04, 0.01, 0.03, 0.015]), rows(SIX, n=10)
    alone = judged(close)
    siblings = [verdicts.judge(CLAIM, few, {"textures"}) for _ in range(3)]
    assert judged(close, siblings).p == alone.p
    assert [found.verdict for found in siblings] == ["inconclusive"] * 3


def test_a_category_with_one_seed_does_not_undo_a_decision():
    trained = {"kind": "between trainings"}
    enough = rows(SIX, seeds=3)
    more = rows([0.05] * 7).tail(1)
    found = judged(pd.concat([enough, more], ignore_index=True), **trained)
    assert found.verdict == "supported" and "over 6 categories" in found.reason
    assert found.reason.endswith("left out, fewer than 3 seeds: textures/g")
    assert "left out" not in judged(enough, **trained).reason
    assert judged(rows(SIX), **trained).verdict == "inconclusive"


def test_what_is_no_number_is_no_evidence():
    none = rows([np.nan])
    assert judged(none).reason == "no finding is a number"
    found = judged(pd.concat([rows([0.3, 0.0]), none], ignore_index=True), kind="existential")
    assert found.verdict == "supported"


def test_some_is_told_by_its_clearest_case_of_any_measure():
    """Two scores under one phrase are two cases: their mean would hide the one that is a case."""
    scores = [rows([effect, 0.0], measure=f"a minus b, score {i}") for i, effect in enumerate((0.3, -0.3))]
    found = judged(pd.concat(scores, ignore_index=True), kind="existential")
    assert found.verdict == "supported" and found.case["effect"] == pytest.approx(0.3)
    assert verdicts.what_would_change(found) == "an effect 0.3 lower than measured in textures/a"


# --- several measures under one variant -------------------------------------------------------------------------------


def settings(*effects, **more):
    """Findings of one variant at several settings: each has these effects over the categories."""
    tables = [rows(found, measure=f"a minus b, setting {i}", **more) for i, found in enumerate(effects)]
    return pd.concat(tables, ignore_index=True)


def test_settings_of_one_variant_hold_one_by_one():
    """The mean of +0.3 and -0.1 is above the margin, and the claim fails all the same."""
    found = judged(settings([0.3] * 6, [-0.1] * 6))
    assert found.verdict == "not supported" and [v.name[-9:] for v in found.variants] == ["setting 0", "setting 1"]
    assert judged(settings([0.3] * 6, [0.1] * 6)).verdict == "supported"
    undecided = judged(settings([0.3] * 6, [0.1, -0.1, 0.02, -0.02, 0.05, -0.06], error=0.05))
    assert undecided.verdict == "inconclusive" and undecided.weakest.name == "a minus b, setting 1"


def test_settings_pay_for_their_number_where_one_refutes():
    weak = [-0.05, -0.027, -0.06, -0.035]
    alone, among = judged(settings(weak, error=0.015)), judged(settings(weak, [0.3] * 4, [0.3] * 4, error=0.015))
    assert alone.verdict == "not supported" and among.p == pytest.approx(3 * alone.p)


def test_many_settings_are_named_by_the_ends():
    found = judged(settings(*([effect] * 6 for effect in (0.1, 0.3, -0.1, 0.2, 0.15))))
    assert "of 5 the one that speaks least for it, a minus b, setting 2: -0.100" in found.reason
    assert "setting 1: +0.300" in found.reason and "setting 3" not in found.reason


def test_a_measure_may_be_called_otherwise_in_another_category():
    """The metrics that a data set allows, or the fastest rival's name: one measure a category is one part."""
    named = rows(SIX).assign(measure=["a minus b"] * 3 + ["a minus b, without masks"] * 3)
    assert [v.pooled.categories for v in judged(named).variants] == [6]
    both_in_one = pd.concat([named, rows(SIX, measure="a minus b, without masks").head(1)], ignore_index=True)
    assert len(judged(both_in_one).variants) == 2


def test_one_setting_that_holds_is_enough_for_any():
    none, some = [-0.05 + e / 10 for e in SIX], [0.1] * 6
    found = judged(settings(none, some), combine="any")
    assert found.verdict == "supported" and found.weakest.name == "a minus b, setting 1"
    assert judged(settings(none, none), combine="any").verdict == "not supported"
    assert judged(both(none, none), **TWO, combine="any").verdict == "not supported"
    assert judged(rows(none), **TWO, combine="any").verdict == "inconclusive"  # the other may be the one that holds


def test_at_each_setting_one_of_two_measures_has_to_hold():
    """No setting removes the defect and keeps the rest: at the first it is not removed, at the second not kept."""
    good, bad = SIX, [-e for e in SIX]

    def found(*of_settings):
        named = [
            rows(effects, measure=f"a minus b, setting {i}: {name}")
            for i, pair in enumerate(of_settings)
            for name, effects in zip(("removal", "fidelity"), pair, strict=True)
        ]
        return judged(pd.concat(named, ignore_index=True), combine="either")

    assert found((good, bad), (bad, good)).verdict == "supported"
    refuted = found((good, bad), (bad, bad))
    assert refuted.verdict == "not supported" and "setting 1" in refuted.weakest.name


def test_a_part_that_cannot_be_decided_does_not_keep_another_from_refuting():
    trained = TWO | {"kind": "between trainings"}
    once = pd.concat([rows([-e for e in SIX], seeds=3), rows(SIX, measure="a minus c")], ignore_index=True)
    assert judged(once, **trained).verdict == "not supported"
    holds = pd.concat([rows(SIX, seeds=3), rows(SIX, measure="a minus c")], ignore_index=True)
    found = judged(holds, **trained)
    assert found.verdict == "inconclusive" and "1 seed, a claim between trainings needs 3" in found.reason


# --- one training for several categories ------------------------------------------------------------------------------


def unified(by_seed, categories=6, scatter=0.01):
    """Findings of one model for all categories: what a seed adds is the same in each."""
    rng = np.random.default_rng(0)
    tables = [
        rows(0.05 + added + scatter * rng.standard_normal(categories)).assign(seed=seed, training="textures, unified")
        for seed, added in enumerate(by_seed)
    ]
    return pd.concat(tables, ignore_index=True)


def test_a_training_for_all_categories_is_one_draw_of_its_seed():
    """Three seeds that differ by as much as their mean decide nothing, however many categories each has."""
    apart, trained = unified([-0.06, 0.0, 0.06]), {"kind": "between trainings"}
    own = apart.assign(training=apart["dataset_category"])
    assert judged(own, **trained).verdict == "supported"
    found = judged(apart, **trained)
    assert found.verdict == "inconclusive" and found.variants[0].pooled.freedom < 2.5
    assert judged(unified([-0.002, 0.0, 0.002]), **trained).verdict == "supported"


def test_a_training_with_few_seeds_is_one_category():
    found = judged(unified([0.0]))
    assert found.verdict == "inconclusive" and found.detectable < 0.02
    assert "6 categories share one training, a verdict needs 3 seeds of it" in found.reason
    elsewhere = rows([0.05], dataset="elpv", n=100)
    two = judged(pd.concat([unified([0.0]), elsewhere], ignore_index=True))
    assert two.variants[0].pooled.categories == 2 and len(two.variants[0].by_category) == 7
