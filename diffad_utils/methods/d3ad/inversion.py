"""D3AD's network used by inversion in the place of reconstruction: see `methods.inversion` for the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.methods.base import Detector
from diffad_utils.methods.d3ad.d3ad import D3AD
from diffad_utils.methods.inversion import Inversion


@dataclass(kw_only=True)
class D3ADInversion(Inversion):
    """Inversion of the latents with D3AD's UNet, up to the last timestep that it was trained on. D3AD's features, bins
    and adaptation have no part in it."""

    name: ClassVar[str] = "d3ad_inversion"
    contract_settings: ClassVar[dict[str, Any]] = {"settings": dict(D3AD.contract_settings)}
    NETWORK: ClassVar[type[Detector]] = D3AD
    NETWORKS: ClassVar[Sequence[str]] = ("unet_", "vae_")

    @property
    def schedule(self) -> NoiseSchedule:
        return self.network_.schedule.first(self.network_.max_train_timestep)
