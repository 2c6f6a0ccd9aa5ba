"""CFA (Lee, Lee and Song, "CFA: Coupled-Hypersphere-Based Feature Adaptation for Target-Oriented Anomaly
Localization", IEEE Access 2022, arXiv 2206.04325)."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffad_utils.methods.anomalib_models.base import Features, anomalib_module
from diffad_utils.methods.anomalib_models.trained import TrainedDetector


@dataclass(kw_only=True)
class CFA(TrainedDetector):
    """Features of a frozen network go through one layer that is trained to bring those of normal images to their
    nearest centres and away from the next ones.

    The layer is a 1 x 1 convolution that also sees the coordinates. A centre is the mean of its output over the normal
    images at a position, taken before training and kept (paper, sec. III). The map is the distance to the nearest
    centre times its softmin among the K nearest, the score its largest value after a Gaussian filter of 4 pixels.

    num_neighbors : K, nearest centres that attract, and as many after them that repel (the paper's 3 and 3).
    radius : of the spheres (1e-5).

    Where paper, public code and anomalib differ:

    - The public code trains the radius with the rest; in anomalib it stays as it is, and here.
    - Centres are the mean over all images; public code and anomalib average over batches, of which the last is smaller.
    - The public code takes the epoch of the best test result. Not here: the last step.
    - Squared distances are not below 0 here. By rounding they can be, and the root in the map is then not a number.
    - No centres are joined (the paper's gamma_c is 1), and the layer keeps the number of channels (gamma_d is 1). For
      an EfficientNet the public code divides features by their number of channels and doubles that in the layer; so
      does this.
    - AdamW with warm-up and cosine; theirs is with amsgrad and no schedule, with the same rate of 0.001, weight decay
      of 0.0005 and batches of 4 (paper: 30 epochs).

    Every position of an image is compared with every centre: memory grows with the fourth power of the image size.
    """

    name: ClassVar[str] = "anomalib:cfa"
    published_as: ClassVar[str] = "CFA"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 20}

    num_neighbors: int = 3
    radius: float = 1e-5
    train_batch_size: int = 4
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if not 1 <= self.num_neighbors <= self._cells // 2:
            raise ValueError(
                f"{self.name}: num_neighbors must be from 1 to {self._cells // 2}, half of the positions of an image "
                f"of {self.image_size} px, got {self.num_neighbors}"
            )

    def _build(self) -> nn.Module:
        return _cfa(self._features(), self.num_neighbors, is_efficientnet=self.backbone.startswith("efficientnet"))

    def _bytes_to_fit(self, count: int) -> int:
        """Also the distances of a training batch's positions to all centres, six times with their gradients."""
        return super()._bytes_to_fit(count) + 6 * 4 * self.train_batch_size * self._cells**2

    def _learn(self, images: Tensor) -> None:
        with torch.no_grad():
            chunks = images.split(self.batch_size)
            total = sum(self.model_.adapted(chunk.to(self.torch_device)).sum(dim=0) for chunk in chunks)
        self.model_.memory_bank = total.flatten(1) / len(images)  # [channels, positions]
        super()._learn(images)

    def _loss(self) -> nn.Module:
        loss = anomalib_module("models.image.cfa.loss").CfaLoss(self.num_neighbors, self.num_neighbors, self.radius)
        loss.radius = loss.radius.detach()  # anomalib's keeps a graph, which the first step would use up
        return loss


def _cfa(features: Features, num_neighbors: int, is_efficientnet: bool) -> nn.Module:
    """anomalib's CFA on ``features``; its distances are not below 0, and it predicts an image at a time."""
    module = anomalib_module("models.image.cfa.torch_model")

    class Model(module.CfaModel):  # type: ignore[misc, name-defined]
        def adapted(self, images: Tensor) -> Tensor:
            return self.descriptor(self.feature_extractor(images))

        def compute_distance(self, target_oriented_features: Tensor) -> Tensor:
            return super().compute_distance(target_oriented_features).clamp_min(0)

        def forward(self, images: Tensor) -> Any:
            one = super().forward
            if self.training:
                return (one(images),)
            found = [one(image) for image in images.split(1)]  # the distances of one image are in memory at a time
            return SimpleNamespace(
                **{name: torch.cat([getattr(f, name) for f in found]) for name in ("pred_score", "anomaly_map")}
            )

    model = Model.__new__(Model)  # its own constructor would download the network
    nn.Module.__init__(model)
    model.register_buffer("memory_bank", torch.tensor(0.0))
    model.feature_extractor = features
    model.descriptor = module.Descriptor(gamma_d=1, backbone="efficientnet_b5" if is_efficientnet else "resnet18")
    channels = sum(features.backbone.channels)
    model.descriptor.layer = module.CoordConv2d(channels, (1 + is_efficientnet) * channels, kernel_size=1)
    model.descriptor.layer.weight = model.descriptor.layer.bias = None  # of its base class, not used
    model.anomaly_map_generator = module.AnomalyMapGenerator(num_nearest_neighbors=num_neighbors)
    return model
