"""What notebooks answer to their own questions, and their findings under the statements of the claims."""

import numpy as np
import pandas as pd
import pytest
import torch

from diffad_utils.analyses import (
    baselines,
    d3ad_claims,
    findings,
    img2img_grid,
    img2img_words,
    inversion,
    inversion_sweeps,
    lora_study,
    round_trip,
    score_claims,
    score_contrast,
    score_detection,
    score_map_sentences,
    score_matching,
    score_sentences,
    score_toy_sentences,
    score_toys,
)
from diffad_utils.analyses.score_claims import Effect
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import detects
from diffad_utils.analyses.wrong_reason import Reasons, WrongReason
from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.invad.score import gaussian_nll
from diffad_utils.study import claims

GOOD, BAD = torch.cat([torch.zeros(20), torch.ones(20)]), torch.cat([torch.ones(20), torch.zeros(20)])
TRIVIAL = TrivialBaseline("std", 0.5, Prediction(GOOD, parts={"std": torch.zeros(40)}))


@pytest.fixture
def task():
    """Forty images without content, half of them with a square defect in the middle, of two sizes."""
    masks = torch.zeros(40, 16, 16, dtype=torch.bool)
    masks[20:30, 6:10, 6:10], masks[30:, 4:12, 4:12] = True, True
    batch = {"label": (GOOD > 0).long(), "image": torch.zeros(40, 3, 16, 16), "mask": masks}
    batch["key"] = [f"x/y/test/{'hole' if i >= 20 else 'good'}/{i}" for i in range(40)]
    index = pd.DataFrame({"defect": ["good"] * 20 + ["hole"] * 20})
    test = type("Images", (), {"index": index})()
    return Task("x/y", None, test, torch.arange(40), batch, bootstrap_samples=50)


def test_a_method_is_compared_with_each_rival_by_its_interval():
    said = detects("A", {"B": (0.1, 0.05, 0.2), "C": (-0.1, -0.2, -0.05), "D": (0.0, -0.1, 0.1), "E": (0, -0.1, 0.1)})
    assert said.startswith("A detects better than B (+0.100 [+0.050, +0.200]), and detects worse than C (")
    assert ", and is not shown to detect better or worse than D (+0.000 [-0.100, +0.100]) or E (" in said


def test_the_baseline_is_one_score_in_every_metric(task):
    assert torch.equal(TRIVIAL.chosen.score, torch.zeros(40)) and torch.equal(TRIVIAL.prediction.score, GOOD)
    assert TRIVIAL.record() == {"statistic": "std", "I-AUROC": 0.5}
    assert task.defect_areas.unique().tolist() == [16 / 256, 64 / 256]


def test_a_random_point_lies_in_a_defect_as_often_as_defects_are_large_on_average(task):
    maps = {"ESM": Prediction(GOOD, task.masks.float(), torch.zeros(40, 3, 16, 16))}
    said = score_sentences.maps(maps, task)
    assert "inside the defect in 20 (ESM)" in said and "in 15.6% of the images on average" in said  # the mean area


# --- findings ---------------------------------------------------------------------------------------------------------


def test_findings_stand_under_the_statement_of_their_claim():
    statement = claims.published_claims()["statement"]["C37"]
    plain = claims.finding("C37", 0.1, 0.05, 0.2, 40, measure="a < b", section="s", note="a small network")
    rows = [plain | {"seed": 1}, plain | {"dataset": "x", "category": "y"}, plain | {"note": "another"}]
    rows.append(plain | {"effect": 0.0003, "interval": [0.0002, 0.0004]})
    page = findings.to_html(rows, [{"claim_id": "C33", "measure": "c", "why": "too few images"}])
    assert page.count(statement) == 1 and page.index("<b>C33</b>") < page.index("<b>C37</b>")
    assert "a &lt; b, training with seed 1" in page and "a &lt; b, x/y" in page and "<small>another</small>" in page
    assert "<p>Unless a row says otherwise: a small network.</p>" in page and page.count("a small network") == 1
    assert "+0.100 [+0.050, +0.200]" in page and "+0.00030 [+0.00020, +0.00040]" in page
    assert "not judged: too few images" in page and "data-head='In this run'>supported<" in page
    assert findings.shown(rows).data.startswith("<table class='claims stack'>")


