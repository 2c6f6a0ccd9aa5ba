"""From residual maps to anomaly maps to scores, and the calibration that makes parts of a score comparable.

Nothing here looks at test images together: calibration is fitted on held-out *normal training* images, and an image's
score depends on that image alone. The one exception is `min_max_over_test_set`, a public implementation's own rule,
kept under its source's name for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur


def channel_norm(z: Tensor) -> Tensor:
    """L2 norm over channels: z [B, C, h, w] -> [B, h, w] (InvAD, "anomaly map")."""
    return z.square().sum(dim=1).sqrt()


def upsample_map(residual: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of maps [B, h, w] to ``size`` = (H, W): [B, H, W]. DDAD's and D3AD's code align the corners."""
    return F.interpolate(residual[:, None], size=tuple(size), mode="bilinear", align_corners=align_corners)[:, 0]


def smooth_map(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps [B, H, W] with ``sigma`` in pixels, cut at 4 sigma (DDAD: sigma 4, kernel 33 x 33).

    At the border the map is mirrored without its edge pixel (scipy's "mirror"). Raises ``ValueError`` for maps that are
    not larger than 4 sigma, which cannot be mirrored so.
    """
    radius = int(4 * sigma + 0.5)
    if min(maps.shape[-2:]) <= radius:
        raise ValueError(
            f"maps of {maps.shape[-2]} x {maps.shape[-1]} are too small for sigma = {sigma}: need more than {radius} "
            f"pixels"
        )
    return gaussian_blur(maps[:, None], kernel_size=2 * radius + 1, sigma=sigma)[:, 0]


def patchify(features: Tensor) -> Tensor:
    """Mean over 3 x 3 neighbours of features [B, C, h, w], zeros beyond the border counted in it (DDAD's code)."""
    return F.avg_pool2d(features, kernel_size=3, stride=1, padding=1)


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine similarity over channels of features [B, C, h, w]: [B, h, w]."""
    return 1 - F.cosine_similarity(a, b, dim=1)


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


def gaussian_nll(z: Tensor) -> Tensor:
    """Negative log-likelihood under the standard normal, in nats: z [B, ...] -> [B], summed in float64 (InvAD,
    "NLL")."""
    return 0.5 * (z.double().square() + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def spread(residual: Tensor) -> Tensor:
    """Largest minus smallest value of each map [B, h, w] -> [B] (InvAD: "Abs" in the abstract, "Diff" on the authors'
    page)."""
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

        Raises ``ValueError`` with fewer than two images or a part that is not finite; a part that is constant up
        to rounding (its spread below 1e-12 of its size) gets scale 1.
        """
        for name, values in parts.items():
            if len(values) < 2:
                raise ValueError(f"calibration needs at least 2 held-out normal images, got {len(values)}")
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"score part {name!r} is not finite on the held-out normal images")
        location = {name: values.double().mean().item() for name, values in parts.items()}
        spread = {name: values.double().std().item() for name, values in parts.items()}
        scale = {name: value if value > 1e-12 * abs(location[name]) else 1.0 for name, value in spread.items()}
        return cls(location, scale)

    def calibrate(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each part [B] in units of its standard deviation over held-out normals, float64 [B]."""
        return {name: (values.double() - self.location[name]) / self.scale[name] for name, values in parts.items()}

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Sum of the calibrated parts, float32 [B]."""
        return torch.stack(list(self.calibrate(parts).values())).sum(dim=0).float()


def hybrid_score(parts: Mapping[str, Tensor], alpha: float, calibration: Calibration | None = None) -> Tensor:
    """alpha * mse + (1 - alpha) * clip (slides, "Hybrid Anomaly Scoring") of parts "mse" and "clip" of one shape,
    float32.

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
    """InversionAD's public rule: each part min-max scaled over *all* images given, normal and anomalous, then summed:
    [N].

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
