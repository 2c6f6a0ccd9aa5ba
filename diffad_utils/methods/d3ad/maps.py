"""Anomaly maps: eq. 9 of D3AD whole, `anomaly_map`, and the map of DDAD, `ddad_anomaly_map`.

D3AD, with the latents z of an image and z_hat of its reconstruction, and the features f of either in the blocks J:

    l_map = sum over channels of |z - z_hat|                                                   `latent_distance`
    f_map = sum over blocks j in J of 1 - cosine(f_j(x), f_j(x_hat))                           `feature_distance`
    map   = lambda l_map / s_l + (1 - lambda) f_map / s_f, smoothed                            `anomaly_map`    (9)
    score = maximum of the map                                                                 `image_score`

The paper normalises both without saying how; s_l and s_f are constants from held-out normal training images (the mean
of each map's maximum), so that an image's map does not depend on its company. Pure functions on tensors: the networks
and constants are `conditioned`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.scoring import cosine_map, smooth_map, upsample_map


class Reconstruction(NamedTuple):
    """state, state_hat: what the diffusion model works on and what it made of it, [B, C, h, w]; x_hat: [B, 3, H, W] in
    [0, 1]; features: of the image, a map a block; steps: int64 [B]; distances: float64 [B] or None without DIC;
    seen_by: what features and state depend on besides the images."""

    state: Tensor
    state_hat: Tensor
    x_hat: Tensor
    features: list[Tensor]
    steps: Tensor
    distances: Tensor | None
    seen_by: tuple[torch.nn.Module, str, str]


class Maps(NamedTuple):
    """reconstruction, and the two maps of its difference to the image: residual and feature [B, image_size,
    image_size], neither normalised nor smoothed."""

    reconstruction: Reconstruction
    residual: Tensor
    feature: Tensor

    def rows(self, chosen: Sequence[int]) -> Maps:
        """Those of some of the images."""
        of = {name: value[chosen] for name, value in self.reconstruction._asdict().items() if isinstance(value, Tensor)}
        features = [block[chosen] for block in self.reconstruction.features]
        return Maps(self.reconstruction._replace(**of, features=features), self.residual[chosen], self.feature[chosen])


def latent_distance(z: Tensor, z_hat: Tensor, size: tuple[int, int]) -> Tensor:
    """l_map of eq. 9: the L1 distance over channels of latents [B, C, h, w], upsampled with aligned corners: [B, H,
    W]."""
    return upsample_map((z - z_hat).abs().sum(dim=1), size, align_corners=True)


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor], size: tuple[int, int], patches: bool = False) -> Tensor:
    """f_map of eq. 9: sum over blocks of 1 - cosine of features [B, C, h, w], upsampled with aligned corners: [B, H,
    W].

    With ``patches`` DDAD's, which takes `patchify`-ed features of all levels but the first: give the blocks that are to
    be summed.
    """
    pairs = [(patchify(f), patchify(g)) if patches else (f, g) for f, g in zip(a, b, strict=True)]
    return sum(upsample_map(cosine_map(f, g), size, align_corners=True) for f, g in pairs)


def anomaly_map(
    latent: Tensor, feature: Tensor, *, weight: float, sigma: float, scales: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """D3AD eq. 9: the smoothed sum of l_map and f_map, [B, H, W] each, lambda = ``weight``: [B, H, W].

    scales : s_l and s_f; 1 for maps that are normalised already. sigma : of the smoothing, in pixels.

    >>> l_map, f_map = torch.full((1, 16, 16), 4.0), torch.full((1, 16, 16), 0.5)
    >>> image_score(anomaly_map(l_map, f_map, weight=0.75, sigma=1.0, scales=(2.0, 0.5)))  # 0.75 * 2 + 0.25 * 1
    tensor([1.7500])
    """
    l_map, f_map = latent / scales[0], feature / scales[1]
    return smooth_map(weight * l_map + (1 - weight) * f_map, sigma)


def image_score(maps: Tensor) -> Tensor:
    """The largest value of each map: [B, H, W] -> [B] (D3AD and DDAD)."""
    return maps.flatten(1).amax(dim=1)


def min_max_over_batch(maps: Tensor) -> Tensor:
    """Maps [B, H, W] scaled by minimum and maximum over all of them, as D3AD's public code does over the whole test
    set; equal values give 0.

    An image's map then depends on its company: for comparison only.
    """
    return (maps - maps.min()) / (maps.max() - maps.min()).clamp_min(torch.finfo(maps.dtype).tiny)


# -- DDAD --------------------------------------------------------------------------------------------------------------


def patchify(features: Tensor) -> Tensor:
    """Mean over 3 x 3 neighbours of features [B, C, h, w], zeros beyond the border counted in it (DDAD's code)."""
    return F.avg_pool2d(features, kernel_size=3, stride=1, padding=1)


def ddad_anomaly_map(
    pixel: Tensor, feature: Tensor, *, v: float, sigma: float, scales: tuple[float | Tensor, float | Tensor]
) -> Tensor:
    """DDAD's map: feature + v s_f / s_p pixel of maps [B, H, W], smoothed: [B, H, W].

    scales : s_p and s_f bring the two to one size. The public code takes the maxima over the *batch*, so that an
    image's map depends on its neighbours; constants from normal training images do not.
    """
    return smooth_map(feature + v * scales[1] / scales[0] * pixel, sigma)
