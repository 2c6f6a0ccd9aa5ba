"""GLAD's training targets, its criterion and the two forms of its step, against closed forms and against D3AD."""

import copy

import numpy as np
import pytest
import torch

from diffad_utils import data
from diffad_utils.data.textures import defects
from diffad_utils.diffusion import NoiseSchedule, NoisyBatch, add_noise, ddim_step, noisy_batch
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.d3ad.conditioning import scaled_start
from diffad_utils.methods.glad import GLAD, pasted
from diffad_utils.methods.glad.pasted import drawn_differences, pasted_copies, with_pasted
from diffad_utils.methods.glad.steps import nearest_distance, sample_adaptively, top_share_mean

SCHEDULE = NoiseSchedule.linear(1000, 0.0015, 0.0195)
SMALL = GLAD.contract_settings | {"image_size": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def splits():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=64)
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(2)
    return train, data.load_batch(data.ImageDataset(test, size=64))


@pytest.fixture(scope="module")
def fitted(splits):
    return GLAD(**SMALL).fit(splits[0])


# --- training ---------------------------------------------------------------------------------------------------------


def batch_of(states, seed=0):
    return noisy_batch(states, SCHEDULE, 6, torch.Generator().manual_seed(seed), max_timestep=400)


@pytest.mark.parametrize("fade", pasted.FADES)
def test_state_and_target_are_of_the_anomalous_and_the_normal_sample(fade):
    """The state is the noised anomalous sample, and denoised by the target it is the normal one."""
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(9, 4, 3, 3, generator=generator).double()
    batch = batch_of(normal)
    difference = torch.randn(6, 4, 3, 3, generator=generator).double()
    moved = with_pasted(batch, difference, SCHEDULE, fade=fade, deepest=400)
    share = (batch.t / 400)[:, None, None, None] if fade == "linear" else 1.0
    anomalous = normal[batch.rows] + share * difference
    assert torch.allclose(moved.x_t, add_noise(anomalous, batch.t, batch.noise.double(), SCHEDULE), atol=1e-6)
    back = ddim_step(moved.x_t, moved.noise.double(), SCHEDULE.alphas_cumprod[batch.t], 1.0)
    assert torch.allclose(back, normal[batch.rows], atol=1e-5)


def test_without_a_difference_the_objective_is_ddpms():
    batch = batch_of(torch.randn(9, 4, 3, 3, generator=torch.Generator().manual_seed(2)))
    moved = with_pasted(batch, torch.zeros_like(batch.x_t), SCHEDULE)
    assert isinstance(moved, NoisyBatch) and torch.equal(moved.x_t, batch.x_t) and torch.equal(moved.noise, batch.noise)


def test_another_fade_is_refused():
    batch = batch_of(torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="fade must be one of"):
        with_pasted(batch, torch.zeros_like(batch.x_t), SCHEDULE, fade="cosine")


def test_pasted_copies_differ_from_their_image_in_a_part_and_from_each_other():
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    copies = pasted_copies(images, 2, seed=5)
    assert copies.shape == (2, 3, 3, 48, 48) and copies.min() >= 0 and copies.max() <= 1
    changed = (copies - images).abs().amax(dim=2).gt(0).float().mean(dim=(-1, -2))
    assert bool((changed > 0).all()) and bool((changed <= 0.11).all())  # a spot of at most a tenth
    assert not torch.equal(copies[0], copies[1]) and torch.equal(copies, pasted_copies(images, 2, seed=5))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        pasted_copies(images[:1], 1, seed=0)


def test_what_is_pasted_does_not_come_from_the_generator_of_the_test_defects(monkeypatch):
    """`textures` draws its defects with `data.textures.defects`; none of it is called."""

    def called(*_):
        raise AssertionError("a defect of the test set's generator")

    for name in ("scratch", "crack", "hole", "stain", "color_shift", "thread", "contamination", "_blob", "_stroke"):
        monkeypatch.setattr(defects, name, called)
    assert pasted_copies(torch.rand(2, 3, 32, 32), 1, seed=0).shape == (1, 2, 3, 32, 32)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_rows_carries_an_anomaly(share):
    states, rows = torch.zeros(5, 2, 2, 2), torch.arange(400) % 5
    copies = [torch.full_like(states, value) for value in (1.0, 2.0)]
    found = drawn_differences(states, copies, rows, share, torch.Generator().manual_seed(0))
    values = found[:, 0, 0, 0]
    assert torch.equal(found, values[:, None, None, None].expand_as(found))
    assert float((values > 0).float().mean()) == pytest.approx(share, abs=0.08)
    assert set(values.tolist()) <= {0.0, 1.0, 2.0}


def test_without_pasted_anomalies_and_criterion_it_is_d3ad(splits):
    """The plain form is D3AD: same training, same steps, same score, to the bit."""
    settings = SMALL | {"noise_fraction": 1.0, "adaptation_epochs": 0, "t_max": 80}
    del settings["pasted_copies"]
    plain = GLAD(**settings, pasted_share=0.0, step_rule="neighbours").fit(splits[0])
    d3ad = D3AD(**settings).fit(splits[0])
    images, keys = splits[1]["image"], splits[1]["key"]
    one, other = plain.predict(images, keys), d3ad.predict(images, keys)
    assert torch.equal(one.score, other.score) and torch.equal(one.parts["step"], other.parts["step"])
    assert one.nfe == other.nfe


# --- criterion --------------------------------------------------------------------------------------------------------


