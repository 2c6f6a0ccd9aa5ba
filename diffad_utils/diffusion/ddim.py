"""Noise schedules and deterministic DDIM steps, as pure functions on tensors.

Notation: ``alphas_cumprod[t]`` is alpha_bar_t of DDPM (Ho et al. 2020), t = 0 .. T-1. Alpha_bar = 1 is a clean sample,
alpha_bar = 0 pure noise. ``eps_fn(x [B, ...], t int64 [B]) -> eps [B, ...]`` is a network that predicts the noise.
Coefficients are computed in float64 and cast to the dtype of the state, which every function keeps. The loops put all
of them on the state's device before the first step, so that a step is the network and a few multiplications, and
nothing in it waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffad_utils.diffusion.schedule import NoiseSchedule, signal_and_noise

EpsFn = Callable[[Tensor, Tensor], Tensor]


SPACINGS = ("reference", "paper")


def ddim_step(x: Tensor, eps: Tensor, alpha_from: Tensor | float, alpha_to: Tensor | float) -> Tensor:
    """One deterministic DDIM move between two noise levels, in either direction (Song et al. 2021, eq. 12 with sigma =
    0).

    x, eps: [B, ...]; alpha_from, alpha_to: alpha_bar as a number or [B] (float64). Returns [B, ...].

    Examples
    --------
    x = 2 at alpha_bar = 0.64 with the noise 2 says x_0 = (2 - 0.6 x 2) / 0.8 = 1. Down to alpha_bar = 1 that is the
    result; up to alpha_bar = 0.36 it is 0.6 x 1 + 0.8 x 2.

    >>> x, eps = torch.tensor([2.0]), torch.tensor([2.0])
    >>> [round(ddim_step(x, eps, 0.64, alpha).item(), 4) for alpha in (1.0, 0.36)]
    [1.0, 2.2]
    """
    return _move(x, eps, *signal_and_noise(alpha_from, x), *signal_and_noise(alpha_to, x))


def _move(
    x: Tensor, eps: Tensor, signal_from: Tensor, sigma_from: Tensor, signal_to: Tensor, sigma_to: Tensor
) -> Tensor:
    """signal_to x_0 + sigma_to eps with x_0 = (x - sigma_from eps) / signal_from, in one new tensor."""
    x0 = (sigma_from * eps).neg_().add_(x).div_(signal_from)
    return x0.mul_(signal_to).add_(sigma_to * eps)


def ddim_moves(eps_fn: EpsFn, x: Tensor, timesteps: Tensor, alpha_from: Tensor, alpha_to: Tensor) -> Iterator[Tensor]:
    """The states after each of S deterministic DDIM moves of x [B, ...], one network evaluation each.

    timesteps: int64 [S, B], what the network is told; alpha_from, alpha_to: alpha_bar before and after each move,
    float64 [S] or [S, B].
    """
    timesteps, coefficients = timesteps.to(x.device), _coefficients(alpha_from, alpha_to, x)
    for i in range(len(timesteps)):
        x = _move(x, eps_fn(x, timesteps[i]).to(x), *coefficients[:, i])  # `.to`: the state keeps its dtype
        yield x


def _coefficients(alpha_from: Tensor, alpha_to: Tensor, like: Tensor) -> Tensor:
    """signal_from, sigma_from, signal_to, sigma_to of moves [S] or [S, B], in one transfer: [4, S, B or 1, 1, ...]."""
    alphas = torch.stack([alpha_from, alpha_to])
    stacked = torch.stack([alphas[0].sqrt(), (1 - alphas[0]).sqrt(), alphas[1].sqrt(), (1 - alphas[1]).sqrt()])
    stacked = stacked if stacked.ndim == 3 else stacked[..., None]
    return stacked.reshape(*stacked.shape, *[1] * (like.ndim - 1)).to(like.device, like.dtype)


class InversionTimesteps(NamedTuple):
    """What an inversion visits: network timesteps [S] (int) and alpha_bar before and after each of the S moves."""

    timesteps: list[int]
    alpha_from: list[float]
    alpha_to: list[float]


def inversion_timesteps(schedule: NoiseSchedule, num_steps: int, spacing: str = "reference") -> InversionTimesteps:
    """Timesteps and noise levels of a DDIM inversion in ``num_steps`` network evaluations.

    ``"reference"`` follows InvAD's public code (`SpacedDiffusion`): t_i = round(i (T-1) / (S-1)), so 0 and T-1 are
    always visited, and the last move goes to alpha_bar = 0: the final latent *is* the noise predicted at t = T-1.
    ``"paper"`` follows InvAD's tau_S = [333, 666, 999]: tau_k = round(k (T-1) / S), the network is evaluated at
    0, tau_1 .. tau_(S-1), and the last move ends at alpha_bar[tau_S]. Both take the input as the state at t = 0.
    Rounding is to the nearest even integer at .5, as in the public code.

    Raises ``ValueError`` for an unknown spacing, ``num_steps`` that is no integer in 1 .. T, or ``num_steps`` = 1 with
    "reference", which the public code cannot run either.

    Examples
    --------
    >>> schedule = NoiseSchedule.linear(T=1000)
    >>> inversion_timesteps(schedule, 3, "reference").timesteps, inversion_timesteps(schedule, 3, "paper").timesteps
    ([0, 500, 999], [0, 333, 666])
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
    minimum = 2 if spacing == "reference" else 1
    if not isinstance(num_steps, Integral) or not minimum <= num_steps <= schedule.T:
        raise ValueError(
            f"num_steps must be a whole number in {minimum} .. {schedule.T} with spacing={spacing!r}, got {num_steps!r}"
        )
    alphas, last = schedule.alphas_cumprod.tolist(), schedule.T - 1
    if spacing == "reference":
        stride, position, timesteps = last / (num_steps - 1), 0.0, []
        for _ in range(num_steps):
            timesteps.append(min(round(position), last))
            position += stride
        levels = [alphas[t] for t in timesteps] + [0.0]
    else:
        visited = [round(k * last / num_steps) for k in range(num_steps + 1)]
        timesteps, levels = visited[:-1], [alphas[t] for t in visited]
    return InversionTimesteps(timesteps, levels[:-1], levels[1:])


