"""Comparisons of variants on the same images, with intervals for image *and* pixel metrics, and by the size of the defect.

A bootstrap of the area under a pixel curve seems to need all pixels of every resample. It does not: with thresholds fixed
beforehand, true positives, false positives and the overlap of regions are sums over images, so a resample of the images
is a weighting of these sums. `BootstrapQuality` keeps them for each image and threshold. The price is the grid of
thresholds (512 quantiles of the pixels), which moves P-AUROC and AUPRO by less than 0.002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from diffad_utils.methods.base import Prediction
from diffad_utils.metrics import EIGHT_NEIGHBOURS

THRESHOLDS = 512
SIZES = ("small", "medium", "large")


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(value on all images, low, high) of draws [n + 1] whose first is the value on all images."""
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(values[0]), float(low), float(high)


def resampled_weights(labels: Sequence[int], n: int, seed: int) -> np.ndarray:
    """How often each image is drawn: int [n + 1, N], the first row all 1; normal and anomalous images apart."""
    labels = np.asarray(labels).astype(bool)
    rng, times = np.random.default_rng(seed), np.ones((n + 1, len(labels)), dtype=np.int64)
    for members in (~labels, labels):
        size = int(members.sum())
        if size:
            times[1:, members] = rng.multinomial(size, np.full(size, 1 / size), size=n)
    return times


def resampled_means(values: Sequence[float], n: int, seed: int) -> np.ndarray:
    """Means [n + 1] of values [N] over resampled images, the first over all of them. Values of one seed and length are
    resampled together, so differences of two results are paired."""
    values = np.asarray(values, dtype=np.float64)
    return resampled_weights(np.zeros(len(values)), n, seed) @ values / len(values)


@dataclass
class BootstrapQuality:
    """Metrics of several predictions of the same images on the same resamples.

    values : variant -> metric -> draws [n + 1], the first on all images. Metrics: I-AUROC, and where there are masks
        P-AUROC and AUPRO (up to a false-positive rate of 0.3). images : their number.
    """

    values: dict[str, dict[str, np.ndarray]]
    images: int

    @classmethod
    def of(cls, predictions: Mapping[str, Prediction], batch: Mapping, n: int = 500, seed: int = 0) -> BootstrapQuality:
        """Of predictions of ``batch`` (label [N], mask [N, H, W]); n resamples, normal and anomalous images apart."""
        labels, masks = np.asarray(batch["label"]).astype(bool), np.asarray(batch["mask"])
        times = resampled_weights(labels, n, seed)
        regions = _region_weights(masks) if masks.any() else None
        values = {}
        for name, prediction in predictions.items():
            values[name] = {"I-AUROC": _auroc_draws(np.asarray(prediction.score, dtype=np.float64), labels, times)}
            if regions is not None and prediction.anomaly_map is not None:
                values[name] |= _pixel_draws(np.asarray(prediction.anomaly_map, dtype=np.float32), masks, regions, times)
        return cls(values, len(labels))

    def __getitem__(self, name: str) -> np.ndarray:
        """Mean of a variant's metrics, draws [n + 1]: one number for detection and localisation together."""
        return np.mean(list(self.values[name].values()), axis=0)

    def metric(self, metric: str) -> dict[str, np.ndarray]:
        """Draws of one metric by variant."""
        return {name: metrics[metric] for name, metrics in self.values.items()}

    @property
    def metrics(self) -> list[str]:
        return list(next(iter(self.values.values())))

    def table(self, reference: str | None = None) -> pd.DataFrame:
        """One row a variant: every metric, and with a reference the paired differences to it with their 95 % intervals."""
        rows = []
        for name, metrics in self.values.items():
            row = {"variant": name} | {metric: float(draws[0]) for metric, draws in metrics.items()}
            for metric, draws in metrics.items() if reference is not None and name != reference else ():
                value, low, high = interval(draws - self.values[reference][metric])
                row[f"{metric} minus {reference}"] = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
            rows.append(row)
        return pd.DataFrame(rows).fillna("")

    def long(self, name: str = "variant") -> pd.DataFrame:
        """One row a variant and metric: ``name``, metric, value, low, high; for charts and records."""
        rows = []
        for variant, metrics in self.values.items():
            for metric, draws in metrics.items():
                value, low, high = interval(draws)
                rows.append({name: variant, "metric": metric, "value": value, "low": low, "high": high})
        return pd.DataFrame(rows)


