"""Notebook 05's controls, seeds, subsets and cost."""

import json

import numpy as np
import pytest
import torch

from diffad_utils import data, metrics
from diffad_utils.analyses import score_detection, score_matching, score_sentences, score_sweeps
from diffad_utils.analyses.latent_inversion import inverted
from diffad_utils.analyses.score_claims import MEASURES, Effect, compared, esm_findings, printed_timesteps
from diffad_utils.analyses.task import Task
from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.io.paths import repository
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm import SGM
from diffad_utils.methods.esm.inversion import SGMInversion
from diffad_utils.study import claims, verdicts

SCHEDULE = NoiseSchedule.linear()
SMALL = dict(image_size=64, space="latent", block_out_channels=(8, 16), dsm_steps=2, train_steps=2, train_batch_size=2)
SMALL |= dict(warmup_steps=1, stride=10, seed=0, device="cpu", noise_timesteps=(10, 20))


@pytest.fixture(scope="module")
def task():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(20), size=64)
    test = data.ImageDataset(index[index["split"] == "test"].groupby("label", group_keys=False).head(3), size=64)
    return Task("textures/carpet", train, test, torch.arange(6), data.load_batch(test), bootstrap_samples=20)


@pytest.fixture(scope="module")
def detectors(task):
    return score_detection.fit_three(task.train, SMALL, 20)


def labelled(labels, masks=None):
    batch = {"label": torch.tensor(labels), "image": torch.zeros(len(labels), 3, 8, 8), "key": [*map(str, labels)]}
    batch["mask"] = torch.zeros(len(labels), 8, 8, dtype=torch.bool) if masks is None else masks
    return Task("x", None, None, torch.arange(len(labels)), batch, bootstrap_samples=20)


# --- is it the diffusion? ---------------------------------------------------------------------------------------------


def test_an_elementwise_gaussian_is_the_optimum_of_eq_10_for_such_data():
    generator = torch.Generator().manual_seed(0)
    x0 = 2 + 0.5 * torch.randn(4000, 1, 2, 2, generator=generator)
    streams = score_detection.ElementwiseGaussian(x0, SCHEDULE)
    alpha = float(SCHEDULE.alphas_cumprod[300])
    noise = torch.randn(x0.shape, generator=generator)
    eps, variance = streams(alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise, torch.full((4000,), 300))
    residual = (1 - alpha) * (noise - eps).square().mean()
    assert residual == pytest.approx(float(variance.mean()), rel=0.05)  # (a): the variance is the squared residual
    assert streams(x0[:1], torch.tensor([300]), return_dict=False)[0].shape == (1, 1, 2, 2)


@pytest.mark.slow
def test_controls_have_no_network(task, detectors):
    predictions = score_detection.measure_all(detectors, task)[1]
    found = score_detection.controls(detectors, predictions, task)
    assert found.table.groupby("row").size().to_dict() == {
        "with its network": 3,
        "closed form": 3,
        "autoencoder alone": 3,
    }
    for name, record in found.no_diffusion.items():
        assert set(record) >= {"I-AUROC", "difference", "low", "high", "what"} and "Dec(Enc" in record["what"]
        own = found.table.set_index(["method", "row"])["I-AUROC"]
        assert record["difference"] == pytest.approx(own[name, "with its network"] - record["I-AUROC"])
    assert len({record["I-AUROC"] for record in found.no_diffusion.values()}) == 1  # one autoencoder for all
    assert "closed form" in score_sentences.no_diffusion(found)
    other = score_detection.closed_form(detectors["SGM"], task.train)
    with torch.no_grad():
        for weight in detectors["SGM"].network_.parameters():
            weight.add_(1.0)
    again = score_detection.closed_form(detectors["SGM"], task.train)
    assert torch.equal(other.predict(task.images, task.keys).score, again.predict(task.images, task.keys).score)
    with torch.no_grad():
        for weight in detectors["SGM"].network_.parameters():
            weight.sub_(1.0)


