"""Pooling over seeds and categories: known values, and error rates and power by simulation."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.oneway import anova_oneway

from benchmarks import ones_of_their_kind
from benchmarks import simulated_studies as studies
from benchmarks import verdicts as simulation
from diffad_utils import metrics
from diffad_utils.metrics import bootstrap, pooling
from diffad_utils.study import claims, verdicts


def test_seeds_are_averaged_between_two_bounds_of_their_variance():
    found = pooling.mean_over_seeds([0.1, 0.2, 0.3], [0.04, 0.04, 0.04])
    assert found.effect == pytest.approx(0.2)
    assert found.most == pytest.approx(0.04 + 0.01 / 3) and found.least == pytest.approx(0.04 / 3)
    alone = pooling.mean_over_seeds([[0.1], [0.5]], [[0.04], [0.09]])
    assert alone.most.tolist() == alone.least.tolist() == [0.04, 0.09]
    with pytest.raises(ValueError, match="S >= 1"):
        pooling.mean_over_seeds([], [])


def test_the_interval_is_students_and_hartung_and_knapps_with_equal_weights(monkeypatch):
    monkeypatch.setattr(pooling, "EXCESS_KURTOSIS", 0.0)
    effects = np.array([0.10, 0.02, 0.07, 0.05])
    pooled = pooling.pool(effects, np.full(4, 1e-6))
    low, high = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    assert (pooled.low, pooled.high) == pytest.approx((low, high))
    theirs = combine_effects(effects, np.full(4, 1e-6), method_re="iterated", use_t=True)
    assert pooled.effect == pytest.approx(theirs.mean_effect_re)
    assert pooled.standard_error == pytest.approx(theirs.sd_eff_w_re_hksj, rel=1e-3)
    above, below = pooling.p_values(pooled, 0.01)
    assert above == pytest.approx(stats.ttest_1samp(effects, 0.01).pvalue) and below == pytest.approx(1.0)


def test_degrees_of_freedom_are_those_of_a_variance_with_kurtosis():
    """The variance of s^2 by simulation from a Laplace distribution, whose excess kurtosis is 3."""
    assert pooling.degrees_of_freedom(9) == pytest.approx(2 / (2 / 8 + 1.5 / 9))
    drawn = np.random.default_rng(0).laplace(size=(200_000, 9)).var(axis=1, ddof=1)
    freedom = 2 * drawn.mean() ** 2 / drawn.var()
    assert freedom == pytest.approx(2 / (2 / 8 + 3 / 9), rel=0.03)


def test_it_is_never_narrower_than_images_allow():
    """Two categories that agree by accident say no more than their images."""
    pooled = pooling.pool([0.10, 0.1001], [0.01, 0.01])
    assert pooled.standard_error == pytest.approx(0.1 / np.sqrt(2)) and pooled.low < 0 < pooled.high


def test_one_category_decides_nothing():
    pooled = pooling.pool([0.5], [1e-9])
    assert (pooled.low, pooled.high) == (-np.inf, np.inf) and pooling.p_values(pooled) == (1.0, 1.0)
    assert pooling.smallest_detectable(pooled) == np.inf


def test_a_shared_training_adds_the_variance_of_its_seeds(monkeypatch):
    """Two-way layout: categories' and seeds' mean squares together, the error not taken off twice."""
    monkeypatch.setattr(pooling, "EXCESS_KURTOSIS", 0.0)
    effects = np.array([[0.1, 0.3, 0.2], [0.2, 0.5, 0.2], [0.0, 0.2, 0.4], [0.3, 0.3, 0.3]])
    means = pooling.mean_over_seeds(effects, np.zeros((4, 3)))
    pooled = pooling.pool(means.effect, means.least, shared=[pooling.shared_training(effects, 4)])
    rows, columns = effects.mean(axis=1).var(ddof=1) / 4, effects.mean(axis=0).var(ddof=1) / 3
    assert pooled.standard_error == pytest.approx(np.sqrt(rows + columns))
    quantile = (rows * stats.t.ppf(0.975, 3) + columns * stats.t.ppf(0.975, 2)) / (rows + columns)
    assert (pooled.high - pooled.effect) / pooled.standard_error == pytest.approx(quantile, rel=1e-3)
    half = pooling.shared_training(effects[:2], 4)
    assert half.variance == pytest.approx(effects[:2].mean(axis=0).var(ddof=1) / 3 / 4) and half.freedom == 2


def test_heterogeneity_is_cochrans_q():
    effects, variances = np.array([0.1, 0.3, 0.2]), np.array([0.01, 0.02, 0.005])
    q, p = pooling.heterogeneity(effects, variances)
    theirs = combine_effects(effects, variances).test_homogeneity()
    assert (q, p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert pooling.heterogeneity([0.1, 0.1], [0.0, 0.0])[1] > 0.99
    assert pooling.heterogeneity([0.1, 0.4], [0.0, 0.01])[1] == pytest.approx(stats.chi2.sf(9, 1), rel=1e-3)
    assert pooling.heterogeneity([0.1], [0.01])[1] == 1.0


def test_with_few_images_it_is_welchs_test():
    rng = np.random.default_rng(0)
    samples = [rng.normal(loc, scale, n) for loc, scale, n in ((0, 1, 5), (1, 2, 8), (0.5, 0.5, 6))]
    effects, sizes = [sample.mean() for sample in samples], [len(sample) for sample in samples]
    variances = [sample.var(ddof=1) / len(sample) for sample in samples]
    theirs = anova_oneway(samples, use_var="unequal", welch_correction=True)
    assert pooling.heterogeneity(effects, variances, sizes)[1] == pytest.approx(theirs.pvalue)
    above = pooling.clear_sides([0.25, 0.0], [0.01, 0.01], images=5)[0]
    assert not above and pooling.clear_sides([0.25, 0.0], [0.01, 0.01], images=100)[0]


def test_categories_on_both_sides():
    def found(effects, **more):
        return pooling.compare(effects, [0.01] * len(effects), [0.01] * len(effects), **more)

    assert found([0.3, -0.3]).crosses and not found([0.3, -0.1]).crosses
    assert not found([0.3, -0.3], margin=-0.2).crosses and not found([0.21, -0.21]).crosses  # 0.224 for two together
    assert [side.tolist() for side in pooling.clear_sides([0.21, -0.1], [0.01, 0.01])] == [True, False]


def test_a_category_that_alone_says_the_opposite_stops_a_decision():
    effects = np.r_[0.5 * np.ones(8), -0.2]
    assert pooling.p_values(pooling.pool(effects, np.full(9, 1e-4)))[0] < 0.01
    assert pooling.compare(effects, np.full(9, 1e-4), np.full(9, 1e-4)).p_above == 1.0
    assert pooling.compare(effects, np.full(9, 0.1), np.full(9, 1e-4)).p_above < 0.01


@pytest.mark.slow
def test_holm_is_statsmodels():
    p = np.array([0.04, 0.001, 0.03, 0.5])
    assert pooling.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert pooling.holm(np.stack([p, p[::-1]]))[1] == pytest.approx(multipletests(p[::-1], method="holm")[1])


def test_holm_supports_nothing_without_a_p_value():
    """statsmodels' own decision rejects the NaN here (findings/statsmodels_nan_counts_as_significant.sh)."""
    adjusted = pooling.holm([0.001, np.nan, 0.004, 0.01, 0.02])
    assert (adjusted < 0.05).tolist() == [True, False, True, True, True]
    assert adjusted[0] == pytest.approx(5 * 0.001) and np.isnan(adjusted[1])


