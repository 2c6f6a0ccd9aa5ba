"""SGM's network used by inversion in the place of reconstruction: see `methods.inversion` for the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from diffad_utils.diffusion import EpsFn, NoiseSchedule
from diffad_utils.methods.base import Detector
from diffad_utils.methods.esm.sgm import SGM
from diffad_utils.methods.inversion import Inversion


@dataclass(kw_only=True)
class SGMInversion(Inversion):
    """Inversion of X_0, pixels or latents, with SGM's network."""

    name: ClassVar[str] = "sgm_inversion"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": SGM.contract_settings["image_size"],
        "settings": {name: value for name, value in SGM.contract_settings.items() if name != "image_size"},
    }
    NETWORK: ClassVar[type[Detector]] = SGM
    NETWORKS: ClassVar[Sequence[str]] = ("network_", "vae_")

    image_size: int = SGM.image_size

    def encode(self, x: Tensor) -> Tensor:
        return self.network_.encode(x)

    def eps_fn(self, keys: Sequence[str] | None, count: int) -> EpsFn:
        return self.network_.predict_noise

    @property
    def schedule(self) -> NoiseSchedule:
        return self.network_.schedule_
