"""The pretraining of the small backbone: pictures, irregularities, losses, the comparison, and the shipped result."""

import json
import re

import numpy as np
import pytest
import torch

from diffad_utils import weights
from diffad_utils.foundation import backbone, backbone_quality, pictures
from diffad_utils.metrics import image_auroc
from diffad_utils.models.backbones import load_backbone


@pytest.fixture(scope="module")
def pool():
    return backbone.make_pool(24, 72, seed=3, progress=False)


@pytest.mark.parametrize("family", range(len(pictures.FAMILIES)))
def test_pictures(family):
    for seed in range(3):
        one, again = (pictures.picture(np.random.default_rng(seed), 64, family) for _ in range(2))
        assert one.image.shape == (64, 64, 3) and one.image.dtype == np.float32
        assert one.image.min() >= 0 and one.image.max() <= 1 and one.image.std() > 1e-3
        assert np.array_equal(one.image, again.image)
        assert one.family == family and 5 <= one.period <= 48


@pytest.mark.parametrize("kind", pictures.IRREGULARITIES)
def test_irregularity_changes_exactly_its_mask_visibly(kind):
    image = pictures.picture(np.random.default_rng(1), 64, 4).image
    other = pictures.picture(np.random.default_rng(2), 64, 1).image
    shares = []
    for seed in range(8):
        spoiled, mask = pictures.irregularity(image, other, np.random.default_rng(seed), kind)
        change = np.abs(spoiled - image).mean(axis=2)
        assert np.array_equal(change > 0.03, mask)
        assert spoiled.dtype == np.float32 and spoiled.min() >= 0 and spoiled.max() <= 1
        shares.append(mask.mean())
    assert 0 < max(shares) < 0.6


@pytest.mark.slow
def test_pool_is_deterministic_and_balanced(pool):
    again = backbone.make_pool(24, 72, seed=3, progress=False)
    assert np.array_equal(pool.images, again.images) and np.array_equal(pool.targets, again.targets)
    assert np.bincount(pool.family).tolist() == [2] * 12
    assert not np.array_equal(pool.images, backbone.make_pool(24, 72, seed=4, progress=False).images)


def test_batch(pool):
    first, again = (backbone.draw_batch(pool, torch.Generator().manual_seed(0), 8, 48) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["images"].shape == (16, 3, 48, 48) and first["images"].dtype == torch.float32
    assert first["images"].min() >= 0 and first["images"].max() <= 1
    spoiled = first["mask"].flatten(1).any(1).view(2, 8)
    assert not spoiled[:, ~first["spoiled"]].any()
    assert spoiled[:, first["spoiled"]].float().mean() > 0.5


@pytest.mark.slow
def test_training_lowers_the_loss_and_saves_what_load_backbone_opens(pool, tmp_path):
    model, history = backbone.train_foundation(
        pool, pool, num_steps=12, num_pictures=8, crop=48, validate_every=0, lr=3e-3
    )
    totals = [sum(terms.values()) for terms in history.terms]
    assert np.mean(totals[-3:]) < np.mean(totals[:3])
    assert set(history.validation[-1]) >= {"step", "loss", "family_accuracy", "mark_auroc_8"}
    folder = backbone.save_backbone(model, tmp_path / "saved")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.net((images - model.mean) / model.std)
    for ours, theirs in zip(load_backbone(str(folder))(images), expected):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_training_is_repeatable(pool):
    runs = [
        backbone.train_foundation(pool, pool, num_steps=2, num_pictures=6, crop=32, validate_every=0, seed=7)
        for _ in range(2)
    ]
    assert runs[0][1].terms == runs[1][1].terms


def test_contrast_ignores_spoiled_pictures(pool):
    torch.manual_seed(0)
    model = backbone.FoundationModel().eval()
    batch = backbone.draw_batch(pool, torch.Generator().manual_seed(0), 8, 48)
    changed = {**batch, "images": batch["images"].clone()}
    changed["images"].view(2, 8, 3, 48, 48)[:, batch["spoiled"]] = 0.5
    before, after = (backbone.loss_terms(model, b)["contrast"] for b in (batch, changed))
    torch.testing.assert_close(before, after)


def test_banks_find_what_is_far_and_do_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.rand(10, 9, 4, generator=generator), torch.rand(6, 9, 4, generator=generator)
    test[2, 5] += 3
    scores = backbone_quality.patch_bank_scores(train, test)
    assert scores.argmax() == 2
    torch.testing.assert_close(backbone_quality.patch_bank_scores(train, test[2:3]), scores[2:3])
    pooled = backbone_quality.global_bank_scores(train[:, 0], test[:, 5])
    assert pooled.argmax() == 2
    torch.testing.assert_close(backbone_quality.global_bank_scores(train[:, 0], test[:, 5][2:3]), pooled[2:3])


def test_shipped_weights_are_trained_and_described():
    folder = weights.MINI_ROOT / "resnet"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert backbone_quality.file_sha256(folder / "model.safetensors") in card
    for word in ("procedural", "Steps", "Time", "Device", "Seed", "Known limits"):
        assert word in card
    config = json.loads((folder / "config.json").read_text())
    assert config["model_args"] == backbone.MODEL_ARGS
    steps = int(re.search(r"Steps: (\d+)", card).group(1))
    # the counter of every BatchNorm says how many batches it has seen
    assert int(load_backbone("resnet-mini").net.bn1.num_batches_tracked) == steps


@pytest.mark.slow
def test_shipped_weights_beat_random_ones_on_unseen_pictures():
    networks = [load_backbone("resnet-mini"), *(load_backbone("resnet-mini", random_seed=seed) for seed in range(2))]
    results = np.zeros((3, 4))
    for column, (_, train, test, labels) in zip(
        range(4), backbone_quality.procedural_test(11, 24, 24, crop=64, size=192)
    ):
        for row, network in enumerate(networks):
            scores = backbone_quality.bank_scores(network, train, test)["patches"]
            results[row, column] = image_auroc(scores.numpy(), labels)
    trained, *random = results.mean(axis=1)
    assert trained > max(random) + 0.03
