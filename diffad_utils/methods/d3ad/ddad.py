"""DDAD, D3AD's ancestor: the same conditioned diffusion in pixels, from a fixed step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffad_utils.methods.d3ad.conditioned import ConditionedDiffusion
from diffad_utils.methods.d3ad.conditioning import denoising_plan
from diffad_utils.methods.d3ad.maps import ddad_map, pixel_distance


@dataclass(kw_only=True)
class DDAD(ConditionedDiffusion):
    """Conditioned denoising from one fixed noise level; see the module's text for the source.

    Parameters besides those of `ConditionedDiffusion`
    ----------
    start_timestep : T', where the reverse process starts, for every image. v : weight of the pixel map.
    adaptation_guidance : w during the domain adaptation, where the reconstruction of one training image is pulled
        towards another, whose features it should then have (public code: w_DA = 3).
    """

    name: ClassVar[str] = "ddad"
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
        denoising_plan(
            steps, self.num_steps, self.start_timestep, self.plan
        )  # refuses bad settings before any training

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
        return pixel_distance(x, x_hat)

    def _combine(self, residual: Tensor, feature: Tensor) -> Tensor:
        scales = (residual.max(), feature.max()) if self.normalisation == "batch" else self.scales_
        return ddad_map(residual, feature, self.v, *scales)
