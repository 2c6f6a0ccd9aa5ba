"""Editors measured against what their autoencoder leaves, and what notebook 03 says about the claims."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from diffad_utils.analyses import (
    img2img_claims,
    img2img_edits,
    img2img_figures,
    img2img_grid,
    img2img_stability,
    img2img_words,
    wrong_reason,
)
from diffad_utils.analyses.img2img_claims import Effect, judge, over_draws, over_images, relation, written
from diffad_utils.analyses.img2img_two_passes import EDITORS, TwoPassStudy, some_pairs
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.img2img import Setting
from diffad_utils.metrics import bootstrap, intervals
from diffad_utils.study import claims, verdicts


def pairs_of(blur=0.5, error=0.0, n=40):
    """Defects of one square whose autoencoder keeps ``blur`` of them and adds ``error`` everywhere."""
    generator = torch.Generator().manual_seed(0)
    counterpart = 0.3 + 0.2 * torch.rand(n, 3, 16, 16, generator=generator)
    mask = torch.zeros(n, 16, 16, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True
    defect = 0.2 * mask[:, None] * torch.linspace(0.5, 1.5, n)[:, None, None, None]
    after = counterpart + error
    keys = [str(i) for i in range(n)]
    return img2img_edits.DefectPairs(
        counterpart + defect, counterpart, mask, keys, after + blur * defect, after
    ), defect


def test_a_perfect_editor_drifts_nowhere_and_its_removal_is_bounded_by_the_autoencoder():
    pairs, _ = pairs_of(error=0.05)
    perfect = img2img_edits.edit_measures(pairs, pairs.counterpart_vae, pairs.counterpart_vae)
    assert torch.allclose(perfect["fidelity"], torch.ones(40)) and perfect["survival"].abs().max() < 1e-6
    assert torch.allclose(perfect["removal"], 1 - 0.05 / pairs.size, atol=1e-5)
    nothing = img2img_edits.edit_measures(pairs, pairs.x_vae, pairs.counterpart_vae)
    assert torch.allclose(nothing["survival"], torch.ones(40), atol=1e-5)  # of what the autoencoder left
    assert torch.allclose(nothing["ssim"], torch.ones(40), atol=1e-5)


def test_half_of_what_the_autoencoder_left():
    pairs, defect = pairs_of(blur=0.5)
    found = img2img_edits.edit_measures(pairs, pairs.counterpart_vae + 0.25 * defect, pairs.counterpart_vae)
    assert torch.allclose(found["survival"], torch.full((40,), 0.5), atol=1e-5)
    assert torch.allclose(found["removal"], torch.full((40,), 0.75), atol=1e-5)


def study_of(pairs, x_hat):
    settings = [Setting(s, 3.5, 20) for s in (0.1, 0.3, 0.5, 0.7)]
    measures = img2img_edits.edit_measures(pairs, x_hat, pairs.counterpart_vae)
    oracle = img2img_edits.edit_measures(pairs, pairs.counterpart_vae)
    drifts = img2img_edits.generative_drift(pairs, x_hat + 0.01)
    by_strength = {s.strength: measures for s in settings}
    return img2img_edits.EditStudy(pairs, dict.fromkeys(settings, measures), by_strength, oracle, drifts, settings[0])


@pytest.mark.parametrize("error, judged", [(0.02, True), (0.15, False)])
def test_no_verdict_on_removal_where_a_perfect_editor_fails(error, judged):
    pairs, defect = pairs_of(error=error)
    study = study_of(pairs, pairs.counterpart_vae + 0.25 * defect)
    assert study.oracle_passes == judged
    found = study.evidence()
    assert {claim for claim, _ in found} == {"C05a", "C05b", "C06", "C08"} | ({"C07"} if judged else set())
    assert sum(claim == "C07" for claim, _ in found) == (8 if judged else 0)  # removal and fidelity of each setting
    assert ("is above one half" in img2img_words.removal(study)) == judged
    assert found["C05b", "strength 0.1"].value == pytest.approx(0.5, abs=1e-4)


def test_the_smaller_half_of_the_defects_is_judged():
    pairs, _ = pairs_of()
    small = torch.arange(40) % 2 == 0
    mask = pairs.mask.clone()
    mask[~small, 2:12, 2:12] = True
    pairs = img2img_edits.DefectPairs(pairs.x, pairs.counterpart, mask, pairs.keys, pairs.x_vae, pairs.counterpart_vae)
    table = img2img_edits.generative_drift(pairs, pairs.x_vae + 0.1)
    assert table["smaller_half"].tolist() == small.tolist()
    assert study_of(pairs, pairs.x_vae).evidence()["C08", "strength 0.1, guidance 3.5, 20 steps"].n == 20


def test_a_residual_that_is_the_autoencoders_lies_outside_the_mask():
    assert img2img_edits.oracle_residual_outside(pairs_of(error=0.0)[0]) == 0
    noisy, _ = pairs_of()
    rough = noisy.counterpart_vae + 0.5 * torch.randn(noisy.x.shape, generator=torch.Generator().manual_seed(1))
    noisy = img2img_edits.DefectPairs(noisy.x, noisy.counterpart, noisy.mask, noisy.keys, noisy.x_vae, rough)
    assert img2img_edits.oracle_residual_outside(noisy) > 0.5


# --- two passes -------------------------------------------------------------------------------------------------------


def two_passes(own, true, one=0.5, n=40):
    """Editors whose survival is 0 and whose fidelity is given, up to a little noise."""
    noise = 0.02 * torch.randn(n, generator=torch.Generator().manual_seed(2))
    measures = {
        name: {
            s: {"removal": torch.zeros(n), "drift": 1 - kept - noise, "fidelity": kept + noise, "survival": noise}
            for s in (0.3, 0.5)
        }
        for name, kept in zip(EDITORS, (one, own, true), strict=True)
    }
    return TwoPassStudy(measures, n, 200)


@pytest.mark.parametrize(
    "own, true, answer",
    [(0.8, 0.9, "Yes, in part"), (0.5, 0.9, "a better mask would help"), (0.4, 0.5, "even with the true mask")],
)
def test_the_answer_follows_the_intervals(own, true, answer):
    study = two_passes(own, true)
    assert answer in img2img_words.escape(study)
    best = study.best()
    assert best.loc[EDITORS[1], "gain"] == pytest.approx(own - 0.5, abs=1e-5)
    assert len(study.table()) == 6 and set(study.record()) == {"curve", "best"}


def test_some_pairs_are_spread_over_all():
    assert some_pairs(pairs_of()[0], 3).keys == ["0", "20", "39"]
    assert len(some_pairs(pairs_of()[0], 400)) == 40


# --- settings ---------------------------------------------------------------------------------------------------------


def test_steps_are_varied_alone():
    settings = img2img_grid.settings_of([0.1, 0.3], [3.5, 9.0], [20, 50], Setting(0.35, 7.5, 30))
    assert len(settings) == 5 and settings[-1] == Setting(0.3, 9.0, 50)
    assert all(setting.num_inference_steps == 20 for setting in settings[:4])


def test_the_range_is_bounded_from_both_sides():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 50)
    equal = labels + rng.standard_normal((6, 100))
    bounds = img2img_grid.ranges(equal, labels, n=100)
    assert bounds["cross-fitted"][0] < 0.05 < bounds["on the same images"][0]


def test_a_difference_of_ranges_is_bounded_from_both_sides():
    """C32a: neither score has a range, but that of CLIP is noisier: largest minus smallest would say that it has."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 50)
    image = labels + rng.standard_normal(100)
    steady, noisy = (image + spread * rng.standard_normal((6, 100)) for spread in (0.05, 1.0))
    lower, upper = intervals.range_difference(steady, noisy, labels, 10, 50)
    counts = bootstrap.bootstrap_counts(labels, 50)
    same = [np.ptp(intervals.auroc(scores, labels, counts), axis=1) for scores in (steady, noisy)]
    assert lower[0] < same[0][0] - same[1][0] < -0.03 < 0 < upper[0] + 0.03 and lower.shape == (51,)


