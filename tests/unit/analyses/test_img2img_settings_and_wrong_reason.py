"""Settings of image-to-image editors, and scores that are right for the wrong reason, on cases with known answers."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffad_utils import metrics, scoring
from diffad_utils.analyses import img2img_settings, wrong_reason
from diffad_utils.analyses.adapter_drift import lab
from diffad_utils.methods.img2img.engine import ddim_schedule
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import reconstruction_metrics, removal_and_drift
from diffad_utils.metrics.pareto import pareto_front


@pytest.fixture
def pair():
    """x_norm of grey 0.5, x_anom 0.2 brighter in an 8 x 8 square, for 2 images of 16 x 16."""
    x_norm = torch.full((2, 3, 16, 16), 0.5)
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    return x_norm + 0.2 * mask[:, None], x_norm, mask


# -- removal and fidelity ----------------------------------------------------------------------------------------------


def test_removal_is_1_for_the_twin_and_0_for_the_input(pair):
    x_anom, x_norm, _mask = pair
    gone, stayed = removal_and_drift(x_norm, *pair), removal_and_drift(x_anom, *pair)
    assert torch.allclose(gone["removal"], torch.ones(2))
    assert torch.allclose(stayed["removal"], torch.zeros(2), atol=1e-6)
    assert torch.allclose(gone["defect"], torch.tensor(0.2)) and gone["drift"].abs().max() == 0
    assert torch.allclose(gone["fidelity"], torch.ones(2)) and torch.allclose(stayed["fidelity"], torch.ones(2))


@given(removed=st.floats(-1, 1), drift=st.floats(0, 0.3))
def test_removal_and_drift_are_read_off_apart(removed, drift):
    x_norm = torch.full((1, 3, 16, 16), 0.5)
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    x_anom = x_norm + 0.2 * mask[:, None]
    x_hat = x_norm + (1 - removed) * 0.2 * mask[:, None] - drift * ~mask[:, None]
    found = removal_and_drift(x_hat, x_anom, x_norm, mask)
    assert found["removal"].item() == pytest.approx(removed, abs=1e-5)
    assert found["drift"].item() == pytest.approx(drift, abs=1e-6)
    assert found["fidelity"].item() == pytest.approx(1 - drift / 0.2, abs=1e-5)
    outside, inside = (~mask).sum().item(), mask.sum().item()
    assert found["energy_ratio"].item() == pytest.approx(drift / 0.2 * math.sqrt(outside / inside), abs=1e-5)


def test_a_normal_image_has_drift_and_nothing_to_remove(pair):
    _, x_norm, mask = pair
    found = removal_and_drift(x_norm + 0.1, x_norm, x_norm, torch.zeros_like(mask))
    assert torch.allclose(found["drift"], torch.tensor(0.1))
    assert all(found[name].isnan().all() for name in ("removal", "fidelity", "energy_ratio", "defect"))


def test_reconstruction_metrics_of_the_table(pair):
    x_anom, x_norm, mask = pair
    batch = {
        "image": torch.cat([x_norm, x_anom]),
        "twin": torch.cat([x_norm, x_norm]),
        "label": torch.tensor([0, 0, 1, 1]),
        "mask": torch.cat([torch.zeros_like(mask), mask]),
    }
    values = reconstruction_metrics(batch["twin"] + 0.01, batch)
    assert values["removal"] == pytest.approx(1 - 0.01 / 0.2, abs=1e-5) and values["drift"] == pytest.approx(
        0.01, abs=1e-6
    )
    assert values["PSNR"] == pytest.approx(40, abs=0.01) and 0.99 < values["SSIM"] <= 1
    del batch["twin"]
    assert reconstruction_metrics(batch["image"] + 0.01, batch).keys() == {"SSIM", "PSNR"}


def test_crossing():
    met = img2img_settings.crossing([0.1, 0.3, 0.5], [0.0, 0.4, 0.8], [1.0, 0.8, 0.0])
    assert met == pytest.approx((0.3 + 0.2 / 3, 0.4 + 0.4 / 3))
    assert img2img_settings.crossing([0.1, 0.3], [0.5, 0.6], [0.5, 0.4]) == (0.1, 0.5)
    assert img2img_settings.crossing([0.1, 0.3], [0.0, 0.2], [1.0, 0.8]) is None  # never meet
    assert img2img_settings.crossing([0.1, 0.3], [0.9, 1.0], [0.5, 0.4]) is None  # met before the first point
    for bad in ([0.3, 0.1], [0.1]):
        with pytest.raises(ValueError, match="ascend"):
            img2img_settings.crossing(bad, [0.0, 1.0], [1.0, 0.0])


def test_pareto_front():
    front = pareto_front([0.1, 0.5, 0.5, 0.9, 0.4], [0.0, 0.2, 0.3, 0.4, 0.25])
    assert front.tolist() == [True, True, False, True, False]
    assert pareto_front([0.5, 0.5], [0.2, 0.2]).tolist() == [True, True]  # equals do not beat one another


# -- variance ----------------------------------------------------------------------------------------------------------


def test_standard_deviation_over_seeds(pair):
    _x_anom, x_norm, _mask = pair
    shifts = torch.tensor([-0.1, 0.0, 0.1]).view(3, 1, 1, 1, 1)
    assert torch.allclose(img2img_settings.reconstruction_std(x_norm + shifts), torch.tensor(0.1), atol=1e-6)
    assert img2img_settings.reconstruction_std(x_norm.expand(4, -1, -1, -1, -1)).abs().max() < 1e-6
    with pytest.raises(ValueError, match="at least 2"):
        img2img_settings.reconstruction_std(x_norm[None])


def test_amplification_of_a_linear_map():
    x = torch.rand(3, 3, 8, 8)
    moved = x + 0.01 * torch.randn(3, 3, 8, 8)
    assert torch.allclose(img2img_settings.amplification(2.5 * x, 2.5 * moved, x, moved), torch.tensor(2.5), atol=1e-3)


# -- round trip --------------------------------------------------------------------------------------------------------

SD = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


def gaussian_eps(scheduler, variance=0.25):
    """The exact noise prediction for Gaussian data of this variance."""
    alphas = scheduler.alphas_cumprod.double()

    def eps_fn(x, t):
        alpha = alphas[t].view(-1, 1, 1, 1).to(x.dtype)
        return (1 - alpha).sqrt() * x / (alpha * variance + 1 - alpha)

    return eps_fn


def test_round_trip_is_exact_where_the_prediction_does_not_depend_on_the_state():
    schedule = ddim_schedule(DDIMScheduler(**SD), 20, 14)
    z, eps = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    noise, back = img2img_settings.round_trip(lambda x, t: eps, z, schedule)
    assert (back - z).abs().max() < 1e-9 and (noise - z).abs().max() > 0.1


def test_round_trip_error_falls_with_the_number_of_steps():
    scheduler, z = DDIMScheduler(**SD), 0.5 * torch.randn(2, 4, 8, 8, dtype=torch.float64)
    errors = []
    for steps in (5, 10, 20, 50, 200):
        back = img2img_settings.round_trip(gaussian_eps(scheduler), z, ddim_schedule(scheduler, steps, steps))[1]
        errors.append(((back - z).norm() / z.norm()).item())
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[0] > 0.05 > errors[-1]
    assert errors[3] / errors[4] == pytest.approx(4, rel=0.3)  # first order: 4 times the steps, a quarter of the error


def test_inversion_is_diffusers():
    scheduler, inverse, z = DDIMScheduler(**SD), DDIMInverseScheduler(**SD), torch.randn(1, 4, 8, 8)
    eps_fn = gaussian_eps(scheduler)
    inverse.set_timesteps(20)
    x = z
    for t in inverse.timesteps:
        x = inverse.step(eps_fn(x, t[None]), t, x).prev_sample
    noise, _ = img2img_settings.round_trip(eps_fn, z, ddim_schedule(scheduler, 20, 20))
    assert torch.allclose(noise, x, atol=1e-4)


def test_round_trip_counts():
    calls = []
    schedule = ddim_schedule(DDIMScheduler(**SD), 20, 7)
    img2img_settings.round_trip(
        lambda x, t: calls.append(t.tolist()) or torch.zeros_like(x), torch.zeros(2, 4, 8, 8), schedule
    )
    assert len(calls) == 14 and calls[:7] == calls[7:][::-1]


# -- right for the wrong reason ----------------------------------------------------------------------------------------


def test_split_residual(pair):
    _x_anom, _x_norm, mask = pair
    mask = torch.stack([mask[0], torch.zeros_like(mask[0])])
    residual = torch.where(mask, 0.8, 0.2)
    split = wrong_reason.split_residual(residual, mask)
    assert split["inside"][0] == pytest.approx(0.8) and split["inside"][1].isnan()
    assert torch.allclose(split["outside"], torch.tensor([0.2, 0.2])) and split["outside"][1] == split["full"][1]
    assert split["full"][0] == pytest.approx(0.2 + 0.6 * 64 / 256)


def test_top_pixels_inside():
    residual, mask = torch.zeros(2, 10, 10), torch.zeros(2, 10, 10, dtype=torch.bool)
    mask[:, :2] = True
    residual[0, 0, :5], residual[1, 9, :5] = 1.0, 1.0
    assert wrong_reason.top_pixels_inside(residual, mask, 0.05).tolist() == [1.0, 0.0]


def test_style_statistics():
    x = torch.rand(2, 3, 16, 16)
    brighter = x.clone()
    brighter[:, 0] += 0.3
    brighter[:, 1] += 0.4
    same = wrong_reason.style_statistics(x, x)
    assert all(values.abs().max() == 0 for values in same.values())
    found = wrong_reason.style_statistics(x, brighter)
    assert torch.allclose(found["colour_shift"], torch.tensor(0.5), atol=1e-5)
    assert found["gradient_change"].max() < 1e-5 and found["gradient_of_change"].max() < 1e-5  # nothing but a shift
    flat = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    assert torch.allclose(
        wrong_reason.style_statistics(x, flat)["gradient_change"], wrong_reason.gradient_energy(x), atol=1e-6
    )
    checkerboard = 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    assert torch.allclose(
        wrong_reason.style_statistics(x, x + checkerboard)["gradient_of_change"], torch.tensor(0.2), atol=1e-5
    )


def test_without_defect(pair):
    x_anom, x_norm, mask = pair
    x_anom[:, :, 0, 0] = 0.9  # outside the mask: stays
    healed = wrong_reason.without_defect(x_anom, x_norm, mask)
    assert torch.equal(healed[:, :, 4:12, 4:12], x_norm[:, :, 4:12, 4:12]) and (healed[:, :, 0, 0] == 0.9).all()


def explained(full, without, outside=None):
    labels = [0] * 40 + [1] * 40
    masks = torch.zeros(80, 8, 8, dtype=torch.bool)
    masks[40:, 2:5, 2:5] = True
    outside = full if outside is None else outside
    style = {"colour_shift": outside}
    return wrong_reason.wrong_reason(labels, full, outside, without, style, masks.float(), masks, bootstrap=200)


def test_wrong_reason_verdicts():
    rng = np.random.default_rng(0)
    normal, noise = torch.from_numpy(rng.normal(0, 1, 40)), torch.from_numpy(rng.normal(0, 1, 40))
    chance, shifted = torch.cat([normal, noise]), torch.cat([normal, noise + 2])
    right = explained(shifted, chance)
    assert right.verdict == "right for the right reason" and right.numbers["surviving_share"] < 0.5
    wrong = explained(shifted, shifted)
    assert wrong.verdict == "right for the wrong reason" and wrong.numbers["surviving_share"] == pytest.approx(1)
    assert wrong.numbers["lost_without_defect"] == 0
    blind = explained(chance, chance)
    assert blind.verdict == "does not detect" and "surviving_share" not in blind.numbers
    assert explained(-shifted, chance).verdict == "ranks the wrong way round"
    statistics = ["full residual", "outside the mask", "defect replaced by its counterpart", "colour_shift"]
    assert list(right.table["statistic"]) == statistics
    assert (right.table["low"] <= right.table["I-AUROC"]).all() and right.numbers["AUPRO"] == pytest.approx(1.0)


def test_wrong_reason_without_twins_or_masks():
    rng = np.random.default_rng(0)
    labels, full = [0] * 40 + [1] * 40, torch.from_numpy(np.r_[rng.normal(0, 1, 40), rng.normal(2, 1, 40)])
    found = wrong_reason.wrong_reason(labels, full, None, None, {"colour_shift": full}, None, None, bootstrap=100)
    assert found.verdict == "undecided" and list(found.table["statistic"]) == ["full residual", "colour_shift"]
    assert set(found.numbers) == {"I-AUROC"}
    masks = torch.zeros(80, 8, 8, dtype=torch.bool)
    masks[40:, 2:5, 2:5] = True
    found = wrong_reason.wrong_reason(labels, full, full, None, {}, masks.float(), masks, bootstrap=100)
    assert found.verdict == "undecided" and found.numbers["outside_share"] == pytest.approx(1)


# -- hybrid score and settings -----------------------------------------------------------------------------------------


def test_alpha_curve():
    rng = np.random.default_rng(0)
    labels = [0] * 50 + [1] * 50
    parts = {"mse": torch.from_numpy(rng.normal(0.02, 0.01, 100)), "clip": torch.from_numpy(rng.normal(0.2, 0.1, 100))}
    parts["mse"][50:] += 0.03  # only the squared error knows
    calibration = scoring.Calibration({"mse": 0.02, "clip": 0.2}, {"mse": 0.01, "clip": 0.1})
    table = img2img_settings.alpha_curve(parts, labels, calibration, [0.0, 0.5, 1.0]).set_index(["kind", "alpha"])
    assert table.loc[("raw", 0.5), "effective_alpha"] == pytest.approx(0.01 / 0.11)
    assert table.loc[("calibrated", 0.5), "effective_alpha"] == pytest.approx(0.5)
    for kind in ("raw", "calibrated"):
        only_mse, only_clip = table.loc[(kind, 1.0)], table.loc[(kind, 0.0)]
        assert only_mse["mse_share"] == pytest.approx(1) and only_clip["mse_share"] == pytest.approx(0)
        assert only_mse["rank_mse"] == pytest.approx(1) and only_clip["rank_clip"] == pytest.approx(1)
    assert table.loc[("raw", 0.5), "mse_share"] < 0.2 < table.loc[("calibrated", 0.5), "mse_share"]
    assert table.loc[("raw", 0.5), "I-AUROC"] < table.loc[("calibrated", 0.5), "I-AUROC"] < 1


def test_variance_explained():
    table = pd.DataFrame([{"a": a, "b": b, "c": c, "y": 3 * a + b} for a in (0, 1) for b in (0, 1) for c in (0, 1, 2)])
    shares = img2img_settings.variance_explained(table, ["a", "b", "c"], "y")
    assert shares["a"] == pytest.approx(0.9) and shares["b"] == pytest.approx(0.1) and shares["c"] == pytest.approx(0)
    product = table.assign(y=(2 * table["a"] - 1) * (2 * table["b"] - 1))  # an interaction and nothing else
    assert sum(img2img_settings.variance_explained(product, ["a", "b"], "y").values()) == pytest.approx(0)
    assert img2img_settings.variance_explained(table.assign(y=1.0), ["a"], "y") == {"a": 0.0}
    with pytest.raises(ValueError, match="every combination"):
        img2img_settings.variance_explained(table.iloc[:-1], ["a", "b", "c"], "y")


def test_best_compromise():
    times = np.ones((1, 4), dtype=int)
    removal, fidelity = np.full((3, 4), [[0.9], [0.6], [0.1]]), np.full((3, 4), [[0.1], [0.5], [0.9]])
    assert img2img_settings.best_compromise(removal, fidelity, times) == pytest.approx([0.5])
    assert img2img_settings.best_compromise(np.ones((1, 4)), np.ones((1, 4)), times) == pytest.approx([1.0])


def test_rank_agreement():
    a = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    b = np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1], [0.1, 0.5, 0.9]])
    assert img2img_settings.rank_agreement(a, b) == pytest.approx([1.0, -1.0, 0.0])


def test_sensitivity_is_zero_in_the_mean_where_settings_are_equally_good():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 40)
    noise = rng.normal(size=(20, 60, 80))
    equal = [img2img_settings.sensitivity(scores, labels, n=1, seed=i)[0] for i, scores in enumerate(noise)]
    ranges = [np.ptp([roc(s, labels) for s in scores]) for scores in noise]
    assert abs(np.mean(equal)) < 0.05 < 0.15 < np.mean(ranges)  # the range on the same images is far from 0
    telling = noise[0][:2] + np.stack([3.0 * labels, 0.0 * labels])
    assert bootstrap.bootstrap_percentiles(img2img_settings.sensitivity(telling, labels, n=200))[1] > 0.3


def roc(scores, labels):
    return metrics.image_auroc(scores, labels)


def test_changes_are_as_visible():
    images = 0.3 + 0.4 * torch.rand(5, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    keys = [f"textures/carpet/test/good/{i}" for i in range(5)]
    changed = img2img_settings.changes_as_visible(images, keys, delta_e=7.0)
    assert set(changed) == {"spot", "colour cast", "contrast"}
    spot = (changed["spot"] - images).abs().amax(dim=1) > 0
    for name, image in changed.items():
        seen = (lab(image) - lab(images)).norm(dim=1)
        where = spot if name == "spot" else torch.ones_like(spot)
        assert (seen * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)) == pytest.approx(torch.full((5,), 7.0), rel=0.1)
    assert spot.float().mean(dim=(1, 2)) == pytest.approx(torch.full((5,), 0.01), abs=0.004)
    cast = changed["colour cast"] - images
    assert cast.std(dim=(2, 3)).max() < 1e-5 and cast.mean(dim=(2, 3)).abs().amax(dim=1).min() > 0.03
    alone = img2img_settings.changes_as_visible(images[2:3], keys[2:3], delta_e=7.0)
    assert torch.equal(alone["spot"], changed["spot"][2:3])


# -- cost --------------------------------------------------------------------------------------------------------------


def test_time_by_size_predicts_copies_of_the_detector_at_each_size():
    seen = []

    class Sized:
        image_size = 16

        def predict(self, images):
            seen.append((self.image_size, tuple(images.shape)))

    detector = Sized()
    times = img2img_settings.time_by_size(detector, torch.rand(3, 3, 16, 16), [8, 32], repeats=1)
    assert set(times) == {"ms_at_8px", "ms_at_32px"} and min(times.values()) >= 0 and detector.image_size == 16
    assert seen == [(8, (3, 3, 8, 8))] * 2 + [(32, (3, 3, 32, 32))] * 2


def test_wrong_reason_leaves_images_without_masks_out_of_what_needs_masks():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 2
    masks = torch.zeros(24, 8, 8, dtype=torch.bool)
    masks[labels == 1, 2:4, 2:4] = True
    maps = torch.rand(24, 8, 8, generator=generator) + masks
    split = wrong_reason.split_residual(maps, masks)
    masks[1] = False  # what lies outside is not known there: the split has the defect in it
    broken = wrong_reason.split_residual(maps, masks)
    rest = torch.arange(24) != 1
    found, without = (
        wrong_reason.wrong_reason(labels[r], s["full"][r], s["outside"][r], None, {}, maps[r], masks[r], bootstrap=50)
        for r, s in ((slice(None), broken), (rest, split))
    )
    for name in ("AUPRO", "P-AUROC", "outside_share"):
        assert found.numbers[name] == pytest.approx(without.numbers[name])
    outside = [t.table.set_index("statistic").loc["outside the mask", "I-AUROC"] for t in (found, without)]
    assert outside[0] == pytest.approx(outside[1])


def test_shares_of_the_raw_score_are_those_of_the_curve():
    """C22 and C23: the ends of the curve, each part by itself."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 40)
    mse = torch.tensor(rng.lognormal(size=80))
    parts = {"mse": mse, "clip": 0.5 * mse + torch.tensor(rng.standard_normal(80))}
    found = img2img_settings.alpha_effects(parts, labels, n=30)
    curve = img2img_settings.alpha_curve(parts, labels, scoring.Calibration.fit(parts), (0.3, 0.9))
    low, high = (curve[curve["kind"] == "raw"].iloc[i] for i in (0, 1))
    moved, of_mse, of_clip = found.values()
    assert [claim for claim, _ in found] == ["C22", "C23", "C23"]
    assert moved[0] == pytest.approx(high["rank_mse"] - low["rank_mse"]) and moved.shape == (31,)
    assert of_mse[0] == pytest.approx(low["mse_share"]) and of_clip[0] == pytest.approx(1 - high["mse_share"])
    drawn = np.repeat(np.arange(80), bootstrap.bootstrap_counts(labels, 30)[5])
    term, score = 0.3 * mse[drawn], (0.3 * parts["mse"] + 0.7 * parts["clip"])[drawn]
    assert of_mse[5] == pytest.approx(np.cov(term, score)[0, 1] / np.var(score.numpy(), ddof=1))
