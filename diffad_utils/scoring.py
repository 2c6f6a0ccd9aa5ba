"""From residual maps to anomaly maps to scores, and the calibration that makes parts of a score comparable.

Nothing here looks at test images together: calibration is fitted on held-out *normal training* images, and an image's
score depends on that image alone. The one exception is `min_max_over_test_set`, a public implementation's own rule,
kept under its source's name for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_norm(z: Tensor) -> Tensor:
    """L2 norm over channels: z [B, C, h, w] -> [B, h, w] (InvAD, "anomaly map")."""
    return z.square().sum(dim=1).sqrt()


def upsample_map(residual: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize (``align_corners=False``) of maps [B, h, w] to ``size`` = (H, W): [B, H, W]."""
    return F.interpolate(residual[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def gaussian_nll(z: Tensor) -> Tensor:
    """Negative log-likelihood under the standard normal, in nats: z [B, ...] -> [B], summed in float64 (InvAD, "NLL")."""
    return 0.5 * (z.double().square() + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def spread(residual: Tensor) -> Tensor:
    """Largest minus smallest value of each map [B, h, w] -> [B] (InvAD: "Abs" in the abstract, "Diff" on the authors' page)."""
    return residual.flatten(1).amax(dim=1) - residual.flatten(1).amin(dim=1)


@dataclass(frozen=True)
class Calibration:
    """Location and scale of each part of a score on held-out normal training images.

    ``calibrate(parts)`` maps every part v to (v - location) / scale, so that parts of different units can be added.
    """

    location: dict[str, float]
    scale: dict[str, float]

    @classmethod
    def fit(cls, parts: Mapping[str, Tensor]) -> Calibration:
        """Mean and standard deviation of each part [n] over the held-out normals.

        Raises ``ValueError`` with fewer than two images or a part that is not finite; a constant part gets scale 1.
        """
        for name, values in parts.items():
            if len(values) < 2:
                raise ValueError(f"calibration needs at least 2 held-out normal images, got {len(values)}")
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"score part {name!r} is not finite on the held-out normal images")
        location = {name: values.double().mean().item() for name, values in parts.items()}
        scale = {name: values.double().std().item() or 1.0 for name, values in parts.items()}
        return cls(location, scale)

    def calibrate(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each part [B] in units of its standard deviation over held-out normals, float64 [B]."""
        return {name: (values.double() - self.location[name]) / self.scale[name] for name, values in parts.items()}

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Sum of the calibrated parts, float32 [B]."""
        return torch.stack(list(self.calibrate(parts).values())).sum(dim=0).float()


def hybrid_score(parts: Mapping[str, Tensor], alpha: float, calibration: Calibration | None = None) -> Tensor:
    """alpha * mse + (1 - alpha) * clip (slides, "Hybrid Anomaly Scoring") of parts "mse" and "clip" of one shape, float32.

    Without ``calibration`` the parts are added as they are, as in the slides: a mean squared error of images in [0, 1]
    and 1 - cosine of CLIP features differ in scale, so alpha is not the share of the first. With it each part is first
    taken in units of its standard deviation over held-out normals. "clip" may be absent with ``alpha`` = 1.

    Raises ``ValueError`` for an alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    scaled = parts if calibration is None else calibration.calibrate(parts)
    weights = {"mse": alpha, "clip": 1 - alpha}
    return sum(weight * scaled[name].double() for name, weight in weights.items() if weight).float()


def min_max_over_test_set(parts: Mapping[str, Tensor]) -> Tensor:
    """InversionAD's public rule: each part min-max scaled over *all* images given, normal and anomalous, then summed: [N].

    (v - min) / (max - min + 1e-8). An image's score depends on which other images are in the test set, so this is for
    comparison only and no detector uses it.
    """
    scaled = [(v - v.min()) / (v.max() - v.min() + 1e-8) for v in (p.double() for p in parts.values())]
    return torch.stack(scaled).sum(dim=0)


def holdout_split(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Seeded split of ``range(n)`` into (fit, held out), both sorted int64; at least 2 of each.

    Raises ``ValueError`` if n < 4 or ``fraction`` is outside (0, 1).
    """
    if n < 4 or not 0 < fraction < 1:
        raise ValueError(f"need at least 4 training images and a fraction in (0, 1), got n={n}, fraction={fraction}")
    held_out = min(max(round(n * fraction), 2), n - 2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values
