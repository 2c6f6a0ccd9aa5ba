"""Stable Diffusion's network used by inversion in the place of image-to-image: see `methods.inversion` for the source.

The network is told the prompt of `Img2Img` and is not guided: classifier-free guidance makes DDIM inversion unstable
(Mokady et al., "Null-text Inversion", CVPR 2023, section 3). It knows normal and defective pictures alike, since it was
not trained on the normal images of the category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffad_utils.diffusion import EpsFn, NoiseSchedule
from diffad_utils.methods.base import Detector
from diffad_utils.methods.img2img.detector import Img2Img
from diffad_utils.methods.inversion import Inversion


@dataclass(kw_only=True)
class Img2ImgInversion(Inversion):
    """Inversion of the latents with Stable Diffusion's UNet, over all of its timesteps, for `Img2Img`'s prompt."""

    name: ClassVar[str] = "img2img_inversion"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": Img2Img.contract_settings["image_size"],
        "settings": {name: value for name, value in Img2Img.contract_settings.items() if name != "image_size"},
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"trained": False, "tolerance": 5e-5, "gross_auroc": None}
    NETWORK: ClassVar[type[Detector]] = Img2Img

    def encode(self, x: Tensor) -> Tensor:
        return self.network_.engine_.encode(x).mean

    def eps_fn(self, keys: Sequence[str] | None, count: int) -> EpsFn:
        engine = self.network_.engine_
        texts = [engine.embed(*pair) for pair in zip(*self.network_.prompts(keys, count), strict=True)]
        return engine.eps_fn(texts, [1.0] * count)

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule(self.network_.engine_.scheduler.betas)

    def networks(self) -> list[torch.nn.Module]:
        if not hasattr(self, "network_"):
            return []
        engine = self.network_.engine_
        return [engine.unet, engine.vae, engine.pipeline.text_encoder]
