"""PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffad_utils import kernels, scoring
from diffad_utils.methods.anomalib_models.base import BackboneDetector, Features, anomalib_module

# Pixels; anomalib's, cut at four of them.
MAP_SIGMA = 4


@dataclass(kw_only=True)
class PatchCore(BackboneDetector):
    """Distance of patch features to a bank of those of normal images (Roth et al., sec. 3).

    The paper keeps a greedily chosen coreset of the patches (sec. 3.2, algorithm 1), 1 % to 25 % of them. Choosing it
    takes longer than everything else here, so the default is what is often run in its place: a random tenth. Below 1 %
    the greedy coreset keeps little but outliers, and detection suffers. Distances are exact, from `kernels.knn`.

    strides : the paper's layers 2 and 3. coreset_ratio : share of the patches that is kept, at least ``num_neighbors``
        of them: the score's weight is one minus a softmax over a patch's neighbours in the bank, and is 0 where a patch
        is its only neighbour.
    subsampling : which are kept, "random" or "greedy" (the paper's). num_neighbors : of the score's re-weighting (the
        paper's b).
    """

    name: ClassVar[str] = "anomalib:patchcore"
    published_as: ClassVar[str] = "PatchCore"
    contract_settings: ClassVar[dict[str, Any]] = {"coreset_ratio": 0.05}

    strides: Sequence[int] = (8, 16)
    coreset_ratio: float = 0.1
    subsampling: str = "random"
    num_neighbors: int = 9

    def __post_init__(self) -> None:
        if self.subsampling not in ("random", "greedy"):
            raise ValueError(f"PatchCore: subsampling must be 'random' or 'greedy', got {self.subsampling!r}")
        if not 0 < self.coreset_ratio <= 1:
            raise ValueError(f"PatchCore: coreset_ratio must be above 0 and at most 1, got {self.coreset_ratio}")

    def _build(self) -> nn.Module:
        return _patchcore(self._features(), self.num_neighbors)

    def _bytes_to_fit(self, count: int) -> int:
        """Also the embeddings, and once more as they are joined."""
        return super()._bytes_to_fit(count) + 2 * 4 * count * self._cells * sum(self.pretrained_.channels)

    def _learn(self, images: Tensor) -> None:
        self.model_.train()
        for chunk in images.split(self.batch_size):
            self.model_(chunk.to(self.torch_device))
        patches = sum(len(rows) for rows in self.model_.embedding_store)
        if patches < self.num_neighbors:
            raise ValueError(
                f"PatchCore needs at least num_neighbors = {self.num_neighbors} patches of normal images, got "
                f"{patches} from {len(images)} images of {self.image_size} px: give more or larger images"
            )
        ratio = max(self.coreset_ratio, (self.num_neighbors + 0.5) / patches)
        if self.subsampling == "greedy":
            self.model_.subsample_embedding(ratio)
            return
        kept = self._drawn(patches, int(ratio * patches)).sort().values
        self.model_.memory_bank = torch.vstack(self.model_.embedding_store)[kept.to(self.torch_device)]
        self.model_.embedding_store.clear()


def _patchcore(features: Features, num_neighbors: int) -> nn.Module:
    """anomalib's PatchCore on ``features``; neighbours by `kernels.knn` and maps by `scoring.smooth_map`: the same
    numbers, but sooner and in less memory."""

    class Model(anomalib_module("models.image.patchcore.torch_model").PatchcoreModel):  # type: ignore[misc]
        def nearest_neighbors(self, embedding: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
            distances, rows = kernels.knn(embedding, self.memory_bank, n_neighbors)
            return (distances[:, 0], rows[:, 0]) if n_neighbors == 1 else (distances, rows)

    class Maps(anomalib_module("models.image.patchcore.anomaly_map").AnomalyMapGenerator):  # type: ignore[misc]
        def compute_anomaly_map(self, patch_scores: Tensor, image_size: Sequence[int] | None = None) -> Tensor:
            maps = patch_scores if image_size is None else F.interpolate(patch_scores, size=tuple(image_size))
            return scoring.smooth_map(maps[:, 0], MAP_SIGMA)[:, None]

    # anomalib builds an extractor of its own first; an untrained one, which is replaced
    model = Model(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False, num_neighbors=num_neighbors)
    model.feature_extractor, model.layers, model.anomaly_map_generator = features, features.layers, Maps(MAP_SIGMA)
    return model
