"""InvAD's score of a final latent: negative log-likelihood under the prior, and value range."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def gaussian_nll(z: Tensor) -> Tensor:
    """Negative log-likelihood under the standard normal, in nats: z [B, ...] -> [B], summed in float64 (InvAD,
    "NLL")."""
    return 0.5 * (z.double().square() + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def spread(residual: Tensor) -> Tensor:
    """Largest minus smallest value of each map [B, h, w] -> [B] (InvAD: "Abs" in the abstract, "Diff" on the authors'
    page)."""
    return residual.flatten(1).amax(dim=1) - residual.flatten(1).amin(dim=1)


def min_max_over_test_set(parts: Mapping[str, Tensor]) -> Tensor:
    """InversionAD's public rule: each part min-max scaled over *all* images given, normal and anomalous, then summed:
    [N].

    (v - min) / (max - min + 1e-8). An image's score depends on which other images are in the test set, so this is for
    comparison only and no detector uses it.
    """
    scaled = [(v - v.min()) / (v.max() - v.min() + 1e-8) for v in (p.double() for p in parts.values())]
    return torch.stack(scaled).sum(dim=0)
