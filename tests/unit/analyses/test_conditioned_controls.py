"""The controls without a diffusion model: what they are equal to, and what they need not."""

import pytest
import torch
from tasks import few_images

from diffad_utils import data
from diffad_utils.analyses.conditioned_controls import (
    AUTOENCODER,
    GATE,
    LINEAR,
    d3ad_controls,
    ddad_control,
    wiener_filter,
)
from diffad_utils.analyses.detector_variants import Variants, settings_of
from diffad_utils.methods.d3ad import D3AD, DDAD
from diffad_utils.methods.d3ad.maps import feature_distance

SMALL = {"image_size": 64, "device": "cpu", "train_steps": 2, "train_batch_size": 4, "warmup_steps": 1}


@pytest.fixture(scope="module")
def task():
    return few_images(train=16, good=3, anomalous=3)


@pytest.fixture(scope="module")
def variants(task):
    detector = D3AD(**SMALL, block_out_channels=(16, 16), k=3, holdout_fraction=0.2, adaptation_epochs=0)
    return Variants(detector.fit(task.train), task)


def test_a_wiener_filter_removes_white_noise():
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(0, 12.6, 32).sin()[:, None].expand(32, 32)
    shifts = torch.randint(0, 32, (200,), generator=generator).tolist()
    clean = torch.stack([rows.roll(s, 0) for s in shifts])[:, None]
    noisy = clean + torch.randn(clean.shape, generator=generator)
    denoised = wiener_filter(clean, 1.0)(noisy)
    assert (denoised - clean).square().mean() < 0.1 * (noisy - clean).square().mean()
    assert torch.allclose(wiener_filter(clean, 1e-9)(clean), clean, atol=1e-2)


def test_d3ad_without_diffusion(variants):
    detector, maps = variants.detector, variants.maps()
    found = d3ad_controls(detector, maps, (64, 64))
    assert set(found) == {GATE, AUTOENCODER} and found[GATE].anomaly_map is None
    assert torch.equal(found[GATE].score, variants.predict().parts["distance"])
    state = torch.cat([part.reconstruction.state for part in maps])
    x_hat = detector.decode(state)
    assert torch.allclose(found[AUTOENCODER].reconstruction, x_hat) and found[AUTOENCODER].nfe == 0
    features = feature_distance(detector.features(variants.task.images), detector.features(x_hat), (64, 64))
    order = found[AUTOENCODER].score.argsort()
    peaks = detector.anomaly_map(torch.zeros_like(features), features).flatten(1).amax(dim=1)
    assert torch.equal(order, peaks.argsort())


@pytest.mark.slow
def test_ddad_without_its_network(task):
    ddad = DDAD(**SMALL, block_out_channels=(8, 16), num_steps=2, holdout_fraction=0.2).fit(task.train)
    maps = Variants(ddad, task).maps()
    training = data.load_batch(task.train)["image"]
    calls = []
    hook = ddad.unet_.register_forward_hook(lambda *call: calls.append(call))
    found = ddad_control(ddad, maps, training, (64, 64))
    hook.remove()
    assert not calls and found.nfe == 0 and LINEAR
    assert found.anomaly_map.shape == (6, 64, 64) and torch.isfinite(found.score).all()
    alone = ddad_control(ddad, [part.rows([2]) for part in maps], training, (64, 64))
    assert torch.allclose(alone.score, found.score[2:3], rtol=1e-4)


@pytest.mark.slow
def test_variants_are_what_with_settings_gives(variants, task):
    assert settings_of(D3AD, {"t_max": 80, "seed": 1, "device": "cpu", "curves": 3}) == {"t_max": 80}
    found = variants.predict(static_step=40, map_weight=0.5)
    fresh = variants.detector.with_settings(static_step=40, map_weight=0.5).predict(task.images, task.keys)
    assert torch.allclose(found.score, fresh.score, rtol=1e-4)
    assert variants.fitted() is variants.fitted(t_max=80) is variants.detector
    assert variants.fitted(static_step=40) is variants.fitted(static_step=40)
    quality = variants.compare({"ours": {}, "T = 40": {"static_step": 40}})
    assert list(quality.values) == ["ours", "T = 40"]
    difference = quality.differences("ours")
    assert set(difference["variant"]) == {"T = 40"} and bool((difference["low"] <= difference["high"]).all())
