"""D3AD in two passes beside one, on one task: the measures, the sentences and the record."""

import numpy as np
import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import d3ad_two_passes
from diffad_utils.analyses.conditioned_controls import AUTOENCODER, GATE
from diffad_utils.analyses.img2img_two_passes import EDITORS
from diffad_utils.analyses.task import Task
from diffad_utils.methods.d3ad import D3AD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def task():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=64)
    test = data.ImageDataset(index[index["split"] == "test"].groupby("label", group_keys=False).head(4), size=64)
    return Task("textures/carpet", train, test, torch.arange(8), data.load_batch(test), bootstrap_samples=20)


@pytest.fixture(scope="module")
def found(task):
    detector = D3AD(**D3AD.contract_settings, image_size=64, device="cpu").fit(task.train)
    prediction = detector.predict(task.images, task.keys)
    controls = {AUTOENCODER: prediction, GATE: prediction}
    return d3ad_two_passes.two_passes(detector, prediction, controls, task, [80, 240], 3)


def test_each_editor_is_measured_at_each_step(found):
    assert found.study.count == 3 and found.study.axis == "T"
    assert {name: list(by_step) for name, by_step in found.study.measures.items()} == {e: [80, 240] for e in EDITORS}
    table = found.study.table().set_index(["editor", "strength"])
    assert set(table.columns) >= {"removal", "drift", "survival", "drift low"}
    # a network of six steps repaints noise: everywhere with one pass, inside the mask alone with two
    assert (table.loc[EDITORS[0], "drift"] > 1.3 * table.loc[EDITORS[2], "drift"]).all()


def test_two_passes_are_compared_with_one_and_with_no_diffusion(found):
    record = found.to_record(found.task.trivial_baseline())
    assert set(record["experiments"]) == {"no_diffusion", "no_diffusion_neighbours", "one_pass", "two_passes"}
    assert record["experiments"]["no_diffusion"]["what"] == AUTOENCODER
    assert {"removal", "drift", "I-AUROC"} <= set(record["metrics"]) and np.isfinite(
        list(record["metrics"].values())
    ).all()
    one = record["experiments"]["one_pass"]
    expected = found.measured.metrics["I-AUROC"] - one["I-AUROC"]
    assert one["difference"] == pytest.approx(expected) and one["low"] <= one["difference"] <= one["high"]


def test_sentences_name_the_step_and_the_cost(found):
    assert f"instead of {found.one_pass.nfe:.1f}" in found.detection_in_words()
    assert found.measured.prediction.nfe == found.one_pass.nfe + 10
    said = found.study_in_words()
    assert "At T 240 the drift is" in said and "the T at which it is largest" in said
    assert len(found.figure().axes) == 3
