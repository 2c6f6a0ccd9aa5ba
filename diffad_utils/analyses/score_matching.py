"""How scores, variances and reverse processes of SGM, ESM and ESM-sigma behave.

Used by notebook 05; entry points: `errors_over_time`, `variance_over_time`, `trace`, `updates_over_bound`. Detection is
in `score_detection`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from diffad_utils.analyses.paired_comparison import image_pixel_auroc
from diffad_utils.analyses.score_toys import (
    GaussianMixture,
    final_variance,
    lp_minimiser,
    noise_to_signal,
    relative_error,
)
from diffad_utils.diffusion import NoiseSchedule, add_noise
from diffad_utils.methods.esm import ESM
from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.methods.esm.equations import (
    Moments,
    MomentsFn,
    denoised,
    denoising_score,
    deviation,
    dsm_loss,
    esm_loss,
    esm_reverse,
    explicit_score,
    guided_forward,
    guided_reverse,
    guided_variance,
    matched_dt,
    reverse_step,
    sgm_reverse,
    step_edges,
)
from diffad_utils.models.unet import small_unet


def _noised(
    mixture: GaussianMixture, timestep: int, n: int, seed: int, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """X_0 and X_t [n, D] at index ``timestep``."""
    generator = torch.Generator().manual_seed(seed)
    x0 = mixture.sample(n, generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    return x0, add_noise(x0, torch.full((n,), timestep), noise, schedule)


@torch.no_grad()
def errors_over_time(
    moments_fn: MomentsFn,
    mixture: GaussianMixture,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    n: int = 20_000,
    seed: int = 1,
) -> pd.DataFrame:
    """Relative errors of learnt scores on a toy, one row a timestep's index.

    Columns: t; "SGM (eq. 4)" and "ESM (eq. 3)", against the true score; "ESM, theory", eq. 3 with the optimum of eq.
    10, against the true score; "ESM against theory", learnt eq. 3 against that; "sigma^2", against the posterior
    variance; "closed form, drawn", how far the mean of that variance is from the mean squared distance of the drawn
    signal to its closed-form posterior mean, which is sampling error if (a) holds.
    """
    rows = []
    for t in timesteps:
        x0, x = _noised(mixture, t, n, seed, schedule)
        alpha_bar = float(schedule.alphas_cumprod[t])
        learnt, best, truth = (
            moments_fn(x, torch.full((n,), t)),
            mixture.moments(x, alpha_bar),
            mixture.score(x, alpha_bar),
        )
        ours, theory = (explicit_score(deviation(x, m.eps, alpha_bar), m.variance) for m in (learnt, best))
        drawn = alpha_bar * (x0 - denoised(x, best.eps, alpha_bar)).square().mean()
        rows.append(
            {
                "t": t,
                "SGM (eq. 4)": relative_error(denoising_score(learnt.eps, alpha_bar), truth),
                "ESM (eq. 3)": relative_error(ours, truth),
                "ESM, theory": relative_error(theory, truth),
                "ESM against theory": relative_error(ours, theory),
                "sigma^2": relative_error(learnt.variance, best.variance),
                "closed form, drawn": abs(float(drawn / best.variance.mean()) - 1),
            }
        )
    return pd.DataFrame(rows)


def ends_of_samplers(
    variance: float, schedule: NoiseSchedule, noise_timesteps: Sequence[int], n: int = 200, seed: int = 1
) -> pd.DataFrame:
    """Variance that is left when Gaussian data of this ``variance`` is noised to T_d and taken back with the exact
    optimum.

    One row a T_d, as shares of ``variance``: "r"; for "SGM", "ESM" (reading "denoised"), "ESM, input" and "probability
    flow" (half of the true score) what the sampler gave; "SGM, theory" and "ESM, theory" (`score_toys.final_variance`).
    Everything is linear, so data and noise are drawn with exactly the moments of their distributions: no sampling error
    is left.
    """
    mixture, alphas, rows = GaussianMixture.gaussian([0.0], [[variance]]), schedule.alphas_cumprod, []

    def moments_fn(x: Tensor, t: Tensor) -> Moments:
        return mixture.moments(x, float(alphas[t[0]]))

    drawn = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    orthonormal = torch.linalg.qr(drawn - drawn.mean(dim=0)).Q * (n - 1) ** 0.5
    x0, noise = variance**0.5 * orthonormal[:, :1], orthonormal[:, 1:]
    for timestep in noise_timesteps:
        x = add_noise(x0, torch.full((n,), timestep - 1), noise, schedule)
        edges, alpha_bar = step_edges(timestep), float(alphas[timestep - 1])
        flow = x
        for high in edges[:-1]:
            score = mixture.score(flow, float(alphas[high - 1]))
            flow = reverse_step(flow, score / 2, float(schedule.betas[high - 1]))
        ended = {
            "SGM": sgm_reverse(lambda x, t: moments_fn(x, t).eps, x, schedule, edges),
            "ESM": esm_reverse(moments_fn, x, schedule, edges, variance_min=1e-12),
            "ESM, input": esm_reverse(moments_fn, x, schedule, edges, variance_min=1e-12, anchor=x0),
            "probability flow": flow,
        }
        theory = final_variance(variance, alpha_bar)
        shares = {name: float(values.var() / x0.var()) for name, values in ended.items()}
        rows.append(
            {
                "T_d": timestep,
                "r": noise_to_signal(variance, alpha_bar),
                **shares,
                "SGM, theory": theory["sgm"] / variance,
                "ESM, theory": theory["esm"] / variance,
            }
        )
    return pd.DataFrame(rows)


def powers_of_the_objective(
    mixture: GaussianMixture,
    schedule: NoiseSchedule,
    timestep: int,
    powers: Sequence[float],
    n: int = 200,
    seed: int = 1,
) -> dict[float, np.ndarray]:
    """Relative distance of DSM_l's optimum to the true score, ESM_l's, for each power l, at n draws of X_t: {l: [n]}.

    Each is |optimum - score| of a draw over the root mean square of the score; one-dimensional data.
    """
    _, x = _noised(mixture, timestep, n, seed, schedule)
    alpha_bar = float(schedule.alphas_cumprod[timestep])
    truth = mixture.score(x, alpha_bar)
    scale = truth.square().mean().sqrt()
    return {
        power: ((lp_minimiser(mixture, x, alpha_bar, power) - truth).abs() / scale)[:, 0].numpy() for power in powers
    }


class Trace(NamedTuple):
    """A reverse process seen from T_d to its end, for B images.

    timesteps : the paper's t of every state [K + 1], T_d first, 0 last. states, estimates : [K + 1, B, ...], the state
        over
    sqrt(alpha_bar_t), so that all are on the scale of images, and X_0_hat; the last of both is the reconstruction.
    variance_low, variance_high : [K, B], smallest and largest sigma_t^2 used at each step (1 - alpha_bar_t for SGM).
    """

    timesteps: list[int]
    states: Tensor
    estimates: Tensor
    variance_low: Tensor
    variance_high: Tensor


def trace(detector: ScoreMatchingDetector, images: Tensor, keys: Sequence[str], noise_timestep: int) -> Trace:
    """Every step of a detector's reverse process from T_d = ``noise_timestep`` on images [B, 3, H, W]."""
    detector = copy.copy(detector)  # not a variant: nothing is scored, so nothing need be calibrated
    detector._check_steps(noise_timestep)
    detector.noise_timestep_ = noise_timestep
    timesteps, states, estimates, low, high = [], [], [], [], []

    def observe(index: int, x: Tensor, moments: Moments) -> None:
        alpha_bar = float(detector.schedule_.alphas_cumprod[index])
        timesteps.append(index + 1)
        states.append((x / alpha_bar**0.5).cpu())
        estimates.append(denoised(x, moments.eps, alpha_bar).cpu())
        low.append(moments.variance.flatten(1).amin(dim=1).cpu())
        high.append(moments.variance.flatten(1).amax(dim=1).cpu())

    x0 = detector.encode(detector._input(images))
    x_hat = detector.sample(x0, keys, observe)
    return Trace(
        [*timesteps, 0],
        torch.stack([*states, x_hat]),
        torch.stack([*estimates, x_hat]),
        torch.stack(low),
        torch.stack(high),
    )


