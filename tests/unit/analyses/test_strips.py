"""What strips record of a sweep: reconstructions, maps, and the survival of the defects shown."""

import types

import pytest
import torch
from tasks import few_images

from diffad_utils.analyses import strips
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.metrics.counterfactual import defect_survival

SMALL = {"image_size": 64, "device": "cpu", "train_steps": 2, "train_batch_size": 4, "warmup_steps": 1}


@pytest.fixture(scope="module")
def task():
    return few_images(train=12, good=2, anomalous=3)


def test_an_editor_that_keeps_a_share_of_the_image_keeps_that_share_of_the_defect(task, monkeypatch):
    """Images and counterparts are redrawn alike, and the survival is of what the autoencoder left: here, half."""
    shown, strengths = task.take(task.examples(3, 0)), [0.25, 0.75]
    latent = types.SimpleNamespace
    engine = types.SimpleNamespace(encode=lambda x: latent(mean=0.5 * x), decode=lambda z: z)
    monkeypatch.setattr(
        strips, "redraw", lambda detector, task, strength: detector.engine_.decode(0.5 * (1 - strength) * task.images)
    )
    x_hats = [0.5 * (1 - s) * shown.images for s in strengths]
    strip = strips.over_strengths(types.SimpleNamespace(engine_=engine), shown, x_hats, strengths)
    expected = torch.tensor([[0.75] * 3, [0.25] * 3], dtype=torch.float64)
    assert torch.allclose(strip.survival, expected, atol=1e-6)
    assert torch.allclose(strip.maps[1], (shown.images - x_hats[1]).abs().mean(dim=1))
    assert strip.settings == ["strength 0.25", "strength 0.75"]
    assert (
        "of the 3 defects shown is 0.75 to 0.75 at strength 0.25 and 0.25 to 0.25 at strength 0.75" in strip.in_words()
    )
    del shown.batch["twin"]
    alone = strips.over_strengths(types.SimpleNamespace(engine_=engine), shown, x_hats, strengths)
    assert alone.survival is None and "no survival" in alone.in_words()


@pytest.mark.slow
def test_every_step_with_every_noise_fraction_is_what_the_detector_makes_alone(task):
    detector = D3AD(**SMALL, block_out_channels=(16, 16), k=3, holdout_fraction=0.2, adaptation_epochs=0)
    detector.fit(task.train)
    shown = task.take(task.examples(2, 1))
    strip = strips.over_noise_and_steps(detector, shown, [80, 240], [0.0, 1.0])
    assert strip.settings == ["T 80, omega 0", "T 80, omega 1", "T 240, omega 0", "T 240, omega 1"]
    assert strip.survival[:, 2].isnan().all() and strip.survival[:, :2].isfinite().all()
    alone = detector.with_settings(static_step=240, noise_fraction=1.0)
    prediction, twin = alone.predict(shown.images, shown.keys), shown.batch["twin"]
    assert torch.allclose(strip.x_hats[3], prediction.reconstruction, atol=1e-5)
    assert torch.allclose(strip.maps[3], prediction.anomaly_map, atol=1e-4)
    kept = defect_survival(shown.images[:2], twin[:2], strip.x_hats[3, :2], alone.reconstruct(twin, shown.keys)[:2])
    assert torch.allclose(strip.survival[3, :2], kept, atol=1e-4)
