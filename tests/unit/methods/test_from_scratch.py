"""GANomaly and DRAEM beyond the contract: whose weights a loss reaches, what is drawn, and the papers' scores."""

import pytest
import torch
import torch.nn.functional as F

from diffad_utils import data
from diffad_utils.methods.anomalib_models import DRAEM, GANomaly


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="carpet")
    return data.ImageDataset(index[index["split"] == "train"].head(6), size=64)


@pytest.fixture(scope="module")
def ganomaly(train):
    return GANomaly(device="cpu", image_size=32, features=8, latent=8, train_steps=2).fit(train)


@pytest.fixture(scope="module")
def draem(train):
    return DRAEM(device="cpu", image_size=64, width=4, train_steps=2, train_batch_size=2, smoothing=5).fit(train)


def _gradients(loss: torch.Tensor, network: torch.nn.Module) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)


def test_the_discriminator_learns_from_its_own_loss_alone(ganomaly):
    """As if generator and discriminator were updated in turn, from the same state."""
    model, images = ganomaly._build(), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = ganomaly._loss()(model, images, torch.Generator())
    real = 2 * images - 1
    fake = model.generator(real)[0]
    said = [model.discriminator(x)[0] for x in (real, fake.detach())]
    own = (F.binary_cross_entropy(said[0], torch.ones(4)) + F.binary_cross_entropy(said[1], torch.zeros(4))) / 2
    for got, expected in zip(_gradients(together, model.discriminator), _gradients(own, model.discriminator)):
        assert torch.allclose(got, expected, atol=1e-6)
    assert all(bool(g.abs().sum() > 0) for g in _gradients(together, model.generator.decoder))


def test_ganomalys_score_is_the_distance_of_the_two_codes(ganomaly, train):
    images = data.load_batch(train)["image"][:2]
    with torch.no_grad():
        _, first, second = ganomaly.model_.generator(2 * ganomaly._input(images) - 1)
    found = ganomaly.predict(images)
    assert torch.allclose(found.score, (first - second).abs().sum(dim=(1, 2, 3)), atol=1e-5)
    assert torch.allclose(found.parts["l2"], (first - second).square().mean(dim=(1, 2, 3)), atol=1e-6)
    assert found.anomaly_map is None and found.reconstruction.shape == images.shape


def test_draems_score_is_the_largest_value_of_the_smoothed_map(draem, train):
    images = data.load_batch(train)["image"][:2]
    found = draem.predict(images)
    smooth = F.avg_pool2d(found.anomaly_map[:, None], 5, stride=1, padding=2)
    assert torch.allclose(found.score, smooth.amax(dim=(1, 2, 3)), atol=1e-6)
    assert torch.allclose(found.parts["plain"], found.anomaly_map.amax(dim=(1, 2)), atol=1e-6)
    assert bool((found.parts["plain"] >= found.score - 1e-6).all())


def test_synthetic_anomalies_come_from_the_generator_alone(draem):
    images, model = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), draem._build().eval()
    model.forward = lambda seen: (seen, torch.zeros(len(seen), 2, 64, 64))  # the loss then depends on the damage alone
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(losses))
        loss = draem._loss()
        losses.append(float(loss(model, images, torch.Generator().manual_seed(seed))))
    assert losses[0] == losses[1] != losses[2]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="power of 2 from 16 on, got 48"):
        GANomaly(image_size=48)
    with pytest.raises(ValueError, match="distance must be 'l1' or 'l2', got 'cosine'"):
        GANomaly(distance="cosine")
    with pytest.raises(ValueError, match="multiple of 32, got 80"):
        DRAEM(image_size=80)
    with pytest.raises(ValueError, match="smoothing must be odd and at least 1, got 4"):
        DRAEM(smoothing=4)
    with pytest.raises(ValueError, match="width must be even and at least 2, got 3"):
        DRAEM(width=3)
