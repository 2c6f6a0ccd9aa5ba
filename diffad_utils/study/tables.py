"""What a run keeps of every test image: scores, intervals, small maps, usable masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

MAPS_LIMIT_BYTES = 4_000_000
"""Cap for ``maps.npz`` before compression: bigger maps are averaged down by factors of two until they fit."""


def defect_of(key: str) -> str:
    """The defect in a sample's key ``dataset/category/split/defect/name``."""
    parts = key.split("/", 4)
    if len(parts) != 5:
        raise ValueError(f"sample key {key!r} is not of the form dataset/category/split/defect/name")
    return parts[3]


def score_table(prediction: Any, batch: dict) -> pd.DataFrame:
    """One row an image: key, label (int), defect, score (float), and one float column for every part.

    Raises
    ------
    ValueError
        lengths differ, or a part's name clashes with a column.
    """
    keys = list(batch["key"])
    columns = {"score": prediction.score} | dict(prediction.parts)
    clashes = {"key", "label", "defect"} & columns.keys()
    if clashes or "score" in prediction.parts:
        raise ValueError(f"parts of a score may not be named {', '.join(sorted(clashes)) or 'score'}")
    table = {"key": keys, "label": np.asarray(batch["label"]).astype(int), "defect": [defect_of(key) for key in keys]}
    for name, values in columns.items():
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
        if array.shape != (len(keys),):
            raise ValueError(f"{name} has shape {array.shape}, expected ({len(keys)},): one number an image")
        table[name] = array
    return pd.DataFrame(table)


def image_intervals(scores: pd.DataFrame, metrics: dict) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over images for those of I-AUROC and I-AP that `metrics` has."""
    from diffad_utils import metrics as measures

    functions = {"I-AUROC": measures.image_auroc, "I-AP": measures.image_ap}
    score, label = scores["score"].to_numpy(), scores["label"].to_numpy()
    return {
        name: measures.bootstrap_interval(function, score, label)
        for name, function in functions.items()
        if name in metrics
    }


def small_maps(maps: ArrayLike, limit: int = MAPS_LIMIT_BYTES) -> np.ndarray:
    """Anomaly maps [N, h, w], averaged down by factors of two until they take at most `limit` bytes.

    float16, or float32 where half precision would overflow, or leave fewer than 256 levels between the lowest and the
    highest value. ``ValueError`` for maps that are not finite.
    """
    small = SmallMaps(len(maps), limit)
    small.update(maps)
    return small.result()


class SmallMaps:
    """`small_maps` of ``total`` images that arrive in parts, [n, h, w] each."""

    def __init__(self, total: int, limit: int = MAPS_LIMIT_BYTES) -> None:
        self._total, self._limit = total, limit
        # one piece of memory for all: small pieces between large ones that come and go would break the heap up
        self._small: Any = None
        self._done = 0
        self._low, self._high = np.inf, -np.inf

    def update(self, maps: ArrayLike) -> None:
        """Raises ``ValueError`` for maps that are not finite."""
        import torch

        maps = torch.as_tensor(maps).detach().float().cpu()
        if not bool(torch.isfinite(maps).all()):
            raise ValueError("anomaly_map has NaN or infinite values; nothing was written")
        self._low, self._high = min(self._low, maps.min().item()), max(self._high, maps.max().item())
        averaged = self._averaged(maps, np.dtype(np.float16))
        if self._small is None:
            self._small = torch.empty(self._total, *averaged.shape[1:])
        self._small[self._done : self._done + len(averaged)] = averaged
        self._done += len(averaged)

    def _averaged(self, maps: Any, kind: np.dtype) -> Any:
        """Down to the size that all maps may have as numbers of this kind."""
        import torch

        while self._total * maps[0].numel() * kind.itemsize > self._limit and min(maps.shape[1:]) >= 2:
            maps = torch.nn.functional.avg_pool2d(maps[:, None], 2)[:, 0]
        return maps

    def result(self) -> np.ndarray:
        """All of them, [total, h, w]."""
        low, high = np.float32(self._low), np.float32(self._high)
        largest, extent = max(abs(low), abs(high)), high - low
        fits = largest < np.finfo(np.float16).max and (
            extent == 0 or extent >= largest / 8
        )  # 11 bits of which 3 are shared
        kind = np.dtype(np.float16 if fits else np.float32)
        return self._averaged(self._small, kind).numpy().astype(kind)


def usable_masks(batch: dict) -> dict[str, np.ndarray]:
    """``{"mask": bool [N, H, W]}`` if an anomalous image of the batch has a mask, else nothing (see
    `metrics.with_masks`, which says for which images they are ground truth)."""
    from diffad_utils.metrics import with_masks

    return (
        {"mask": np.asarray(batch["mask"], dtype=bool)} if with_masks(batch["label"], batch.get("mask")).any() else {}
    )
