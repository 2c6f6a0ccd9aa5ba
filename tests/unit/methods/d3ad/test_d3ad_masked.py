"""D3AD in two passes: the second redraws inside the mask alone, and the threshold comes from normal images."""

import pytest
import torch

from diffad_utils import data
from diffad_utils.methods.base import noise_keys
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.d3ad.masked import D3ADMasked
from diffad_utils.methods.img2img.masked import cell_means

SETTINGS = D3ADMasked.contract_settings | {"second_steps": 3, "device": "cpu", "holdout_fraction": 0.3}


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="leather")
    return data.ImageDataset(index[index["split"] == "train"].head(14), size=128)


@pytest.fixture(scope="module")
def masked(train):
    return D3ADMasked(**SETTINGS).fit(train)


@pytest.fixture(scope="module")
def batch():
    index = data.load_index("textures", category="leather")
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(2)
    return data.load_batch(data.ImageDataset(test, size=128))


def half(batch):
    masks = torch.zeros(len(batch["key"]), 16, 16, dtype=torch.bool)
    masks[:, :8] = True
    return masks


def test_the_first_pass_is_d3ad(masked, train, batch):
    plain = D3AD(**{name: value for name, value in SETTINGS.items() if name != "second_steps"}).fit(train)
    expected, found = plain.predict(batch["image"], batch["key"]), masked.first_.predict(batch["image"], batch["key"])
    assert torch.equal(found.score, expected.score) and torch.equal(found.anomaly_map, expected.anomaly_map)
    both = masked.predict(batch["image"], batch["key"])
    without_training = D3ADMasked.of(plain, second_steps=3).predict(batch["image"], batch["key"])
    assert torch.equal(without_training.score, both.score)
    assert both.nfe == expected.nfe + 3 and torch.equal(both.parts["step"], expected.parts["step"])


def test_latents_outside_the_mask_are_the_images_own(masked, batch):
    state, masks = masked.encode(batch["image"]), half(batch)
    keys = noise_keys(batch["image"], batch["key"])
    redrawn = masked._redrawn(state, keys, masks, 240)
    outside = ~masks[:, None].expand_as(state)
    assert torch.equal(redrawn[outside], state[outside])
    assert (redrawn - state)[~outside].abs().mean() > 0.1
    assert torch.equal(masked._redrawn(state, keys, torch.zeros_like(masks), 240), state)


def test_with_the_whole_image_masked_it_is_ddim_from_noise(masked, batch):
    from diffad_utils.diffusion import ddim_sample, image_noise
    from diffad_utils.methods.d3ad.conditioning import scaled_start, subsequence_timesteps

    state, keys = masked.encode(batch["image"]), noise_keys(batch["image"], batch["key"])
    steps = torch.full((len(state),), 240)
    noise = image_noise((1, *state.shape[1:]), masked.seed, [f"{key} second pass" for key in keys])[:, 0]
    start = scaled_start(state, steps, masked.schedule, 1.0, noise)
    with torch.inference_mode():
        sampled = ddim_sample(masked.predict_noise, start, masked.schedule, subsequence_timesteps(steps, 3, 240))
    assert torch.allclose(masked._redrawn(state, keys, torch.ones_like(half(batch)), 240), sampled.float(), atol=1e-4)


def test_pixels_outside_the_mask_found_are_the_images_own(masked, batch):
    outside = ~masked.find(batch["image"], batch["key"]).repeat_interleave(8, 1).repeat_interleave(8, 2)
    made = masked.reconstruct(batch["image"], batch["key"])
    assert outside.any() and not outside.all()
    for image, x_hat, kept in zip(batch["image"], made, outside, strict=True):
        assert torch.equal(image[:, kept], x_hat[:, kept])


def test_the_threshold_is_a_quantile_of_held_out_normal_images(masked):
    maps = torch.cat([masked.first_.anomaly_map(*found[1:]) for found in masked.first_.held_out_maps_])
    share = float((cell_means(maps, 8) > masked.threshold_).float().mean())
    assert share == pytest.approx(1 - masked.mask_quantile, abs=0.005)
    assert masked.with_settings(mask_quantile=0.5).threshold_ < masked.threshold_


REFUSED = {
    "mask_quantile": 1.0,
    "second_step": 1000,
    "second_steps": 0,
    "max_train_timestep": 240,
    "normalisation": "batch",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_settings_are_refused(name):
    with pytest.raises(ValueError, match=name):
        D3ADMasked(**{name: REFUSED[name]})
