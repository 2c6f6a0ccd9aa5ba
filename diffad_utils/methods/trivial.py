"""The trivial baseline: global statistics of an image against their distribution over the training images.

A method that does not beat the best of these has learnt nothing that a light meter would not show.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.metrics import image_auroc
from diffad_utils.scoring import upsample_map


def gray(images: Tensor) -> Tensor:
    """Mean over the three channels: [B, 3, H, W] -> [B, H, W]."""
    return images.mean(dim=1)


def global_statistics(images: Tensor) -> dict[str, Tensor]:
    """Statistics [B] of the grey values of images [B, 3, H, W] in [0, 1].

    mean, standard deviation and 5 % quantile of the grey value; mean absolute difference of neighbouring pixels
    (``gradient_energy``); mean absolute difference from the image blurred with a Gaussian of sigma 1.5 pixels
    (``high_frequency_energy``).
    """
    g = gray(images)
    gradients = (g.diff(dim=2).abs().mean(dim=(1, 2)) + g.diff(dim=1).abs().mean(dim=(1, 2))) / 2
    blurred = gaussian_blur(g[:, None], kernel_size=9, sigma=1.5)[:, 0]
    return {
        "mean": g.mean(dim=(1, 2)),
        "std": g.flatten(1).std(dim=1),
        "low_percentile": torch.quantile(g.flatten(1), 0.05, dim=1),
        "gradient_energy": gradients,
        "high_frequency_energy": (g - blurred).abs().mean(dim=(1, 2)),
    }


STATISTICS = ("mean", "std", "low_percentile", "gradient_energy", "high_frequency_energy")
PARTS = tuple(name + side for name in STATISTICS for side in ("", "_low", "_high"))
"""Parts of the trivial score: each statistic two-sided, and one-sided for images that have less or more of it."""


@dataclass(kw_only=True)
class Trivial(Detector):
    """Global statistics against their distribution over the training images.

    With z = (v - mean) / std over the training images, a statistic has three parts (`PARTS`): two-sided |z| (its name),
    and one-sided -z and z ("_low", "_high"). The score is the largest |z|, which needs no labels. `best_statistic`
    names the part that does best on labelled images: the trivial baseline of the tables, an optimistic one, since it is
    chosen with the test labels.

    anomaly_map: the locally averaged grey value against mean and standard deviation of the training images at that
    pixel, |v - mean| / std, the trivial baseline for localisation.
    """

    name: ClassVar[str] = "trivial"
    family: ClassVar[str] = "classical"
    contract_attributes: ClassVar[dict[str, Any]] = {"trained": False}

    def fit(self, train_dataset: ImageDataset) -> Self:
        check_train_dataset(train_dataset)
        images = torch.cat([self._input(batch["image"]) for batch in batches(train_dataset, self.batch_size)])
        statistics = torch.stack([global_statistics(images)[name] for name in STATISTICS], dim=1).double()
        local = self._local_mean(images)
        # A lower bound of the scale keeps a constant statistic or pixel finite (one grey level of an 8-bit image).
        self.mean_, self.std_ = statistics.mean(dim=0), statistics.std(dim=0).clamp_min(1e-6)
        self.pixel_mean_, self.pixel_std_ = local.mean(dim=0), local.std(dim=0).clamp_min(1 / 255)
        return self

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("mean_")
        size = images.shape[-2:]
        images = self._input(images)
        statistics = global_statistics(images)
        z = {
            name: ((statistics[name].double() - self.mean_[i]) / self.std_[i]).float()
            for i, name in enumerate(STATISTICS)
        }
        sides = {"": torch.abs, "_low": torch.neg, "_high": torch.clone}
        parts = {name + side: function(z[name]) for name in STATISTICS for side, function in sides.items()}
        largest = torch.stack([parts[name] for name in STATISTICS]).amax(dim=0)
        residual = (self._local_mean(images) - self.pixel_mean_).abs() / self.pixel_std_
        return Prediction(largest, upsample_map(residual, size), parts=parts)

    @staticmethod
    def _local_mean(images: Tensor) -> Tensor:
        return gaussian_blur(gray(images)[:, None], kernel_size=17, sigma=4.0)[:, 0]

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("mean_")
        return {name: getattr(self, name + "_") for name in ("mean", "std", "pixel_mean", "pixel_std")}, {}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            setattr(self, name + "_", tensor)


def best_statistic(parts: Mapping[str, Tensor], labels: Tensor) -> tuple[str, float]:
    """The part with the highest I-AUROC on labels [N], and that I-AUROC; parts by name, each [N].

    Chosen with the test labels on purpose: it bounds from above what any such statistic could have reached.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a statistic that is constant on this data has AUROC 0.5
        aurocs = {name: float(image_auroc(values, labels)) for name, values in parts.items()}
    best = max(aurocs, key=aurocs.get)
    return best, aurocs[best]
