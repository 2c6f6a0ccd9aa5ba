"""Reverse distillation, RD4AD (Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding",
CVPR 2022, arXiv 2201.10703)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from diffad_utils.methods.anomalib_models.base import anomalib_module
from diffad_utils.methods.anomalib_models.trained import TrainedDetector

CHANNELS = {"resnet18": (64, 128, 256), "resnet34": (64, 128, 256), "wide_resnet50_2": (256, 512, 1024)}
"""Of layers 1 to 3 of the networks that a decoder mirrors here."""


@dataclass(kw_only=True)
class ReverseDistillation(TrainedDetector):
    """A decoder learns to give back the features of a frozen network from one small code of them, on normal images.

    The code (sec. 3.2) joins layers 1 to 3 of the network, and the decoder (sec. 3.1) is that network upside down. Both
    are trained on the cosine distance of features and decoded features (eq. 1 and 2). The map is the sum of these
    distances over the layers, the score its largest value after a Gaussian filter of 4 pixels (sec. 3.3).

    cosine : "layer", a layer of an image as one vector, or "position", a vector at each position (eq. 1).

    Where paper, public code and anomalib differ:

    - eq. 1 and 2 take the cosine at each position and average; public code and anomalib take a layer as one vector.
      Theirs is the default. Maps have a cosine at each position in all of them.
    - The decoder mirrors a ResNet. For a backbone with other channels it is that of a ResNet-18, and a 1 x 1
      convolution before the code and one behind the decoder change the channels of each layer; these are ours.
    - AdamW with warm-up and cosine at the paper's rate of 0.005; theirs is Adam with betas 0.5 and 0.999 and no
      schedule (paper: 200 epochs of batches of 16).
    """

    name: ClassVar[str] = "anomalib:reverse_distillation"
    published_as: ClassVar[str] = "RD4AD"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 20, "train_batch_size": 4}
    FROZEN: ClassVar[str] = "encoder."

    cosine: str = "layer"
    learning_rate: float = 5e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.cosine not in ("layer", "position"):
            raise ValueError(f"{self.name}: cosine must be 'layer' or 'position', got {self.cosine!r}")
        if len(self.strides) != 3 or any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"{self.name} needs three strides, each twice the one before, got {[*self.strides]}")
        if self.image_size % (2 * self.strides[-1]):
            raise ValueError(
                f"{self.name} needs an image_size that is a multiple of {2 * self.strides[-1]}, got {self.image_size}"
            )

    def _build(self) -> nn.Module:
        module = anomalib_module("models.image.reverse_distillation.torch_model")
        features = self._features()
        mirrored = self.backbone if self.backbone in CHANNELS else "resnet18"
        own, theirs = features.backbone.channels, CHANNELS[mirrored]
        model = module.ReverseDistillationModel.__new__(module.ReverseDistillationModel)
        nn.Module.__init__(model)  # its own constructor would download the network
        model.tiler, model.encoder = None, features
        model.bottleneck = nn.Sequential(_Channels(own, theirs), module.get_bottleneck_layer(mirrored))
        model.decoder = nn.Sequential(module.get_decoder(mirrored), _Channels(theirs, own))
        model.anomaly_map_generator = module.AnomalyMapGenerator(
            (self.image_size, self.image_size), mode=module.AnomalyMapGenerationMode.ADD
        )
        return model

    def _loss(self) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
        if self.cosine == "position":
            return _distance_at_positions
        loss = anomalib_module("models.image.reverse_distillation.loss").ReverseDistillationLoss()
        return lambda *features: loss(*([f.contiguous() for f in layers] for layers in features))


class _Channels(nn.Module):
    """Features of several layers with other numbers of channels: a 1 x 1 convolution each, none where they agree."""

    def __init__(self, before: Sequence[int], after: Sequence[int]):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Identity() if a == b else nn.Conv2d(a, b, kernel_size=1) for a, b in zip(before, after, strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [layer(f) for layer, f in zip(self.layers, features, strict=True)]


def _distance_at_positions(features: list[Tensor], decoded: list[Tensor]) -> Tensor:
    """The mean over positions of one minus the cosine, summed over the layers (eq. 1 and 2)."""
    distances = [1 - F.cosine_similarity(f, d, dim=1).mean() for f, d in zip(features, decoded, strict=True)]
    return sum(distances[1:], distances[0])