def test_what_would_be_enough():
    assert pooling.categories_needed(0.1, 0.1) == 8  # t(4.9, 0.975) / sqrt(8) = 0.91 of a standard deviation
    assert pooling.categories_needed(0.001, 0.1) is None
    rng, error = np.random.default_rng(0), 0.1 / np.sqrt(9)
    detectable = pooling.smallest_detectable(pooling.pool(error * np.r_[[-3.0, 3.0] * 4, 0.0], np.zeros(9)))
    pooled = pooling.pool(detectable + 0.1 * rng.standard_normal((4000, 9)), np.zeros((4000, 9)))
    assert (pooled.low > 0).mean() == pytest.approx(0.8, abs=0.03)


def test_a_variance_from_an_interval_is_that_of_the_bootstrap():
    """So a finding needs no more than its interval to be pooled."""
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(100), np.ones(100)]
    scores = rng.normal(labels, 1.0)
    rival = 0.6 * scores + 0.8 * rng.standard_normal(200)
    drawn = metrics.paired_bootstrap(metrics.image_auroc, [scores, rival], labels, n=2000)
    gap = drawn[:, 0] - drawn[:, 1]
    assert verdicts.standard_error(*bootstrap.percentile_interval(gap)) == pytest.approx(gap.std(), rel=0.05)
    _, a, b = studies.auroc_parts(
        np.stack([scores[100:], rival[100:]])[:, :], np.stack([scores[:100], rival[:100]])[:, :]
    )
    delong = (a[0] - a[1]).var(ddof=1) / 100 + (b[0] - b[1]).var(ddof=1) / 100
    assert gap.std() == pytest.approx(np.sqrt(delong), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("measure", studies.FAST)
@pytest.mark.parametrize("categories, seeds", [(2, 1), (3, 3), (9, 1), (9, 3)])
def test_at_most_six_per_cent_wrong_at_the_null(measure, categories, seeds):
    """With the simulation's own error: 1000 at 6 % have a standard deviation of 0.75 %; the benchmark has more."""
    row = simulation.null_row(measure, categories, seeds, 0.0, 0.15 if seeds > 1 else 0.0, 1000)
    assert row["wrong, %"] < 6 + 2 * 0.75


def test_the_committed_simulation_keeps_the_bounds():
    """At most 6 % wrong at the null, the simulation's own error counted, and 80 % power, in the benchmark's results."""
    path = Path(simulation.__file__).parent / "results" / "verdicts-cpu.json"
    tables = {table["title"]: table["rows"] for table in json.loads(path.read_text(encoding="utf-8"))["tables"]}
    null = tables["Wrong decisions at the null, every kind of measure"]
    assert {row["measure"] for row in null} == set(studies.MEASURES)
    far = tables["Wrong decisions at the null where categories differ very much"]
    some = tables["Wrong decisions at the null for claims that say 'some'"]
    for row in [*null, *far, *some]:
        assert row["wrong, %"] <= 6, row
    for row in [*null, *some]:  # AUPRO is slow: too few studies for a close bound
        assert row["simulations"] < 1000 or row["wrong, %"] + 1.64 * row["simulation's error, %"] <= 6, row
    for row in tables["A claim of several settings, one of them at the null"]:
        assert row["each by itself: wrong, %"] <= 6 and row["before, their average: wrong, %"] > 20
    for row in tables["One training for all categories: paired I-AUROC difference, 100 + 100 images"]:
        assert row["as one training: wrong, %"] <= 6 + 2 * row["as one training: wrong, error"], row
    power = tables["Power: a paired I-AUROC difference of 0.03, 100 + 100 images"]
    nine = [row for row in power if (row["categories"], row["seeds"]) == (9, 3)]
    assert len(nine) == 3 and all(row["supported, %"] >= 80 for row in nine[:2])
    assert all(row["true difference"] == pytest.approx(0.03, abs=0.001) for row in nine)
    ranges = {row["true range"]: row for row in tables["C29, sensitive to settings"]}
    assert all(row["simulations"] >= 200 for row in ranges.values())
    for categories in ("3 categories of 100", "9 categories of 100"):
        null = ranges["0.05, the margin"]
        assert null[f"{categories}: supported, %"] + null[f"{categories}: not supported, %"] <= 6
        assert ranges["none"][f"{categories}: supported, %"] <= 6
        assert ranges["0.66 to 0.87"][f"{categories}: not supported, %"] == 0
    assert ranges["0.66 to 0.87"]["9 categories of 100: supported, %"] >= 80
    alone = tables["Measures that one claim has alone: C23, C32a, C62, C67"]
    assert [row["claim"] for row in alone] == [kind.claim for kind in ones_of_their_kind.KINDS for _ in kind.sizes]
    for row in alone:
        assert row["simulations"] >= 150 and row["wrong, %"] <= 6, row
    every = tables["C73, better than every one of four rivals"]
    equal = [row for row in every if row["true gain"] == "0: all equal"]
    assert all(row["before, one category: not supported, %"] > 10 for row in equal)
    assert all(row["not supported, %"] + row["supported, %"] <= 6 for row in equal)


def test_every_measured_claim_has_a_kind_that_is_simulated():
    """Ranges over settings (bounds) and claims that say "some" have tables of their own."""
    table = claims.published_claims()
    kinds = {"universal", "between trainings"}
    measured = set(table.index[table["kind"].isin(kinds) & (table["combine"] != "bounds")])
    simulated = {name for measure in studies.MEASURES.values() for name in measure.claims.split()}
    alone = {kind.claim for kind in ones_of_their_kind.KINDS}
    assert simulated | alone >= measured and simulated.isdisjoint(alone)
    for kind in ones_of_their_kind.KINDS:
        claim = table.loc[kind.claim]
        assert (kind.combine, kind.margin) == (claim["combine"], float(claim["margin"])), kind.claim
        assert kind.parts == len(verdicts.phrases(claim)), kind.claim
        assert kind.claim == "C67" or kind.images == int(claim["min_n"]), kind.claim


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in ones_of_their_kind.KINDS if kind.null and kind.combine == "all"])
def test_at_most_six_per_cent_wrong_for_measures_of_one_claim(kind):
    row = simulation.kind_row(kind, 9, 1, 300)
    assert row["wrong, %"] < 6 + 2 * 1.4


