"""ESM's equations 3 to 15: scores, losses, reverse processes and maps, one short pure function an equation.

    eq. 3   explicit_score, deviation     eq. 10  esm_loss                        eq. 13  guided_reverse_step
    eq. 4   denoising_score, dsm_loss     eq. 11  guided_forward_step             eq. 14  combined_map and four maps
    eq. 5   reverse_step                  eq. 12  guided_variance                 eq. 15  image_score

The detectors are in `esm`, `esm_sigma` and `sgm`, the network of eq. 8 in `dual_stream`. Nothing here knows of images,
files or training; a change here changes what the tests derive from theory.

Source: "Continuous Diffusion Models with Explicit Score Matching for Highly Efficient Anomaly Detection" (anonymous,
ICLR 2026 submission 7498); SGM is Song et al., ICLR 2021. Equation numbers are the first source's. Notation:
alpha_bar_t = ``alphas_cumprod[t]``, X_t = sqrt(alpha_bar_t) X_0 + sqrt(1 - alpha_bar_t) eps (eq. 1, 9;
`diffusion.add_noise`), eps_t and sigma_t^2 are what the two streams predict from X_t. The paper counts t = 1 .. T,
tensors are indexed by t - 1.

What sigma^2 learns. For any variance the loss of eq. 10 is smallest at eps_t = E[eps | X_t], and then at

    sigma_t^2 = (1 - alpha_bar_t) Var[eps | X_t] = alpha_bar_t Var[X_0 | X_t] ,                                     (a)

the variance that is left of the signal once X_t is seen. It is the diagonal of the score's Jacobian in disguise:
d score / d x = -(1 - sigma_t^2 / (1 - alpha_bar_t)) / (1 - alpha_bar_t).

What that makes of eq. 3. By Tweedie's formula the score of p(X_t) is -eps_t / sqrt(1 - alpha_bar_t) for any data. Eq. 3
with mu_t = sqrt(alpha_bar_t) X_0_hat ("denoised") and (a) is that score times (1 - alpha_bar_t) / sigma_t^2. For
Gaussian data of variance v along an axis, with r = (1 - alpha_bar_t) / (alpha_bar_t v) the noise-to-signal ratio, this
factor is

    (1 - alpha_bar_t) / sigma_t^2 = 1 + r ,                                                                          (b)

so eq. 3 overshoots by r, its relative error; it is within 5 % only where the signal is 20 times the noise. Its mean is
the posterior's and its variance is the posterior's, where a score needs both of the marginal. With mu_t tied to the
input ("input") the numerator is sqrt(1 - alpha_bar_t) (eps - eps_t), whose mean given X_t is zero: no score of p at
all, but a pull towards the input. And eq. 5 has the drift of the reverse *SDE* without its noise. From T_d, exactly and
for Gaussian data, it ends with the variance along each axis

    v / (1 + r)              with the true score (SGM): at E[X_0 | X_(T_d)] itself, less spread than the data has,
    v (1 + r) exp(-2 r)      with (b) (ESM, "denoised"),                                                             (c)
    v                        with half of the true score, the probability-flow ODE of Song et al. (eq. 13 there).

Both of eq. 5's are v (1 - r) to first order. `score_toys` has the closed forms, and the tests check (a), (b) and (c).

Eq. 6 and 7, which motivate the method, have signed powers, E[(s - g)^l], and so no minimiser for odd l. Notebook 05
shows them as printed, and compares minimisers for |.|^l, which is our reading (`analyses.score_toys`).

The paper does not name its schedule. It prints an SGM variance of 0.341 at t = 200 and 1e-4 at the end: these are
1 - alpha_bar_t of DDPM's linear schedule, the default; the printed formula, its root, would give 0.584 and 0.01.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.diffusion import NoiseSchedule, image_noise
from diffad_utils.metrics.counterfactual import squared_error

TOP_SHARE = 250 / 256**2
"""N_a = 250 pixels (eq. 15) of the paper's 256 x 256, as a share of the area."""


MEANS = ("denoised", "input")
"""The two readings of mu_t at test time: sqrt(alpha_bar_t) X_0_hat, or sqrt(alpha_bar_t) X_0 + sqrt(1 - alpha_bar_t)
eps_t."""


VARIANCE_MIN = 0.01
"""Lower bound of sigma_t^2 in the samplers (section 4.2). A step of eq. 5 moves x by beta_t / sigma_t^2 of its way to
mu_t and is stable below 2; with the linear schedule's largest beta, 0.02, this bound keeps it there for every t."""


