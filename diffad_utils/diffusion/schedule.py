"""The noise schedule of DDPM (Ho et al. 2020): alpha_bar_t and the forward process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete variance-preserving noise schedule.

    Parameters
    ----------
    betas : tensor [T], values in (0, 1); kept as float64 on the CPU.

    Raises
    ------
    ValueError
        If ``betas`` is not one-dimensional, is empty, or leaves (0, 1).

    Examples
    --------
    alpha_bar_t is the product of 1 - beta up to t: 0.9, and 0.9 x 0.8.

    >>> NoiseSchedule(torch.tensor([0.1, 0.2], dtype=torch.float64)).alphas_cumprod
    tensor([0.9000, 0.7200], dtype=torch.float64)
    """

    betas: Tensor

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas).detach().to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(
                f"betas must be a non-empty 1-d tensor with values in (0, 1), got shape {tuple(betas.shape)}"
            )
        object.__setattr__(self, "betas", betas)

    @classmethod
    def linear(cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """DDPM's linear schedule (Ho et al. 2020, section 4): T betas from ``beta_start`` to ``beta_end``."""
        return cls(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar [T], float64: the cumulative product of 1 - beta."""
        return torch.cumprod(1.0 - self.betas, dim=0)

    def first(self, steps: int) -> NoiseSchedule:
        """The first ``steps`` timesteps, for a network that was trained on those alone.

        Raises ``ValueError`` for fewer than 2 or more than the schedule has.
        """
        if not 2 <= steps <= self.T:
            raise ValueError(f"expected 2 to {self.T} timesteps of this schedule, got {steps}")
        return NoiseSchedule(self.betas[:steps])

    @property
    def T(self) -> int:
        """Number of training timesteps."""
        return len(self.betas)


def add_noise(x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Forward process q(x_t | x_0) (DDPM eq. 4): sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise.

    x0, noise: [B, ...]; t: int64 [B] in 0 .. T-1. Returns [B, ...] in the dtype of ``x0``.

    Examples
    --------
    With alpha_bar = 0.64 a clean 1 and a noise of 2 make 0.8 x 1 + 0.6 x 2 = 2.

    >>> schedule = NoiseSchedule(torch.tensor([0.36]))
    >>> add_noise(torch.tensor([1.0]), torch.tensor([0]), torch.tensor([2.0]), schedule)
    tensor([2.])
    """
    signal, sigma = signal_and_noise(schedule.alphas_cumprod[t.cpu()], x0)
    return signal * x0 + sigma * noise


def signal_and_noise(alpha: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of a number or [B], from float64, shaped and typed to multiply ``like``
    [B, ...]."""
    alpha = torch.as_tensor(alpha, dtype=torch.float64, device="cpu")
    alpha = alpha.reshape(-1, *[1] * (like.ndim - 1)) if alpha.ndim else alpha
    return alpha.sqrt().to(like.device, like.dtype), (1 - alpha).sqrt().to(like.device, like.dtype)
