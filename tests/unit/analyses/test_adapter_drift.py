"""Colour and style changes on known answers; the denoising loss against its formula."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from tiny_models import write_stable_diffusion

from diffad_utils import data
from diffad_utils.analyses import adapter_drift
from diffad_utils.diffusion import NoiseSchedule, image_noise
from diffad_utils.methods.img2img import Img2ImgEngine
from diffad_utils.models.stable_diffusion import load_pipeline

EVERYWHERE = torch.ones(2, 32, 32, dtype=torch.bool)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def flat(*colour):
    return torch.tensor(colour).view(1, 3, 1, 1).expand(2, 3, 32, 32).clone()


def test_lab_of_known_colours():
    white, black, red = (adapter_drift.lab(flat(*c))[0, :, 0, 0] for c in ((1.0, 1, 1), (0.0, 0, 0), (1.0, 0, 0)))
    assert torch.allclose(white, torch.tensor([100.0, 0, 0]), atol=0.02)
    assert torch.allclose(black, torch.zeros(3), atol=0.02)
    assert torch.allclose(red, torch.tensor([53.24, 80.09, 67.20]), atol=0.02)  # sRGB's red in CIELAB, D65


def test_colour_changes(images):
    nothing = adapter_drift.colour_changes(images, images, EVERYWHERE)
    assert all(value.abs().max() == 0 for value in nothing.values())
    changes = adapter_drift.colour_changes(flat(0.0, 0, 0), flat(1.0, 1, 1), EVERYWHERE)
    assert all(torch.allclose(value, torch.tensor(100.0), atol=0.02) for value in changes.values())
    # lighter here and darker there: every pixel changes, the mean colour does not
    x = flat(0.5, 0.5, 0.5)
    lightness = rgb2lab([[[0.5] * 3]])[0, 0, 0]
    up, down = x.clone(), x.clone()
    up[..., :16], down[..., :16] = 0.6, 0.4
    step = [abs(rgb2lab([[[value] * 3]])[0, 0, 0] - lightness) for value in (0.6, 0.4)]
    mixed = x.clone()
    mixed[..., :16], mixed[..., 16:] = 0.6, 0.4
    changes = adapter_drift.colour_changes(x, mixed, EVERYWHERE)
    assert changes["colour_difference"][0].item() == pytest.approx(sum(step) / 2, abs=1e-3)
    assert changes["colour_shift"][0].item() == pytest.approx(abs(step[0] - step[1]) / 2, abs=1e-3)


def test_what_is_inside_the_mask_does_not_count(images):
    outside = EVERYWHERE.clone()
    outside[:, 8:24, 8:24] = False
    changed = images.clone()
    changed[:, :, 8:24, 8:24] = 0
    assert all(value.abs().max() == 0 for value in adapter_drift.colour_changes(images, changed, outside).values())
    assert adapter_drift.spectrum_distance(images, changed, outside).max() == 0
    assert adapter_drift.spectrum_distance(images, changed, EVERYWHERE).min() > 0.5
    distance = adapter_drift.gram_distance(lambda x: [x], images, changed, outside)
    assert distance.max() == 0 and adapter_drift.gram_distance(lambda x: [x], images, changed, EVERYWHERE).min() > 0
    nowhere = adapter_drift.colour_changes(images, changed, torch.zeros_like(outside))
    assert all(bool(value.isnan().all()) for value in nowhere.values())


def test_gram_matrix_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # two channels at two places
    everywhere = torch.ones(1, 1, 2, dtype=torch.bool)
    assert torch.equal(adapter_drift.gram(features, everywhere)[0], torch.tensor([[2.5, 0.5], [0.5, 5.0]]).double())
    first = torch.tensor([[[True, False]]])
    assert torch.equal(adapter_drift.gram(features, first)[0], torch.tensor([[1.0, 3.0], [3.0, 9.0]]).double())
    halved = adapter_drift.gram(features, torch.ones(1, 2, 4, dtype=torch.bool).index_fill(2, torch.tensor([3]), False))
    assert torch.equal(
        halved[0], torch.tensor([[1.0, 3.0], [3.0, 9.0]]).double()
    )  # a place is outside as a whole or not


def test_gram_distance_sees_style_and_not_place(images):
    shifted = images.roll((5, 9), dims=(2, 3))
    assert adapter_drift.gram_distance(lambda x: [x, x**2], images, shifted, EVERYWHERE).max() < 1e-5
    doubled = adapter_drift.gram_distance(lambda x: [x], images, 2 * images, EVERYWHERE)
    assert torch.allclose(doubled, torch.full((2,), 3.0).double(), atol=1e-5)  # |4 G - G| / |G|


def test_spectrum_distance_of_known_filters(images):
    brighter = adapter_drift.spectrum_distance(images, images + 0.1, EVERYWHERE)
    assert brighter.max() < 1e-4  # the mean is colour
    scaled = adapter_drift.spectrum_distance(images, 0.5 + 0.5 * (images - 0.5), EVERYWHERE)
    assert torch.allclose(scaled, torch.full((2,), 20 * math.log10(2)).double(), atol=1e-3)


def test_one_row_an_image_and_paired_changes():
    index = data.load_index("textures", category="carpet")
    index = index[index["split"] == "test"].groupby("label", group_keys=False).head(3)
    batch = data.load_batch(data.ImageDataset(index, size=64))
    perfect = adapter_drift.image_table(batch["twin"], batch, features=lambda x: [x])
    assert perfect["key"].tolist() == batch["key"] and perfect["label"].tolist() == batch["label"].tolist()
    anomalous = perfect[perfect["label"] == 1]
    assert np.allclose(anomalous["removal"], 1) and np.allclose(anomalous["drift"], 0, atol=1e-6)
    assert perfect[perfect["label"] == 0]["removal"].isna().all() and (perfect["Gram distance"] < 0.05).all()
    nothing = adapter_drift.image_table(batch["image"], batch, features=lambda x: [x])
    assert np.allclose(nothing.loc[nothing["label"] == 1, "removal"], 0) and np.allclose(nothing["colour shift"], 0)
    darker = adapter_drift.image_table(0.9 * batch["image"], batch, features=lambda x: [x])
    changes = adapter_drift.paired_changes(nothing, darker, n=50).set_index("measure")
    assert (changes.loc[["colour shift", "Gram distance", "MSE"], "low"] > 0).all()
    assert changes.loc["MSE", "n"] == 3 and changes.loc["colour shift", "n"] == 6 and changes.loc["removal", "n"] == 3
    assert changes.loc["MSE", "after"] == pytest.approx(
        (0.01 * batch["image"][batch["label"] == 0] ** 2).mean().item(), rel=1e-4
    )
    values = adapter_drift.summary(darker, n=50)
    assert values["SSIM low"] <= values["SSIM"] <= values["SSIM high"]
    with pytest.raises(ValueError, match="same images"):
        adapter_drift.paired_changes(nothing, darker.iloc[::-1])


def test_denoising_loss_is_the_training_loss(images, tmp_path):
    engine = Img2ImgEngine(load_pipeline(str(write_stable_diffusion(tmp_path)), device="cpu"), batch_size=2)
    x, keys, prompt, timesteps = torch.rand(3, 3, 64, 64), ["a", "b", "c"], "a woven carpet", [10, 500, 990]
    losses = adapter_drift.denoising_loss(engine, x, keys, prompt, timesteps, seed=4)
    schedule = NoiseSchedule(engine.scheduler.betas)
    noise = image_noise((3, 4, 8, 8), 4, ["b"])[0, 1]
    alpha = schedule.alphas_cumprod[500].float()
    z = engine.encode(x).mean[1]
    with torch.no_grad():
        eps = engine.unet(
            (alpha.sqrt() * z + (1 - alpha).sqrt() * noise)[None], 500, engine.embed(prompt).prompt[None]
        ).sample[0]
    assert losses.shape == (3, 3) and losses[1, 1].item() == pytest.approx(
        (eps - noise).square().mean().item(), rel=1e-4
    )
    alone = adapter_drift.denoising_loss(engine, x[2:], keys[2:], prompt, timesteps, seed=4)
    assert torch.allclose(alone, losses[2:], atol=1e-5)