def test_scattered_categories_are_called_varies_and_not_decided():
    rng, shape = np.random.default_rng(0), (1000, 3, 1)
    found = studies.in_blocks(studies.MEASURES["mean over images"].simulate, rng, shape, 100, 0.8, 0.0)
    verdict = simulation.by_rule(*found)
    assert np.mean(simulation.decided(verdict)) < 0.06 + 2 * 0.0075
    assert np.mean(verdict == "varies") > 0.7
    old = simulation.before(*found)  # all three on one side by chance: a verdict on categories, not on the claim
    assert np.mean(old["supported"] | old["not supported"]) > 0.12


@pytest.mark.slow
def test_power_for_a_difference_of_three_points():
    """Nine categories of 100 + 100 images and three seeds find a paired I-AUROC difference of 0.03 in 80 %."""
    rng, shape = np.random.default_rng(0), (300, 9, 3)
    gain = studies.gain_of_three_points(0.05, 0.05)
    found = studies.in_blocks(studies.auroc_difference, rng, shape, 100, 0.05, 0.05, effect=gain)
    assert found[0].mean() == pytest.approx(0.03, abs=0.001)
    assert np.mean(simulation.by_rule(*found) == "supported") > 0.8
    assert simulation.before(*found)["supported"].mean() < 0.1


