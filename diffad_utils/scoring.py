"""From residual maps to anomaly maps to scores, and the calibration that makes parts of a score comparable.

Nothing here looks at test images together: calibration is fitted on held-out *normal training* images, and an image's
score depends on that image alone. Public implementations' own rules that do look at them are kept with their methods,
for comparison only: `methods.invad.score.min_max_over_test_set` and `methods.d3ad.maps.min_max_over_batch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from diffad_utils.models.clip_features import ClipFeatures


def upsample_map(residual: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of maps [B, h, w] to ``size`` = (H, W): [B, H, W]. DDAD's and D3AD's code align the corners."""
    return F.interpolate(residual[:, None], size=tuple(size), mode="bilinear", align_corners=align_corners)[:, 0]


def smooth_map(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps [B, H, W] with ``sigma`` in pixels, cut at 4 sigma (DDAD: sigma 4, kernel 33 x 33).

    At the border the map is mirrored without its edge pixel (scipy's "mirror"). A product with a matrix from each side,
    as a Gaussian blurs rows and columns one after the other, which is faster on a CPU than a convolution. Raises
    ``ValueError`` for maps that are not larger than 4 sigma, which cannot be mirrored so.

    Examples
    --------
    A single bright pixel becomes a Gaussian, whose peak is 1 / (2 pi sigma^2).

    >>> point = torch.zeros(1, 17, 17)
    >>> point[0, 8, 8] = 1.0
    >>> round(smooth_map(point, sigma=1.0)[0, 8, 8].item(), 3)
    0.159
    """
    radius = int(4 * sigma + 0.5)
    if min(maps.shape[-2:]) <= radius:
        raise ValueError(
            f"maps of {maps.shape[-2]} x {maps.shape[-1]} are too small for sigma = {sigma}: need more than {radius} "
            f"pixels"
        )
    rows, columns = (_line_blur(maps, side, sigma, radius) for side in maps.shape[-2:])
    return rows.T @ maps @ columns


def _line_blur(like: Tensor, size: int, sigma: float, radius: int) -> Tensor:
    """[size, size], in the dtype and on the device of ``like``: what a mirrored line's pixel i gives to pixel j."""
    offsets = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    pixels = F.pad(torch.eye(size, device=like.device, dtype=like.dtype)[None], [radius, radius], mode="reflect")[0]
    return pixels.unfold(1, len(kernel), 1) @ (kernel / kernel.sum())


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of features along dimension 1: [B, C, ...] twice -> float32 [B, ...].

    As |a - b|^2 / 2 of unit vectors, which keeps its digits where a and b are nearly the same.

    Examples
    --------
    Features at 60 degrees, whose cosine is one half:

    >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5])
    >>> cosine_map(a.reshape(1, 2, 1, 1), b.reshape(1, 2, 1, 1))
    tensor([[[0.5000]]])
    """
    return (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1) / 2


@dataclass(frozen=True)
class Calibration:
    """Location and scale of each part of a score on held-out normal training images.

    ``calibrate(parts)`` maps every part v to (v - location) / scale, so that parts of different units can be added.

    Examples
    --------
    Held-out normals with mean 2 and standard deviation 1 give an image of 4 the score 2.

    >>> calibration = Calibration.fit({"nll": torch.tensor([1.0, 2.0, 3.0])})
    >>> calibration.combine({"nll": torch.tensor([4.0])})
    tensor([2.])
    """

    location: dict[str, float]
    scale: dict[str, float]

    @classmethod
    def fit(cls, parts: Mapping[str, Tensor]) -> Calibration:
        """Mean and standard deviation of each part [n] over the held-out normals.

        Raises ``ValueError`` with fewer than two images or a part that is not finite; a part that is constant up
        to rounding (its standard deviation below 1e-12 of its size) gets scale 1.
        """
        for name, values in parts.items():
            if len(values) < 2:
                raise ValueError(f"calibration needs at least 2 held-out normal images, got {len(values)}")
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"score part {name!r} is not finite on the held-out normal images")
        location = {name: values.double().mean().item() for name, values in parts.items()}
        std = {name: values.double().std().item() for name, values in parts.items()}
        scale = {name: value if value > 1e-12 * abs(location[name]) else 1.0 for name, value in std.items()}
        return cls(location, scale)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """As JSON values, for a saved detector; `from_dict` reads them."""
        return {"location": self.location, "scale": self.scale}

    @classmethod
    def from_dict(cls, values: Mapping[str, dict[str, float]]) -> Calibration:
        """What `to_dict` gave.

        >>> calibration = Calibration({"mse": 0.5}, {"mse": 2.0})
        >>> Calibration.from_dict(calibration.to_dict()) == calibration
        True
        """
        return cls(values["location"], values["scale"])

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

    Examples
    --------
    >>> hybrid_score({"mse": torch.tensor([0.2]), "clip": torch.tensor([0.4])}, alpha=0.25)  # 0.25 x 0.2 + 0.75 x 0.4
    tensor([0.3500])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    scaled = parts if calibration is None else calibration.calibrate(parts)
    weights = {"mse": alpha, "clip": 1 - alpha}
    return sum(weight * scaled[name].double() for name, weight in weights.items() if weight).float()


def holdout_split(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Seeded split of ``range(n)`` into (fit, held out), both sorted int64; at least 2 of each.

    Raises ``ValueError`` if n < 4 or ``fraction`` is outside (0, 1).
    """
    if n < 4 or not 0 < fraction < 1:
        raise ValueError(f"need at least 4 training images and a fraction in (0, 1), got n={n}, fraction={fraction}")
    held_out = min(max(round(n * fraction), 2), n - 2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values


def top_mean(maps: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` largest values of each map [B, H, W] (of all, if it has fewer): [B].

    >>> top_mean(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), 2)
    tensor([3.5000])
    """
    return maps.flatten(1).topk(min(count, maps[0].numel()), dim=1).values.mean(dim=1)


def residual_parts(
    x: Tensor, x_hat: Tensor, features: tuple[ClipFeatures, ClipFeatures] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts of the hybrid score for images and reconstructions [B, 3, H, W] in [0, 1], and their maps.

    features : CLIP's for x and for x_hat; without them there is no part "clip".

    Returns ({"mse": [B], "clip": [B]}, {"mse": [B, H, W], "clip": [B, h, w]}); ``mse`` is the mean of its map, ``clip``
    is 1 - cosine of the image features, and its map that of the h x w patch tokens. ``ValueError`` if shapes differ.
    """
    if x.shape != x_hat.shape:
        raise ValueError(f"image and reconstruction differ in shape: {list(x.shape)} and {list(x_hat.shape)}")
    squared = (x - x_hat).square().mean(dim=1)
    parts, maps = {"mse": squared.mean(dim=(1, 2))}, {"mse": squared}
    if features is not None:
        parts["clip"] = cosine_map(features[0].image, features[1].image)
        maps["clip"] = cosine_map(features[0].patches, features[1].patches)
    return parts, maps