def test_pixel_space_has_no_autoencoder(task):
    sgm = SGM(**SMALL | {"space": "pixel"}, noise_timestep=20)
    with pytest.raises(ValueError, match="pixel space has none"):
        score_detection.without_diffusion(sgm, task.images)


def test_inversion_with_the_same_network(task, detectors):
    own = detectors["SGM"].predict(task.images, task.keys)
    found = inverted(SGMInversion, detectors["SGM"], own, task)
    assert (found.prediction.nfe, found.no_diffusion.nfe) == (3, 0)
    effects = score_detection.inversion_effects(found, task)
    gain = task.difference(found.prediction.score, own.score)
    assert effects["C42"][:3] == gain and effects["C42"].n == 6
    record = found.to_record(task, task.trivial_baseline())
    assert record["detector"].network_ is detectors["SGM"]
    of_control = metrics.image_auroc(found.no_diffusion.score, task.labels)
    assert record["experiments"]["no_diffusion"]["I-AUROC"] == pytest.approx(float(of_control))
    assert record["experiments"]["own_inference"]["difference"] == pytest.approx(gain[0])
    said = found.in_words(task, "reconstruction")
    assert f"{gain[0]:+.3f}" in said and "3 evaluations" in said


# --- seeds, subsets, sweeps -------------------------------------------------------------------------------------------


def test_comparisons_have_an_effect_for_each_training():
    task = labelled([0, 0, 1, 1])
    good, bad = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0, 0.0])
    scores = {"SGM": bad, "ESM": good, "ESM-sigma": good}
    training = score_detection.Trained({name: Prediction(s) for name, s in scores.items()}, good)
    found = score_detection.comparisons(task, {0: training, 1: training})
    assert set(found) == {"C44", "C46 image", "C47a"}  # no masks, no pixels
    assert [(e.effect, e.seed, e.n) for e in found["C44"]] == [(1.0, 0, 4), (1.0, 1, 4)]
    assert [e.effect for e in found["C46 image"]] == [0.0, 0.0] == [e.effect for e in found["C47a"]]
    assert "the sign is the same each time" in score_sentences.seeds(found)
    assert list(score_detection.effects_table(found)["seed"]) == [0, 1] * 3


def test_subsets_of_detectors_leave_images_without_masks_out_of_pixel_metrics():
    class Summed:
        combine = staticmethod(lambda maps, weights: sum(maps[name] for name in weights))
        score = staticmethod(lambda combined: combined.flatten(1).amax(dim=1))

    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[2:, 2:4, 2:4] = True
    maps = {"re": masks + torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) / 2}
    masks[3] = False
    table, _ = score_sweeps.detector_subsets(Summed(), maps, labelled([0, 0, 1, 1], masks))
    assert table.loc[0, "P-AUROC"] == 1.0  # the map of the last image would be nothing but false alarms
    assert "P-AUROC" not in score_sweeps.detector_subsets(Summed(), maps, labelled([0, 0, 1, 1]))[0]


def test_table_5_compares_all_four_with_every_smaller_subset(task, detectors):
    measured = score_detection.measure_all(detectors, task)[0]
    table, effects, ranks = score_sweeps.table_5(detectors, measured, task)
    assert table.groupby("method").size().to_dict() == {"ESM": 15, "ESM-sigma": 15} and "P-AUROC" in table
    assert sum(key.startswith("C55") for key in effects) == 14 and effects["C56"] == effects["C55 cos+re"]
    assert list(ranks) == ["cos", "u", "kl", "re"] and "of the 14 smaller" in score_sentences.detectors(
        table, effects, ranks
    )
    rows = esm_findings(effects, "")
    claim = claims.published_claims().loc["C55"]
    assert len({verdicts.variant_of(claim, row["measure"]) for row in rows if row["claim_id"] == "C55"}) == 14


def test_steps_needed_counts_to_within_the_margin_of_the_best():
    labels = torch.tensor([0] * 4 + [1] * 4)
    perfect, chance = torch.arange(8.0), torch.tensor([0.0, 1, 2, 3] * 2)
    scores = {"SGM": {4: chance, 10: chance, 20: perfect}, "ESM": {4: chance, 10: perfect, 20: perfect}}
    assert score_sweeps.steps_needed(scores, labels, 50, 0)[:3] == (1.0, 1.0, 1.0)  # 20 against 10


