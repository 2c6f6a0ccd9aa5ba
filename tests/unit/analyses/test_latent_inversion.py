"""Inversion beside its plain form, and the pixel DDPM's variants: paired differences, record and sentence."""

import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import ddpm_variants
from diffad_utils.analyses.diffusion_controls import KINDS
from diffad_utils.analyses.summaries import measure
from diffad_utils.analyses.task import Task
from diffad_utils.methods.pixel_ddpm import PixelDDPM


@pytest.fixture(scope="module")
def task():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(20), size=32)
    test = data.ImageDataset(index[index["split"] == "test"].groupby("label", group_keys=False).head(4), size=32)
    return Task("textures/carpet", train, test, torch.arange(8), data.load_batch(test), bootstrap_samples=20)


@pytest.fixture(scope="module")
def found(task):
    ddpm = PixelDDPM(**PixelDDPM.contract_settings, device="cpu").fit(task.train)
    return ddpm_variants.variants(measure(ddpm, task), task)


def test_each_variant_beside_the_plain_form(found, task):
    assert (found.gaussian.detector.noise, found.simplex.detector.noise) == ("gaussian", "simplex")
    assert found.inversion.measured.detector.network_ is found.gaussian.detector
    gain = task.difference(found.simplex.score, found.gaussian.score)
    row = found.experiments()["simplex"]
    assert (row["difference"], row["low"], row["high"]) == gain
    own = task.difference(found.inversion.prediction.score, found.gaussian.score)
    assert found.inversion.experiments(task)["own_inference"]["difference"] == own[0]


def test_the_record_has_the_control_that_the_comparison_reads(found, task):
    record = found.inversion.to_record(task, task.trivial_baseline())
    control = record["experiments"]["no_diffusion"]
    assert "no_diffusion" in KINDS and {"I-AUROC", "difference", "low", "high", "what"} <= control.keys()
    assert control["I-AUROC"] == task.accuracy(found.inversion.no_diffusion.score)["I-AUROC"]
    assert record["prediction"].nfe == 3 and found.inversion.no_diffusion.nfe == 0


def test_sentence_and_figure(found, task):
    words = found.in_words()
    gap = task.difference(found.simplex.score, found.gaussian.score)[0]
    assert f"{gap:+.3f}" in words and "takes 3 evaluations" in words and "reconstruction 2." in words
    assert len(found.figure().axes) == 1
    assert list(found.inversion.scores("reconstruction")) == [
        "reconstruction",
        "inversion",
        "the same score without diffusion",
    ]