@pytest.mark.parametrize("gap, said", [(5e-16, "5e-16 of their size at most"), (0.0, "no digit differs")])
def test_an_identity_is_said_in_words_and_needs_no_data(gap, said):
    same = score_claims.identity(gap, 1e-6, 4)
    alone = score_sentences.streams(same, {})
    assert same.low > 0 and said in alone and "This run tests the fixed variance alone" in alone
    (row,) = score_claims.esm_findings({"C65": same}, "a small network")
    page = findings.to_html([row])
    assert (
        row["verdict"] == "supported" and "+0.000" not in page and said in page.split("Effect and 95 % interval'>")[1]
    )
    assert f"<small>{findings.NO_DATA}</small>" in page and "a small network" not in page
    broken = score_claims.identity(1e-3, 1e-6, 4)
    assert broken.high < 0 and broken.note == "not equal: they differ by 1e-03 of their size at most"


# --- 01 to 04 ---------------------------------------------------------------------------------------------------------


def test_the_answer_of_01_names_the_best_detector_and_the_baseline(task):
    said = baselines.answer(task, {"A": Prediction(BAD), "B": Prediction(GOOD)}, TRIVIAL)
    assert "20 of 40 test images are defective, of 1 kind; half of them cover less than 6.2% of the image" in said
    assert "has an I-AUROC of 0.500 [" in said and "the best of 2 established detectors 1.000 [" in said
    assert "B detects better than the trivial baseline (+0.500 [" in said
    assert baselines.answer(task, {}, TRIVIAL).endswith("No established detector was run.")
    said = baselines.without_survey("y", 64, 128)
    assert "The table has y alone." in said and "64 px wide here and 128 px above" in said
    assert "px" not in baselines.without_survey("y", 64, 64)


def test_the_answer_of_02_follows_the_intervals():
    rows = pd.DataFrame([{"survival": 0.49, "low": 0.44, "high": 0.53, "lost (< 0.25)": 0.28, "kept (> 0.75)": 0.3}])
    rows["below the error"] = 0.13
    shapes = {"16 channels": (2.9, 2.8, 3.0), "32 channels, 8 x": (6.4, 6.1, 6.7)}
    said = round_trip.answer(
        "x/y", (7.1, 6.7, 7.4), rows, "defect", shapes, (0.1, -0.1, 0.3), {"chance": (0.1, 0.05, 0.2)}
    )
    assert "JPEG at quality 75 is above the round trip's (+7.10 dB [+6.70, +7.40])" in said
    assert "0.49 [0.44, 0.53] of a defect survives the round trip, and 28% keep less" in said
    assert "The PSNR with 32 channels and sides 8 times smaller is above that of the narrowest code (+6.40" in said
    assert "is not shown to differ from image-to" in said
    assert "the pixel DDPM, which has no bottleneck, detects better than chance" in said
    without = round_trip.answer("x/y", (7.1, 6.7, 7.4), rows, "defect", {}, (0.1, -0.1, 0.3), {"a": (0, -1, 1)})
    assert "**Is the bottleneck to blame?** With the same" in without
    few = round_trip.answer(
        "x/y", (7, 6, 8), rows[["survival", "lost (< 0.25)"]], "defect", {}, (0, -1, 1), {"a": (0, -1, 1)}
    )
    assert "In the mean 0.49 (no interval, as they are fewer than ten) of a defect survives" in few
    assert round_trip.survival_in_words(rows).startswith("28% of them keep less than a quarter")


def test_the_answer_of_03_says_where_the_second_pass_and_the_rivals_stand(task):
    reason = WrongReason(pd.DataFrame(), {}, "right for the right reason")
    reasons = Reasons({}, {}, torch.zeros(1), torch.zeros(1), {"hybrid score": reason})
    scores = {"img2img": GOOD, "img2img_masked": BAD, "clip_knn": GOOD, img2img_grid.ALONE: BAD}
    said = img2img_words.answer(task, None, {n: Prediction(s) for n, s in scores.items()}, TRIVIAL, reasons)
    assert "x/y has no defect-free counterparts, so this cannot be measured" in said
    assert "a second pass detects worse than with one (-1.000" in said
    assert "Img2img detects better than the trivial baseline (+0.500" in said
    assert "the autoencoder's round trip, which has no diffusion (+1.000" in said
    assert "or worse than CLIP's distance to normal images" in said and said.endswith(
        "Its score is right for the right reason."
    )
    for verdict, end in {
        "ranks the wrong way round": "Its score ranks the wrong way round.",
        "undecided": "Whether its score is right for the right reason is undecided.",
    }.items():
        reasons.found["hybrid score"] = WrongReason(pd.DataFrame(), {}, verdict)
        said = img2img_words.answer(task, None, {n: Prediction(s) for n, s in scores.items()}, TRIVIAL, reasons)
        assert said.endswith(end)


