"""What the detectors share that reconstruct an image and score what is left over: parts, map, calibration."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import (
    Detector,
    Prediction,
    batches,
    check_images,
    check_train_dataset,
    noise_keys,
    resize_images,
)
from diffad_utils.scoring import residual_parts

SMOOTHING = 1 / 64
"""Standard deviation of the smoothing of anomaly maps, as a share of the image's side: 2 pixels at 128, 4 at 256."""


@dataclass(kw_only=True)
class ReconstructionDetector(Detector):
    """Reconstruct, and score the residual.

    Parameters
    ----------
    score : the parts that are added, joined by "+", each in units of its spread over held-out normal training images:
        "mse", the mean squared error; "peak", the largest value of the anomaly map, which a small defect can reach
        without moving the mean; and what a method has besides.
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
        x_hat = torch.nn.functional.interpolate(x_hat, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        used = {name: parts[name] for name in self.score.split("+")}
        anomaly_map = scoring.upsample_map(anomaly_map, size)
        return Prediction(self.calibration_.combine(used), anomaly_map, x_hat, parts, self.nfe)

    def _input(self, images: Tensor) -> Tensor:
        return resize_images(check_images(images), self.image_size).clamp(0, 1)

    def _measure(self, images: Tensor, keys: Sequence[str] | None) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Parts [B], anomaly map [B, image_size, image_size] and reconstruction of images [B, 3, H, W]."""
        x = self._input(images)
        x_hat, more = self._reconstruct(x, noise_keys(images, keys))
        parts, maps = residual_parts(x, x_hat)
        sigma = SMOOTHING * self.image_size
        anomaly_map = gaussian_blur(maps["mse"][:, None], kernel_size=2 * math.ceil(3 * sigma) + 1, sigma=sigma)[:, 0]
        return parts | {"peak": anomaly_map.flatten(1).amax(dim=1)} | more, anomaly_map, x_hat

    def _split(self, dataset: ImageDataset) -> tuple[Tensor, Tensor, list[str]]:
        """Training images [n, 3, image_size, image_size] to learn from, and held-out ones with their keys.

        Raises ``ValueError`` if one of them is labelled anomalous.
        """
        check_train_dataset(dataset)
        loaded = [(self._input(batch["image"]), batch["key"]) for batch in batches(dataset, self.batch_size)]
        images, keys = torch.cat([part for part, _ in loaded]), [key for _, part in loaded for key in part]
        fitted, held_out = scoring.holdout_split(len(images), self.holdout_fraction, self.seed)
        return images[fitted], images[held_out], [keys[i] for i in held_out]

    def _calibrate(self, images: Tensor, keys: Sequence[str]) -> None:
        """Location and scale of every part over held-out normal images [n, 3, image_size, image_size]."""
        chunks = [slice(start, start + self.batch_size) for start in range(0, len(images), self.batch_size)]
        measured = [self._measure(images[chunk], keys[chunk])[0] for chunk in chunks]
        parts = {name: torch.cat([m[name] for m in measured]) for name in self.PARTS}
        self.calibration_ = scoring.Calibration.fit(parts)

    def _calibration_values(self) -> dict[str, dict[str, float]]:
        return {"location": self.calibration_.location, "scale": self.calibration_.scale}