def test_nearest_distance_does_not_see_where_a_feature_is():
    features = torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(4))
    assert float(nearest_distance(features, features.flip(-1, -2)).abs().max()) < 1e-6
    other = torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(5))
    expected = [
        min(1 - torch.cosine_similarity(a, b, dim=0).item() for b in other[0].flatten(1).T)
        for a in features[0].flatten(1).T
    ]
    assert np.allclose(nearest_distance(features, other).flatten(), expected, atol=1e-6)


def test_top_share_mean():
    maps = torch.tensor([[[1.0, 4.0], [3.0, 2.0]]])
    assert top_share_mean(maps, 0.0).tolist() == [4.0] and top_share_mean(maps, 0.5).tolist() == [3.5]


PUSH = [0.0, 1.5, 5.0]
TIMESTEPS = torch.tensor([200, 160, 120, 80, 40])


def sampled(push, fusion=True, threshold=0.5, min_step=100):
    """Three images of ones; the network takes ``push`` [3] away at each step, on top of the noise that was added."""
    z0 = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(6)).double()

    def noised(t):
        return scaled_start(z0, t, SCHEDULE, 1.0, noise)

    def network(x, t):
        return noise + torch.tensor(push, dtype=torch.float64)[:, None, None, None]

    def compare(clean, own):
        return (clean - own).abs().sum(dim=1)

    start = noised(torch.full((3,), 200))
    more = {"threshold": threshold, "min_step": min_step, "fusion": fusion}
    return sample_adaptively(network, noised, start, SCHEDULE, TIMESTEPS, compare, **more), noised, network


def test_the_more_is_taken_away_the_larger_the_step():
    found, _, _ = sampled(PUSH)
    assert found.steps.tolist() == [80, 120, 160]  # never above the threshold: the first step below min_step
    assert found.differences[0] < 1e-9 and found.differences[1] > 0.5 and found.differences[2] > 0.5


def test_without_fusion_an_image_starts_anew_from_its_step():
    """The first evaluation was on the trajectory, so that step moves by its noise; the rest is plain DDIM."""
    found, noised, network = sampled(PUSH, fusion=False)
    alphas = SCHEDULE.alphas_cumprod
    for i, step in enumerate(found.steps.tolist()):
        grid = [t for t in TIMESTEPS.tolist() if t <= step]
        x = noised(torch.full((3,), step))
        for t, after in zip(grid, [*grid[1:], None], strict=True):
            x = ddim_step(x, network(x, t), alphas[t], 1.0 if after is None else alphas[after])
        assert torch.allclose(found.state[i], x[i])


def test_with_fusion_at_least_half_of_the_trajectory_is_kept():
    fused, _, _ = sampled(PUSH)
    anew, _, _ = sampled(PUSH, fusion=False)
    never, _, _ = sampled(PUSH, threshold=float("inf"), min_step=1)  # the whole trajectory
    assert never.steps.tolist() == [200, 200, 200]
    assert torch.allclose(fused.state[0], anew.state[0])  # below the threshold nothing is fused
    removed = [(x.state[2] - 1).abs().mean() for x in (anew, fused, never)]
    assert removed[0] < removed[1] < removed[2]


def test_an_image_chooses_alone_what_it_chooses_in_a_batch(fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    together = fitted.predict(images, keys).parts
    for i, key in enumerate(keys):
        alone = fitted.predict(images[i : i + 1], [key]).parts
        assert torch.equal(alone["step"], together["step"][i : i + 1])
    assert together["evaluations"].tolist() == [SMALL["num_steps"]] * len(keys)


def test_the_threshold_is_of_held_out_training_images(fitted, splits):
    """A quantile of what they reach, whatever was predicted before; a number is taken as it is."""
    before = fitted.threshold_
    fitted.predict(1 - splits[1]["image"], splits[1]["key"])
    assert before > 0 and fitted.with_settings(threshold_quantile=0.9).threshold_ == before
    assert fitted.with_settings(threshold=0.3).threshold_ == 0.3
    low, high = (fitted.with_settings(threshold=value) for value in (0.0, 10.0))
    steps = [detector.predict(splits[1]["image"], splits[1]["key"]).parts["step"] for detector in (low, high)]
    assert bool((steps[0] > steps[1]).all())  # low: above the threshold at once


def test_the_other_step_is_a_setting_of_the_same_network(fitted, splits):
    other = fitted.with_settings(step_rule="neighbours")
    assert other.threshold_ is None and other.unet_ is fitted.unet_
    assert "distance" in other.predict(splits[1]["image"], splits[1]["key"]).parts
    with pytest.raises(ValueError, match="fade cannot be changed"):
        fitted.with_settings(fade="none")


@pytest.mark.parametrize(
    "settings",
    [
        {"step_rule": "always"},
        {"fade": "cosine"},
        {"pasted_share": 1.5},
        {"pasted_copies": 0},
        {"min_step": 60},  # not above the last timestep of four over T_max
        {"min_step": 241},
        {"guidance_weight": 4.0},
        {"static_step": 80},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        GLAD(**(SMALL | settings))


def test_saved_with_its_threshold(fitted, splits, tmp_path):
    fitted.save(tmp_path)
    loaded = GLAD.load(tmp_path, device="cpu")
    assert loaded.threshold_ == fitted.threshold_
    copied = copy.copy(splits[1])
    assert torch.equal(
        loaded.predict(copied["image"], copied["key"]).parts["step"],
        fitted.predict(copied["image"], copied["key"]).parts["step"],
    )