def distance_to_end(states: Tensor) -> Tensor:
    """Root mean square distance of states [K + 1, B, ...] to the last, over that of the first: [K + 1, B], 1 to 0."""
    distance = (states - states[-1]).flatten(2).square().mean(dim=2).sqrt()
    return distance / distance[0]


def settled_at(timesteps: Sequence[int], distance: Tensor, level: float) -> Tensor:
    """The largest t from which on each image's distance [K + 1, B] stays at most ``level``: [B]."""
    away = distance > level
    last_away = torch.where(away.any(dim=0), away.shape[0] - 1 - away.flip(0).float().argmax(dim=0), -1)
    return torch.tensor(timesteps)[last_away + 1].float()


def stopped_early(detector: ScoreMatchingDetector, images: Tensor, path: Trace, at: Sequence[int]) -> dict[int, Tensor]:
    """Scores [B] if the state nearest to each t of ``at`` is taken for the reconstruction; with the detector's own
    calibration."""
    x0 = detector.encode(detector._input(images))
    scores = {}
    for t in at:
        nearest = int(np.abs(np.asarray(path.timesteps) - t).argmin())
        scores[t] = detector.score(detector.combine(detector.maps(x0, path.states[nearest])))
    return scores


@torch.inference_mode()
def updates_over_bound(
    detector: ESM, images: Tensor, keys: Sequence[str], noise_timestep: int, bounds: Sequence[float]
) -> dict[float, dict[str, Tensor]]:
    """The largest root mean square update of each image in eq. 5 and in eq. 13, for lower bounds of sigma^2: {bound:
    {"ESM": [B], ...}}.

    The clock of eq. 13 stays that of the paper's bound. Values that overflow are 1e30. Beside them, for eq. 5, whether
    a small variance occurred: "small", share of elements and steps with sigma^2 not above the highest of ``bounds``;
    "small, largest", share of elements in the step of the largest update; "overshooting", share of elements and steps
    with sigma^2 below half of beta_t dt, that go more than twice the way to mu_t.
    """
    x0 = detector.encode(detector._input(images)).to(detector.torch_device)
    noise_edges, dt = step_edges(noise_timestep, detector.stride), matched_dt(detector.schedule_, noise_timestep)
    lengths = [float(detector.schedule_.betas[low:high].sum()) for high, low in pairwise(noise_edges)]
    result = {}
    for bound in bounds:
        noised = detector.noised(x0, keys, noise_timestep)
        forth = guided_forward(detector.network_.variance, x0, noise_edges, dt, detector.seed, keys, variance_min=bound)
        runs = {
            "ESM": lambda see: esm_reverse(
                detector.network_, noised, detector.schedule_, noise_edges, variance_min=bound, observe=see
            ),
            "ESM-sigma": lambda see: guided_reverse(
                detector.network_, forth, detector.schedule_, noise_edges, dt, variance_min=bound, observe=see
            ),
        }
        result[bound] = {}
        for name, run in runs.items():
            seen: list[Tensor] = []
            used: list[Tensor] = []
            seen.append(run(lambda _, x, m: (seen.append(x), used.append(m.variance))))
            steps = torch.stack(seen).diff(dim=0).flatten(2).square().mean(dim=2).sqrt()
            steps = torch.nan_to_num(steps, nan=1e30, posinf=1e30).clamp_max(1e30)
            result[bound][name] = steps.amax(dim=0).cpu()
            if name == "ESM":  # [K, B]: what was small in each step

                def share(smaller):
                    return torch.stack([mask.flatten(1).float().mean(dim=1) for mask in smaller])

                small = share(v <= max(bounds) * (1 + 1e-6) for v in used)
                over = share(v < length / 2 for v, length in zip(used, lengths, strict=True))
                largest = small.gather(0, steps.argmax(dim=0)[None])[0]
                result[bound] |= {
                    "small": small.mean(dim=0).cpu(),
                    "small, largest": largest.cpu(),
                    "overshooting": over.mean(dim=0).cpu(),
                }
    return result