def test_an_editor_has_the_round_trip_as_its_control_and_clip_has_none(task):
    scores = {"img2img": GOOD, "clip_knn": GOOD, img2img_grid.ALONE: BAD}
    predictions = {name: Prediction(score) for name, score in scores.items()}
    row = img2img_grid.controlled(task, predictions, "img2img")["no_diffusion"]
    assert (row["difference"], row["I-AUROC"], row["what"]) == (1.0, 0.0, "Dec(Enc(x)) with the same score")
    assert img2img_grid.controlled(task, predictions, "clip_knn") == {}


def test_the_answer_of_04_has_both_prompts(task):
    gaps = {("I-AUROC", "p"): (0.1, 0.05, 0.2), ("AUPRO", "p"): (0, 0, 0), ("I-AUROC", "q"): (0.0, -0.1, 0.1)}
    names = ["PSNR", "colour shift", "Gram distance"]
    table = pd.DataFrame({"measure": names, "change": -1.0, "low": -2.0, "high": -0.5, "n": 9})
    changes = {"p": table, "q": table.assign(low=0.5, high=2.0, change=1.0)}
    scores = {"LoRA": GOOD, "Dec(Enc(x))": BAD, "trivial baseline": BAD}
    found = {("C16", "p for both"): (0.1, 0.05, 0.2, 9), ("C16", "q for both"): (0.0, -0.1, 0.1, 9)}
    said = lora_study.answer(task, gaps, found, changes, scores)
    assert "survives is smaller with p (-0.100 [-0.200, -0.050]) and not shown to differ with q" in said
    assert "PSNR of normal images is lower with p" in said and "higher with q (+1.000" in said
    assert "The I-AUROC is higher with p (+0.100" in said and "it detects better than the round trip (+1.000" in said
    assert "Without defect-free counterparts" in lora_study.answer(task, gaps, {}, changes, scores)


# --- 05 to 07 ---------------------------------------------------------------------------------------------------------


NOISE = torch.rand(40, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("variance", "end"),
    [
        (lambda border, masks: border + NOISE, "no relation to the defects themselves is shown"),
        (lambda border, masks: NOISE - 2 * masks.float(), "no relation to the defects themselves"),  # both near 0
        (lambda border, masks: NOISE + 2 * masks.float(), "no relation to the defects themselves"),  # as the middle's
        (lambda border, masks: NOISE, "no relation of the variance to the defects is shown"),
    ],
)
def test_a_variance_marks_defects_only_beyond_their_place(task, variance, end):
    border = score_matching.nearness_to_border(task.masks)
    assert border[0, 0, 5] == 0 == border[0, 5, 15] and border[0, 8, 7] == -7
    maps = variance(border, task.masks)[:, None]
    task.images[:, :, :, 8:] = 1.0
    marks = score_matching.what_variance_marks({100: maps}, task).set_index("measure")
    alone = marks.loc["border alone", "mean"]
    assert alone == 0 and marks.loc["defect minus border alone", "mean"] == pytest.approx(
        marks.loc["defect", "mean"] - alone
    )
    said = score_sentences.variance_marks(marks.reset_index(), 80, {100: maps})
    assert end in said and "has exactly 0" in said


@pytest.mark.parametrize(
    ("defect", "border", "gap", "more"),
    [
        ((0.10, 0.05, 0.15), (0.21, 0.16, 0.25), (-0.11, -0.15, -0.05), True),
        ((0.29, 0.23, 0.36), (0.21, 0.16, 0.25), (0.08, 0.02, 0.15), False),  # differs from the border, but nearer 0.5
        ((0.60, 0.55, 0.70), (0.21, 0.16, 0.25), (0.39, 0.30, 0.48), False),  # the middle alone would have 0.79
        ((0.95, 0.90, 0.97), (0.21, 0.16, 0.25), (0.74, 0.70, 0.78), True),
    ],
)
def test_a_variance_is_beyond_the_place_only_if_further_from_a_half_than_border_and_middle(defect, border, gap, more):
    names = {"structure": (0.0, -0.1, 0.1), "defect": defect, "border alone": border, "defect minus border alone": gap}
    rows = [dict(zip(("t", "measure", "mean", "low", "high"), (9, n, *v), strict=True)) for n, v in names.items()]
    said = score_sentences.variance_marks(pd.DataFrame(rows).assign(images=30), 9, {9: torch.ones(3, 1, 5, 5)})
    assert ("by more than their place in the image" in said) == more
    assert ("not shown to be further from 0.5" in said) != more


