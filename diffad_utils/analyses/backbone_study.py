"""What a frozen backbone contributes: the same detectors on pretrained features, on others, and on random ones.

Used by notebook 01 and `benchmarks.patch_size`. Entry points: `nearest_patch`, `detectors_on`, `border_deviation`,
`border_maps`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_utils import kernels, scoring
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset
from diffad_utils.methods.anomalib_models import BackboneDetector
from diffad_utils.methods.base import Prediction, batches
from diffad_utils.methods.invad.detector import InvAD
from diffad_utils.models.backbones import Backbone

STRIDES = (2, 4, 8, 16)
PATCH_STRIDES = (8, 16)
"""Those of the patches: PatchCore's layers 2 and 3."""
BATCH_SIZE = 32
"""Of everything here: `SharedFeatures` knows a batch again only if it is the same one."""
BORDER_TOLERANCE = 0.01
"""Relative deviation from the centre cell above which a cell of a constant image counts as off."""


class SharedFeatures:
    """Features of images that several detectors look at, computed once for each batch.

    backbone : with the strides of `STRIDES`. The features are kept on the CPU: at 128 px about 0.4 MB an image.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self._kept: dict[bytes, list[Tensor]] = {}

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        """Features of every stride of the backbone for images [B, 3, H, W] in [0, 1]."""
        key = hashlib.blake2b(images.cpu().contiguous().numpy().tobytes(), digest_size=16).digest()
        if key not in self._kept:
            device = self.backbone.mean.device
            self._kept[key] = [level.float().cpu() for level in self.backbone(images.to(device))]
        return [level.to(images.device) for level in self._kept[key]]

    def at(self, strides: Sequence[int]) -> SharedLevels:
        """What a detector takes as its backbone."""
        return SharedLevels(self, strides)


class SharedLevels(nn.Module):
    """Some strides of `SharedFeatures`, with the attributes of a `Backbone`.

    Raises ``ValueError`` for a stride that the backbone was not loaded with.
    """

    def __init__(self, shared: SharedFeatures, strides: Sequence[int]):
        super().__init__()
        missing = [stride for stride in strides if stride not in shared.backbone.strides]
        if missing:
            raise ValueError(f"shared features have the strides {shared.backbone.strides}, asked for {missing} as well")
        self._shared = shared
        self._chosen = [shared.backbone.strides.index(stride) for stride in strides]
        self.strides = tuple(strides)
        self.channels = [shared.backbone.channels[i] for i in self._chosen]
        self.resolved = shared.backbone.resolved

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = self._shared.levels(images)
        return [levels[i] for i in self._chosen]


@torch.no_grad()
def patch_features(backbone: nn.Module, images: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Features of all strides, resized to the finest grid and joined: images [N, 3, H, W] -> [N, C, h, w], CPU."""
    joined = []
    for chunk in images.split(batch_size):
        levels = backbone(chunk)
        size = levels[0].shape[-2:]
        resized = [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels[1:]]
        joined.append(torch.cat([levels[0], *resized], dim=1).cpu())
    return torch.cat(joined)