def test_largest_inside():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, 0, 0] = True
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0] = maps[1, 3, 3] = 1
    assert score_detection.largest_inside(maps, masks).tolist() == [True, False]


# --- claims and cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in MEASURES if key != "C55"])
def test_measures_are_those_fixed_in_advance(key):
    table = claims.published_claims()
    measure = MEASURES[key][0]
    row = claims.claim_row(key.split()[0], measure, table)
    assert verdicts.variant_of(table.loc[row], measure), f"{row}: {measure}"


def test_sections_are_headings_of_the_notebook():
    cells = json.loads((repository() / "notebooks/05_esm.ipynb").read_text(encoding="utf-8"))["cells"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    headings = {line.lstrip("# ") for cell in text for line in cell.splitlines() if line.startswith("#")}
    assert {section for _, section in MEASURES.values()} <= headings


def test_findings_have_a_seed_each_and_leave_other_words_out():
    effects = [Effect(0.1, 0.05, 0.15, 100, seed) for seed in (3, 4)]
    rows = esm_findings({"C44": effects, "C48": Effect(0.2, 0.1, 0.3, 200), "estimate": effects[0]}, "small")
    assert [(r["claim_id"], r.get("seed"), r["note"]) for r in rows] == [
        ("C44", 3, "small"),
        ("C44", 4, "small"),
        ("C48", None, ""),
    ]
    with pytest.raises(ValueError, match="C99"):
        esm_findings({"C99": effects}, "")


def test_words_follow_the_interval():
    assert compared((0.1, 0.05, 0.2)) == "above" and compared((-0.1, -0.2, -0.05)) == "below"
    assert compared((0.1, -0.05, 0.2)) == "not shown to differ from" and compared((0.6, 0.55, 0.7), 0.5) == "above"


def test_cost_counts_seconds():
    times = {n: {"step": np.array([s] * 3), "rest": np.zeros(3)} for n, s in (("SGM", 1.0), ("ESM", 2.0))}
    times["ESM-sigma"] = {"step": np.array([3.0] * 3), "rest": np.zeros(3)}
    found = score_detection.cost_effects(times, np.array([50.0, 150.0]), 20, 0)
    assert found["C60b"].effect == pytest.approx(1000 / 200) and found["ESM-sigma"].effect == pytest.approx(1000 / 300)
    assert (found["C60a"].effect, found["C61"].effect) == (150, pytest.approx(0.7))
    assert len(printed_timesteps()) == 33 and "times as fast" in score_sentences.cost([50.0, 150.0], found)


# --- data without masks -----------------------------------------------------------------------------------------------


def test_without_masks_nothing_is_said_of_pixels():
    task = labelled([0, 0, 1, 1])
    task = Task("x", [0] * 7, None, task.rows, task.batch, bootstrap_samples=20)
    predictions = {
        name: Prediction(torch.arange(4.0), torch.rand(4, 8, 8), torch.full((4, 3, 8, 8), 0.25))
        for name in ("SGM", "ESM", "ESM-sigma")
    }
    assert "covers" not in score_sentences.problem(task) and "7 normal images" in score_sentences.problem(task)
    said = score_sentences.maps(predictions, task)
    assert "0.250 (ESM)" in said and "There are no masks" in said
    record = task.control_row(predictions["ESM"].score, torch.ones(4), "nothing", torch.rand(4, 8, 8))
    assert "AUPRO" not in record and (record["I-AUROC"], record["difference"]) == (0.5, 0.5)
    ratios = {t: torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(t)) for t in (1, 100)}
    task.images[:, :, :, 4:] = 1.0
    marks = score_matching.what_variance_marks(ratios, task)
    assert set(marks["measure"]) == {"structure"} and len(marks) == 2
    assert "At t = 100" in score_sentences.variance_marks(marks, 80, ratios)
    assert "pixel" not in score_sentences.variance_marks(marks, 80, ratios)
