"""What scores and variances of SGM and ESM are, on toys and on images.

Used by notebook 05; entry points: `errors_over_time`, `variance_over_time`, `what_variance_marks`. The processes are in
`score_process`, detection in `score_detection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from diffad_utils import scoring
from diffad_utils.analyses.paired_comparison import image_pixel_auroc
from diffad_utils.analyses.score_claims import Effect
from diffad_utils.analyses.score_toys import (
    GaussianMixture,
    final_variance,
    lp_minimiser,
    noise_to_signal,
    relative_error,
    two_toys,
)
from diffad_utils.analyses.task import Task
from diffad_utils.diffusion import NoiseSchedule, add_noise
from diffad_utils.methods.esm import ESM
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
    reverse_step,
    sgm_reverse,
    step_edges,
)
from diffad_utils.methods.kept import kept
from diffad_utils.metrics.bootstrap import mean_interval
from diffad_utils.models.unet import small_unet


def _noised(
    mixture: GaussianMixture, timestep: int, n: int, seed: int, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """X_0 and X_t [n, D] at index ``timestep``."""
    generator = torch.Generator().manual_seed(seed)
    x0 = mixture.sample(n, generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    return x0, add_noise(x0, torch.full((n,), timestep), noise, schedule)


@kept()
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


def errors_of_toys(nets: Mapping[str, MomentsFn], schedule: NoiseSchedule) -> dict[str, pd.DataFrame]:
    """`errors_over_time` of the networks of `two_toys`, at timesteps that each was trained for."""
    timesteps = {"Gaussian": [20, 50, 80, 100, 120, 150, 190], "mixture of two": [20, 50, 100, 200, 300, 500, 700]}
    return {name: errors_over_time(nets[name], toy, schedule, timesteps[name]) for name, toy in two_toys().items()}


class Fields(NamedTuple):
    """Scores [n, 2] and variances [n] (mean of both elements) at the points ``grid`` [n, 2], by name; ``longer`` [n]:
    length of the learnt score by eq. 3 over that by eq. 4."""

    grid: Tensor
    scores: dict[str, Tensor]
    variances: dict[str, Tensor]
    longer: Tensor


@torch.no_grad()
def fields(mixture: GaussianMixture, net: MomentsFn, schedule: NoiseSchedule, index: int, side: int = 21) -> Fields:
    """True and learnt scores of a toy in the plane; each score in units of the 98th percentile of its length."""
    axis = torch.linspace(-2.6, 2.6, side, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)
    alpha_bar = float(schedule.alphas_cumprod[index])
    eps, variance = net(grid, torch.full((len(grid),), index))
    sgm, esm = denoising_score(eps, alpha_bar), explicit_score(deviation(grid, eps, alpha_bar), variance)
    scores = {
        "true score, true variance": mixture.score(grid, alpha_bar),
        "learnt, SGM (eq. 4)": sgm,
        "learnt, ESM (eq. 3)": esm,
    }
    learnt = variance.mean(dim=1)
    variances = dict(zip(scores, (mixture.moments(grid, alpha_bar).variance.mean(dim=1), learnt, learnt), strict=True))
    scaled = {name: v / v.norm(dim=1).quantile(0.98) for name, v in scores.items()}
    return Fields(grid, scaled, variances, esm.norm(dim=1) / sgm.norm(dim=1))


@kept()
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


@kept()
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


def distance_of_powers(
    mixture: GaussianMixture, schedule: NoiseSchedule, timestep: int, samples: int, seed: int
) -> tuple[pd.DataFrame, Effect]:
    """Mean of `powers_of_the_objective` for l = 1 to 4 (columns l, distance), and l = 3 minus l = 2 (claim C48)."""
    powers = powers_of_the_objective(mixture, schedule, timestep, [1, 2, 3, 4])
    table = pd.DataFrame([{"l": power, "distance": float(v.mean())} for power, v in powers.items()])
    note = "|.|^l for the printed signed power, which has no minimiser for odd l"
    return table, Effect(*mean_interval(powers[3] - powers[2], samples, seed), len(powers[3]), note=note)


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


def variance_over_time(detector: ESM, task: Task, timesteps: Sequence[int]) -> dict[int, Tensor]:
    """sigma_t^2 / (1 - alpha_bar_t) predicted for the task's images noised to each t: {t: [B, C, h, w]}; the share of
    the noise not known from X_t."""
    x0, keys = detector.encode(detector._input(task.images)), task.keys
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


def what_variance_marks(ratios: Mapping[int, Tensor], task: Task) -> pd.DataFrame:
    """Does the predicted variance follow structure, or defects? Within each image, by t.

    Parameters
    ----------
    ratios : of `variance_over_time` for the same task.

    Returns
    -------
    Columns t, measure, mean, low, high (95 % over images), images. The measures: "structure", the rank correlation with
    the gradient's magnitude (0 is no link); where masks are, "defect", the pixel AUROC for the mask (0.5 is no link);
    "border alone", that of the nearness to the border, which is the same at every t; and their difference.
    """
    rows = []
    border = pixel_auroc_by_image(nearness_to_border(task.masks), task.masks)
    for t, ratio in ratios.items():
        maps = ratio.mean(dim=1)
        found = {"structure": edge_correlation(task.images, maps)}
        if task.has_masks:
            full = scoring.upsample_map(maps, tuple(task.images.shape[-2:]))
            found["defect"], found["border alone"] = pixel_auroc_by_image(full, task.masks), border
            found["defect minus border alone"] = found["defect"] - border
        for measure, values in found.items():
            mean, low, high = mean_interval(values, task.bootstrap_samples, task.seed)
            rows.append({"t": t, "measure": measure, "mean": mean, "low": low, "high": high, "images": len(values)})
    return pd.DataFrame(rows)


def nearness_to_border(maps: Tensor) -> Tensor:
    """Minus the number of pixels to the nearest border: float32 of the shape of maps [B, H, W], 0 at the border."""
    steps = [torch.minimum(torch.arange(n), torch.arange(n).flip(0)) for n in maps.shape[-2:]]
    return -torch.minimum(steps[0][:, None], steps[1][None]).float().expand(maps.shape)


def variance_table(ratios: Mapping[int, Tensor]) -> pd.DataFrame:
    """Columns t, mean (of the ratio), same, plaid (`fixed_pattern` of the mean over channels)."""
    patterns = {t: fixed_pattern(ratio.mean(dim=1)) for t, ratio in ratios.items()}
    rows = [{"t": t, "mean": float(ratios[t].mean()), "same": a, "plaid": b} for t, (a, b) in patterns.items()]
    return pd.DataFrame(rows)


def fixed_pattern(maps: Tensor) -> tuple[float, float]:
    """How much of maps [B, h, w] does not depend on the image.

    Returns
    -------
    The shares, in [0, 1], of the variance within the maps that the mean map over images explains, and that its mean
    rows and columns added up explain: a plaid. Convolutions pad with zeros, so a network knows the distance to the
    borders, and to nothing else that is the same in all images of a texture.
    """
    centred = maps.double() - maps.double().mean(dim=(1, 2), keepdim=True)
    total, mean = centred.square().sum(), centred.mean(dim=0)
    plaid = mean.mean(dim=0, keepdim=True) + mean.mean(dim=1, keepdim=True)
    same, lines = (float(len(maps) * pattern.square().sum() / total) for pattern in (mean, plaid))
    return same, lines
