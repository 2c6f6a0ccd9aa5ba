"""The second pass redraws inside the mask alone, and the first one's threshold comes from normal images."""

import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import img2img_two_passes
from diffad_utils.methods.img2img import Img2ImgMasked, Setting
from diffad_utils.methods.img2img.masked import cell_means, pasted, widened


@pytest.fixture(scope="module")
def index():
    return data.load_index("textures", category="leather")


@pytest.fixture(scope="module")
def masked(index):
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=128)
    options = dict(num_inference_steps=4, strength=0.5, calibration_images=4, device="cpu")
    return Img2ImgMasked(**options).fit(train)


@pytest.fixture(scope="module")
def batch(index):
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(2)
    return data.load_batch(data.ImageDataset(test, size=128))


def half(batch):
    masks = torch.zeros(len(batch["key"]), 16, 16, dtype=torch.bool)
    masks[:, :8] = True
    return masks


def test_latents_outside_the_mask_are_the_images_own(masked, batch):
    engine, masks = masked.engine_, half(batch)
    posterior = engine.encode(batch["image"])
    texts = [engine.embed("a flawless leather hide")] * len(masks)
    settings = [Setting(0.5, 7.5, 4)] * len(masks)
    free = engine.denoise(posterior, batch["key"], texts, settings)
    latents = engine.denoise(posterior, batch["key"], texts, settings, masks)
    sampled = engine.denoise(posterior, batch["key"], texts, settings, torch.zeros_like(masks))
    outside = ~masks[:, None].expand_as(latents)
    assert torch.equal(latents[outside], sampled[outside])  # the posterior's sample, to the bit
    assert (latents - sampled)[~outside].abs().mean() > 0.01
    everywhere = engine.denoise(posterior, batch["key"], texts, settings, torch.ones_like(masks))
    assert torch.allclose(everywhere, free, atol=1e-5)


def test_a_mask_of_another_size_is_refused(masked, batch):
    engine, count = masked.engine_, len(batch["key"])
    arguments = (engine.encode(batch["image"]), batch["key"], [engine.embed("x")] * count, [Setting()] * count)
    with pytest.raises(ValueError, match=r"masks must be bool \[4, 16, 16\]"):
        engine.denoise(*arguments, torch.ones(count, 128, 128, dtype=torch.bool))


def test_pixels_outside_the_mask_are_the_images_own(masked, batch):
    masks = half(batch)
    edited = masked.edit(batch["image"], batch["key"], masks)
    assert torch.equal(edited[:, :, 64:], batch["image"][:, :, 64:])
    assert not torch.equal(edited[:, :, :64], batch["image"][:, :, :64])
    nothing = masked.edit(batch["image"], batch["key"], torch.zeros_like(masks))
    assert torch.equal(nothing, batch["image"])


def test_the_threshold_is_a_quantile_of_normal_training_images(masked, index):
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=128)
    maps = masked.first_.predict_dataset(masked.calibration_set(train)).anomaly_map
    share = float((cell_means(maps, 8) > masked.threshold_).float().mean())
    assert share == pytest.approx(1 - masked.mask_quantile, abs=0.01)


@pytest.mark.slow
def test_both_passes_are_counted_and_a_first_pass_can_be_taken_over(masked, index, batch):
    from types import SimpleNamespace

    assert masked.evaluations == masked.setting.evaluations + masked.second_setting.evaluations == 8
    task = SimpleNamespace(images=batch["image"], keys=batch["key"])
    first = masked.first_.predict(batch["image"], batch["key"])
    taken, timing = img2img_two_passes.second_pass(masked, first, task)
    whole = masked.predict(batch["image"], batch["key"])
    assert torch.equal(taken.score, whole.score) and torch.equal(taken.reconstruction, whole.reconstruction)
    assert whole.nfe == taken.nfe == 8 and timing["ms_per_image"] > 0


def test_masks_on_the_latents_grid():
    maps = torch.zeros(1, 32, 32)
    maps[0, 8:16, 8:16] = 1.0
    cells = cell_means(maps, 8)
    assert cells.shape == (1, 4, 4) and cells[0, 1, 1] == 1 and cells.sum() == 1
    assert widened(cells > 0.5)[0, :3, :3].all() and not widened(cells > 0.5)[0, 3].any()
    x, redrawn = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    assert pasted(x, redrawn, cells > 0.5).sum() == 3 * 64


@pytest.mark.parametrize("values", [{"mask_quantile": 1.0}, {"mask_quantile": 0.0}, {"second_strength": 0.0}])
def test_bad_settings_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values)).removeprefix("second_")):
        Img2ImgMasked(**values)
