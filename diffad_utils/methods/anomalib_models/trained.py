"""Trained on features of normal images: FastFlow (Yu et al., arXiv 2111.07677), STFPM (Wang et al., BMVC 2021)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffad_utils.methods.anomalib_models.base import BackboneDetector, anomalib_module
from diffad_utils.models.backbones import Backbone, load_backbone
from diffad_utils.training import TrainingLog, train


class _Student(nn.Module):
    """The network of an untrained `Backbone`, this time to be trained: images in [0, 1] -> {layer: features}."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.net = backbone.net.requires_grad_(True)
        self.layers = [f"stride{stride}" for stride in backbone.strides]
        self.register_buffer("mean", backbone.mean)
        self.register_buffer("std", backbone.std)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.layers, self.net((images - self.mean) / self.std), strict=True))


@dataclass(kw_only=True)
class TrainedDetector(BackboneDetector):
    """Trained by gradient descent with `training.train` (AdamW, cosine).

    anomalib's defaults are Adam at 1e-3 (FastFlow) and SGD at 0.4 (STFPM), without a schedule.
    """

    train_steps: int = 300
    train_batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5

    def _learn(self, images: Tensor) -> None:
        loss = self._loss()

        def loss_fn(model: nn.Module, generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(images), (min(self.train_batch_size, len(images)),), generator=generator)
            return loss(*model(images[chosen].to(self.torch_device)))

        self.training_log_: TrainingLog = train(
            self.model_,
            loss_fn,
            num_steps=self.train_steps,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=min(20, self.train_steps // 10),
            seed=self.seed,
            description=self.name,
        )

    @abstractmethod
    def _loss(self) -> nn.Module:
        """anomalib's loss of what the network returns in training."""


@dataclass(kw_only=True)
class FastFlow(TrainedDetector):
    """A normalising flow on each feature level. flow_steps : coupling blocks a level (the paper: 8 for ResNets)."""

    name: ClassVar[str] = "anomalib:fastflow"
    published_as: ClassVar[str] = "FastFlow"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 20, "train_batch_size": 4, "flow_steps": 2}

    flow_steps: int = 8
    conv3x3_only: bool = True
    hidden_ratio: float = 1.0

    def _build(self) -> nn.Module:
        if self.image_size % max(self.strides):
            raise ValueError(
                f"anomalib:fastflow needs an image_size that is a multiple of {max(self.strides)}, got "
                f"{self.image_size}"
            )
        module = anomalib_module("models.image.fastflow.torch_model")
        model = module.FastflowModel((self.image_size, self.image_size), "resnet18", pre_trained=False, flow_steps=1)
        self._features()
        model.feature_extractor = self.pretrained_
        shapes = [
            (c, self.image_size // s, self.image_size // s)
            for c, s in zip(self.pretrained_.channels, self.strides, strict=True)
        ]
        model.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
        model.fast_flow_blocks = nn.ModuleList(
            module.create_fast_flow_block([*shape], self.conv3x3_only, self.hidden_ratio, self.flow_steps)
            for shape in shapes
        )
        return model

    def _loss(self) -> nn.Module:
        return anomalib_module("models.image.fastflow.loss").FastflowLoss()


@dataclass(kw_only=True)
class STFPM(TrainedDetector):
    """A student of the backbone's architecture, trained from random weights to match its features on normal images."""

    name: ClassVar[str] = "anomalib:stfpm"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 20, "train_batch_size": 4}
    FROZEN: ClassVar[str] = "teacher_model."

    def _build(self) -> nn.Module:
        module = anomalib_module("models.image.stfpm.torch_model")
        model = module.STFPMModel.__new__(module.STFPMModel)  # its constructor would download a teacher
        nn.Module.__init__(model)
        model.tiler = None
        model.teacher_model = self._features()
        student = load_backbone(
            self.backbone, allow_mini=self.allow_mini, strides=tuple(self.strides), random_seed=self.seed
        )
        model.student_model = _Student(student)
        model.anomaly_map_generator = module.AnomalyMapGenerator()
        return model

    def _loss(self) -> nn.Module:
        return anomalib_module("models.image.stfpm.loss").STFPMLoss()
