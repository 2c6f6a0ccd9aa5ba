"""The anomalib baselines beyond the contract: what they say when something is missing, and that their scores are the
papers'."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffad_utils import data, kernels
from diffad_utils.io import machine
from diffad_utils.methods import METHODS
from diffad_utils.methods.anomalib_models import FastFlow, PatchCore, WinCLIP, base


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="carpet")
    return data.ImageDataset(index[index["split"] == "train"].head(6), size=64)


@pytest.mark.slow
def test_importing_the_methods_does_not_import_anomalib():
    code = "import sys, diffad_utils.methods; sys.exit(any(name.split('.')[0] == 'anomalib' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_anomalib_the_error_says_what_to_install(train, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name.split('.')[0]!r}")

    monkeypatch.setattr(base.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"No module named 'anomalib'.*diffad_utils\[baselines\]"):
        PatchCore(image_size=64, device="cpu").fit(train)
    assert importlib.import_module is absent  # the patch was in place


@pytest.mark.slow
@pytest.mark.parametrize("subsampling", ["random", "greedy"])
def test_patchcore_is_the_distance_to_the_bank(train, subsampling):
    """With one neighbour the score is the largest distance of a patch to the memory bank (Roth et al., eq. 6)."""
    settings = {"coreset_ratio": 0.1, "subsampling": subsampling, "num_neighbors": 1}
    detector = PatchCore(image_size=64, device="cpu", **settings).fit(train)
    images = data.load_batch(train)["image"][:2]
    model = detector.model_
    pooled = {name: model.feature_pooler(f) for name, f in model.feature_extractor(images).items()}
    patches = model.reshape_embedding(model.generate_embedding(pooled))
    assert len(model.memory_bank) == int(0.1 * len(patches) * 3)  # six training images, two here
    distances, _ = kernels.knn(patches, model.memory_bank, k=1)
    expected = distances.reshape(2, -1).amax(dim=1)
    assert torch.allclose(detector.predict(images).score, expected.float(), atol=1e-3)


@pytest.mark.slow
def test_patchcore_is_anomalibs(train):
    """Scores and maps are those of anomalib's own search and blur, with the same features and bank.

    Of other images than those in the bank: at a distance of 0 anomalib's formula has no correct digit.
    """
    detector = PatchCore(image_size=64, device="cpu").fit(data.ImageDataset(train.index.head(4), size=64))
    images = data.load_batch(train)["image"][4:]
    found = detector.predict(images)
    model, ours = detector.model_, type(detector.model_)
    model.__class__ = ours.__mro__[1]  # anomalib's class, with its own nearest_neighbors
    model.anomaly_map_generator = type(model.anomaly_map_generator).__mro__[1]()
    assert ours.nearest_neighbors is not model.nearest_neighbors.__func__
    with torch.no_grad():
        expected = model(images)
    assert torch.allclose(found.score, expected.pred_score.flatten(), rtol=0, atol=1e-4)
    assert torch.allclose(found.anomaly_map, expected.anomaly_map[:, 0], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_random_bank_holds_patches_of_the_training_images(train):
    detector, again, other = (PatchCore(image_size=64, device="cpu", seed=seed).fit(train) for seed in (0, 0, 1))
    model = detector.model_
    images = data.load_batch(train)["image"]
    pooled = {name: model.feature_pooler(f) for name, f in model.feature_extractor(images).items()}
    patches = model.reshape_embedding(model.generate_embedding(pooled))
    distances, _ = kernels.knn(model.memory_bank, patches, k=1)
    assert distances.max() < 1e-4 and len(model.memory_bank) == len(patches) // 10
    assert torch.equal(model.memory_bank, again.model_.memory_bank)
    assert not torch.equal(model.memory_bank, other.model_.memory_bank)


@pytest.mark.slow
def test_few_patches_are_enough_neighbours(train):
    """A bank of one patch would give every score the weight 0; the bank keeps ``num_neighbors`` patches at least."""
    few = data.ImageDataset(train.index.head(1), size=64)
    detector = PatchCore(image_size=64, device="cpu", coreset_ratio=0.001).fit(few)
    assert len(detector.model_.memory_bank) == detector.num_neighbors
    images = data.load_batch(train)["image"][1:4]
    together = detector.predict(images).score
    assert together.min() > 0
    alone = torch.cat([detector.predict(image[None]).score for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    with pytest.raises(ValueError, match="needs at least num_neighbors = 99 patches of normal images, got 64"):
        PatchCore(image_size=64, device="cpu", num_neighbors=99).fit(few)


def test_fitting_leaves_the_global_generators_as_they_were(train):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    PatchCore(image_size=64, device="cpu", coreset_ratio=0.1).fit(train)
    assert torch.equal(torch.get_rng_state(), torch_state) and np.array_equal(np.random.get_state()[1], numpy_state)


def test_settings_that_cannot_work_are_refused(train):
    with pytest.raises(ValueError, match="vision transformer, got ModifiedResNet"):
        WinCLIP(image_size=64, clip="clip-mini", device="cpu").fit(train)
    with pytest.raises(ValueError, match="subsampling must be 'random' or 'greedy', got 'all'"):
        PatchCore(subsampling="all")
    with pytest.raises(ValueError, match="coreset_ratio must be above 0 and at most 1, got 10"):
        PatchCore(coreset_ratio=10)
    with pytest.raises(ValueError, match="multiple of 16, got 72"):
        FastFlow(image_size=72, device="cpu").fit(train)


def test_every_baseline_is_registered():
    names = {name.removeprefix("anomalib:") for name in METHODS if name.startswith("anomalib:")}
    without_backbone = {"winclip", "ganomaly", "draem"}
    assert names == {"patchcore", "padim", "fastflow", "stfpm", "reverse_distillation", "cfa"} | without_backbone


@pytest.mark.parametrize("name", ["anomalib:patchcore", "anomalib:padim"])
def test_more_than_memory_holds_is_refused_with_the_number_of_bytes_before_any_work(train, monkeypatch, name):
    detector = METHODS[name](image_size=64, device="cpu", **METHODS[name].contract_settings)
    monkeypatch.setattr(machine, "memory_free", lambda: 10**6)
    monkeypatch.setattr(type(detector), "_learn", lambda *_: pytest.fail("it started"))
    with pytest.raises(MemoryError, match=r"6 images of 64 px, needs [\d,]+ bytes of memory, 1,000,000 are free"):
        detector.fit(train)
    side = detector.image_size // min(detector.strides)
    width = detector.model_.n_features if name == "anomalib:padim" else sum(detector.pretrained_.channels)
    needed = [detector._bytes_to_fit(count) for count in (1000, 2000)]
    assert needed[1] - needed[0] == 1000 * (24 * 64**2 + 8 * side**2 * width)
