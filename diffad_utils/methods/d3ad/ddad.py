"""DDAD, D3AD's ancestor: the same conditioned diffusion in pixels, from a fixed step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffad_utils.methods.d3ad.conditioned import ConditionedDiffusion
from diffad_utils.methods.d3ad.conditioning import denoising_timesteps
from diffad_utils.methods.d3ad.maps import ddad_anomaly_map
from diffad_utils.metrics.counterfactual import absolute_error


@dataclass(kw_only=True)
class DDAD(ConditionedDiffusion):
    """Conditioned denoising from one fixed noise level; see `conditioned` for the source.

    Parameters besides those of `ConditionedDiffusion`
    ----------
    start_timestep : T', where the reverse process starts, for every image. v : weight of the pixel map.
    adaptation_guidance : w during the domain adaptation, where the reconstruction of one training image is pulled
        towards another, whose features it should then have (public code: w_DA = 3).
    """

    name: ClassVar[str] = "ddad"
    published_as: ClassVar[str] = "DDAD"
    contract_settings: ClassVar[dict[str, Any]] = {
        "block_out_channels": (8, 16),
        "train_steps": 6,
        "train_batch_size": 2,
        "num_steps": 2,
        "adaptation_epochs": 1,
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}
    PATCHES: ClassVar[bool] = True

    image_size: int = 64
    guidance_weight: float = 4.0
    stochasticity: float = 1.0
    start_timestep: int = 250
    v: float = 1.0
    distillation_weight: float = 0.1
    adaptation_guidance: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = torch.tensor([self.start_timestep])
        if not 1 <= self.start_timestep < self.schedule.T:
            raise ValueError(f"start_timestep must be in 1 .. {self.schedule.T - 1}, got {self.start_timestep}")
        # refuses bad settings before any training
        denoising_timesteps(steps, self.num_steps, self.start_timestep, self.plan)

    @property
    def deepest_step(self) -> int:
        return self.start_timestep

    def _fit_steps(self, new_extractor: bool) -> None:
        pass  # every image starts at the same step

    def _steps(self, features: Sequence[Tensor]) -> tuple[Tensor, None]:
        return torch.full((len(features[0]),), self.start_timestep), None

    def _adaptation_pair(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        target = images[rows.roll(1)].to(self.torch_device)
        state, steps = self.encode(images[rows]).to(self.torch_device), torch.full((len(rows),), self.start_timestep)
        noise = torch.randn(1 + self.num_steps, *state.shape, generator=generator)
        state_hat = self._denoise(state, steps, self.encode(target).to(state), self.adaptation_guidance, noise)
        return target, self.decode(state_hat).to(self.torch_device)

    def residual_map(self, x: Tensor, x_hat: Tensor, state: Tensor, state_hat: Tensor) -> Tensor:
        return absolute_error(x, x_hat)

    def anomaly_map(self, residual: Tensor, feature: Tensor) -> Tensor:
        scales = (residual.max(), feature.max()) if self.normalisation == "batch" else self.scales_
        return ddad_anomaly_map(residual, feature, v=self.v, sigma=self._sigma, scales=scales)