def test_the_control_of_the_place_has_the_sign_of_the_maps(task):
    maps = torch.zeros(40, 2, 15, 15)
    maps[:, :, 4:-4, 4:-4] = 1.0
    task.images[:, :, :, 8:] = 1.0
    marks = score_matching.what_variance_marks({1: maps + NOISE[:, None, 1:, 1:]}, task)
    said = score_map_sentences.place({1: maps, 50: 1 - maps}, marks)
    assert "At t = 1 the maps are brighter inside than in the outer 3 cells" in said and "would have 1.00" in said
    assert "At every t" in score_map_sentences.place({50: 1 - maps}, marks)
    shown = {"t = 1": torch.tensor([1.0, 0.0])[:, None, None], "t = 50": torch.tensor([0.0, 1.0])[:, None, None]}
    said = score_map_sentences.darkest(shown | {"t = 9": shown["t = 1"]}, ["hole", "good"])
    assert "is column 2 (good) at t = 1 and 9 and column 1 (hole) at t = 50." in said


def test_early_stops_name_their_largest_change_and_settling_its_limit():
    table = pd.DataFrame({"method": ["SGM"] * 3 + ["ESM"] * 3, "t": [80, 50, 0] * 2})
    table["I-AUROC"] = [0.6, 0.7, 0.75, 0.8, 0.74, 0.75]
    said = score_sentences.stopping(dict.fromkeys(("C51", "C52"), Effect(0.0, -0.1, 0.1, 40)), table)
    assert "largest change by stopping early is -0.150 at t = 80 (SGM) and +0.050 at t = 80 (ESM)" in said


def test_the_printed_schedule_is_a_misprint_only_if_the_authors_used_this_schedule():
    table = score_toys.schedule_candidates(NoiseSchedule.linear())
    said = score_toy_sentences.schedule_of_the_paper(table, score_toys.PRINTED_VARIANCE)
    assert "If the authors used it, the printed formula is a misprint; no other schedule was tried" in said
    assert "do not fit this schedule" in score_toy_sentences.schedule_of_the_paper(table, {200: 0.5})


def test_the_variance_of_one_number_is_compared_with_that_of_the_noise():
    tables = score_toys.posterior_tables(score_toys.one_number(), NoiseSchedule.linear(), [100, 300])
    said = score_toy_sentences.one_number(tables)
    assert "So the variance can be larger than the noise's at some $X_t$" in said
    assert "So the variance can be" not in score_toy_sentences.one_number(dict(reversed(tables.items())))


def test_the_answer_of_05_names_every_rival_for_both_methods(task):
    def row(difference):
        return {"difference": difference, "low": difference - 0.1, "high": difference + 0.1}

    alone = {"SGM": row(0.2), "ESM": row(0.0), "ESM-sigma": row(-0.3)}
    formula = {"SGM": row(0.2), "ESM": row(0.15), "ESM-sigma": row(0.3)}
    scores = {"SGM": BAD, "ESM": GOOD, "ESM-sigma": GOOD}
    found = score_detection.Controls(pd.DataFrame(), alone, formula)
    gains = [Effect(0.01, -0.1, 0.1, 40), Effect(0.05, 0.01, 0.1, 40)]
    said = score_sentences.answer(task, scores, found, TRIVIAL, gains)
    assert "**Does dividing by it help to detect defects?** Not shown here. On x/y" in said
    assert "ESM detects better than SGM, which predicts no variance (+1.000" in said
    assert "ESM-sigma detects better than SGM" in said and "worse than the autoencoder alone (-0.300" in said
    assert "the closed form (+0.150" in said and "the closed form (+0.300" in said
    assert said.endswith(
        "a method above the autoencoder alone, the closed form and the trivial baseline: here none of SGM, ESM and "
        "ESM-sigma."  # SGM is above both controls, but below the trivial baseline
    )
    assert "the trivial baseline (+0.500" in said and "goes from +0.010 to +0.050" in said
    pixel = score_detection.Controls(pd.DataFrame(), alone, alone)
    said = score_sentences.answer(task, scores, pixel, TRIVIAL, gains[1:])
    assert "Here it does." in said and "autoencoder" not in said and "This is one training." in said
    none = {"SGM": row(0.0), **{name: alone[name] for name in ("ESM", "ESM-sigma")}}
    said = score_sentences.answer(task, scores, score_detection.Controls(pd.DataFrame(), none, none), TRIVIAL, gains)
    assert said.endswith("above the closed form and the trivial baseline: here none of SGM, ESM and ESM-sigma.")


