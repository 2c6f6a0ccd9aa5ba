"""GLAD's four forms on one task, their sentences and their record."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from benchmarks import glad
from diffad_utils import data
from diffad_utils.analyses import glad_study
from diffad_utils.analyses.conditioned_controls import AUTOENCODER, GATE
from diffad_utils.analyses.glad_study import BOTH, PLAIN
from diffad_utils.analyses.paired_comparison import BootstrapQuality
from diffad_utils.analyses.task import Task
from diffad_utils.methods.glad import GLAD

PARAMETERS = GLAD.contract_settings | {"image_size": 64, "seed": 0, "glad_steps": 4, "t_max": 80}


@pytest.fixture(scope="module")
def task():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=64)
    test = data.ImageDataset(index[index["split"] == "test"].groupby("label", group_keys=False).head(6), size=64)
    return Task("textures/carpet", train, test, torch.arange(12), data.load_batch(test), bootstrap_samples=20)


@pytest.fixture(scope="module")
def forms(task):
    return glad_study.four_forms(PARAMETERS, task, "cpu")


def test_the_forms_differ_in_training_and_step_alone(forms):
    names = {f"{training}, {rule}" for training in ("plain", "pasted") for rule in ("neighbours", "criterion")}
    assert set(forms.predictions) == names == {name for pair in glad_study.QUESTIONS.values() for name in pair}
    assert forms.detector.pasted_share == 0.5 and forms.detector.step_rule == "criterion"
    assert forms.detector.t_max == GLAD.t_max and forms.detector.train_steps == 4  # D3AD's T_max is not taken over
    steps = {name: found.parts["step"] for name, found in forms.predictions.items()}
    assert torch.equal(steps[PLAIN], steps["pasted, neighbours"])  # features alone choose it
    assert not torch.equal(forms.predictions[PLAIN].score, forms.predictions["pasted, neighbours"].score)


def test_differences_are_of_the_forms_that_the_question_names(forms):
    found = glad_study.differences(forms.quality, "I-AUROC")
    of = forms.quality.metric("I-AUROC")
    assert np.array_equal(found["both"], of[BOTH] - of[PLAIN])
    total = found["pasted anomalies in training (step by neighbours)"] + found["the criterion's step (pasted training)"]
    assert np.allclose(total, found["both"])


def test_sentences_say_where_the_interval_lies():
    draws = np.linspace(0.6, 0.7, 21)
    values = {f"{a}, {b}": {"I-AUROC": draws.copy()} for a in ("plain", "pasted") for b in ("neighbours", "criterion")}
    values[AUTOENCODER] = {"I-AUROC": draws + 0.2}
    values[BOTH]["I-AUROC"] = draws + 0.1
    said = glad_study.in_words(BootstrapQuality(values, 12))
    assert "both +0.100 [+0.100, +0.100], above zero" in said
    assert "without diffusion -0.100 [-0.100, -0.100], below zero" in said
    assert "(step by neighbours) exactly 0, not shown to differ from zero" in said
    assert "AUPRO" not in said


def test_the_record_has_its_control_and_its_plain_form(forms, task):
    record = glad_study.to_record(forms, task, task.trivial_baseline())
    control = record["experiments"]["no_diffusion"]
    assert control["what"] == AUTOENCODER and control["low"] <= control["difference"] <= control["high"]
    assert record["experiments"]["no_diffusion_neighbours"]["what"] == GATE
    assert {row["form"] for row in record["experiments"]["forms"]} == {*forms.predictions, AUTOENCODER}
    assert record["prediction"] is forms.predictions[BOTH] and record["timing"]["ms_per_image"] > 0
    said = glad_study.cost_in_words(forms, task.labels)
    assert f"{PARAMETERS['num_steps']}.0 network evaluations" in said


# --- the benchmark ----------------------------------------------------------------------------------------------------


def run_of(effect):
    """What `benchmarks.glad.measure` returns, with one effect for every question and metric."""
    forms = [f"{training}, {rule}" for training in ("plain", "pasted") for rule in ("neighbours", "criterion")]
    cost = {"evaluations": 10.0, "ms": 5.0, "fit_s": 20.0, "step, normal": 96.0, "step, anomalous": 120.0}
    return {
        "forms": [{"form": form, "threshold": None} | cost for form in forms],
        "metrics": [{"form": form, "metric": "I-AUROC", "value": 0.7, "low": 0.6, "high": 0.8} for form in forms],
        "differences": [
            {"question": question, "metric": "I-AUROC", "effect": effect, "standard_error": 0.01}
            for question in glad_study.QUESTIONS
        ],
    }


def test_the_benchmark_pools_seeds_within_categories_and_then_categories():
    done = {("a", 0): run_of(0.1), ("a", 1): run_of(0.3), ("b", 0): run_of(0.0)}
    first, *_ = glad.tables(done, Namespace(images=40, seeds=[0, 1], train_steps=180))
    assert len(first["rows"]) == len(glad_study.QUESTIONS)
    row = first["rows"][0]
    value, low, high = row["difference"]
    assert value == pytest.approx(0.1) and low < 0 < high  # (0.2 + 0.0) / 2, of two categories
    assert (row["categories"], row["runs"], row["a"], row["b"]) == (2, 3, 0.2, 0.0)
    assert "both, I-AUROC: not shown to differ from zero" in first["note"]


def test_the_papers_loss_and_no_fusion_are_measured_by_a_switch():
    for paper, expected in ((False, set()), (True, {"pasted whole", "criterion without fusion"})):
        names = {(t, r) for t in glad.TRAININGS for r in glad.RULES if glad.wanted(t, r, paper)}
        found = {part for pair in names for part in pair} & {"pasted whole", "criterion without fusion"}
        assert found == expected and len(names) == (7 if paper else 4)
