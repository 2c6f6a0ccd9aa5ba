"""Means with intervals as rows, words and findings; controls without diffusion; surveys and reconstructions."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from tasks import task_of

from diffad_utils import data, metrics
from diffad_utils.analyses import findings, frequencies, no_diffusion, round_trip, survival
from diffad_utils.analyses.summaries import Means, as_rows, compared, in_words, measure
from diffad_utils.methods.img2img import Img2Img
from diffad_utils.metrics import bootstrap

MEANS = Means(100, 0)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return task_of("02_vae_bottleneck", tmp_path_factory.mktemp("reports")).subset(12)


def halved(images, keys=None):
    """Keeps the mean of each channel and half of the rest."""
    return images.mean(dim=(2, 3), keepdim=True) + 0.5 * (images - images.mean(dim=(2, 3), keepdim=True))


# --- means ------------------------------------------------------------------------------------------------------------


def test_rows_and_findings_are_the_bootstrap_of_the_mean():
    values = {"a": [1.0, 2.0, 3.0], "b": torch.tensor([0.0, 0.0, 1.0])}
    table = MEANS.rows(values, "all")
    expected = bootstrap.mean_interval(values["a"], 100, 0)
    assert table.columns.tolist() == ["name", "mean", "low", "high", "n", "group"]
    assert table.iloc[0].tolist() == ["a", *map(float, expected), 3, "all"]
    assert MEANS.finding(values["a"]) == (*map(float, expected), 3)
    with pytest.raises(ValueError, match="not finite"):
        MEANS.rows({"a": [1.0, np.nan, 2.0]})


def test_intervals_in_words():
    assert in_words((0.5, -0.25, 1.0, 30), " dB", sign=True) == "+0.50 dB [-0.25, +1.00]"
    assert compared((0.5, 0.0, 1.0)) == "is not shown to differ from"  # an interval that touches 0 decides nothing


def test_rows_for_a_record_leave_out_what_is_not_there():
    table = pd.DataFrame({"name": ["a", "b"], "low": [0.5, np.nan]})
    assert as_rows(table) == [{"name": "a", "low": 0.5}, {"name": "b"}]


# --- findings ---------------------------------------------------------------------------------------------------------


def test_findings_are_measured_as_the_table_fixes_them():
    found = {"C02": (0.1, 0.05, 0.2, 40), ("C19", "trained on pixels"): (0.0, -0.1, 0.05, 40)}
    rows = findings.judge(found, {"One": ["C02"], "Two": ["C19"]}, {"": "short", "C19": "64 steps"})
    assert [row["claim_id"] for row in rows] == ["C02", "C19"]
    assert rows[0]["measure"].endswith("minus the same share in x, image by image")
    assert rows[1]["measure"].endswith("(trained on pixels)") and rows[1]["verdict"] == "not supported"
    assert [(row["section"], row["note"]) for row in rows] == [("One", "short"), ("Two", "64 steps")]
    colour = "colour shift outside the mask, LoRA minus base, ΔE, LoRA's prompt"
    assert findings.judge({("C17a", colour): (1, 0, 2, 30)}, {"One": ["C17a"]})[0]["measure"] == colour
    page = findings.to_html(rows)
    assert page.index(">supported<") < page.index(">not supported<")
    with pytest.raises(ValueError, match="none of the sections"):
        findings.judge(found, {"One": ["C02"]})


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_image_at_its_own_size_has_no_residual(task):
    same = no_diffusion.Resized(image_size=32, side=32, device="cpu", score="mse").fit(task.train)
    assert same.predict(task.images, task.keys).parts["mse"].max() == 0


def test_a_smaller_image_loses_what_resizing_loses_image_by_image(task):
    control = no_diffusion.Resized(image_size=32, side=16, device="cpu").fit(task.train)
    prediction = control.predict(task.images, task.keys)
    alone = control.predict(task.images[3:4], task.keys[3:4])
    small = torch.nn.functional.interpolate(task.images, size=(16, 16), mode="bilinear", antialias=True)
    back = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", antialias=True).clamp(0, 1)
    assert torch.allclose(prediction.reconstruction, back, atol=1e-6) and prediction.nfe == 0
    assert torch.allclose(alone.score, prediction.score[3:4], atol=1e-5)


def test_the_round_trip_of_image_to_image_takes_its_networks_and_score(task):
    options = dict(image_size=128, num_inference_steps=4, strength=0.5, calibration_images=3, alpha=1.0, device="cpu")
    detector = Img2Img(**options).fit(task.train)
    control = no_diffusion.RoundTrip.of(detector, task.train)
    one = torch.nn.functional.interpolate(task.images[:1], size=(128, 128), mode="bilinear")
    prediction = control.predict(one, task.keys[:1])
    decoded = detector.engine_.decode(detector.engine_.encode(one).mean)
    assert control.engine_ is detector.engine_ and prediction.nfe == 0
    assert torch.allclose(prediction.reconstruction, decoded, atol=1e-6)
    settings = [field.name for field in dataclasses.fields(Img2Img) if field.init]
    assert all(getattr(control, name) == getattr(detector, name) for name in settings)


def test_a_control_is_compared_on_the_same_images(task):
    perfect = task.labels.float()
    row = no_diffusion.control_row(task, perfect, -perfect, "nothing")
    assert (row["I-AUROC"], row["difference"], row["low"], row["high"]) == (0.0, 1.0, 1.0, 1.0)
    assert "is above that of its control without diffusion, nothing (0.000)" in no_diffusion.control_sentence("x", row)
    assert no_diffusion.control_table({"x": row}, "here").iloc[0].tolist() == ["x", 1.0, 1.0, 1.0, "here"]


def test_a_measured_detector_says_what_its_record_needs(task):
    detector = no_diffusion.Resized(image_size=32, side=16, device="cpu").fit(task.train)
    whole = task.take(torch.arange(12))
    whole = dataclasses.replace(whole, test=data.ImageDataset(task.test.index.iloc[task.rows.tolist()], size=32))
    done = measure(detector, whole)
    record = done.to_record(whole, whole.trivial_baseline())
    assert done.metrics["I-AUROC"] == pytest.approx(float(metrics.image_auroc(done.score, whole.labels)))
    assert {"PSNR", "removal"} <= set(done.metrics) and record["timing"] == {"ms_per_image": done.ms_per_image}
    assert set(record["trivial_baseline"]) == {"statistic", "I-AUROC"}


# --- reconstructions --------------------------------------------------------------------------------------------------


def test_a_survey_takes_so_many_images_of_each_category_and_the_same_again():
    first, again = (round_trip.survey("textures", ("leather", "wood"), 3, 32, seed=1) for _ in range(2))
    assert first.names == ["leather", "wood"] and first.normal["image"].shape == (6, 3, 32, 32)
    assert first.normal["key"] == again.normal["key"] and len(first.defects) == 6
    table = round_trip.psnr_by_category(first, {"half": halved(first.normal["image"])}, MEANS)
    assert table["name"].tolist() == ["leather", "wood"] and set(table["group"]) == {"half"}


def test_psnr_without_the_mean_colour_error(task):
    shifted = (0.9 * task.images) + torch.tensor([0.02, -0.01, 0.04]).view(3, 1, 1)
    plain = round_trip.psnr(task.images, 0.9 * (task.images - task.images.mean(dim=(2, 3), keepdim=True)), colour=False)
    assert np.allclose(round_trip.psnr(task.images, shifted, colour=False), plain, atol=1e-3)
    assert (round_trip.psnr(task.images, shifted) < plain).all()
    moved = task.images + torch.tensor([3.0, 0, 0]).view(3, 1, 1) / 255
    assert np.allclose(round_trip.mean_colour_error(task.images, moved), 3 / 3**0.5, atol=1e-4)


def test_discs_lose_what_a_linear_reconstruction_takes(task):
    normal = task.take((task.labels == 0).nonzero()[:, 0])
    table = round_trip.planted_rows({"half": halved}, normal, (0.02, 0.1), (0.1,), MEANS)
    assert table["group"].tolist() == ["discs of 2 % of the image", "discs of 10 % of the image"]
    assert table["mean"].between(0.5, 0.65).all()  # half of it, and of the mean all


def test_the_first_shapes_of_linear_codes(task):
    codes = round_trip.linear_bottlenecks(task.images, [3, 12], [4, 2])
    assert list(codes) == ["3 channels, 4 x", "12 channels, 4 x", "3 channels, 2 x"]
    error = {name: (code(task.images) - task.images).square().mean() for name, code in codes.items()}
    assert error["12 channels, 4 x"] < error["3 channels, 4 x"] > error["3 channels, 2 x"]


def test_shares_above_a_frequency_and_the_detail_of_a_repair(task):
    x = torch.arange(64)

    def wave(cycles):
        return 0.2 * torch.cos(2 * np.pi * cycles * x / 64).expand(1, 3, 64, 64)

    both = 0.5 + wave(2) + wave(16)
    assert frequencies.share_above(both, 1 / 8).item() == pytest.approx(0.5, abs=0.01)
    detail = wave(6)  # within 1/16 to 1/8
    shares = frequencies.detail_shares(0.5 + detail, 0.5 + 0.4 * detail, 0.5 + 0.7 * detail)
    assert shares["recovered"].item() == pytest.approx(1 - 0.3**2 / 0.6**2, abs=1e-3)
    assert shares["missing"].item() == pytest.approx(1 - 0.7**2 / 0.4**2, abs=1e-2)
    curves = frequencies.response_curves(task.images, halved(task.images), 50, 0)
    gain = np.asarray(curves["response"]["gain"][1])
    assert np.allclose(gain[3:], 0.5, atol=0.02)


def test_survival_by_group_and_of_a_task(task):
    assert survival.task_survival(lambda x, keys: 0.25 * x, task).tolist() == pytest.approx([0.25] * 6)
    table = pd.DataFrame(
        {
            "defect": ["hole"] * 10 + ["cut"],
            "area": [0.005] * 10 + [0.1],
            "contrast": [0.1] * 10 + [0.3],
            "vae_error": 0.2,
            "survival": np.linspace(0, 0.9, 11),
        }
    )
    groups = survival.survival_by_group(table, "defect", 50, 0).set_index("group")
    assert groups["n"].to_dict() == {
        "all": 11,
        "hole": 10,
        "below 1 % of the image": 10,
        "contrast below the error": 10,
    }
    assert groups.loc["all", "below the error"] == pytest.approx(10 / 11)
    assert groups.loc["hole", "low"] < groups.loc["hole", "survival"] < groups.loc["hole", "high"]