def test_words_of_05_fit_one_training_and_a_choice_that_is_a_tie():
    once = {key: [Effect(0.0, -0.1, 7e-6, 40)] for key in score_claims.MAIN}
    said = score_sentences.seeds(once)
    assert said.count("one training") == 1 and "ESM minus SGM no difference [-0.100, just above 0]" in said
    assert "So few" not in said
    tried = pd.DataFrame({"noise_timestep": [20, 50, 100], "selection": [0.5, 0.768, 0.769]})
    assert "$T_d$ = 100 is taken, with 0.769; next is 50 with 0.768." in score_sentences.chosen(tried)
    assert "this is a tie" in score_sentences.chosen(tried) and "tie" not in score_sentences.chosen(tried[:2])
    assert "nothing was tried" in score_sentences.chosen(tried[:1])
    assert "defects" in score_sentences.marks_caption(True) and "defects" not in score_sentences.marks_caption(False)


def test_training_is_said_to_get_there_only_where_the_error_is_small():
    names = ["SGM (eq. 4)", "ESM (eq. 3)", "ESM, theory", "ESM against theory", "sigma^2", "closed form, drawn"]
    small, large = ({name: [first, 0.01] for name in names} | {"t": [20, 300]} for first in (0.02, 0.8))
    said = score_toy_sentences.toy_errors({"a": pd.DataFrame(small), "b": pd.DataFrame(large)})
    assert "The learnt score of eq. 4 is within 5% at every t. So is that of eq. 3." in said
    assert "eq. 4 is at most 2.0% of the true score (at t = 20)" in said
    short = score_toy_sentences.where_learnt(
        {name: pd.DataFrame(rows).to_dict("records") for name, rows in {"a": small, "b": large}.items()}
    )
    assert "a: learnt at every t; b: not learnt at t = 20 (of 2 t each" in short
    assert (
        "not get there at small t, at t = 20: the score of eq. 4 is off by more than 5%. Within 5% it is at t = 300."
        in said
    )


@pytest.mark.parametrize(
    ("apart", "end"),
    [
        (0.02, "The rest of eq. 3's error is in the formula"),
        (0.3, "differs from its exact optimum by up to 30.0% of the latter, so its error is not"),
        (3.0, "differs from its exact optimum by up to 3 times the latter, so its error is not"),
    ],
)
def test_what_is_left_in_eq_3_is_its_own_error_only_if_training_reaches_its_optimum(apart, end):
    table = pd.DataFrame({"t": [20], "SGM (eq. 4)": [0.02], "ESM (eq. 3)": [0.069], "ESM, theory": [0.075]})
    table = table.assign(**{"ESM against theory": [apart], "sigma^2": [0.01], "closed form, drawn": [0.001]})
    said = score_toy_sentences.toy_errors({"a": table})
    assert end in said and "So is that" not in said


@pytest.mark.parametrize("edge", [True, False])
def test_stripes_are_more_than_a_frame(edge):
    """A frame with noise inside against stripes through the whole map."""
    noise = torch.rand(30, 2, 15, 15, generator=torch.Generator().manual_seed(0))
    frame = torch.ones(15, 15)
    frame[3:-3, 3:-3] = 0
    stripes = (torch.arange(15) % 4 < 2).float().expand(15, 15)
    maps = dict.fromkeys((1, 50), 5 * (frame if edge else stripes) + noise)
    shown = {"t = 1": noise[:2, 0]}
    said = score_sentences.variance_maps(score_matching.variance_table(maps), maps, shown, ["hole", "good"])
    assert "One image is no evidence." in said
    assert "maps of 30 images" in said and "Without the outer 3 cells on each side a plaid explains" in said
    assert ("What makes the stripes further in is not tested" in said) != edge