def nearest_patch(train: Tensor, test: Tensor, size: tuple[int, int], share: float = 0.1, seed: int = 0) -> Prediction:
    """Distance of each patch to the nearest one of normal images: the simplest detector on a backbone's features.

    Parameters
    ----------
    train, test : `patch_features` [M, C, h, w] of normal images, [N, C, h, w].
    size : (H, W) of the maps. share : of the normal patches, a random one with ``seed``, at least one patch.

    Returns
    -------
    ``Prediction``: score = the largest Euclidean distance, anomaly_map = all of them, resized to ``size``.

    Raises
    ------
    ValueError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share of the patches must be above 0 and at most 1, got {share}")
    rows = train.movedim(1, -1).flatten(0, 2)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[: max(1, round(share * len(rows)))]
    distances, _ = kernels.knn(test.movedim(1, -1).flatten(0, 2), rows[drawn.sort().values], k=1)
    maps = distances.view(len(test), *test.shape[-2:]).float()
    return Prediction(maps.flatten(1).amax(dim=1), scoring.upsample_map(maps, size))


def detectors_on(
    backbone: Backbone,
    train: ImageDataset,
    images: Tensor,
    keys: Sequence[str],
    detectors: Mapping[str, BackboneDetector | InvAD],
    share: float = 0.1,
    seed: int = 0,
) -> dict[str, Prediction]:
    """Nearest patch and other detectors on one backbone, whose features are computed once for all of them.

    Parameters
    ----------
    backbone : with the strides of `STRIDES`. train : normal images. images, keys : what is judged, [N, 3, S, S] in
        [0, 1] and [N].
    detectors : name -> unfitted detector; its own field ``backbone`` is not looked at.
    share, seed : of `nearest_patch`.

    Returns
    -------
    ``{"nearest patch": prediction, name: prediction, ...}`` for ``images``.
    """
    shared = SharedFeatures(backbone)
    patches = shared.at(PATCH_STRIDES)
    normal = torch.cat([patch_features(patches, batch["image"]) for batch in batches(train, BATCH_SIZE)])
    size = (images.shape[-2], images.shape[-1])
    found = {"nearest patch": nearest_patch(normal, patch_features(patches, images, BATCH_SIZE), size, share, seed)}
    chunks = torch.arange(len(images)).split(BATCH_SIZE)
    for name, detector in detectors.items():
        slot = "backbone_" if isinstance(detector, InvAD) else "pretrained_"  # where each keeps what it has loaded
        setattr(detector, slot, shared.at(detector.strides))
        detector.batch_size = BATCH_SIZE
        detector.fit(train)
        found[name] = Prediction.concatenate(
            [detector.predict(images[rows], [keys[i] for i in rows.tolist()]) for rows in chunks]
        )
    return found


@torch.no_grad()
def border_maps(backbone: Backbone, size: int, value: float = 0.5) -> dict[int, Tensor]:
    """How far the features of a constant image are from those of its centre, by position.

    Parameters
    ----------
    backbone : any. size : side of the image, px. value : its grey value, in [0, 1].

    Returns
    -------
    Stride -> [h, w]: the Euclidean distance of each cell's features to the centre cell's, over that one's length. All
    are 0 where padding leaves no trace.
    """
    maps = {}
    image = torch.full((1, 3, size, size), value, device=backbone.mean.device)
    for stride, level in zip(backbone.strides, backbone(image), strict=True):
        centre = level[0, :, level.shape[2] // 2, level.shape[3] // 2]
        maps[stride] = ((level[0] - centre[:, None, None]).norm(dim=0) / centre.norm().clamp_min(1e-12)).cpu()
    return maps


def border_deviation(maps: Mapping[int, Tensor]) -> pd.DataFrame:
    """`border_maps` in numbers: a row a stride with the share of cells that are off, the median and the largest.

    Columns: ``stride``, ``cells off`` (share above `BORDER_TOLERANCE`), ``identical cells`` (share that equals the
    centre to float precision, 1e-5), ``median``, ``largest`` (relative deviations).
    """
    return pd.DataFrame(
        {
            "stride": stride,
            "cells off": float((deviation > BORDER_TOLERANCE).float().mean()),
            "identical cells": float((deviation <= 1e-5).float().mean()),
            "median": float(deviation.median()),
            "largest": float(deviation.max()),
        }
        for stride, deviation in maps.items()
    )


@torch.no_grad()
def mean_features(backbone: Backbone, images: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Features of every stride averaged over all positions and joined: images [N, 3, H, W] -> [N, C], CPU."""
    chunks = images.to(backbone.mean.device).split(batch_size)
    return torch.cat(
        [torch.cat([level.mean(dim=(2, 3)) for level in backbone(chunk)], dim=1).cpu() for chunk in chunks]
    )


def nearest_patch_on(
    backbone: Backbone, train: ImageDataset, images: Tensor, train_images: int, share: float = 0.1, seed: int = 0
) -> Prediction:
    """`nearest_patch` of images [N, 3, S, S] against ``train_images`` of the training images, drawn with ``seed``."""
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:train_images].sort().values
    normal = torch.stack([train[i]["image"] for i in drawn.tolist()])
    chosen = SharedFeatures(backbone).at(PATCH_STRIDES)
    size = (images.shape[-2], images.shape[-1])
    return nearest_patch(patch_features(chosen, normal), patch_features(chosen, images), size, share, seed)


def table(task: Task, studied: Mapping[str, Mapping[str, Prediction]]) -> pd.DataFrame:
    """Accuracy of `detectors_on` for several backbones: ``backbone, method, I-AUROC, low, high`` and, with masks,
    ``AUPRO``; intervals are of 95 % over images."""
    return pd.DataFrame(
        {"backbone": backbone, "method": method, **task.accuracy(found.score, found.anomaly_map)}
        for backbone, methods in studied.items()
        for method, found in methods.items()
    )


def gains(task: Task, ours: Mapping[str, Prediction], other: Mapping[str, Prediction]) -> pd.DataFrame:
    """I-AUROC on one backbone minus that on another, method by method: index ``method``; ``gain, low, high`` (95 %,
    paired over images)."""
    rows = {method: task.difference(found.score, other[method].score) for method, found in ours.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["gain", "low", "high"]).rename_axis("method")


def gains_in_words(table: pd.DataFrame, ours: str, other: str) -> str:
    """A sentence on `gains`, each method judged by its whole interval."""
    sides = {
        "better": table.index[table["low"] > 0],
        "worse": table.index[table["high"] < 0],
        "not shown to differ": table.index[(table["low"] <= 0) & (table["high"] >= 0)],
    }
    said = [f"{side}: {', '.join(methods)}" for side, methods in sides.items() if len(methods)]
    mean = table["gain"].mean()
    return f"On {ours} instead of {other} ({mean:+.3f} I-AUROC in the mean over methods), {'; '.join(said)}."


def border_record(deviations: pd.DataFrame, change: tuple[float, float, float]) -> dict:
    """What a run keeps: `border_deviation` of each padding, and the I-AUROC of reflection minus zeros with interval."""
    paddings = deviations.index.get_level_values(0).unique()
    return {padding: deviations.loc[padding].to_dict("records") for padding in paddings} | {
        "reflect_minus_zeros": dict(zip(("I-AUROC", "low", "high"), change, strict=True))
    }
