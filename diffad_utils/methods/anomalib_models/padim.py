"""PaDiM (Defard et al., ICPR 2020 workshops)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from diffad_utils.methods.anomalib_models.base import BackboneDetector, anomalib_module


@dataclass(kw_only=True)
class PaDiM(BackboneDetector):
    """Mahalanobis distance to a Gaussian over the normal images at each position.

    n_features : randomly drawn channels (the paper's Rd; 100 for a ResNet-18), at most as many as there are.
    """

    name: ClassVar[str] = "anomalib:padim"
    published_as: ClassVar[str] = "PaDiM"
    contract_settings: ClassVar[dict[str, Any]] = {"n_features": 24}

    n_features: int = 100

    def _build(self) -> nn.Module:
        features = self._features()
        model = anomalib_module("models.image.padim.torch_model").PadimModel(
            backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False, n_features=1
        )
        channels = sum(features.backbone.channels)
        model.feature_extractor, model.layers, model.n_features_original = features, features.layers, channels
        model.n_features = min(self.n_features, channels)
        model.idx = self._drawn(channels, model.n_features)
        return model

    def _bytes_to_fit(self, count: int) -> int:
        """Also the embeddings, twice; their covariances, and the inverses of these, while they are computed."""
        floats = 2 * count * self._cells * self.model_.n_features + 3 * self._cells * self.model_.n_features**2
        return super()._bytes_to_fit(count) + 4 * floats

    def _learn(self, images: Tensor) -> None:
        self.model_.train()
        for chunk in images.split(self.batch_size):
            self.model_(chunk.to(self.torch_device))
        self.model_.fit()
