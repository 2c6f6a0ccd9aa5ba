"""C97's comparison: one network in two spaces, counted and timed with encoder and decoder."""

import numpy as np
import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import d3ad_effects, space_cost
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.study import claims, verdicts


@pytest.fixture(scope="module")
def detector():
    index = data.load_index("textures", category="leather", train=12, test_good=3, test_anomalous=3)
    train = data.ImageDataset(index[index["split"] == "train"], size=64)
    settings = D3AD.contract_settings | {"block_out_channels": (16, 16), "attention_resolutions": (4,)}
    return D3AD(image_size=64, device="cpu", allow_mini=True, **settings).fit(train)


def test_pixels_have_the_same_network(detector):
    other = space_cost.in_pixels(detector)
    assert (detector.space, other.space) == ("latent", "pixel") and other.attention_resolutions == [32]
    own, pixels = detector.unet_.config, other.unet_.config
    assert own.block_out_channels == pixels.block_out_channels and own.down_block_types == pixels.down_block_types
    assert (own.sample_size, pixels.sample_size) == (8, 64)


def test_both_are_counted_and_timed_on_the_same_images(detector):
    images, steps = torch.rand(2, 3, 64, 64), torch.tensor([20, 80])
    found = space_cost.measure(detector, images, steps, repetitions=2)
    assert found.ratios.shape == (2,) and (found.ratios > 0).all()
    assert found.operations["pixels"] > found.operations["latents"] > 0
    made = space_cost.reconstruct(detector, detector._input(images), steps)
    static = [
        detector.with_settings(static_step=int(step)).reconstruct(images[i : i + 1]) for i, step in enumerate(steps)
    ]
    assert torch.allclose(made, torch.cat(static), atol=1e-4)
    assert list(found.table()["space"]) == ["pixels", "latents"] and "floating-point operations" in found.in_words()


def test_the_measure_is_what_the_claim_fixes():
    ((measure, values),) = d3ad_effects.pixels_over_latents(np.array([4.0, 8.0, 16.0])).items()
    assert values.tolist() == [3.0, 2.0, 4.0]
    variant = verdicts.variant_of(claims.published_claims().loc["C97"], measure)
    assert variant == "seconds in pixels over seconds in latents"
