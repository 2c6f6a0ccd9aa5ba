"""DDIM inversion with the network of any diffusion detector: InvAD's inference as an exchangeable part.

InvAD (Sakai et al., arXiv 2504.05662) says that its inference works with existing diffusion models. `invert_and_score`
takes what such a model was trained on (latents, features or pixels), moves it towards the Gaussian prior in a few DDIM
steps and scores the result as InvAD does (`methods.invad.score`). The same score of the plain states is the control
without diffusion.

Used by notebook 06; entry point: `invert_and_score`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffad_utils.diffusion import NoiseSchedule, ddim_invert
from diffad_utils.diffusion.ddim import EpsFn
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.invad.score import prediction
from diffad_utils.methods.kept import kept


class Inversion(NamedTuple):
    """Predictions of the same images: from the inverted states, and by the same score without any diffusion."""

    inverted: Prediction
    no_diffusion: Prediction


def truncated(schedule: NoiseSchedule, steps: int) -> NoiseSchedule:
    """The first ``steps`` timesteps of a schedule, for a network that was trained on those alone.

    Raises ``ValueError`` for fewer than 2 or more than the schedule has.
    """
    if not 2 <= steps <= schedule.T:
        raise ValueError(f"expected 2 to {schedule.T} timesteps of this schedule, got {steps}")
    return NoiseSchedule(schedule.betas[:steps])


@kept(state=None)
@torch.inference_mode()
def invert_and_score(
    eps_fn: EpsFn,
    states: Tensor,
    normal: Tensor,
    schedule: NoiseSchedule,
    size: tuple[int, int],
    *,
    num_steps: int = 3,
    spacing: str = "reference",
    batch_size: int = 32,
) -> Inversion:
    """Scores and maps of DDIM-inverted states, calibrated on held-out normal training images.

    Parameters
    ----------
    eps_fn : the network, as in `diffusion.ddim`: predicts the noise of x [B, C, h, w] at t int64 [B].
    states : what the network was trained on, of the test images: float32 [N, C, h, w].
    normal : the same of at least two held-out normal training images: float32 [n, C, h, w].
    schedule : of the network's training; `truncated` where it saw a part of the timesteps only.
    size : (H, W) of the anomaly maps.
    num_steps, spacing : of the inversion, see `diffusion.inversion_timesteps`.

    Returns
    -------
    `Inversion`: ``inverted`` with nfe = ``num_steps``, and ``no_diffusion`` with nfe = 0, the score of the states
    themselves. These are first standardised by channel with mean and standard deviation of ``normal``, so that the
    prior fits them as well as it can.

    Raises
    ------
    ValueError
        Shapes that do not fit together, or fewer than two held-out images.
    """
    if states.ndim != 4 or states.shape[1:] != normal.shape[1:]:
        raise ValueError(
            f"states and normal must be [N, C, h, w] of one shape, got {list(states.shape)} and {list(normal.shape)}"
        )

    def inverted(x: Tensor) -> Tensor:
        parts = [ddim_invert(eps_fn, part, schedule, num_steps, spacing) for part in x.split(batch_size)]
        return torch.cat(parts).float().cpu()

    mean, std = (getattr(normal, name)(dim=(0, 2, 3), keepdim=True) for name in ("mean", "std"))

    def standardised(x: Tensor) -> Tensor:
        return ((x - mean) / std.clamp_min(1e-6)).float().cpu()

    return Inversion(
        prediction(inverted(states), inverted(normal), size, num_steps),
        prediction(standardised(states), standardised(normal), size, 0),
    )