@pytest.mark.parametrize(
    ("esm", "sgm", "said"),
    [
        ([0.6, 0.7], [0.6, 0.7], " 100 is the largest tried; the best of ESM and SGM may lie beyond."),
        ([0.6, 0.7], [0.7, 0.6], " 100 is the largest tried; the best of ESM may lie beyond."),
        ([0.7, 0.6], [0.7, 0.6], None),
    ],
)
def test_a_best_at_the_end_of_the_range_may_lie_beyond(esm, sgm, said):
    table = pd.DataFrame({"variant": ["ESM"] * 2 + ["SGM"] * 2, "T_d": [50, 100] * 2, "I-AUROC": [*esm, *sgm]})
    words = score_sentences.timesteps(table, (0.0, -1.0, 1.0))
    assert said in words if said else "beyond" not in words
    assert "below chance" not in words
    low = score_sentences.timesteps(table.assign(**{"I-AUROC": [0.45, *table["I-AUROC"][1:]]}), (0.0, -1.0, 1.0))
    assert "The I-AUROC is below chance, 0.5, for ESM at $T_d$ = 50." in low
    assert f"$T_d$ = {100 if esm[1] > esm[0] else 50} for ESM" in words and "as many steps as ESM" in words


def test_the_main_result_of_05_stands_before_its_reasons(task):
    rows = {name: {"difference": 0.2, "low": 0.1, "high": 0.3} for name in ("SGM", "ESM", "ESM-sigma")}
    worse = rows | {"ESM": {"difference": 0.0, "low": -0.1, "high": 0.1}}
    found = score_detection.Controls(pd.DataFrame(), worse, rows)
    scores = {"SGM": GOOD, "ESM": GOOD, "ESM-sigma": BAD}
    said = score_sentences.main_result(task, scores, found, TRIVIAL, [Effect(-0.1, -0.2, -0.05, 40)])
    assert "Here it does not; it costs accuracy. ESM minus SGM is -0.100 [-0.200, -0.050] I-AUROC" in said
    assert said.endswith("above the autoencoder alone, the closed form and the trivial baseline: here SGM.")


def test_a_plain_field_keeps_no_contrast(task):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    green = torch.zeros(3, 3, 8, 8)
    green[:, 1] = 0.8
    half = 0.5 * images + 0.3
    kept = score_contrast.contrast_kept(torch.cat([images, images, green]), torch.cat([green, half, green]))
    assert kept[:3].tolist() == pytest.approx([0, 0, 0], abs=1e-6) and kept[3:6].tolist() == pytest.approx([0.5] * 3)
    assert kept[6:].isnan().all()  # an image without contrast has none to keep
    task = Task("x/y", None, None, torch.arange(3), {"image": images, "label": torch.tensor([0, 1, 1])})
    pixels = type("Detector", (), {"space": "pixel"})()
    table = score_contrast.kept_by_all(pixels, {"SGM": Prediction(torch.zeros(3), reconstruction=half)}, task)
    assert table["mean"].tolist() == pytest.approx([0.5]) and list(table["name"]) == ["SGM"]
    assert "50% [50%, 50%] in SGM" in score_contrast.in_words(table)
    said = score_contrast.in_words(table)
    assert "standard deviation over the pixels" in said and "squares of 9 pixels, 50% (SGM) is left" in said
    shading = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    assert float(score_contrast.fine(shading)[..., 4:-4].abs().max()) < 1e-6  # a slope is no texture
    pixels._input = staticmethod(lambda images: images)
    strips = {"SGM": half[:2]}, ["t = 9", "t = 0"], {"SGM": ["1, 1", "2, 2"]}
    rows, titles, captions = score_contrast.beside_image(strips, pixels, task)
    assert torch.equal(rows["SGM"], torch.cat([images[1:2], half[:2]])) and titles == ["image", "t = 9", "t = 0"]
    assert captions == {"SGM": ["", "1, 1", "2, 2"]} and len(strips[0]["SGM"]) == 2
    assert score_contrast.of_last({"SGM": half[:2]}, task)["SGM"] > 0


