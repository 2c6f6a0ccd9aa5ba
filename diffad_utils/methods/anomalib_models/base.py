"""What the detectors of anomalib share: its networks on our images, features, splits and weights."""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.io.machine import require_memory
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.models.backbones import Backbone, load_backbone
from diffad_utils.models.device import generators_kept
from diffad_utils.weights import Resolved


def anomalib_module(module: str) -> ModuleType:
    """A module of anomalib. ``ImportError`` that says how to install it, where it is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports every model it has, deprecated parts too
            return importlib.import_module(f"anomalib.{module}")
    except ImportError as error:
        raise ImportError(
            f"the anomalib baselines need the package anomalib ({error}); install it with: pip install "
            f"'diffad_utils[baselines]'"
        ) from error


class Features(nn.Module):
    """A `Backbone` as anomalib's feature extractor: images in [0, 1] -> {layer: features}."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.layers = [f"stride{stride}" for stride in backbone.strides]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.layers, self.backbone(images), strict=True))


@dataclass(kw_only=True)
class AnomalibDetector(Detector):
    """What the anomalib detectors share: ``model_`` is an anomalib network; its score and map are taken as they are.

    Prediction: score = anomalib's ``pred_score``; anomaly_map = anomalib's, resized to the images; nfe = 0.
    """

    family: ClassVar[str] = "classical"
    FROZEN: ClassVar[str]
    """Prefix of the pretrained weights in ``model_``, which are not saved with the detector."""
    WEIGHTS: ClassVar[str] = "backbone"
    """The field that names them."""

    def fit(self, train_dataset: ImageDataset) -> Self:
        check_train_dataset(train_dataset)
        with generators_kept(self.seed):
            self._prepare(train_dataset)
            self.model_ = self._build().to(self.torch_device)
            count, side = len(train_dataset), self.image_size  # anomalib keeps all of them in memory
            require_memory(self._bytes_to_fit(count), f"{self.name}, fitted to {count} images of {side} px,")
            self._learn(torch.cat([self._input(b["image"]) for b in batches(train_dataset, self.batch_size)]))
        self.model_.eval()
        return self

    @torch.no_grad()
    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("model_")
        size = images.shape[-2:]
        outputs = [
            self.model_(self._network_input(chunk.to(self.torch_device)))
            for chunk in self._input(images).split(self.batch_size)
        ]
        score = torch.cat([output.pred_score.flatten() for output in outputs])
        maps = torch.cat([output.anomaly_map.reshape(-1, *output.anomaly_map.shape[-2:]) for output in outputs])
        return Prediction(score.float().cpu(), scoring.upsample_map(maps.float().cpu(), size))

    def _bytes_to_fit(self, count: int) -> int:
        """Memory of ``count`` images, float32, and once more as they are joined."""
        return 2 * 4 * count * 3 * self.image_size**2

    def _network_input(self, images: Tensor) -> Tensor:
        """What the network takes, from images [B, 3, S, S] in [0, 1]; a `Backbone` normalises by itself."""
        return images

    def _prepare(self, train_dataset: ImageDataset) -> None:
        """Anything that depends on the training set beside its images."""

    @abstractmethod
    def _build(self) -> nn.Module:
        """The unfitted network, with the pretrained weights in it; sets ``pretrained_``."""

    @abstractmethod
    def _learn(self, images: Tensor) -> None:
        """Fit ``model_`` to normal images [N, 3, S, S] in [0, 1]."""

    @property
    def resolved(self) -> Resolved:
        """Where the pretrained weights are from (`weights.Resolved`), for ``run.note_weights``."""
        self._require_fitted("model_")
        return self.pretrained_.resolved

    def resolved_weights(self) -> dict[str, Resolved]:
        return {self.WEIGHTS: self.pretrained_.resolved}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("model_")
        learned = {
            name: value.clone() for name, value in self.model_.state_dict().items() if not name.startswith(self.FROZEN)
        }
        return learned, {"weights_sha256": self.pretrained_.resolved.sha256}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        with generators_kept(self.seed):
            self.model_ = self._build()
        self._check_weights({self.WEIGHTS: values["weights_sha256"]})
        missing, unexpected = self.model_.load_state_dict(tensors, strict=False)
        lost = [name for name in missing if not name.startswith(self.FROZEN)]
        if lost or unexpected:
            raise ValueError(
                f"the saved detector does not fit the network: {lost[:3]} missing, {unexpected[:3]} unexpected"
            )
        self.model_.to(self.torch_device).eval()


@dataclass(kw_only=True)
class BackboneDetector(AnomalibDetector):
    """On features of a frozen backbone.

    backbone : name for `models.backbones.load_backbone`. allow_mini : whether the shipped mini may stand in.
    strides : the feature levels; 4, 8, 16 are layers 1 to 3 of a ResNet.
    """

    FROZEN: ClassVar[str] = "feature_extractor."

    backbone: str = "efficientnet-lite0"
    allow_mini: bool = False
    strides: Sequence[int] = (4, 8, 16)

    def _features(self) -> Features:
        if not hasattr(self, "pretrained_"):
            self.pretrained_ = load_backbone(self.backbone, allow_mini=self.allow_mini, strides=tuple(self.strides))
        return Features(self.pretrained_)

    @property
    def _cells(self) -> int:
        """Feature vectors an image."""
        return (self.image_size // min(self.strides)) ** 2

    def _drawn(self, n: int, count: int) -> Tensor:
        """``count`` of the numbers below ``n``, int64, at random with the seed alone, whatever else was drawn."""
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[:count]
