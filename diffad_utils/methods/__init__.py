"""Every method behind one interface, one folder or file a paper.

`METHODS` maps the names of parameters and run folders to classes and loads a class when it is asked for. Code and
notebooks import a method from its own module, ``from diffad_utils.methods.invad import InvAD``: that loads no other
method, and a run depends on the code of its own method only. A new method adds one line to `METHODS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

from diffad_utils.methods.base import Detector, Prediction

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["METHODS", "Detector", "Prediction"]


def __getattr__(name: str) -> type[Detector]:
    """A class by its own name, ``methods.InvAD``, loaded when it is asked for."""
    for method, entry in METHODS.entries().items():
        if name == (entry.rpartition(":")[2] if isinstance(entry, str) else entry.__name__):
            return METHODS[method]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Registry(MutableMapping[str, type[Detector]]):
    """Classes by name; an entry is a class, or ``"module:Class"`` below this package, imported on first access."""

    def __init__(self, entries: dict[str, str]) -> None:
        self._entries: dict[str, str | type[Detector]] = dict(entries)

    def __getitem__(self, name: str) -> type[Detector]:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            loaded: ModuleType = importlib.import_module(f"{__name__}.{module}")
            entry = self._entries[name] = getattr(loaded, attribute)
        return entry

    def __setitem__(self, name: str, entry: type[Detector]) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entries(self) -> dict[str, str | type[Detector]]:
        """What is registered, loaded or not."""
        return dict(self._entries)

    def __repr__(self) -> str:
        return f"METHODS({', '.join(self)})"


METHODS = Registry(
    {
        "trivial": "trivial:Trivial",
        "invad": "invad:InvAD",
        "clip_knn": "clip_detectors:ClipKNN",
        "clip_zero_shot": "clip_detectors:ClipZeroShot",
        "clip_probe": "clip_detectors:ClipProbe",
        "img2img": "img2img:Img2Img",
        "img2img_masked": "img2img:Img2ImgMasked",
        "lora": "img2img.lora:LoRA",
        "latent_unet": "latent_unet:LatentUNet",
        "autoencoder": "autoencoder:Autoencoder",
        "pixel_ddpm": "pixel_ddpm:PixelDDPM",
        "pixel_ddpm_simplex": "pixel_ddpm:SimplexDDPM",
        "ddad": "d3ad:DDAD",
        "d3ad": "d3ad:D3AD",
        "d3ad_masked": "d3ad.masked:D3ADMasked",
        "glad": "glad:GLAD",
        "sgm": "esm:SGM",
        "esm": "esm:ESM",
        "esm_sigma": "esm:ESMSigma",
        "d3ad_inversion": "d3ad.inversion:D3ADInversion",
        "sgm_inversion": "esm.inversion:SGMInversion",
        "pixel_ddpm_inversion": "pixel_ddpm_inversion:PixelDDPMInversion",
        "img2img_inversion": "img2img.inversion:Img2ImgInversion",
        "anomalib:patchcore": "anomalib_models:PatchCore",
        "anomalib:padim": "anomalib_models:PaDiM",
        "anomalib:fastflow": "anomalib_models:FastFlow",
        "anomalib:stfpm": "anomalib_models:STFPM",
        "anomalib:reverse_distillation": "anomalib_models:ReverseDistillation",
        "anomalib:cfa": "anomalib_models:CFA",
        "anomalib:winclip": "anomalib_models:WinCLIP",
        "anomalib:ganomaly": "anomalib_models:GANomaly",
        "anomalib:draem": "anomalib_models:DRAEM",
    }
)
