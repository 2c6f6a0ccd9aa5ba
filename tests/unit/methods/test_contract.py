"""Every registered method keeps the contract of `tests/contract.py`, with the shipped small models."""

import atexit
import functools
import tempfile
from pathlib import Path

import pytest
import torch
from contract import DetectorContract
from tiny_models import write_clip

from diffad_utils.methods import METHODS, Detector
from diffad_utils.methods.base import noise_keys
from diffad_utils.study.manifest import count_weights

MINI = {"allow_mini": True}
SCORE_MATCHING = {
    "image_size": 32,
    "block_out_channels": (8, 16),
    "dsm_steps": 6,
    "train_steps": 6,
    "train_batch_size": 2,
    "noise_timestep": 20,
    "stride": 5,
}
SETTINGS = {
    "trivial": {},
    "invad": {
        "grid": 4,
        "width": 32,
        "depth": 1,
        "num_heads": 2,
        "train_steps": 150,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
    },
    "clip_knn": {"image_size": 128},
    "clip_zero_shot": {"image_size": 128},
    "clip_probe": {"image_size": 128},
    "img2img": {"image_size": 128, "num_inference_steps": 4, "strength": 0.5, "calibration_images": 4},
    "lora": {
        "image_size": 128,
        "num_inference_steps": 4,
        "strength": 0.5,
        "guidance_scale": 1.0,
        "rank": 2,
        "train_steps": 3,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "holdout_fraction": 0.3,
    },
    "latent_unet": {"width": 16, "train_steps": 6, "train_batch_size": 2},
    "autoencoder": {"train_steps": 6, "train_batch_size": 2, "crop": 32},
    "sgm": SCORE_MATCHING,
    "esm": SCORE_MATCHING,
    "esm_sigma": SCORE_MATCHING,
    "pixel_ddpm": {"image_size": 32, "train_steps": 6, "train_batch_size": 2, "num_steps": 2},
    "ddad": {
        "block_out_channels": (8, 16),
        "train_steps": 6,
        "train_batch_size": 2,
        "num_steps": 2,
        "adaptation_epochs": 1,
    },
    "d3ad": {"block_out_channels": (16, 16), "train_steps": 6, "train_batch_size": 4, "num_steps": 2, "k": 3},
    "anomalib:patchcore": {"coreset_ratio": 0.05},
    "anomalib:padim": {"n_features": 24},
    "anomalib:fastflow": {"train_steps": 20, "train_batch_size": 4, "flow_steps": 2},
    "anomalib:stfpm": {"train_steps": 20, "train_batch_size": 4},
    "anomalib:winclip": {},  # with a tiny vision transformer, see `_suite`
}
"""Fields of each method that make it small enough to be fitted in a second or two."""

ATTRIBUTES = {
    "trivial": {"trained": False},
    "clip_knn": {"trained": False},
    "clip_zero_shot": {"trained": False, "gross_auroc": None},
    "img2img": {"trained": False},
    "latent_unet": {"gross_auroc": None},
    "autoencoder": {"gross_auroc": None},
    "pixel_ddpm": {"gross_auroc": None},
    "ddad": {"gross_auroc": None},
    "anomalib:winclip": {"trained": False, "gross_auroc": None},
    "sgm": {"gross_auroc": None},
    "esm": {"gross_auroc": None},
    "esm_sigma": {"gross_auroc": None},
}
"""Where the suite's defaults do not fit; see `contract`."""


@functools.cache
def _tiny_vit() -> Path:
    """A CLIP with a vision transformer, which the shipped one is not."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return write_clip(Path(folder.name), "vit")


QUICK = ("trivial", "clip_knn", "autoencoder", "invad")
"""The methods whose suites belong to the fast tests."""


def _suite(name: str) -> type[DetectorContract]:
    @classmethod
    def make(cls) -> Detector:
        settings = {"clip": str(_tiny_vit())} if name == "anomalib:winclip" else SETTINGS[name]
        return METHODS[name](**{"image_size": 64, "device": "cpu"} | settings)

    def test_its_weights_are_counted(self, fitted):
        assert (count_weights(fitted) > 0) == (name != "trivial")

    attributes = {"make": make, "test_its_weights_are_counted": test_its_weights_are_counted} | ATTRIBUTES.get(name, {})
    if name not in QUICK:
        attributes["pytestmark"] = [pytest.mark.slow]
    return type(f"Test_{name.replace(':', '_')}", (DetectorContract,), attributes)


for _name in SETTINGS:
    globals()[f"Test_{_name.replace(':', '_')}"] = _suite(_name)


@pytest.mark.parametrize("count", [1, 3])
def test_a_key_for_every_image(count):
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=f"got {count} keys for 2 images"):
        noise_keys(images, ["a", "b", "c"][:count])
    assert noise_keys(images, ["a", "b"]) == ["a", "b"]
    first, second = noise_keys(torch.cat([images[:1], images[:1] + 1e-7]), None)
    assert first != second and noise_keys(images[:1].double(), None) == [first]


def test_every_method_is_held_to_the_contract():
    assert set(METHODS) == set(SETTINGS)


def test_registry():
    assert all(issubclass(cls, Detector) and cls.name == name for name, cls in METHODS.items())


def test_the_suite_asks_for_a_detector():
    with pytest.raises(NotImplementedError, match="override make"):
        DetectorContract.make()