def ddim_invert(
    eps_fn: EpsFn,
    x0: Tensor,
    schedule: NoiseSchedule,
    num_steps: int,
    spacing: str = "reference",
    return_trajectory: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """DDIM inversion of clean samples towards the Gaussian prior (InvAD, "inversion"; public code
    `ddim_reverse_sample`).

    x0: [B, ...]. Returns the final latent [B, ...], or with ``return_trajectory`` also the states
    [num_steps + 1, B, ...], the input first. Network evaluations: ``num_steps``. ``spacing``: see
    `inversion_timesteps`.

    Examples
    --------
    A network that never sees noise lets the signal fade by sqrt(alpha_bar), here to 0.3 of the level at t = 0.

    >>> schedule = NoiseSchedule(torch.tensor([0.19, 0.91], dtype=torch.float64))  # sqrt(alpha_bar) = 0.9 and 0.27
    >>> ddim_invert(lambda x, t: torch.zeros_like(x), torch.tensor([1.0]), schedule, 1, spacing="paper")
    tensor([0.3000])
    """
    visited, *alphas = inversion_timesteps(schedule, num_steps, spacing)
    timesteps = torch.tensor(visited)[:, None].repeat(1, len(x0))
    levels = (torch.tensor(values, dtype=torch.float64) for values in alphas)
    x, states = x0, [x0]
    for x in ddim_moves(eps_fn, x0, timesteps, *levels):
        if return_trajectory:
            states.append(x)
    return (x, torch.stack(states)) if return_trajectory else x


def ddim_sample(
    eps_fn: EpsFn,
    x_t: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int] | Tensor,
    guidance_target: Tensor | None = None,
    guidance_weight: float = 0.0,
    return_trajectory: bool = False,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """DDIM denoising, optionally pulled towards a target image; deterministic unless ``eta`` says otherwise.

    x_t: [B, ...], the state at ``timesteps[0]``. timesteps: descending ints, or an int tensor [steps, B] where images
    differ; an image that needs fewer steps than others has -1 in front, and waits. After the last one the state goes to
    alpha_bar = 1. With ``guidance_target`` y [B, ...] and weight w, the predicted noise is corrected as in DDAD
    (Algorithm 1) and D3AD (Algorithm 1, lines 4-6):
    y_t = sqrt(alpha_bar_t) y + sqrt(1 - alpha_bar_t) eps;  eps' = eps - w sqrt(1 - alpha_bar_t) (y_t - x_t).
    With ``eta`` > 0 each move from a to b adds ``noise`` [steps, B, ...] (standard normal) of standard deviation
    eta sqrt((1 - a / b) (1 - b) / (1 - a)) (Song et al. 2021, eq. 16), which eta = 1 makes DDPM's.

    Returns the result [B, ...] in the dtype of ``x_t``, or with ``return_trajectory`` also the states
    [steps + 1, B, ...], ``x_t`` first. Raises ``ValueError`` if the timesteps are empty, not descending, outside
    0 .. T-1, not integers or not of batch size B, if there is a weight but no target or one of another shape, or if
    ``eta`` > 0 and there is no noise for every step.

    Examples
    --------
    One step from alpha_bar = 0.64 with a network that says 2: (2 - 0.6 x 2) / 0.8 = 1. Guided towards y = 3 with weight
    0.5, the noise becomes 2 - 0.5 x 0.6 x (0.8 x 3 + 0.6 x 2 - 2) = 1.52, and the result (2 - 0.6 x 1.52) / 0.8 = 1.36.

    >>> schedule, x = NoiseSchedule(torch.tensor([0.36])), torch.tensor([2.0])
    >>> def network(x, t):
    ...     return torch.full_like(x, 2.0)
    >>> round(ddim_sample(network, x, schedule, [0]).item(), 4)
    1.0
    >>> guided = ddim_sample(network, x, schedule, [0], guidance_target=torch.tensor([3.0]), guidance_weight=0.5)
    >>> round(guided.item(), 4)
    1.36
    """
    steps = _timesteps_per_image(timesteps, len(x_t), schedule.T)
    if guidance_weight and guidance_target is None:
        raise ValueError(f"guidance_weight = {guidance_weight} needs a guidance_target, got None")
    if guidance_target is not None and guidance_target.shape != x_t.shape:
        raise ValueError(
            f"guidance_target must have the shape of x_t, {list(x_t.shape)}, got {list(guidance_target.shape)}"
        )
    if eta and (noise is None or noise.shape != (len(steps), *x_t.shape)):
        got = None if noise is None else list(noise.shape)
        raise ValueError(f"eta = {eta} needs noise {[len(steps), *x_t.shape]}, got {got}")
    alphas = torch.cat([schedule.alphas_cumprod[steps], torch.ones(1, len(x_t), dtype=torch.float64)])
    guided = guidance_weight != 0.0
    guidance_target = guidance_target.to(x_t) if guided else None
    coefficients = _coefficients(alphas[:-1], alphas[1:], x_t)
    noise_weights = _noise_weights(alphas[:-1], alphas[1:], x_t, eta) if eta else None
    active = [
        None if len(rows) == len(x_t) else rows.to(x_t.device) for rows in ((t >= 0).nonzero()[:, 0] for t in steps)
    ]
    noise, visited = (None if noise is None else noise.to(x_t)), steps.to(x_t.device)
    x, states = x_t, [x_t]
    for i, rows in enumerate(active):
        here, t, target, move = x, visited[i], guidance_target, coefficients[:, i]
        if rows is not None:  # the others wait
            here, t, target, move = x[rows], t[rows], target[rows] if guided else None, move[:, rows]
        signal_from, sigma_from, signal_to, _ = move
        eps = eps_fn(here, t).to(x_t)
        if guided:
            target_t = signal_from * target + sigma_from * eps
            eps = eps - guidance_weight * sigma_from * (target_t - here)
        if eta:
            direction, sigma = noise_weights[:, i] if rows is None else noise_weights[:, i, rows]
            drawn = noise[i] if rows is None else noise[i, rows]
            here = signal_to * (here - sigma_from * eps) / signal_from + direction * eps + sigma * drawn
        else:
            here = _move(here, eps, *move)
        x = here if rows is None else x.index_copy(0, rows, here)
        if return_trajectory:
            states.append(x)
    return (x, torch.stack(states)) if return_trajectory else x


def _noise_weights(alpha_from: Tensor, alpha_to: Tensor, like: Tensor, eta: float) -> Tensor:
    """Weights of the predicted and of the added noise in stochastic moves [S, B] (Song et al. 2021, eq. 12 and 16): [2,
    S, B, 1, ...]."""
    variance = eta**2 * (1 - alpha_from / alpha_to) * (1 - alpha_to) / (1 - alpha_from)
    stacked = torch.stack([1 - alpha_to - variance, variance]).clamp_min(0).sqrt()
    return stacked.reshape(*stacked.shape, *[1] * (like.ndim - 1)).to(like.device, like.dtype)


def _timesteps_per_image(timesteps: Sequence[int] | Tensor, batch_size: int, T: int) -> Tensor:
    steps = torch.as_tensor(np.ascontiguousarray(timesteps) if isinstance(timesteps, np.ndarray) else timesteps).cpu()
    if steps.numel() and (steps.is_floating_point() or steps.is_complex()):
        raise ValueError(f"timesteps must be whole numbers of an integer type, got {steps.dtype}")
    steps = steps.long()
    if steps.ndim == 1:
        steps = steps[:, None].expand(-1, batch_size)
    if steps.ndim != 2 or steps.shape[1] != batch_size or steps.numel() == 0:
        raise ValueError(
            f"timesteps must be [steps] or [steps, {batch_size}] and not empty, got shape {tuple(steps.shape)}"
        )
    waiting = steps < 0
    descends = (steps.diff(dim=0) < 0) | waiting[:-1]
    if (
        bool(waiting[-1].any())
        or steps.min() < -1
        or steps.max() >= T
        or bool((waiting.int().diff(dim=0) > 0).any() | ~descends.all())
    ):
        raise ValueError(
            f"timesteps must descend strictly and lie in 0 .. {T - 1} (-1 only in front), got {steps[:, 0].tolist()} "
            f"for the first image"
        )
    return steps