# --- stability --------------------------------------------------------------------------------------------------------


def test_another_clean_example_is_as_far_away_and_as_clean():
    """C13: a wreck is as far from x as another example, and no clean one."""
    close, noise = torch.zeros(30), 0.05 * torch.randn(30, generator=torch.Generator().manual_seed(0))
    wreck = img2img_stability.Identity(close, noise, close + 0.5, noise + 2).evidence()
    example = img2img_stability.Identity(close, noise, close + 0.5, noise).evidence()
    judged = {row["measure"]: row["verdict"] for row in img2img_claims.judge(wreck) if row["claim_id"] == "C13"}
    beside = {f"{img2img_stability.BESIDE}, not {side}": "supported" for side in ("farther", "nearer")}
    assert judged == beside | {img2img_stability.CLEAN: "not supported"}
    for moved, side in ((1.0, "farther"), (-1.0, "nearer")):
        moved = img2img_stability.Identity(close, noise + moved, close + 0.5, noise).evidence()
        assert moved["C13", f"{img2img_stability.BESIDE}, not {side}"].high < 0
    assert all(row["verdict"] == "supported" for row in img2img_claims.judge(example) if row["claim_id"] == "C13")
    phrases = verdicts.phrases(claims.published_claims().loc["C13"])
    named = [verdicts.variant_of(claims.published_claims().loc["C13"], measure) for measure in judged]
    assert set(named) == set(phrases) and len(named) == 3


