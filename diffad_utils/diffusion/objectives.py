"""What a noise-predicting network is trained with: DDPM's simplified objective on random rows of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.diffusion.noise import draw_noise
from diffad_utils.diffusion.schedule import NoiseSchedule, add_noise


class NoisyBatch(NamedTuple):
    """rows int64 [B] of the data set that were drawn; x_t [B, ...], their states; t int64 [B]; noise [B, ...]."""

    rows: Tensor
    x_t: Tensor
    t: Tensor
    noise: Tensor


def noisy_batch(
    x0: Tensor,
    schedule: NoiseSchedule,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    max_timestep: int | None = None,
    kind: str = "gaussian",
) -> NoisyBatch:
    """Random rows of clean samples x0 [N, ...] with random timesteps and noise, all drawn from the CPU ``generator``.

    max_timestep : timesteps are drawn below it; None for all of the schedule's. kind : of the noise, one of
    `noise.NOISES`. The result is on ``device``.
    """
    rows = torch.randint(len(x0), (batch_size,), generator=generator)
    t = torch.randint(max_timestep or schedule.T, (batch_size,), generator=generator)
    noise = draw_noise(x0[rows].shape, generator, kind)
    x_t = add_noise(x0[rows], t, noise, schedule)
    return NoisyBatch(rows, x_t.to(device), t.to(device), noise.to(device))


def epsilon_loss(eps_fn: Callable[[Tensor, Tensor], Tensor], batch: NoisyBatch) -> Tensor:
    """DDPM's simplified objective (Ho et al. 2020, eq. 14): mean of (noise - eps(x_t, t))^2, a scalar.

    >>> schedule, generator = NoiseSchedule.linear(), torch.Generator().manual_seed(0)
    >>> batch = noisy_batch(torch.zeros(5, 2), schedule, 4, generator)
    >>> sigma = (1 - schedule.alphas_cumprod[batch.t]).sqrt()[:, None]
    >>> float(epsilon_loss(lambda x, t: x / sigma, batch)) < 1e-6  # of all-zero data, x_t / sigma is the noise
    True
    """
    return F.mse_loss(eps_fn(batch.x_t, batch.t).float(), batch.noise)