class Moments(NamedTuple):
    """What the dual-stream network says at (x, t): eps [B, ...], the predicted noise, and variance [B, ...],
    sigma_t^2."""

    eps: Tensor
    variance: Tensor


MomentsFn = Callable[[Tensor, Tensor], Moments]


Observer = Callable[[int, Tensor, Moments], None]
"""Called by a sampler at each of its steps with the timestep's index, the state before the step and the moments
used."""


def dsm_loss(eps: Tensor, noise: Tensor) -> Tensor:
    """Denoising score matching in its usual weighting, E (eps_bar - eps_t)^2 (Song et al., eq. 7; Ho et al., eq.
    14)."""
    return F.mse_loss(eps, noise)


def esm_loss(eps: Tensor, noise: Tensor, log_variance: Tensor, alpha_bar: Tensor) -> Tensor:
    """Eq. 10: the mean of (1 - alpha_bar_t) (eps_bar - eps_t)^2 / sigma_t^2 + log sigma_t^2.

    Twice the negative log-likelihood of X_t under N(sqrt(alpha_bar_t) X_0 + sqrt(1 - alpha_bar_t) eps_t, sigma_t^2), up
    to a constant. With sigma_t^2 = 1 - alpha_bar_t it is `dsm_loss` plus a constant. eps, noise, log_variance [B, ...];
    alpha_bar [B], float64.

    >>> eps, noise = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])  # squared errors 1 and 9, each times 1 - 0.75
    >>> esm_loss(eps, noise, torch.zeros(1, 2), torch.tensor([0.75]))  # variance 1: (0.25 + 2.25) / 2
    tensor(1.2500)
    """
    residual = _shaped(1 - alpha_bar, eps) * (noise - eps).square()
    return (residual * torch.exp(-log_variance) + log_variance).mean()


def explicit_score(deviation: Tensor, variance: Tensor) -> Tensor:
    """Eq. 3: -(X_t - mu_t) / sigma_t^2, of the `deviation` X_t - mu_t."""
    return -deviation / variance


