"""Dynamic implicit conditioning (DIC): how far into the noise an image has to go, and along which steps it comes back.

Source: "D3AD: Dynamic denoising diffusion probabilistic model for anomaly detection" (OpenReview 7jUQHmz4Tq; later
version arXiv 2401.04463), Algorithms 1 and 2, and the public code of the later version (Dynamic-noise-AD). An image
that lies far from the normal training images in feature space gets a larger step T_hat, because more of it may have to
change. The step replaces a condition of the network, hence "implicit".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.kernels import knn

CELLS = 16
"""Side of the grid that features are averaged to before distances are taken (public code)."""


PLANS = ("sub-sequence", "code")
EARLIER_NAMES = {"paper": "sub-sequence", "places": "positions"}  # of a plan and a loss, in settings saved before


def pooled_features(features: Tensor, cells: int = CELLS) -> Tensor:
    """Feature maps [B, C, h, w] averaged to at most ``cells`` x ``cells`` and flattened: [B, D]."""
    return F.adaptive_avg_pool2d(features, [min(cells, side) for side in features.shape[-2:]]).flatten(1)


@dataclass(kw_only=True)
class DynamicStep:
    """Algorithm 2: distance to the training features -> bin -> step T_hat.

    Parameters
    ----------
    k : nearest neighbours whose L1 distances are averaged.
    bins : |B|, equal intervals between the smallest and the largest average distance of the training images.
    t_max : T_max, the step of the last bin. minimum_bin : the smallest bin that is used.
    leave_one_out : whether a training image is left out of its own neighbours. The public code leaves it in, at
        distance 0, so that the bins lie too low by (k - 1) / k and unseen normal images fall into higher ones.
    inliers : share of the training images that make the bins, those with the smallest distances; 1 in the paper, which
        says that the others are of use, because they widen the range (sec. 4.1). All images stay neighbours.
    round_to : T_hat is rounded to the nearest multiple of it, halves up, and to at most ``t_max``. The code rounds
        b / |B| T_max without the paper's floor, which comes to the same steps for T_max = 80.

    What `fit` leaves: ``bank_`` float [N, D], ``distances_`` float64 [N] of the training images, ``edges_`` float64
    [bins + 1]. Plain numbers in, plain numbers out: it can be used with any features.
    """

    k: int = 20
    bins: int = 10
    t_max: int = 80
    minimum_bin: int = 2
    leave_one_out: bool = True
    inliers: float = 1.0
    round_to: int = 10

    def __post_init__(self) -> None:
        if self.k < 1 or self.bins < 1 or not 1 <= self.minimum_bin <= self.bins:
            got = f"k = {self.k}, bins = {self.bins}, minimum_bin = {self.minimum_bin}"
            raise ValueError(f"expected k >= 1 and 1 <= minimum_bin <= bins, got {got}")
        if not 0 < self.inliers <= 1:
            raise ValueError(f"expected 0 < inliers <= 1, got {self.inliers}")
        if not 1 <= self.round_to <= self.t_max:
            raise ValueError(f"expected 1 <= round_to <= t_max, got round_to = {self.round_to}, t_max = {self.t_max}")

    def fit(self, features: Tensor) -> Self:
        """Bins from the features [N, ...] of normal training images; ``ValueError`` if there are not more than
        ``k``."""
        bank = torch.as_tensor(features).flatten(1)
        needed = self.k + self.leave_one_out
        if len(bank) < needed:
            raise ValueError(
                f"{len(bank)} training images, but k = {self.k} neighbours need at least {needed}: use a smaller k"
            )
        distances = knn(bank, bank, needed, p=1)[0].double()
        # Any row at distance 0 may stand for the image itself: the first is dropped, which leaves the others'
        # distances.
        self.bank_, self.distances_ = bank, distances[:, self.leave_one_out :].mean(dim=1)
        among = np.sort(self.distances_.cpu().numpy())[: math.ceil(self.inliers * len(bank))]
        self.edges_ = torch.from_numpy(np.histogram_bin_edges(among, self.bins))
        return self

    def distances(self, features: Tensor) -> Tensor:
        """Average L1 distance of features [B, ...] to their ``k`` nearest training features: float64 [B] on the CPU."""
        if not hasattr(self, "bank_"):
            raise RuntimeError("DynamicStep is not fitted: call fit(features of normal training images) first")
        queries = torch.as_tensor(features).flatten(1)
        return knn(queries, self.bank_.to(queries.device), self.k, p=1)[0].double().mean(dim=1).cpu()

    def bin_of(self, distances: Tensor) -> Tensor:
        """Bins int64 [B] of average distances [B]: b where edge b-1 < distance <= edge b, 0 at or below the first edge
        and the last bin beyond the last."""
        return torch.searchsorted(self.edges_, distances.double()).clamp_max(self.bins)

    def step_of(self, bins: Tensor) -> Tensor:
        """T_hat int64 [B] of bins [B]: floor(b / |B| T_max), b at least ``minimum_bin``, rounded."""
        step = bins.clamp(self.minimum_bin, self.bins) * self.t_max // self.bins
        rounded = (step + self.round_to // 2) // self.round_to * self.round_to
        return rounded.clamp(self.round_to, self.t_max // self.round_to * self.round_to)

    def steps(self, features: Tensor) -> Tensor:
        """T_hat of each image, int64 [B], from its features [B, ...]."""
        return self.step_of(self.bin_of(self.distances(features)))


def scaled_start(
    z0: Tensor, steps: Tensor, schedule: NoiseSchedule, noise_fraction: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """D3AD eq. 11: z_T_hat = sqrt(alpha_bar_T_hat) z_0 + omega sqrt(1 - alpha_bar_T_hat) eps, with omega =
    ``noise_fraction``.

    z0, noise: [B, ...]; steps: int64 [B]. omega = 0 is the noiseless scaling of Algorithm 1 (no ``noise`` needed), 1
    the forward process of DDPM.
    """
    alphas = schedule.alphas_cumprod[steps.cpu()].reshape(-1, *[1] * (z0.ndim - 1))
    start = alphas.sqrt().to(z0) * z0
    return start if noise_fraction == 0 else start + noise_fraction * (1 - alphas).sqrt().to(z0) * noise.to(z0)


def subsequence_timesteps(steps: Tensor, num_steps: int, t_max: int) -> Tensor:
    """Timesteps from T_hat down one sub-sequence of ``num_steps`` equal steps over T_max: a reading of Algorithm 1.

    The network is first told T_hat, which is the noise level of the start, and then the members of the sub-sequence
    below it; an image with a smaller T_hat takes fewer steps. The paper says "10 DDIM steps" and rounds T_hat to
    multiples of 10, which fits ten equal steps from T_hat better (`code_timesteps`); it does not say which. steps:
    int64 [B] in 1 .. t_max. Returns int64 [S, B] for `diffusion.ddim_sample`, -1 in front where an image waits.
    """
    if not 1 <= int(steps.min()) <= int(steps.max()) <= t_max or not 1 <= num_steps <= t_max:
        raise ValueError(
            f"expected steps and num_steps in 1 .. t_max = {t_max}, got {steps.tolist()[:8]} and {num_steps}"
        )
    grid = torch.arange(num_steps, 0, -1) * t_max // num_steps
    visited = torch.where(grid[:, None] < steps.cpu(), grid[:, None], -1)
    position = num_steps - 1 - (visited >= 0).sum(dim=0)  # row of the start, right before the first smaller member
    visited[position, torch.arange(len(steps))] = steps.cpu()
    return visited[int(position.min()) :]


def code_timesteps(steps: Tensor, num_steps: int) -> Tensor:
    """Timesteps of the public code: ``num_steps`` for every image, T_hat / num_steps apart.

    The start lies at alpha_bar of T_hat, but the network is first called one stride lower and last at 0: the level of
    the state and the timestep that the network is told disagree at the first step (DDAD's code has the same). steps:
    int64 [B], multiples of ``num_steps``. Returns int64 [num_steps, B].
    """
    steps = steps.cpu()
    if bool((steps % num_steps != 0).any()) or int(steps.min()) < num_steps:
        raise ValueError(
            f"plan='code' needs steps that are multiples of num_steps = {num_steps}, got {steps.unique().tolist()}"
        )
    return torch.arange(num_steps - 1, -1, -1)[:, None] * (steps // num_steps)


def denoising_timesteps(steps: Tensor, num_steps: int, t_max: int, plan: str) -> Tensor:
    """`subsequence_timesteps` or `code_timesteps` by name: int64 [S, B]."""
    plan = EARLIER_NAMES.get(plan, plan)
    if plan not in PLANS:
        raise ValueError(f"plan must be one of {PLANS}, got {plan!r}")
    return code_timesteps(steps, num_steps) if plan == "code" else subsequence_timesteps(steps, num_steps, t_max)