def test_the_answer_of_06_takes_each_modification_alone():
    draws = np.linspace(0.05, 0.1, 50)
    gains = {
        "gain of scaling, I-AUROC": draws,
        "gain of adaptation, I-AUROC": -draws,
        "gain of DIC, I-AUROC": draws - 0.07,
    }
    controls = [{"what": "nearest neighbours alone", "difference": 0.1, "low": 0.05, "high": 0.2}]
    said = d3ad_claims.answer("x/y", gains, controls)
    assert "each alone and by the I-AUROC: scaling without noise helps (+0.0" in said
    assert "domain adaptation of the features does harm" in said and "the dynamic step is not shown to help or" in said
    assert "D3AD detects better than nearest neighbours alone (+0.100" in said


def test_the_answer_of_07_needs_both_forms_of_its_control(task):
    scores = {"InvAD": GOOD, "no diffusion": BAD, "trivial baseline": BAD}
    assert "features alone do?** Yes. InvAD detects better than the features alone (" in inversion_sweeps.answer(
        task, scores
    )
    both = scores | {inversion.ONE_CATEGORY: GOOD}
    said = inversion_sweeps.answer(task, both)
    assert "Only in part. InvAD detects better than the features alone, standardised over all categories (+1" in said
    assert "worse than those standardised on y alone (exactly 0" in said and "fairest" not in said
    assert "A gain is shown in 1 of these 2 comparisons; a yes takes all of them, the verdict on claim C37 only" in said
    assert "Not shown." in inversion_sweeps.answer(task, scores | {"no diffusion": GOOD})
    assert "comparisons" not in inversion_sweeps.answer(task, scores) and "skip" not in said
    said = inversion_sweeps.answer(task, scores, None, BAD)
    assert "Without it, as in the paper, the network is not shown to detect better or worse than the features" in said
    said = inversion_sweeps.answer(task, both | {"no diffusion": GOOD}, None, BAD)
    assert "the network detects worse than the features alone, standardised over all categories (-1.000" in said


@pytest.mark.parametrize(
    ("scale", "end"), [(0.2, "too small for such"), (1.0, "in size they are like such"), (3.0, "too large for such")]
)
def test_07_says_whether_normal_latents_have_the_size_of_a_standard_normal(scale, end):
    z = (
        torch.randn(40, 192, 8, 8, generator=torch.Generator().manual_seed(0))
        * torch.where(GOOD > 0, 9.0, scale)[:, None, None, None]
    )
    said = inversion_sweeps.size_of_latents(gaussian_nll(z), GOOD, 192 * 64)
    size = float(z[:20].double().square().mean().sqrt())
    assert end in said and f"the latents are {size:.3f}; 95 % of such samples lie within 0.013 of 1" in said
    assert "(12288) have 17436. " in said


def test_07_says_what_its_maps_and_ranks_show(task):
    maps = torch.zeros(40, 16, 16)
    maps[0, 0, 0], maps[20, 7, 7], maps[21, 0, 0] = 1.0, 2.0, 0.5
    said = inversion_sweeps.maps_shown(task, maps, torch.tensor([20, 21, 0, 1]))
    assert said == (
        "The maps of the normal images shown reach 50% of the largest value shown. No brighter than that anywhere: "
        "hole. The brightest pixel lies in the mask in 1 of the 2 images that have one."
    )
    assert "Each defect shown has a brighter spot." in inversion_sweeps.maps_shown(task, maps, torch.tensor([20, 1]))
    said = inversion_sweeps.moved_in_rank(BAD, GOOD, GOOD)
    assert said.endswith("20 of 20 anomalous images are above the diagonal, and 20 of 20 normal ones below it.")


@pytest.mark.parametrize(
    ("control", "head", "said"), [(BAD, "Yes.", "detects better"), (GOOD, "Only in", "is not shown")]
)
def test_the_fairest_pair_of_07_counts_in_its_answer(task, control, head, said):
    pair = {"one category, InvAD": Prediction(GOOD), "one category, no diffusion": Prediction(control)}
    scores = {"InvAD": GOOD, "no diffusion": BAD, "trivial baseline": BAD, inversion.ONE_CATEGORY: BAD}
    answer = inversion_sweeps.answer(task, scores, pair)
    assert f"features alone do?** {head}" in answer
    assert f"one category and one standardisation: InvAD trained on y alone {said}" in answer
    assert inversion_sweeps.fairest_pair(task, {}) is None