@torch.inference_mode()
def variance_along_guided_forward(
    detector: ESM, images: Tensor, keys: Sequence[str], noise_timestep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Claim C54: mean sigma_t^2 of the network along eq. 11, and eq. 12 from its first value: (clock [K], [K, B], [K,
    B])."""
    x0 = detector.encode(detector._input(images)).to(detector.torch_device)
    edges, dt, seen = step_edges(noise_timestep, detector.stride), matched_dt(detector.schedule_, noise_timestep), []

    def variance_fn(x: Tensor, t: Tensor) -> Tensor:
        variance = detector.network_.variance(x, t)
        seen.append(variance.clamp_min(detector.variance_min).flatten(1).mean(dim=1).cpu())
        return variance

    guided_forward(variance_fn, x0, edges, dt, detector.seed, keys, variance_min=detector.variance_min)
    clock = torch.tensor(sorted(edges)[:-1]) * dt
    network = torch.stack(seen)
    return clock, network, guided_variance(network[0], clock[:, None])


def edge_correlation(images: Tensor, maps: Tensor) -> np.ndarray:
    """Spearman's rank correlation, within each image, of ``maps`` [B, h, w] with the magnitude of the grey image's
    gradient [B].

    images [B, 3, H, W]; the magnitude is averaged to the size of the maps.
    """
    vertical, horizontal = torch.gradient(images.mean(dim=1), dim=(1, 2))
    edges = adaptive_avg_pool2d((vertical.square() + horizontal.square()).sqrt()[:, None], maps.shape[-2:])[:, 0]
    return np.array(
        [spearmanr(a.numpy(), b.numpy()).statistic for a, b in zip(edges.flatten(1), maps.flatten(1), strict=True)]
    )


def variance_over_time(
    detector: ESM, images: Tensor, keys: Sequence[str], timesteps: Sequence[int]
) -> dict[int, Tensor]:
    """sigma_t^2 / (1 - alpha_bar_t) predicted for images noised to each t: {t: [B, C, h, w]}; the share of the noise
    not known from X_t."""
    x0 = detector.encode(detector._input(images))
    ratios = {}
    for t in timesteps:
        ratios[t] = detector.variance(detector.noised(x0, keys, t), t - 1) / float(
            1 - detector.schedule_.alphas_cumprod[t - 1]
        )
    return ratios


def pixel_auroc_by_image(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Pixel AUROC within each image that has a defect [n], for intervals over images."""
    values = image_pixel_auroc(maps, masks)
    return values[np.isfinite(values)]  # not finite: no defect, or nothing else


def gradient_gap(detector: ESM, images: Tensor, seed: int = 0) -> float:
    """Largest relative difference, over the parameters of stream 1, of the gradients of eq. 10 with sigma_t^2 = 1 -
    alpha_bar_t and of the usual diffusion loss (claim C65), in float64."""
    x0 = detector.encode(detector._input(images)).double()
    generator, alphas = torch.Generator().manual_seed(seed), detector.schedule_.alphas_cumprod
    t = torch.randint(detector.schedule_.T, (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    channels, side = x0.shape[1], x0.shape[-1]
    stream = small_unet(
        channels, side, detector.block_out_channels, detector.layers_per_block, detector.attention_levels
    ).double()
    stream.load_state_dict(detector.dsm_state_)
    eps = stream(add_noise(x0, t, noise, detector.schedule_), t, return_dict=False)[0]
    fixed = (1 - alphas[t]).log()[:, None, None, None].expand_as(eps)
    parameters = list(stream.parameters())
    usual = torch.autograd.grad(dsm_loss(eps, noise), parameters, retain_graph=True)
    ours = torch.autograd.grad(esm_loss(eps, noise, fixed, alphas[t]), parameters)
    largest = max(float(g.abs().max()) for g in usual)
    return max(float((a - b).abs().max()) for a, b in zip(ours, usual, strict=True)) / largest