def denoising_score(eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Eq. 4: -eps_t / sqrt(1 - alpha_bar_t), by Tweedie's formula the score of p(X_t) at the optimum."""
    return -eps / _shaped(1 - alpha_bar, eps).sqrt()


def deviation(x: Tensor, eps: Tensor, alpha_bar: Tensor | float, anchor: Tensor | None = None) -> Tensor:
    """X_t - mu_t of eq. 3, for both readings of mu_t.

    "denoised": mu_t = sqrt(alpha_bar_t) X_0_hat = X_t - sqrt(1 - alpha_bar_t) eps_t, so it is sqrt(1 - alpha_bar_t)
    eps_t. "input", with the input image X_0 as ``anchor`` [B, ...]: mu_t = sqrt(alpha_bar_t) X_0 + sqrt(1 -
    alpha_bar_t) eps_t.
    """
    noise = _shaped(1 - alpha_bar, x).sqrt() * eps
    return noise if anchor is None else x - _shaped(alpha_bar, x).sqrt() * anchor - noise


def denoised(x: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """X_0_hat = (X_t - sqrt(1 - alpha_bar_t) eps_t) / sqrt(alpha_bar_t), the running estimate of the clean image."""
    return (x - deviation(x, eps, alpha_bar)) / _shaped(alpha_bar, x).sqrt()


def reverse_step(x: Tensor, score: Tensor, beta_dt: float) -> Tensor:
    """Eq. 5, one Euler step: x + beta_t dt (x / 2 + score). The reverse SDE's drift; no noise is added."""
    return x + beta_dt * (x / 2 + score)


def guided_forward_step(x: Tensor, variance: Tensor, dt: float, noise: Tensor) -> Tensor:
    """Eq. 11, one Euler-Maruyama step with sigma_t^2 in the place of beta_t: x - sigma_t^2 x / 2 dt + sigma_t sqrt(dt)
    noise."""
    return x - variance * x / 2 * dt + (variance * dt).sqrt() * noise


def guided_variance(variance_0: Tensor | float, t: Tensor | float) -> Tensor:
    """Eq. 12 solved: d(sigma^2)/dt = sigma^2 - sigma^4 has the logistic curve s e^t / (1 - s + s e^t), s = sigma_0^2,
    for t >= 0."""
    variance_0, t = torch.as_tensor(variance_0), torch.as_tensor(t)
    return variance_0 / (variance_0 + (1 - variance_0) * torch.exp(-t))


def guided_reverse_step(x: Tensor, deviation: Tensor, variance: Tensor, dt: float) -> Tensor:
    """Eq. 13: x + (sigma_t^2 x / 2 - (x - mu_t)) dt, of the `deviation` x - mu_t. No division by sigma_t^2 is left.

    It is `reverse_step` with `explicit_score` on another clock: they are equal for dt = beta_t dt' / sigma_t^2.
    """
    return x + (variance * x / 2 - deviation) * dt


def step_edges(noise_timestep: int, stride: int = 1) -> list[int]:
    """T_d = e_0 > e_1 > ... > e_n = 0 in the paper's count of t, ``stride`` apart (the last step may be shorter).

    The step from e_k visits index e_k - 1 of the schedule. Raises ``ValueError`` for a T_d or stride below 1.
    """
    if noise_timestep < 1 or stride < 1:
        raise ValueError(f"expected noise_timestep >= 1 and stride >= 1, got {noise_timestep} and {stride}")
    return [*range(noise_timestep, 0, -stride), 0]


def check_stability(
    schedule: NoiseSchedule, noise_timestep: int, stride: int, variance_min: float = VARIANCE_MIN
) -> None:
    """Raise ``ValueError`` if T_d is outside 1 .. T, or Euler steps of eq. 5 at ``variance_min`` would go more than
    twice the way to mu_t."""
    if not 1 <= noise_timestep <= schedule.T:
        raise ValueError(f"noise_timestep must be in 1 .. {schedule.T}, got {noise_timestep}")
    largest = max(beta for _, _, beta in _steps(schedule, step_edges(noise_timestep, stride)))
    if largest > 2 * variance_min * (1 + 1e-9):
        raise ValueError(
            f"steps of {stride} from T_d = {noise_timestep} have beta_t dt up to {largest:.3g}, more than twice the "
            f"variance's lower "
            f"bound {variance_min}: the process would diverge. Use a smaller stride or a higher bound"
        )


def sgm_reverse(
    eps_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    schedule: NoiseSchedule,
    edges: Sequence[int],
    observe: Observer | None = None,
) -> Tensor:
    """Eq. 5 with the score of eq. 4, from x = X_(T_d) [B, ...] down the ``edges`` (`step_edges`). One evaluation a
    step."""
    for index, alpha_bar, beta_dt in _steps(schedule, edges):
        eps = eps_fn(x, _timestep(index, x))
        if observe is not None:
            observe(index, x, Moments(eps, torch.full_like(eps, 1 - alpha_bar)))
        x = reverse_step(x, denoising_score(eps, alpha_bar), beta_dt)
    return x


def esm_reverse(
    moments_fn: MomentsFn,
    x: Tensor,
    schedule: NoiseSchedule,
    edges: Sequence[int],
    *,
    variance_min: float = VARIANCE_MIN,
    anchor: Tensor | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """Eq. 5 with the score of eq. 3 and sigma_t^2 bounded below by ``variance_min``. One evaluation of both streams a
    step.

    anchor : None for the reading "denoised" of mu_t, the input image [B, ...] for "input" (`deviation`).
    """
    for index, alpha_bar, beta_dt in _steps(schedule, edges):
        eps, variance = moments_fn(x, _timestep(index, x))
        variance = variance.clamp_min(variance_min)
        if observe is not None:
            observe(index, x, Moments(eps, variance))
        x = reverse_step(x, explicit_score(deviation(x, eps, alpha_bar, anchor), variance), beta_dt)
    return x


def guided_forward(
    variance_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    edges: Sequence[int],
    dt: float,
    seed: int,
    keys: Sequence[str],
    *,
    variance_min: float = VARIANCE_MIN,
) -> Tensor:
    """Eq. 11 from the image x [B, ...] up the ``edges``, with noise seeded by (seed, image key, step). One evaluation a
    step.

    dt : length of one of the paper's timesteps on this process's clock; a step over several is that many times as long.
    """
    rising = sorted(edges)
    for low, high in itertools.pairwise(rising):
        variance = variance_fn(x, _timestep(low, x)).clamp_min(variance_min)
        noise = image_noise(x.shape[1:], seed, [f"{key}/{low}" for key in keys]).to(x)
        x = guided_forward_step(x, variance, dt * (high - low), noise)
    return x


def guided_reverse(
    moments_fn: MomentsFn,
    x: Tensor,
    schedule: NoiseSchedule,
    edges: Sequence[int],
    dt: float,
    *,
    variance_min: float = VARIANCE_MIN,
    anchor: Tensor | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """Eq. 13 down the ``edges``. One evaluation of both streams a step; arguments as for `esm_reverse` and
    `guided_forward`."""
    lengths = [high - low for high, low in itertools.pairwise(edges)]
    for (index, alpha_bar, _), length in zip(_steps(schedule, edges), lengths, strict=True):
        eps, variance = moments_fn(x, _timestep(index, x))
        variance = variance.clamp_min(variance_min)
        if observe is not None:
            observe(index, x, Moments(eps, variance))
        x = guided_reverse_step(x, deviation(x, eps, alpha_bar, anchor), variance, dt * length)
    return x


def matched_dt(schedule: NoiseSchedule, noise_timestep: int, variance_min: float = VARIANCE_MIN) -> float:
    """The dt with which eq. 11 at the lowest variance has, after T_d timesteps, the noise 1 - alpha_bar of T_d.

    The paper gives no dt for ESM-sigma. beta_t dt in eq. 5 sums to -log alpha_bar over T_d steps, and so does sigma_t^2
    dt with this one; where sigma_t^2 is above the bound, more noise is added than that.
    """
    return float(-schedule.alphas_cumprod[noise_timestep - 1].log() / (noise_timestep * variance_min))


def _steps(schedule: NoiseSchedule, edges: Sequence[int]) -> list[tuple[int, float, float]]:
    """(index, alpha_bar there, sum of the betas passed) of every step down the edges."""
    alphas, betas = schedule.alphas_cumprod.tolist(), schedule.betas.tolist()
    return [(high - 1, alphas[high - 1], math.fsum(betas[low:high])) for high, low in itertools.pairwise(edges)]


def _timestep(index: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), index, dtype=torch.int64, device=x.device)


def _shaped(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or [B] in a shape and dtype to multiply ``like`` [B, ...]; by way of float64, or 1 - alpha_bar_0 would
    lose its digits."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if not value.ndim:
        return value.to(
            like.dtype
        )  # a single number works with a tensor on a GPU, and copying it there would make the step wait
    return value.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, like.dtype)


def cosine_map(features: Sequence[Tensor], others: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """S_Cos: 1 - cosine of features [B, C_i, h_i, w_i] of two images, mean over the layers i, bilinearly at ``size``:
    [B, H, W]."""
    layers = [scoring.upsample_map(scoring.cosine_map(*pair), size) for pair in zip(features, others, strict=True)]
    return torch.stack(layers).mean(dim=0)


def residual_map(x: Tensor, x_hat: Tensor) -> Tensor:
    """S_RE = (X_0 - X_0_hat)^2, mean over channels: [B, C, H, W] -> [B, H, W]."""
    return squared_error(x, x_hat)


def uncertainty_map(x: Tensor, x_hat: Tensor, variance: Tensor) -> Tensor:
    """S_U = (X_0 - X_0_hat)^2 / sigma_0^2, mean over channels. With a constant variance it is S_RE in other units."""
    return ((x - x_hat).square() / variance).mean(dim=1)


def kl_map(x: Tensor, variance: Tensor, x_hat: Tensor, variance_hat: Tensor) -> Tensor:
    """S_KL = KL(N(X_0, sigma_0^2) || N(X_0_hat, sigma_hat_0^2)) of each element, in nats, mean over channels: [B, H,
    W]."""
    ratio = variance / variance_hat
    return (0.5 * (ratio - 1 - ratio.log() + (x - x_hat).square() / variance_hat)).mean(dim=1)


def combined_map(maps: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Eq. 14: u S_Cos + v S_U + w S_KL + r S_RE of maps [B, H, W] by name; those without a weight are left out."""
    return sum(weight * maps[name].double() for name, weight in weights.items() if weight).float()


def image_score(combined: Tensor) -> Tensor:
    """Eq. 15: the mean of the N_a largest values of each map [B, H, W], N_a in proportion to the area (`TOP_SHARE`):
    [B]."""
    return scoring.top_mean(combined, max(1, round(TOP_SHARE * combined[0].numel())))
