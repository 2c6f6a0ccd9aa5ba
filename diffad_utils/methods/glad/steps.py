"""GLAD's adaptive denoising steps and its fusion, as functions on states.

A trajectory starts from the noised image at T_max and is denoised. At each step t the image itself, noised to t with
the same noise, is a second state. Network and noise prediction are the same for both. Where the clean samples that
they say are alike, nothing was taken away so far. At the first t where they differ by more than a threshold, t is the
step of the image: the smaller the step, the more of the image is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.diffusion import EpsFn, NoiseSchedule, ddim_step
from diffad_utils.scoring import top_mean


class AdaptiveSample(NamedTuple):
    """state : what comes out, [B, ...]. steps : int64 [B], where each image left the trajectory for its own noised
    latent. differences : float64 [B], the largest score until then."""

    state: Tensor
    steps: Tensor
    differences: Tensor


def nearest_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of each feature of a [B, C, h, w] to the most similar one of b [B, C, h', w'], wherever it is:
    [B, h, w] (public code of GLAD, ``DDIMScheduler.step``).

    >>> a = torch.eye(2).T.reshape(1, 2, 1, 2)  # two positions with orthogonal features
    >>> nearest_distance(a, a.flip(-1)).abs().max() < 1e-6  # moved is not changed
    tensor(True)
    """
    one, other = (F.normalize(x.flatten(2), dim=1) for x in (a, b))
    return (1 - torch.einsum("bci,bcj->bij", one, other).amax(dim=2)).reshape(len(a), *a.shape[-2:])


def top_share_mean(maps: Tensor, share: float) -> Tensor:
    """Mean of the largest ``share`` of the values of maps [B, h, w], at least one of them: [B]."""
    return top_mean(maps, max(1, round(share * maps[0].numel())))


def sample_adaptively(
    eps_fn: EpsFn,
    noised: Callable[[Tensor], Tensor],
    start: Tensor,
    schedule: NoiseSchedule,
    timesteps: Tensor,
    compare: Callable[[Tensor, Tensor], Tensor],
    *,
    threshold: float,
    min_step: int,
    top_share: float = 0.0,
    fusion: bool = True,
) -> AdaptiveSample:
    """Denoise, and let each image choose its step by what the trajectory has changed so far.

    Parameters
    ----------
    eps_fn : the network, as in `diffusion.ddim`.
    noised : ``noised(t [B])``: the images' own latents at the level of timesteps t, with the noise of the start.
    start : [B, C, h, w], the state at the deepest step. timesteps : int64 [S], descending, the same for all images.
    compare : ``compare(clean, of_image)`` of clean samples [n, C, h, w]: a map of their distance [n, h', w'], from 0.
    threshold : of the mean of the largest ``top_share`` of the map. min_step : the first timestep below it is taken
        by images that have not reached the threshold (public code).
    fusion : at the step of an image above the threshold the trajectory is kept by the share sigmoid(map), at least a
        half (the spatial-adaptive feature fusion of the public code); without it the image starts anew from its own
        noised latent.

    Returns
    -------
    `AdaptiveSample`. An image that never leaves the trajectory has the deepest step.
    """
    x, n = start, len(start)
    steps = torch.full((n,), int(timesteps[0]), dtype=torch.int64)
    differences = torch.zeros(n, dtype=torch.float64)
    undecided = torch.arange(n)
    alphas = torch.cat([schedule.alphas_cumprod[timesteps.cpu()], torch.ones(1, dtype=torch.float64)])
    for i, t in enumerate(timesteps.tolist()):
        eps = eps_fn(x, torch.full((n,), t, device=x.device)).to(x)
        if len(undecided):
            own = noised(torch.full((n,), t))[undecided].to(x)
            here, noise = x[undecided], eps[undecided]
            if t < min_step or not torch.equal(here, own):  # at the start they are the same state
                maps = compare(ddim_step(here, noise, alphas[i], 1.0), ddim_step(own, noise, alphas[i], 1.0))
                score = top_share_mean(maps, top_share).double().cpu()
                differences[undecided] = torch.maximum(differences[undecided], score)
                above = score > threshold
                chosen = above if t >= min_step else torch.ones_like(above)
                rows = undecided[chosen]
                kept = torch.zeros(len(own), 1, *own.shape[-2:], device=x.device)
                if fusion:
                    share = F.interpolate(torch.sigmoid(maps)[:, None], size=own.shape[-2:], mode="bilinear")
                    kept = (share * above[:, None, None, None]).to(x)
                x = x.index_copy(0, rows.to(x.device), (kept * here + (1 - kept) * own)[chosen])
                steps[rows] = t
                undecided = undecided[~chosen]
        x = ddim_step(x, eps, alphas[i], alphas[i + 1])
    return AdaptiveSample(x, steps, differences)
