"""Features kept by checksum, backbones cut behind the last needed block, workers that read ahead."""

import pytest
import timm
import torch

from diffad_utils import data
from diffad_utils.io import store
from diffad_utils.methods.base import batches
from diffad_utils.methods.invad import InvAD
from diffad_utils.models.autoencoders import LatentSpace, PixelSpace
from diffad_utils.models.backbones import load_backbone
from diffad_utils.models.feature_cache import cached_features, cached_latents
from diffad_utils.models.stable_diffusion import load_vae


def loader(images):
    return lambda: iter([{"image": images[:2], "key": ["a", "b"]}, {"image": images[2:], "key": ["c"]}])


def test_features_are_extracted_once_for_the_same_images_and_settings(tmp_path):
    images, calls = torch.rand(3, 3, 4, 4), []

    def extract(batch):
        calls.append(len(batch))
        return batch.mean(dim=1)

    without, keys = cached_features(loader(images), extract, {"layer": 1})
    assert calls == [2, 1] and keys == ["a", "b", "c"] and not list(tmp_path.iterdir())
    store.open_run(tmp_path)
    for expected in ([2, 1] * 2, [2, 1] * 2):  # the second time from the file
        features, keys = cached_features(loader(images), extract, {"layer": 1})
        assert torch.equal(features, without) and keys == ["a", "b", "c"] and calls == expected
    for other, description in ((images.flip(0), {"layer": 1}), (images + 1e-7, {"layer": 1}), (images, {"layer": 2})):
        before = len(calls)
        cached_features(loader(other), extract, description)
        assert len(calls) == before + 2  # another order, value or setting is another entry
    assert len(store.active().entries()) == 4 and len(store.taken()) == 1


def test_features_from_the_store_lie_as_computed_ones(tmp_path):
    """Networks leave their channels last; sums over another layout have other last bits."""
    images, layout = torch.rand(3, 5, 4, 6), {"memory_format": torch.channels_last}
    without = cached_features(loader(images), lambda batch: batch.contiguous(**layout), {})[0]
    store.open_run(tmp_path)
    computed, taken = (cached_features(loader(images), lambda batch: batch.contiguous(**layout), {})[0] for _ in "ab")
    assert len(store.taken()) == 1
    for features in (without, computed, taken):
        assert torch.equal(features, images) and features.stride() == (120, 24, 6, 1)
        assert features.data_ptr() % 64 == 0
        assert torch.equal(features.mean(dim=(0, 2, 3)), without.mean(dim=(0, 2, 3)))


def test_latents_of_training_images_are_encoded_once(tmp_path, monkeypatch):
    space, images = LatentSpace(load_vae("sd-mini", device="cpu")), torch.rand(3, 3, 64, 64)
    expected = space.encode(images)
    store.open_run(tmp_path)
    assert torch.equal(cached_latents(space, images), expected)
    monkeypatch.setattr(LatentSpace, "encode", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(cached_latents(space, images), expected)
    assert [entry["what"] for entry in store.taken()] == ["latents"]
    monkeypatch.undo()
    cached_latents(LatentSpace(space.vae, "bf16"), images)
    assert len(store.taken()) == 1 and torch.equal(cached_latents(PixelSpace(), images), PixelSpace().encode(images))


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="leather")
    return data.ImageDataset(index[index["split"] == "train"].iloc[:12], size=64)


@pytest.mark.slow
def test_invad_fits_the_same_with_the_store(train, tmp_path):
    settings = {
        "image_size": 64,
        "grid": 4,
        "width": 32,
        "depth": 1,
        "train_steps": 3,
        "warmup_steps": 1,
        "device": "cpu",
    }
    image = train[0]["image"][None]
    expected = InvAD(**settings).fit(train).predict(image)
    store.open_run(tmp_path)
    for more in ({}, {"device": "auto"}, {"train_steps": 4}):
        found = InvAD(**settings | more).fit(train).predict(image)
        same = torch.equal(found.score, expected.score) and torch.equal(found.anomaly_map, expected.anomaly_map)
        assert same == ("train_steps" not in more)
    assert [entry["kind"] for entry in store.taken()] == ["fitted", "features"]


def test_invads_short_precision_is_close_and_known_by_name(train):
    settings = {
        "image_size": 64,
        "grid": 4,
        "width": 32,
        "depth": 1,
        "train_steps": 3,
        "warmup_steps": 1,
        "device": "cpu",
    }
    detector = InvAD(**settings).fit(train)
    images = torch.stack([train[i]["image"] for i in range(4)])
    features = detector.features(images)
    exact = detector.invert(features)
    detector.inference_precision = "bf16"
    short = detector.invert(features)
    assert short.dtype == torch.float32
    assert 0 < (short - exact).norm() < 0.02 * exact.norm()  # bfloat16 has three digits
    with pytest.raises(ValueError, match="inference_precision must be one of"):
        InvAD(inference_precision="int8")


def test_an_efficientnet_stops_behind_the_last_block_that_is_asked_for():
    backbone = load_backbone("efficientnet-b4", strides=(2, 8), random_seed=0)
    whole = timm.create_model("tf_efficientnet_b4", pretrained=False, features_only=True, out_indices=(0, 2)).eval()
    assert len(backbone.net.blocks) == 3 < len(whole.blocks)
    whole.load_state_dict(backbone.net.state_dict(), strict=False)
    whole.to(memory_format=torch.channels_last)  # as the backbone's
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(backbone(images), whole((images - backbone.mean) / backbone.std), strict=True):
            assert torch.equal(found, expected)


def test_workers_read_the_same_samples_in_the_same_order(train, monkeypatch):
    expected = list(batches(train, 5))
    monkeypatch.setenv("DIFFAD_WORKERS", "2")
    for found, batch in zip(batches(train, 5), expected, strict=True):
        assert found["key"] == batch["key"] and torch.equal(found["image"], batch["image"])
    monkeypatch.setenv("DIFFAD_WORKERS", "-1")
    with pytest.raises(ValueError, match="DIFFAD_WORKERS must be a number of processes"):
        batches(train, 5)
