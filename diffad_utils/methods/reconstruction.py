"""What the detectors share that reconstruct an image and score what is left over: parts, map, calibration."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.methods.base import Detector, Prediction, at_image_size, noise_keys
from diffad_utils.scoring import residual_parts

SMOOTHING = 1 / 64
"""Standard deviation of the smoothing of anomaly maps, as a share of the image's side: 2 pixels at 128, 4 at 256."""


@dataclass(kw_only=True)
class ReconstructionDetector(Detector):
    """Reconstruct, and score the residual.

    Parameters
    ----------
    score : the parts that are added, joined by "+", each in units of its standard deviation over held-out normal
        training images: "mse", the mean squared error; "peak", the largest value of the anomaly map, which a small
        defect can reach without moving the mean; and what a method has besides.
    holdout_fraction : share of the training images held out for that calibration.

    Prediction: anomaly_map = squared error, mean over channels, smoothed (`SMOOTHING`) and resized to the image.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("mse", "peak")

    score: str = "mse+peak"
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        names = self.score.split("+")
        if len(set(names)) < len(names) or not set(names) <= set(self.PARTS):
            known = ", ".join(self.PARTS)
            raise ValueError(f"score must be parts joined by '+', of {known}, each once, got {self.score!r}")

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Evaluations of a diffusion model an image."""

    @abstractmethod
    def _reconstruct(self, x: Tensor, keys: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Of images x [B, 3, image_size, image_size]: reconstructions of the same shape in [0, 1] on the CPU, and the
        parts [B] that a method has besides the residual's."""

    def reconstruct(self, images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Images float [B, 3, H, W] in [0, 1] as the method thinks they should be: float32 [B, 3, image_size,
        image_size] in [0, 1] on the CPU. ``keys`` [B] seed what is random; without them the pixels do."""
        self._require_fitted("calibration_")
        return self._reconstruct(self._input(images), noise_keys(images, keys))[0]

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("calibration_")
        size = tuple(images.shape[-2:])
        parts, anomaly_map, x_hat = self._measure(images, keys)
        used = {name: parts[name] for name in self.score.split("+")}
        anomaly_map, x_hat = scoring.upsample_map(anomaly_map, size), at_image_size(x_hat, size)
        return Prediction(self.calibration_.combine(used), anomaly_map, x_hat, parts, self.nfe)

    def _measure(self, images: Tensor, keys: Sequence[str] | None) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Parts [B], anomaly map [B, image_size, image_size] and reconstruction of images [B, 3, H, W]."""
        x = self._input(images)
        x_hat, more = self._reconstruct(x, noise_keys(images, keys))
        parts, maps = residual_parts(x, x_hat)
        anomaly_map = scoring.smooth_map(maps["mse"], SMOOTHING * self.image_size)
        return parts | {"peak": anomaly_map.flatten(1).amax(dim=1)} | more, anomaly_map, x_hat

    def _calibrate(self, images: Tensor, keys: Sequence[str]) -> None:
        """Location and scale of every part over held-out normal images [n, 3, image_size, image_size]."""
        chunks = [slice(start, start + self.batch_size) for start in range(0, len(images), self.batch_size)]
        measured = [self._measure(images[chunk], keys[chunk])[0] for chunk in chunks]
        parts = {name: torch.cat([m[name] for m in measured]) for name in self.PARTS}
        self.calibration_ = scoring.Calibration.fit(parts)
