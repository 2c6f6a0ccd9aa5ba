"""The network of `pixel_ddpm` used by inversion in the place of reconstruction: see `methods.inversion` for the
source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.methods.base import Detector
from diffad_utils.methods.inversion import Inversion
from diffad_utils.methods.pixel_ddpm import PixelDDPM


@dataclass(kw_only=True)
class PixelDDPMInversion(Inversion):
    """Inversion of images in [-1, 1] with the DDPM's network."""

    name: ClassVar[str] = "pixel_ddpm_inversion"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": PixelDDPM.contract_settings["image_size"],
        "settings": {name: value for name, value in PixelDDPM.contract_settings.items() if name != "image_size"},
    }
    NETWORK: ClassVar[type[Detector]] = PixelDDPM
    NETWORKS: ClassVar[Sequence[str]] = ("unet_",)

    image_size: int = PixelDDPM.image_size

    def encode(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    @property
    def schedule(self) -> NoiseSchedule:
        return self.network_.schedule_
