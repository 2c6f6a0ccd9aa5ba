"""Comparisons of variants on the same images, with intervals for image *and* pixel metrics, and by the size of the
defect.

Images are resampled as in `resampling`; the pixel metrics of a resample come from counts on a grid of thresholds
(`metrics.pixel_counts`).

Used by notebook 06; entry points: `BootstrapQuality`, `resampled_means`, `size_groups`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.wording import worded
from diffad_utils.methods.base import Prediction
from diffad_utils.metrics import bootstrap, intervals

SIZES = ("small", "medium", "large")


@dataclass
class BootstrapQuality:
    """Metrics of several predictions of the same images on the same resamples.

    values : variant -> metric -> draws [n + 1], the first on all images. Metrics: I-AUROC, and where there are masks
        P-AUROC and AUPRO (up to a false-positive rate of 0.3) over the images that have one. images : their number.
    """

    values: dict[str, dict[str, np.ndarray]]
    images: int

    @classmethod
    def of(cls, predictions: Mapping[str, Prediction], batch: Mapping, n: int = 500, seed: int = 0) -> BootstrapQuality:
        """Of predictions of ``batch`` (label [N], mask [N, H, W]); n resamples, normal and anomalous images apart."""
        labels, masks = np.asarray(batch["label"]).astype(bool), np.asarray(batch["mask"])
        times = bootstrap.bootstrap_counts(labels, n, seed)
        rows = metrics.with_masks(labels, masks)
        of_rows = bootstrap.bootstrap_counts(labels[rows], n, seed) if rows.any() else None  # of all images: `times`
        values = {}
        for name, prediction in predictions.items():
            values[name] = {"I-AUROC": intervals.auroc(prediction.score, labels, times)[:, 0]}
            if of_rows is not None and prediction.anomaly_map is not None:
                counts = metrics.pixel_counts(np.asarray(prediction.anomaly_map)[rows], masks[rows])
                drawn = metrics.metrics_from_counts(counts, of_rows)
                values[name] |= {metric: drawn[metric] for metric in ("P-AUROC", "AUPRO")}
        return cls(values, len(labels))

    def __getitem__(self, name: str) -> np.ndarray:
        """Mean of a variant's metrics, draws [n + 1]: one number for detection and localisation together."""
        return np.mean(list(self.values[name].values()), axis=0)

    def metric(self, metric: str) -> dict[str, np.ndarray]:
        """Draws of one metric by variant."""
        return {name: found[metric] for name, found in self.values.items()}

    @property
    def metrics(self) -> list[str]:
        return list(next(iter(self.values.values())))

    def table(self, reference: str | None = None) -> pd.DataFrame:
        """One row a variant: every metric, and with a reference the paired differences to it with their 95 %
        intervals."""
        rows = []
        for name, found in self.values.items():
            row = {"variant": name} | {metric: float(draws[0]) for metric, draws in found.items()}
            for metric, draws in found.items() if reference is not None and name != reference else ():
                value, low, high = bootstrap.bootstrap_percentiles(draws - self.values[reference][metric])
                row[f"{metric} minus {reference}"] = worded((value, low, high))
            rows.append(row)
        return pd.DataFrame(rows).fillna("")

    def long(self, name: str = "variant") -> pd.DataFrame:
        """One row a variant and metric: ``name``, metric, value, low, high; for charts and records."""
        rows = []
        for variant, found in self.values.items():
            for metric, draws in found.items():
                value, low, high = bootstrap.bootstrap_percentiles(draws)
                rows.append({name: variant, "metric": metric, "value": value, "low": low, "high": high})
        return pd.DataFrame(rows)

    def differences(self, reference: str) -> pd.DataFrame:
        """One row a variant other than ``reference`` and metric: variant, metric, and value, low, high of the paired
        difference to it."""
        rows = [
            (name, metric, *bootstrap.bootstrap_percentiles(draws - self.values[reference][metric]))
            for name, found in self.values.items()
            if name != reference
            for metric, draws in found.items()
        ]
        return pd.DataFrame(rows, columns=["variant", "metric", "value", "low", "high"])


def image_pixel_auroc(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Area under the ROC of the pixels inside against those outside the mask, for each image alone: float64 [B].

    maps [B, H, W]; masks bool [B, H, W]; NaN where a mask is empty or full. No threshold is shared between images, so
    it says how well the defect stands out in its own map.
    """
    values = []
    for scores, inside in zip(
        np.asarray(maps).reshape(len(maps), -1), np.asarray(masks).reshape(len(maps), -1), strict=True
    ):
        hits, rest = int(inside.sum()), int((~inside).sum())
        rank_sum = rankdata(scores)[inside].sum()
        values.append((rank_sum - hits * (hits + 1) / 2) / (hits * rest) if hits and rest else np.nan)
    return np.array(values)


def size_groups(areas: Sequence[float]) -> np.ndarray:
    """ "small", "medium" or "large" for each area [B]: thirds of their ranks, ties in order of position."""
    ranks = np.argsort(np.argsort(np.asarray(areas), kind="stable"), kind="stable")
    return np.array(SIZES)[ranks * 3 // len(ranks)]


def simulated_maps(masks: Tensor, missed: Sequence[bool], noise: float = 0.1, seed: int = 0) -> Tensor:
    """Maps of a made-up detector: 1 on every defect but those of the ``missed`` images [B], 0 elsewhere, plus Gaussian
    noise.

    masks bool [B, H, W] -> float32 [B, H, W]. With it one knows what a metric should say.
    """
    found = masks & ~torch.as_tensor(missed, dtype=torch.bool)[:, None, None]
    return found.float() + noise * torch.randn(masks.shape, generator=torch.Generator().manual_seed(seed))