def test_what_three_categories_could_have_shown():
    """Few categories show only what is large, and what is said of them is true: that effect is found in 80 %."""
    error, rng = 0.1 / np.sqrt(3), np.random.default_rng(0)
    pooled = pooling.pool(0.1 * np.array([-1.0, 0.0, 1.0]), np.zeros(3))
    detectable = float(pooling.smallest_detectable(pooled))
    assert pooled.standard_error == pytest.approx(error) and detectable == pytest.approx(9.33 * error, rel=0.01)
    drawn = pooling.pool(detectable + 0.1 * rng.standard_normal((4000, 3)), np.zeros((4000, 3)))
    assert (drawn.low > 0).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
def test_better_than_every_five_equal_variants():
    """C73: the earlier rule called equal variants "not supported" in about a fifth; the intersection-union test does
    not, and nine categories of 100 + 100 images find a gain of 0.035."""
    old, new = "before, one category: {}, %", "{}, %"
    equal = simulation.every_row(0.0, 3, 16, 80)
    assert equal[old.format("not supported")] > 12
    assert equal[new.format("not supported")] < 6 and equal[new.format("supported")] < 6
    better = simulation.every_row(studies.GAIN_OF_FEW, 9, 100, 20)
    assert better[new.format("supported")] >= 80 > 20 > better[old.format("supported")]


@pytest.mark.slow
def test_the_range_over_settings_is_found():
    """C29: a true range from 0.66 to 0.87 was found in a tenth; no range is not called one."""
    rows = {row["true range"]: row for row in simulation.sensitivity_table(10)}
    assert rows["0.66 to 0.87"]["before, 20 images: supported, %"] < 30
    assert rows["0.66 to 0.87"]["9 categories of 100: supported, %"] >= 80
    for label in ("none", "0.05, the margin"):
        assert rows[label]["9 categories of 100: supported, %"] <= 10
    assert rows["0.05, the margin"]["9 categories of 100: not supported, %"] <= 10
