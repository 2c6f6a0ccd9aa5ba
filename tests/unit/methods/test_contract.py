"""Every registered method keeps the contract of `diffad_utils.testing.contract`, with the shipped small models."""

import atexit
import functools
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_models import write_clip

from diffad_utils.methods import METHODS, Detector
from diffad_utils.methods.base import noise_keys
from diffad_utils.study.manifest import count_weights
from diffad_utils.testing.contract import DetectorContract


@functools.cache
def _tiny_vit() -> Path:
    """A CLIP with a vision transformer, which the shipped one is not."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return write_clip(Path(folder.name), "vit")


class OfTheStudy(DetectorContract):
    def test_the_manifest_has_its_weights(self, fitted):
        assert (count_weights(fitted) > 0) == bool(fitted.networks())

    def test_its_weights_have_checksums(self, fitted):
        assert all(len(sha256) == 64 for sha256 in fitted._checksums().values())
        if hasattr(fitted, "allow_mini") and getattr(fitted, "pretrained", True):  # else all weights are its own
            assert fitted.resolved_weights()


QUICK = ("trivial", "clip_knn", "autoencoder", "invad")
"""The methods whose suites belong to the fast tests."""


for _name, _class in METHODS.items():
    _suite = f"Test_{_name.replace(':', '_')}"
    _marks = {} if _name in QUICK else {"pytestmark": [pytest.mark.slow]}
    globals()[_suite] = type(_suite, (OfTheStudy,), {"detector": _class} | _marks)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class OnAGPU(DetectorContract):
    """The contract on a GPU, with the deterministic kernels that a headless run asks for there."""

    device = "cuda"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def deterministic(cls):
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
        torch.use_deterministic_algorithms(False)

    def test_the_cpu_gives_nearly_the_same(self, fitted, predicted, samples, tmp_path):
        fitted.save(tmp_path)
        there = type(fitted).load(tmp_path, device="cpu").predict(samples[1]["image"], samples[1]["key"])
        self._same(there, predicted, list(range(6)), 1e-3)


for _name, _class in METHODS.items():
    if not _name.startswith("anomalib:"):  # anomalib's own code; PatchCore and PaDiM train no network
        _suite = f"Test_{_name}_on_a_gpu"
        globals()[_suite] = type(_suite, (OnAGPU,), {"detector": _class})


def _make_winclip(cls) -> Detector:
    return cls.detector(image_size=64, device="cpu", clip=str(_tiny_vit()))


Test_anomalib_winclip.make = classmethod(_make_winclip)  # noqa: F821 (made by the loop)


@pytest.mark.parametrize("count", [1, 3])
def test_a_key_for_every_image(count):
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=f"got {count} keys for 2 images"):
        noise_keys(images, ["a", "b", "c"][:count])
    assert noise_keys(images, ["a", "b"]) == ["a", "b"]
    first, second = noise_keys(torch.cat([images[:1], images[:1] + 1e-7]), None)
    assert first != second and noise_keys(images[:1].double(), None) == [first]


def test_registry():
    assert all(issubclass(cls, Detector) and cls.name == name for name, cls in METHODS.items())


def test_families():
    diffusion = {"invad", "img2img", "lora", "pixel_ddpm", "ddad", "d3ad", "glad", "sgm", "esm", "esm_sigma"}
    diffusion |= {"img2img_masked", "d3ad_masked", "pixel_ddpm_simplex"}
    diffusion |= {f"{name}_inversion" for name in ("d3ad", "sgm", "pixel_ddpm", "img2img")}
    clip = {"clip_knn", "clip_zero_shot", "clip_probe", "anomalib:winclip"}
    for names, family in ((diffusion, "diffusion"), (clip, "clip"), ({"trivial", "anomalib:padim"}, "classical")):
        assert {METHODS[name].family for name in names} == {family}


def test_the_suite_asks_for_a_detector():
    with pytest.raises(NotImplementedError, match="detector = MyDetector"):
        DetectorContract.make()
