"""Anomaly maps of D3AD (eq. 9) and DDAD: pixel, latent and feature distance between an image and its reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.scoring import cosine_map, upsample_map


def patchify(features: Tensor) -> Tensor:
    """Mean over 3 x 3 neighbours of features [B, C, h, w], zeros beyond the border counted in it (DDAD's code)."""
    return F.avg_pool2d(features, kernel_size=3, stride=1, padding=1)


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor], size: tuple[int, int], patches: bool = False) -> Tensor:
    """Sum over blocks of the cosine distance of features [B, C, h, w], upsampled with aligned corners: [B, H, W].

    D3AD eq. 9 and DDAD's ``feature_distance``, which takes `patchify`-ed features (``patches``) of all levels but the
    first: give the blocks that are to be summed.
    """
    pairs = [(patchify(f), patchify(g)) if patches else (f, g) for f, g in zip(a, b, strict=True)]
    return sum(upsample_map(cosine_map(f, g), size, align_corners=True) for f, g in pairs)


def pixel_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean over channels of |x - x_hat|: [B, C, H, W] twice -> [B, H, W] (DDAD)."""
    return (x - x_hat).abs().mean(dim=1)


def ddad_map(
    pixel: Tensor, feature: Tensor, v: float, pixel_scale: float | Tensor, feature_scale: float | Tensor
) -> Tensor:
    """DDAD's map before smoothing: feature + v feature_scale / pixel_scale pixel, of maps [B, H, W].

    The scales bring the two to one size. The public code takes the maxima over the *batch*, so that an image's map
    depends on its neighbours; constants from normal training images do not.
    """
    return feature + v * feature_scale / pixel_scale * pixel


def d3ad_map(latent: Tensor, feature: Tensor, weight: float) -> Tensor:
    """D3AD eq. 9 before smoothing: lambda l_map + (1 - lambda) f_map of normalised maps [B, H, W]; lambda =
    ``weight``."""
    return weight * latent + (1 - weight) * feature


def min_max_over_batch(maps: Tensor) -> Tensor:
    """Maps [B, H, W] scaled by minimum and maximum over all of them, as D3AD's public code does over the whole test
    set; equal values give 0.

    An image's map then depends on its company: for comparison only.
    """
    return (maps - maps.min()) / (maps.max() - maps.min()).clamp_min(torch.finfo(maps.dtype).tiny)