def test_07_says_what_each_form_of_the_control_shows():
    table = pd.DataFrame({"label": ["InvAD", "no diffusion", inversion.ONE_CATEGORY], "I-AUROC": [0.839, 0.750, 0.826]})

    def words(difference, other):
        return inversion_sweeps.against_features(difference, other, "y", table)

    effect, harm, unclear = (0.1, 0.05, 0.2), (-0.1, -0.2, -0.05), (0.0, -0.1, 0.1)
    alone = words(effect, None)
    assert alone.startswith("**InvAD is above the same score without diff") and "standardised" not in alone
    said = words(effect, unclear)
    assert "standardising on y alone gives 0.826; InvAD has 0.839, and no gain is shown: +0.000 [-0.100" in said
    assert said.endswith("alone takes the score without diffusion from 0.750 to 0.826. ")
    said = words(effect, effect)
    assert "which is above it: +0.100" in said and "no gain" not in said
    assert "So the diffusion does more than this choice of standardisation." in said
    assert "So this choice of standardisation does more than the diffusion." in words(effect, harm)
    assert words(unclear, unclear).endswith("which is not shown to differ from it: +0.000 [-0.100, +0.100]. ")


@pytest.mark.parametrize(
    ("lower", "upper", "end"),
    [
        ((0.1, 0.02, 0.2), (0.14, 0.04, 0.26), "So the noise level matters more here."),
        ((0.1, -0.02, 0.2), (0.14, 0.04, 0.26), "So it is not decided which matters more."),
        ((-0.3, -0.4, -0.2), (-0.1, -0.2, -0.05), "So the number of inversion steps matters more here."),
        ((-0.3, -0.4, -0.2), (0.0, -0.1, 0.1), "So it is not decided which matters more."),
    ],
)
def test_07_decides_which_choice_matters_more_by_both_bounds(lower, upper, end):
    said = inversion_sweeps.which_matters_more({("C34", "lower"): lower, ("C34", "upper"): upper})
    assert said.endswith(f"**{end}**") and f"{upper[0]:+.3f} [" in said


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (0.82, "it is at 0.570 [0.550, 0.590]: **in this training more steps made it worse**. Why is not known."),
        (0.58, "it is at 0.570 [0.550, 0.590]: the two intervals overlap, so a change by more steps is not shown."),
        (0.4, "it is at 0.570 [0.550, 0.590]: in this training more steps made it better."),
    ],
)
def test_07_says_how_the_papers_form_of_network_starts_and_ends(task, first, end):
    curve = pd.DataFrame({"network": ["InvAD, seed 0"] * 2 + ["InvAD, no skip connection"] * 2, "step": [50, 400] * 2})
    curve = curve.assign(**{"I-AUROC": [0.81, 0.84, first, 0.57]})
    curve = curve.assign(low=curve["I-AUROC"] - 0.02, high=curve["I-AUROC"] + 0.02)
    scores = {"InvAD": GOOD, "no diffusion": NOISE_SCORE, "trivial baseline": NOISE_SCORE}
    said = inversion_sweeps.over_training(curve, task, scores, BAD, 1)
    assert f"At step 50 it was at {first:.3f} [" in said and "(InvAD 0.810); after 400 steps " + end in said
    assert "At step" not in inversion_sweeps.over_training(curve[:3], task, scores, BAD, 1)


NOISE_SCORE = torch.tensor([0.0, 1.0]).repeat(20)


@pytest.mark.parametrize(
    ("plain", "end"), [(BAD, "finds less than"), (GOOD, "finds more than"), (NOISE_SCORE, "is not shown to find more")]
)
def test_07_says_whether_the_papers_form_of_network_beats_the_features(task, plain, end):
    curve = pd.DataFrame({"network": ["a"] * 3 + ["b"], "step": [0, 200, 400, 400], "I-AUROC": [0.5, 0.7, 0.8, 0.4]})
    scores = {"InvAD": GOOD, "no diffusion": NOISE_SCORE, "trivial baseline": NOISE_SCORE}
    said = inversion_sweeps.over_training(curve, task, scores, plain, 1)
    assert "from 0.500 untrained to 0.800. From step 200 to 400 it changes by +0.100" in said
    worse = "detects worse than InvAD (-1.000 [-1.000, -1.000]), the score without diffusion (-0.500"
    assert (f"the paper's form, after 400 steps {worse}" in said) == (plain is BAD)
    assert f"So at this length the paper's form of network {end}" in said and "With three or more" in said
    assert "is not trained in this run" in inversion_sweeps.over_training(curve, task, scores, None, 3)
