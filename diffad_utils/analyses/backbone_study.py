"""What a frozen backbone contributes: the same detectors on pretrained features, on others, and on random ones.

Used by notebook 01 and `benchmarks.patch_size`. Entry points: `load_networks`, `detectors_on`, `table`, `gains`,
`nearest_patch`, `border_maps`, `border_deviation`, `compare_paddings`, and the sentences `of_gains`, `of_elpv`,
`of_nearest_patch`, `of_border`.
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
from diffad_utils.models.backbones import Backbone, load_backbone
from diffad_utils.study.numbers import number

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


def load_networks(backbone: str, others: Sequence[str], seed: int, device: str) -> dict[str, Backbone]:
    """``backbone``, the ``others`` and the architecture of ``backbone`` with random weights, by name.

    Where the weights of a name are not on this machine the shipped small model stands in, and its message says so.
    """
    found = {name: load_backbone(name, allow_mini=True) for name in (backbone, *others)}
    found["random weights"] = load_backbone(backbone, allow_mini=True, random_seed=seed)
    return {name: network.to(device) for name, network in found.items()}


def compare_paddings(
    paddings: Mapping[str, Backbone], task: Task, train_images: int, share: float = 0.1
) -> tuple[float, float, float]:
    """I-AUROC of `nearest_patch` with "reflect" minus that with "zeros", and its 95 % interval, paired over images.

    The bank is of ``train_images`` of the training images, drawn with the task's seed, and the same for both.
    """
    drawn = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(task.seed))[:train_images]
    normal = torch.stack([task.train[i]["image"] for i in drawn.sort().values.tolist()])
    size = (task.images.shape[-2], task.images.shape[-1])
    scores = {}
    for name, backbone in paddings.items():
        chosen = SharedFeatures(backbone).at(PATCH_STRIDES)
        banks = patch_features(chosen, normal), patch_features(chosen, task.images)
        scores[name] = nearest_patch(*banks, size, share, task.seed).score
    return task.difference(scores["reflect"], scores["zeros"])


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


def border_record(deviations: pd.DataFrame, change: tuple[float, float, float]) -> dict:
    """What a run keeps: `border_deviation` of each padding, and the I-AUROC of reflection minus zeros with interval."""
    paddings = deviations.index.get_level_values(0).unique()
    return {padding: deviations.loc[padding].to_dict("records") for padding in paddings} | {
        "reflect_minus_zeros": dict(zip(("I-AUROC", "low", "high"), change, strict=True))
    }


# -- in sentences ------------------------------------------------------------------------------------------------------


def of_gains(table: pd.DataFrame, ours: str, other: str) -> str:
    """table : `gains`. Each method is judged by its whole interval."""
    sides = {
        "Better": table.index[table["low"] > 0],
        "Worse": table.index[table["high"] < 0],
        "Not shown to differ": table.index[(table["low"] <= 0) & (table["high"] >= 0)],
    }
    said = [f"{side}: {', '.join(methods)}" for side, methods in sides.items() if len(methods)]
    mean = table["gain"].mean()
    return (
        f"With {ours} instead of {other} the I-AUROC changes by {number(mean, sign='+')} in the mean over methods. "
        f"{'. '.join(said)}."
    )


def of_elpv(networks: Mapping[str, Backbone], dataset: str) -> str:
    """What has to be said of results on ELPV with the small network; "" for others."""
    shaped = [name for name, net in networks.items() if f"images of {dataset} shaped" in net.resolved.message]
    if not shaped:
        return ""
    return (
        f"Attention: the task that {', '.join(shaped)} was trained on was chosen with the help of a trial on images of "
        f"{dataset} (see its model card). So its results on this data set may be too good, by an unknown amount."
    )


def of_nearest_patch(table: pd.DataFrame) -> str:
    """table : `table`."""
    rows = table[table["method"] == "nearest patch"]
    said = [f"{r['backbone']} {r['I-AUROC']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for _, r in rows.iterrows()]
    return f"I-AUROC of nearest patch: {'; '.join(said)}. The maps are only examples."


def of_border(deviations: pd.DataFrame, stride: int = 16) -> str:
    """deviations : `border_deviation` under the keys "zeros" and "reflect"."""
    zeros, reflect = (deviations.loc[kind].set_index("stride").loc[stride] for kind in ("zeros", "reflect"))
    return (
        f"At stride {stride}, with zeros, {zeros['cells off']:.0%} of the cells differ from the centre by more than "
        f"{BORDER_TOLERANCE:.0%}. The median difference is {zeros['median']:.3f}, the largest {zeros['largest']:.2f}. "
        f"{zeros['identical cells']:.0%} of the cells equal the centre (the centre itself included). With reflection "
        f"{reflect['cells off']:.0%} of the cells differ, by {reflect['largest']:.3f} at most."
    )
