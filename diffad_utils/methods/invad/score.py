"""InvAD's score, whole: what a final latent z [B, C, h, w] of the inversion says of its image.

    nll(z)   = 1/2 sum z^2 + D/2 log(2 pi)                  z under the Gaussian prior, in nats     `gaussian_nll`
    range(z) = max - min over the cells of ||z||_2          ("Abs", "Diff")                         `value_range`
    score    = nll / s_nll + range / s_range, centred       in units of held-out normal images      `image_score`
    map      = ||z||_2 of each cell, upsampled                                                      `anomaly_map`
    all of it, for any z and held-out normal ones                                                   `prediction`

An image's score depends on that image alone, but for `min_max_over_test_set`, the public code's rule, kept for
comparison. Pure functions on tensors; the inversion is `detector`'s and `diffusion.ddim_invert`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffad_utils.methods.base import Prediction
from diffad_utils.scoring import Calibration, upsample_map


def gaussian_nll(z: Tensor) -> Tensor:
    """Negative log-likelihood under the standard normal, in nats: z [B, ...] -> [B], summed in float64 (InvAD,
    "NLL").

    >>> gaussian_nll(torch.zeros(1, 2))  # two values at the mode: log(2 pi)
    tensor([1.8379], dtype=torch.float64)
    """
    return 0.5 * (z.double().square() + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def channel_norm(z: Tensor) -> Tensor:
    """L2 norm over channels: z [B, C, h, w] -> [B, h, w] (InvAD, "anomaly map").

    Examples
    --------
    >>> channel_norm(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1))
    tensor([[[5.]]])
    """
    return z.square().sum(dim=1).sqrt()


def value_range(norms: Tensor) -> Tensor:
    """Largest minus smallest value of each map [B, h, w] -> [B] (InvAD: "Abs" in the abstract, "Diff" on the authors'
    page).

    >>> value_range(torch.tensor([[[1.0, 4.0], [2.0, 3.0]]]))
    tensor([3.])
    """
    return norms.flatten(1).amax(dim=1) - norms.flatten(1).amin(dim=1)


def score_parts(z: Tensor) -> dict[str, Tensor]:
    """The two parts of the score, each [B]; the value range has the name of earlier records, "spread"."""
    return {"nll": gaussian_nll(z), "spread": value_range(channel_norm(z))}


def image_score(
    parts: Mapping[str, Tensor], calibration: Calibration, used: Sequence[str] = ("nll", "spread")
) -> Tensor:
    """Sum of the parts in ``used``, each in units of its standard deviation over held-out normals: float32 [B]."""
    return calibration.combine({name: parts[name] for name in used})


def anomaly_map(z: Tensor, size: tuple[int, int]) -> Tensor:
    """`channel_norm` of final latents, bilinearly at ``size`` = (H, W): [B, H, W]."""
    return upsample_map(channel_norm(z), size)


def prediction(z: Tensor, normal: Tensor, size: tuple[int, int], nfe: int = 0) -> Prediction:
    """Score, map and parts of z [N, C, h, w], calibrated on the same of held-out normal images, [n, C, h, w].

    z may be anything that should look Gaussian for a normal image: the final latents; the standardised features
    themselves, which is the control without diffusion; or a state on the way. Raises ``ValueError`` for fewer than two
    held-out images.
    """
    parts = score_parts(z)
    return Prediction(image_score(parts, Calibration.fit(score_parts(normal))), anomaly_map(z, size), None, parts, nfe)


def min_max_over_test_set(parts: Mapping[str, Tensor]) -> Tensor:
    """InversionAD's public rule: each part min-max scaled over *all* images given, normal and anomalous, then summed:
    [N].

    (v - min) / (max - min + 1e-8). An image's score depends on which other images are in the test set, so this is for
    comparison only and no detector uses it.
    """
    scaled = [(v - v.min()) / (v.max() - v.min() + 1e-8) for v in (p.double() for p in parts.values())]
    return torch.stack(scaled).sum(dim=0)