def test_restrictions_are_in_every_note():
    text = img2img_claims.restriction("elpv", "mono", "sd-mini", (-0.1, -0.2, 0.0))
    assert "words of this data set" in text and "trivial baseline" in text
    better = (0.1, 0.05, 0.2)
    assert img2img_claims.restriction("textures", "tile", "sd-mini", better) == ""
    assert img2img_claims.restriction("mvtec_ad", "tile", "sd15", better) == ""
    known_word = img2img_claims.restriction("mvtec_ad", "tile", "sd-mini", better)
    assert known_word == "the generator has seen no pictures of this data set"
    row = img2img_claims.judge({("C22", ""): img2img_claims.Effect(0.2, 0.1, 0.3, 60, "one")}, "another")[0]
    assert row["note"] == "one; another"


def test_rows_of_a_model_that_does_not_know_the_prompt_are_marked_one_by_one():
    task = SimpleNamespace(batch={"key": ["a/b/test/good/0"] * 4, "label": torch.tensor([0, 0, 1, 1])})
    parts = {"mse": torch.tensor([0.1, 0.2, 0.3, 0.4]), "clip": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    prediction = Prediction(torch.zeros(4), parts=parts)
    names = ("img2img", "img2img_masked", "clip_knn", "clip_zero_shot")
    results = {name: {"I-AUROC": 0.5, "AUPRO": 0.25} for name in names}
    p = {"alpha": 0.5, "weights": "sd-mini", "clip": "clip-mini", "dataset": "elpv", "category": "mono"}
    table = img2img_grid.results_table(results, prediction, task, p)
    unknown = " (prompt unknown to it)"
    calibrated, raw = "img2img, calibrated sum, alpha = 0.5", "img2img, raw sum (2), alpha = 0.5"
    named = [calibrated, "img2img_masked", "clip_knn", "clip_zero_shot", raw]
    assert table.index.tolist() == [name + unknown * (name != "clip_knn") for name in named]
    assert table["I-AUROC"].tolist() == [0.5] * 4 + [0.0] and np.isnan(table["AUPRO"].iloc[-1])  # CLIP outweighs
    for known in (
        {"dataset": "textures"},
        {"dataset": "mvtec_ad", "category": "tile"},
        {"weights": "sd15", "clip": "x"},
    ):
        assert img2img_grid.results_table(results, prediction, task, p | known).index.tolist() == named
    assert "prompt says nothing" in img2img_words.unknown_prompt("sd-mini", "elpv", "mono")
    only = img2img_words.unknown_prompt("sd-mini", "mvtec_ad", "tile")
    assert only == " The generator has seen no pictures of this data set."
    assert img2img_words.unknown_prompt("sd-mini", "textures", "tile") == ""


def test_pasted_defects_are_the_same_every_time():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = img2img_stability.with_pasted_defects(images, seed=1)
    assert torch.equal(changed, img2img_stability.with_pasted_defects(images, seed=1))
    assert ((changed - images).abs().sum(dim=(1, 2, 3)) > 0).all() and changed.min() >= 0 and changed.max() <= 1


# --- claims -----------------------------------------------------------------------------------------------------------

WHICH = {
    "C05a": ["strength 0.1", "strength 0.3"],
    "C05b": ["strength 0.1", "strength 0.3"],
    "C06": ["strength 0.5", "strength 0.7"],
    "C12": [
        "log2 of the squared error on normal images over that of the autoencoder alone",
        "local Lipschitz constant under pasted defects minus 1, after the autoencoder",
    ],
    "C13": [f"{img2img_stability.BESIDE}, not farther", img2img_stability.CLEAN],
    "C23": list(img2img_claims.WEAKER.values()),
    "C28": ["50 steps"],
    "C29": ["cross-fitted", "on the same images"],
    "C32a": list(img2img_claims.STEADIER),
}


@pytest.mark.parametrize("claim", img2img_claims.MEASURES)
def test_every_measure_is_the_one_that_was_fixed(claim):
    row = claims.published_claims().loc[claim]
    found = {(claim, which): Effect(0.5, 0.4, 0.6, 100) for which in WHICH.get(claim, ["strength 0.3"])}
    findings = judge(found)
    named = {verdicts.variant_of(row, finding["measure"]) for finding in findings}
    assert None not in named and len(named) == len(findings)
    assert {finding["margin"] for finding in findings} == {float(row["margin"])}


def test_effects_and_words():
    values = torch.linspace(0, 1, 50)
    effect = over_images(values, "a note")
    assert effect.low < 0.5 < effect.high and effect.value == pytest.approx(0.5)
    assert (effect.n, effect.note) == (50, "a note")
    assert over_draws(np.array([0.5, 0.4, 0.6]), 7).n == 7
    assert [relation(*ends) for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == [
        "is above",
        "is below",
        "is not shown to differ from",
    ]
    assert written(0.5, 0.25, 0.75) == "0.50 [0.25, 0.75]" and written(0.5, 0.25, 0.75, sign="+").startswith("+0.50 [+")
    assert judge({("C25", ""): (0.8, 0.75, 0.9, 100)})[0]["verdict"] == "supported"


def test_sentences_that_depend_on_the_outcome():
    accuracy = pd.DataFrame({"I-AUROC": [0.7], "low": [0.6], "high": [0.8]}, index=["img2img"])
    control = {"I-AUROC": 0.6, "difference": 0.1, "low": 0.05, "high": 0.2, "what": "the round trip"}
    said = img2img_words.detection(accuracy, (0.1, 0.05, 0.2), (0.0, -0.1, 0.1), control)
    assert "above that of its control without diffusion, the round trip (0.600): +0.100 [+0.050, +0.200]" in said
    assert (
        "is above the trivial baseline" in said and "is not shown to differ from CLIP's distance to the recon" in said
    )
    effects = {("C22", ""): Effect(0.3, 0.2, 0.4, 60)}
    effects |= {("C23", part): Effect(0.05, 0.0, 0.1, 60) for part in img2img_claims.WEAKER.values()}
    assert "owes 0.05 [0.00, 0.10] to the squared error at alpha 0.3 and 0.05" in img2img_words.alpha(effects)
    assert "covariance" not in img2img_words.alpha(effects)
    beyond = dict(zip(img2img_claims.WEAKER.values(), [(-4e-5, -0.001, 8e-4, 60), (0.99, 0.97, 1.01, 60)], strict=True))
    said = img2img_words.alpha(effects | {("C23", part): Effect(*effect) for part, effect in beyond.items()})
    assert "owes less than 0.01 to the squared error" in said and "0.99 [0.97, 1.01] to the CLIP distance" in said
    assert "A share is a covariance: it is below 0 or above 1 where" in said
    said = img2img_words.order((-0.9, -1, 0.5), "SSIM", [Setting(0.1, 3.5, 20), Setting(0.7, 9, 20)])
    assert "Over the 2 settings of the sweep (strength 0.1 and 0.7; guidance scale 3.5 and 9; DDIM steps 20)" in said
    assert "outweighs" in img2img_words.part_scales({"mse": 1.0, "clip": 3.0})
    assert "gets no verdict" in img2img_words.misplaced(torch.rand(10), 0.8, 0.03)
    said = img2img_words.misplaced(torch.rand(10), 0.2, 0.03)
    assert "verdict" not in said and "drawn at random would have 0.97 there" in said
    assert "2.0 times as long" in img2img_words.cost(
        20, 50, {"img2img": {"ms_per_image": 10}, "img2img_masked": {"ms_per_image": 20}}
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_of_what_was_measured():
    pairs, defect = pairs_of(error=0.02)
    study = study_of(pairs, pairs.counterpart_vae + 0.25 * defect)
    over_strength = img2img_figures.over_strength(study).axes[0]
    assert "oracle: removal of a perfect editor" in over_strength.get_legend_handles_labels()[1]
    assert img2img_figures.all_settings(study).axes[0].get_xlabel().startswith("drift outside")
    assert "log2" in img2img_figures.small_defects(study).axes[0].get_ylabel()
    panels = img2img_figures.two_passes(two_passes(0.8, 0.9))
    assert [axis.get_title() for axis in panels.axes][:3] == [
        "removal",
        "drift / defect's size",
        "survival of the defect",
    ]
    identity = img2img_stability.Identity(*(torch.rand(30) + 0.1 for _ in range(4)))
    chart = img2img_figures.intervals(identity.table(), "log2", "textures/leather", 0)
    assert chart.axes[0].get_title() == "textures/leather" and chart.axes[0].get_xlabel() == "log2"
    assert {claim for claim, _ in identity.evidence()} == {"C12", "C13"}
    assert "passed on" in img2img_words.near_identity(identity)
    for sentence in (
        img2img_words.settings(study),
        img2img_words.small_defects(study),
        img2img_words.trade(two_passes(0.8, 0.9)),
    ):
        assert "nan" not in sentence and sentence.endswith(".")


# --- data sets without masks or counterparts --------------------------------------------------------------------------


class FakeGrid:
    """A grid of three settings over twenty images, without its files."""

    settings = (1, 2, 3)

    def __init__(self, task):
        self.task = task
        self.stored = {
            s: {"mse": torch.rand(20) * s, "clip": torch.rand(20), "ssim": torch.rand(20)} for s in (1, 2, 3)
        }

    def load(self, setting):
        return self.stored[setting]

    def calibrated_scores(self, alpha):
        return np.stack([self.stored[s]["mse"].numpy() for s in self.settings])


def unmarked_task():
    labels = torch.tensor([0] * 10 + [1] * 10)
    with_masks = labels == 0
    return SimpleNamespace(
        labels=labels,
        keys=[str(i) for i in range(20)],
        bootstrap_samples=50,
        seed=0,
        with_masks=with_masks,
        has_masks=False,
    )


def test_without_counterparts_the_quality_is_ssim():
    grid = FakeGrid(unmarked_task())
    agreement, quality = img2img_grid.order_agreement(grid, 0.5, None)
    assert quality == "SSIM on normal images" and len(agreement) == 11 and np.abs(agreement).max() <= 1
    edits = [{"removal": torch.rand(10), "fidelity": torch.rand(10)} for _ in range(3)]
    assert img2img_grid.order_agreement(grid, 0.5, edits)[1] == "the smaller of removal and fidelity"
    steadier = img2img_grid.clip_steadiness(grid, 20)
    lower, upper = steadier.values()
    assert lower[0] < upper[0] and lower[1] <= lower[2]
    bounds = dict.fromkeys(("cross-fitted", "on the same images"), (0.1, 0.0, 0.2))
    found = img2img_grid.Sensitivity({"alpha": 0.5}, bounds, steadier, 3, 20)
    assert [claim for claim, _ in found.evidence()] == ["C29", "C29", "C32a", "C32a"]
    assert f"lies between {lower[0]:+.2f}" in img2img_words.value_range(found)
    many = dataclasses.replace(found, settings=42)
    assert img2img_words.what_varies(many, 6).endswith("over 6 settings of the sweep x 7 values of alpha")


def test_without_masks_nothing_is_said_about_where_a_score_looks():
    task = unmarked_task()
    table = pd.DataFrame({"statistic": ["full residual"], "I-AUROC": [0.9], "low": [0.8], "high": [1.0]})
    verdict = wrong_reason.WrongReason(table, {}, "undecided")
    scores = {"squared error": torch.rand(20)}
    reasons = wrong_reason.Reasons(scores, {}, torch.rand(20, 4, 4), torch.rand(20), {"squared error": verdict})
    assert wrong_reason.beyond_half(reasons, task) == {}
    assert "squared error: *undecided*" in img2img_words.reasons(reasons)
    assert reasons.table().index.tolist() == ["squared error"] and reasons.record()["table"][0]["I-AUROC"] == 0.9
    marked = SimpleNamespace(**vars(task) | {"with_masks": torch.ones(20, dtype=torch.bool), "has_masks": True})
    assert [*wrong_reason.beyond_half(reasons, marked)] == ["the squared error outside the mask detects"]
