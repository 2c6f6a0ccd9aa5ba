"""SGM's network used by inversion in the place of reconstruction: see `methods.inversion` for the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffad_utils.diffusion import NoiseSchedule
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

    @property
    def schedule(self) -> NoiseSchedule:
        return self.network_.schedule_