def _auroc_draws(scores: np.ndarray, labels: np.ndarray, times: np.ndarray) -> np.ndarray:
    wins = np.sign(scores[labels][:, None] - scores[~labels]) / 2 + 0.5
    hits, false = times[:, labels], times[:, ~labels]
    return ((hits @ wins) * false).sum(axis=1) / (hits.sum(axis=1) * false.sum(axis=1))


def _region_weights(masks: np.ndarray) -> np.ndarray:
    """1 / area of the region that a pixel belongs to, 0 outside: [N, H, W]."""
    weights = np.zeros(masks.shape)
    for image, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        if count:
            weights[image] = np.r_[0, 1 / np.bincount(labelled.ravel())[1:]][labelled]
    return weights


def _pixel_draws(maps: np.ndarray, masks: np.ndarray, regions: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    levels = np.unique(np.quantile(maps, np.linspace(0, 1, THRESHOLDS)))
    images, bins = len(maps), len(levels) + 1
    cell = np.searchsorted(levels, maps.reshape(images, -1), side="right") + bins * np.arange(images)[:, None]

    def above(weights: np.ndarray) -> np.ndarray:
        """Sum of the weights over the pixels at or above each level, from the highest down: [N, bins]."""
        sums = np.bincount(cell.ravel(), weights.reshape(-1).astype(np.float64), minlength=images * bins)
        return np.cumsum(sums.reshape(images, bins)[:, ::-1], axis=1)

    def rate(weights: np.ndarray) -> np.ndarray:
        sums = times @ above(weights)
        return np.concatenate([np.zeros((len(times), 1)), sums / sums[:, -1:]], axis=1)

    fpr, tpr, overlap = rate(~masks), rate(masks), rate(regions)
    limited = np.minimum(fpr, 0.3)  # a trapezoid beyond the limit has no width; the one across it is cut below
    crossing = np.argmax(fpr > 0.3, axis=1)
    rows, cut = np.arange(len(fpr)), overlap.copy()
    before, after = fpr[rows, crossing - 1], fpr[rows, crossing]
    share = (0.3 - before) / (after - before)
    cut[rows, crossing] = overlap[rows, crossing - 1] + share * (overlap[rows, crossing] - overlap[rows, crossing - 1])
    return {"P-AUROC": np.trapezoid(tpr, fpr, axis=1), "AUPRO": np.trapezoid(cut, limited, axis=1) / 0.3}


# --- by the size of the defect ----------------------------------------------------------------------------------------


def image_pixel_auroc(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Area under the ROC of the pixels inside against those outside the mask, for each image alone: float64 [B].

    maps [B, H, W]; masks bool [B, H, W]; NaN where a mask is empty or full. No threshold is shared between images, so it says
    how well the defect stands out in its own map.
    """
    values = []
    for scores, inside in zip(np.asarray(maps).reshape(len(maps), -1), np.asarray(masks).reshape(len(maps), -1), strict=True):
        hits, rest = int(inside.sum()), int((~inside).sum())
        rank_sum = rankdata(scores)[inside].sum()
        values.append((rank_sum - hits * (hits + 1) / 2) / (hits * rest) if hits and rest else np.nan)
    return np.array(values)


def size_groups(areas: Sequence[float]) -> np.ndarray:
    """ "small", "medium" or "large" for each area [B]: thirds of their ranks, ties in order of position."""
    ranks = np.argsort(np.argsort(np.asarray(areas), kind="stable"), kind="stable")
    return np.array(SIZES)[ranks * 3 // len(ranks)]


def spearman_draws(x: Sequence[float], y: Sequence[float], n: int, seed: int) -> np.ndarray:
    """Rank correlation of x and y [N], draws [n + 1] over resampled pairs, the first of all pairs; 0 where one is constant."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(x), size=(n, len(x)))
    constant = [np.ptp(x[row]) == 0 or np.ptp(y[row]) == 0 for row in rows]
    whole = 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else spearmanr(x, y).statistic
    return np.r_[whole, [0.0 if flat else spearmanr(x[row], y[row]).statistic for row, flat in zip(rows, constant, strict=True)]]


# --- what a metric does -----------------------------------------------------------------------------------------------


def simulated_maps(masks: Tensor, missed: Sequence[bool], noise: float = 0.1, seed: int = 0) -> Tensor:
    """Maps of a made-up detector: 1 on every defect but those of the ``missed`` images [B], 0 elsewhere, plus Gaussian noise.

    masks bool [B, H, W] -> float32 [B, H, W]. With it one knows what a metric should say.
    """
    found = masks & ~torch.as_tensor(missed, dtype=torch.bool)[:, None, None]
    return found.float() + noise * torch.randn(masks.shape, generator=torch.Generator().manual_seed(seed))
