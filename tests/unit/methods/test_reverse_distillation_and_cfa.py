"""Reverse distillation and CFA beyond the contract: what is trained, the papers' losses and scores, what is refused."""

import pytest
import torch
import torch.nn.functional as F

from diffad_utils import data
from diffad_utils.io import machine
from diffad_utils.methods.anomalib_models import CFA, ReverseDistillation
from diffad_utils.models.device import generators_kept


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="carpet")
    return data.ImageDataset(index[index["split"] == "train"].head(6), size=64)


@pytest.fixture(scope="module")
def reverse(train):
    return ReverseDistillation(image_size=64, device="cpu", train_steps=2, train_batch_size=2).fit(train)


@pytest.fixture(scope="module")
def cfa(train):
    return CFA(image_size=64, device="cpu", train_steps=2, batch_size=4).fit(train)


@pytest.fixture(scope="module")
def images(train):
    return data.load_batch(train)["image"][:2]


@torch.no_grad()
def test_the_map_of_reverse_distillation_is_the_sum_of_the_distances(reverse, images):
    model = reverse.model_
    features = list(model.encoder(images).values())
    decoded = model.decoder(model.bottleneck(features))
    assert [d.shape for d in decoded] == [f.shape for f in features]
    distances = [1 - F.cosine_similarity(f, d, dim=1) for f, d in zip(features, decoded)]
    maps = sum(F.interpolate(d[:, None], size=64, mode="bilinear", align_corners=True) for d in distances)
    found = reverse.predict(images)
    assert torch.allclose(found.score, found.anomaly_map.amax(dim=(1, 2)), atol=1e-6)
    assert torch.allclose(found.anomaly_map.mean(), maps.mean(), atol=0.02)  # the filter moves values, it adds none


def test_reverse_distillation_trains_the_code_and_the_decoder_alone(reverse, images):
    model = reverse._build().train()
    features, decoded = model(images)
    for loss in (reverse._loss(), ReverseDistillation(cosine="position")._loss()):
        value = loss(features, decoded)
        reached = torch.autograd.grad(value, [*model.decoder.parameters()], retain_graph=True, allow_unused=True)
        assert all(gradient is not None for gradient in reached)
        assert 0 < float(value.detach()) < 6  # three layers, each from 0 to 2
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_the_two_readings_of_the_cosine():
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(2, 3, 4, 4, generator=generator)]
    decoded = [features[0] * torch.linspace(1, 9, 16).view(1, 1, 4, 4)]  # other lengths, the same directions
    position = ReverseDistillation(cosine="position")._loss()(features, decoded)
    layer = ReverseDistillation()._loss()(features, decoded)
    assert float(position) == pytest.approx(0, abs=1e-6) and float(layer) > 0.05


@torch.no_grad()
def test_cfas_centres_are_means_over_the_images_before_training(cfa, train):
    with generators_kept(cfa.seed):
        untrained = CFA(image_size=64, device="cpu")._build()
    expected = untrained.adapted(data.load_batch(train)["image"]).mean(dim=0).flatten(1)  # four images, then two
    assert torch.allclose(cfa.model_.memory_bank, expected, atol=1e-5)
    assert expected.shape == (2 * 176, 16 * 16)  # twice the channels of efficientnet-lite0, a centre a position
    assert not torch.equal(cfa.model_.descriptor.layer.conv2d.weight, untrained.descriptor.layer.conv2d.weight)


@torch.no_grad()
def test_cfas_score_is_the_distance_times_its_softmin(cfa, images):
    model = cfa.model_
    adapted = model.adapted(images).flatten(2).transpose(1, 2)
    nearest = torch.cdist(adapted, model.memory_bank.T.expand(2, -1, -1)).topk(3, largest=False).values
    maps = F.softmin(nearest, dim=-1)[..., 0] * nearest[..., 0]
    expected = model.anomaly_map_generator.compute_anomaly_map(maps.view(2, 1, 16, 16), image_size=(64, 64))[:, 0]
    found = cfa.predict(images)
    assert torch.allclose(found.anomaly_map, expected, rtol=0.01, atol=1e-3)
    assert torch.allclose(found.score, expected.amax(dim=(1, 2)), rtol=0.01, atol=1e-3)


def test_a_position_at_its_centre_has_a_finite_score(cfa, images):
    """By rounding the squared distance can be below 0, of which the map takes the root."""
    model = cfa._build().eval()
    with torch.no_grad():
        model.memory_bank = model.adapted(images[:1]).flatten(2)[0] * (1 + 1e-7)
        assert float(model.compute_distance(model.adapted(images[:1])).min()) >= 0
        assert bool(torch.isfinite(model(images).anomaly_map).all())


def test_more_than_memory_holds_is_refused_before_any_work(train, monkeypatch):
    detector = CFA(image_size=64, device="cpu")
    monkeypatch.setattr(machine, "memory_free", lambda: 10**6)
    monkeypatch.setattr(CFA, "_learn", lambda *_: pytest.fail("it started"))
    with pytest.raises(MemoryError, match=r"6 images of 64 px, needs [\d,]+ bytes of memory, 1,000,000 are free"):
        detector.fit(train)
    needed = [CFA(image_size=side)._bytes_to_fit(0) for side in (64, 128)]
    assert needed[1] == 16 * needed[0] == 16 * 24 * 4 * 256**2  # positions squared


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="cosine must be 'layer' or 'position', got 'pixel'"):
        ReverseDistillation(cosine="pixel")
    with pytest.raises(ValueError, match="multiple of 32, got 80"):
        ReverseDistillation(image_size=80)
    with pytest.raises(ValueError, match=r"three strides, each twice the one before, got \[4, 16\]"):
        ReverseDistillation(strides=(4, 16))
    with pytest.raises(ValueError, match="num_neighbors must be from 1 to 2, half of the positions .* 8 px, got 3"):
        CFA(image_size=8)
