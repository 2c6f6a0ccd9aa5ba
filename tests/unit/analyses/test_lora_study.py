"""Comparisons of notebook 04 on the shipped small model: prompts, sweeps, images of another category."""

import numpy as np
import pandas as pd
import pytest
import torch
from tasks import task_of

from diffad_utils import data
from diffad_utils.analyses import adapter_drift, lora_study
from diffad_utils.analyses.summaries import Means
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.img2img import Img2Img
from diffad_utils.methods.img2img.adapters import Counts
from diffad_utils.methods.img2img.lora import LoRA

MEANS = Means(50, 0)
SETTINGS = dict(image_size=64, strength=0.5, guidance_scale=3.0, num_inference_steps=2, alpha=1.0, device="cpu")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return task_of("04_lora", tmp_path_factory.mktemp("reports"), image_size=64)


@pytest.fixture(scope="module")
def few(task):
    return task.subset(6)


@pytest.fixture(scope="module")
def held_out(task):
    return data.ImageDataset(task.train.index.iloc[:3], size=64)


@pytest.fixture(scope="module")
def base(held_out):
    return Img2Img(prompt="a flawless {noun}", calibration_images=3, **SETTINGS).fit(held_out)


def test_settings_are_those_that_the_method_has():
    given = {"rank": 4, "strength": 0.2, "prompt": "x", "ranks": [1], "seed": 3}
    assert lora_study.settings_of(LoRA, given, "cpu") == {"rank": 4, "strength": 0.2, "seed": 3, "device": "cpu"}
    assert lora_study.settings_of(Img2Img, given, "cpu") == {"strength": 0.2, "seed": 3, "device": "cpu"}
    for value, expected in (("auto", None), ("fp16", "fp16")):
        assert lora_study.settings_of(LoRA, {"inference_precision": value}, "cpu")["inference_precision"] == expected


@pytest.mark.slow
def test_another_prompt_changes_the_copy_and_leaves_the_model(base, held_out, few):
    before = base.predict(few.images, few.keys).score
    other = lora_study.with_prompt(base, "a damaged {noun}", held_out)
    assert other.prompts_ != base.prompts_ and other.engine_ is base.engine_
    assert torch.equal(base.predict(few.images, few.keys).score, before)
    assert not torch.equal(other.predict(few.images, few.keys).score, before)


def test_differences_are_paired_and_of_pixels_where_masks_are(few):
    perfect = Prediction(few.labels.float(), few.masks.float())
    poor = Prediction(-few.labels.float(), 1 - few.masks.float())
    found = lora_study.differences(few, perfect, poor)
    assert found["I-AUROC"] == (2.0 - 1.0, 1.0, 1.0, 6) and found["AUPRO"][0] > 0.9
    assert lora_study.differences(few, perfect, perfect)["AUPRO"][:3] == (0, 0, 0)
    rows = torch.tensor([2, 0])
    taken = lora_study.of_rows(Prediction(perfect.score, perfect.anomaly_map, few.images), rows)
    assert torch.equal(taken.reconstruction, few.images[rows]) and torch.equal(taken.score, perfect.score[rows])


@pytest.mark.slow
def test_a_sweep_measures_what_the_model_makes(base, few):
    sweep = lora_study.Sweep(few, None, lambda x: [x], MEANS, [100, 900])
    normal = few.take((few.labels == 0).nonzero()[:, 0])
    made = sweep.made(base)
    assert torch.allclose(made, base.reconstruct(few.images, few.keys), atol=1e-5)
    assert not torch.allclose(made, sweep.made(base, 1.0))
    losses = sweep.loss(base, "a flawless leather", normal)
    row = sweep.row(made, losses)
    assert losses.shape == (3, 2) and row["loss"] == pytest.approx(float(losses.mean()))
    assert row["loss low"] <= row["loss"] <= row["loss high"] and 0 <= row["I-AUROC"] <= 1
    table = lora_study.loss_rows({"base": losses}, [100, 900], MEANS)
    assert table["timestep"].tolist() == [100, 900] and table["mean"][1] == pytest.approx(float(losses[:, 1].mean()))


def test_the_error_above_a_reference_is_in_shares_of_it():
    x = torch.zeros(2, 3, 4, 4)
    above = lora_study.error_above(x, x + 0.2, x + 0.1)
    assert np.allclose(above, 3.0)


def test_survival_of_a_model_that_leaves_all_as_it_is(few):
    class Same:
        def reconstruct(self, images, keys):
            return images

    found = lora_study.survivals({"same": Same()}, {"same": Prediction(few.labels.float(), None, few.images)}, few)
    assert found["same"].tolist() == pytest.approx([1.0] * 3)


@pytest.mark.slow
def test_images_of_another_category(base):
    own = ("textures", "leather")
    names = data.categories("textures")
    following = names[(names.index("leather") + 1) % len(names)]
    other = lora_study.unseen_images("textures", "", own, 2, 64)
    assert other.name == f"textures/{following}" and other.batch["label"].tolist() == [0, 0]
    seen = lora_study.of_unseen(base, other, ("a flawless {noun}", ""), [500])
    assert seen.loss.shape == (2,) and seen.made.shape == other.batch["image"].shape and seen.prompt
    with pytest.raises(ValueError, match="trained on"):
        lora_study.unseen_images("textures", "leather", own, 2, 64)


def test_adapters_of_a_step_and_of_a_rank(task, tmp_path):
    options = SETTINGS | dict(rank=2, train_steps=2, train_batch_size=1, gradient_accumulation_steps=1)
    options |= dict(holdout_fraction=0.2)
    train = data.ImageDataset(task.train.index.iloc[:10], size=64)
    LoRA(**options).fit(train, tmp_path / "rank-2", [1])
    trainings = lora_study.Trainings(options, train, tmp_path)
    assert trainings.at_step(1).adapter_counts_.lora * 2 == trainings.of_rank(4).adapter_counts_.lora


def test_worst_median_best_and_the_change_of_a_measure():
    table = pd.DataFrame({"label": [0, 0, 1], "colour shift": [1.0, 3.0, 2.0], "SSIM": [0.9, 0.5, 0.1]})
    assert list(lora_study.worst_median_best(table).values()) == [1, 2, 0, 1, 0, 0]
    changes = pd.DataFrame({"measure": ["drift"], "change": [0.1], "low": [0.0], "high": [0.2], "n": [9]})
    assert adapter_drift.change(changes, "drift") == (0.1, 0.0, 0.2, 9)


def test_sizes_and_weights_that_moved():
    table = lora_study.counts_table({"unet": Counts(1, 99)})
    assert table["share, %"].tolist() == pytest.approx([100 * Counts(1, 99).share])
    lora_study.require_untouched({"unet": True})
    with pytest.raises(RuntimeError, match="base weights of vae"):
        lora_study.require_untouched({"unet": True, "vae": False})
