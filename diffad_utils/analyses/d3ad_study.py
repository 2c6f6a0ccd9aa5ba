"""The experiments of notebook 06 on D3AD and DDAD: what goes into a picture or an effect, one function each.

Effects are draws [n + 1] over resampled images, the value of the data first, so that differences are paired.

Used by notebook 06; entry points: `bins_by_group`, `by_thirds`, `faded`, `strong_perturbation`, `feature_distances`,
`survival_over_guidance`, `seconds_of`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.detector_variants import Variants
from diffad_utils.analyses.paired_comparison import (
    SIZES,
    BootstrapQuality,
    image_pixel_auroc,
    simulated_maps,
    size_groups,
)
from diffad_utils.analyses.task import Task
from diffad_utils.diffusion import image_noise
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import D3AD, DDAD
from diffad_utils.methods.d3ad.conditioning import DynamicStep, pooled_features, scaled_start
from diffad_utils.methods.d3ad.maps import anomaly_map, image_score, min_max_over_batch
from diffad_utils.methods.reconstruction import SMOOTHING
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import absolute_error, defect_survival, mean_where, removal_and_drift

KINDS = {"scaled": 0.0, "noised": 1.0}
"""omega of the start of a reconstruction: Algorithm 1's and DDPM's."""


# --- steps ------------------------------------------------------------------------------------------------------------


def bins_by_group(dynamic: DynamicStep, distances: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Bins int64 of training images, and of normal and defective test images by their distances [N]."""
    groups = {"normal test": 0, "defective test": 1}
    return {"training": dynamic.bin_of(dynamic.distances_)} | {
        name: dynamic.bin_of(distances[labels == label]) for name, label in groups.items()
    }


def higher_bins(bins: Mapping[str, Tensor], group: str, n: int, seed: int) -> np.ndarray:
    """Mean bin of a group minus that of the training images: draws [n + 1], both resampled."""
    here, training = (bins[name].double().numpy() for name in (group, "training"))
    return bootstrap.resampled_means(here, n, seed) - bootstrap.resampled_means(training, n, seed + 1)


def rank_trend(curves: np.ndarray) -> np.ndarray:
    """Minus the rank correlation of the row's number with the value, for draws [settings, n + 1]: [n + 1]."""
    centred = np.arange(len(curves)) - (len(curves) - 1) / 2
    ranks = curves.argsort(axis=0).argsort(axis=0) - centred.max()
    return -(centred[:, None] * ranks).sum(axis=0) / (centred**2).sum()


def detection_and_place(quality: BootstrapQuality) -> dict[str, np.ndarray]:
    """Mean of I-AUROC and, where there are masks, P-AUROC of each variant: draws [n + 1]."""
    return {
        name: np.mean([draws for metric, draws in found.items() if metric != "AUPRO"], axis=0)
        for name, found in quality.values.items()
    }


# --- size -------------------------------------------------------------------------------------------------------------


class Thirds(NamedTuple):
    """values : variant -> pixel AUROC within the image [n] of each anomalous image with a mask. areas : of the masks,
    share of the image [n]. sizes : "small", "medium" or "large" [n]."""

    values: dict[str, np.ndarray]
    areas: np.ndarray
    sizes: np.ndarray

    def draws(self, values: np.ndarray, size: str, n: int, seed: int) -> np.ndarray:
        """Means over the images of a third: [n + 1]."""
        return bootstrap.resampled_means(values[self.sizes == size], n, seed)

    def table(self, n: int, seed: int) -> pd.DataFrame:
        """One row a variant and third: variant, third, value, low, high."""
        rows = [
            (name, size, *bootstrap.bootstrap_percentiles(self.draws(values, size, n, seed)))
            for size in SIZES
            for name, values in self.values.items()
        ]
        return pd.DataFrame(rows, columns=["variant", "third", "value", "low", "high"])

    def pairs(self, name: str, n: int, seed: int) -> dict[str, tuple[np.ndarray, int]]:
        """0.05 - |difference of two thirds| of a variant, by "small and large": draws [n + 1], and the images in
        both."""
        of = {size: self.draws(self.values[name], size, n, seed + i) for i, size in enumerate(SIZES)}
        count = {size: int((self.sizes == size).sum()) for size in SIZES}
        return {f"{a} and {b}": (0.05 - np.abs(of[a] - of[b]), count[a] + count[b]) for a, b in combinations(SIZES, 2)}


def by_thirds(predictions: Mapping[str, Prediction], task: Task) -> Thirds:
    """How well each defect stands out in its own map, by thirds of its area. Raises ``ValueError`` without masks."""
    rows = (task.labels == 1) & task.with_masks
    if int(rows.sum()) < len(SIZES):
        raise ValueError(f"{int(rows.sum())} anomalous images have a mask, thirds need at least {len(SIZES)}")
    masks = task.masks[rows]
    values = {name: image_pixel_auroc(found.anomaly_map[rows], masks) for name, found in predictions.items()}
    areas = masks.float().mean(dim=(1, 2)).numpy()
    return Thirds(values, areas, size_groups(areas))


# --- strong perturbation ----------------------------------------------------------------------------------------------


class Faded(NamedTuple):
    """images : "scaled" and "noised" -> Dec(z_t) [times, n, 3, H, W]. ssim : to the image, [times, n]. last_seen : the
    last t with half of the SSIM at the first, [n]."""

    images: dict[str, Tensor]
    ssim: dict[str, np.ndarray]
    last_seen: dict[str, np.ndarray]


@torch.inference_mode()
def faded(detector: D3AD, images: Tensor, keys: Sequence[str], times: Sequence[int]) -> Faded:
    """The decoded state z_t of images [n, 3, H, W] over t, scaled only and with the noise of the forward process."""
    z = detector.reconstruction(images, keys).state
    noise = image_noise(z.shape[1:], detector.seed, keys)
    seen, ssim, last = {}, {}, {}
    for kind, omega in KINDS.items():
        states = [scaled_start(z, torch.full((len(z),), t), detector.schedule, omega, noise) for t in times]
        seen[kind] = torch.stack([detector.decode(state.to(detector.torch_device)) for state in states])
        ssim[kind] = np.stack([metrics.reconstruction(images, shown)["ssim"] for shown in seen[kind]])
        visible = ssim[kind] >= 0.5 * ssim[kind][0]
        last[kind] = np.array([max(t for t, shown in zip(times, column, strict=True) if shown) for column in visible.T])
    return Faded(seen, ssim, last)


def strong_perturbation(variants: Variants, rows: Tensor, steps: Sequence[int], training: Tensor) -> pd.DataFrame:
    """What a reconstruction from high steps does to normal images: one row a kind of start, step and image.

    rows : int64, normal test images. training : normal images [m, 3, H, W]. Columns kind, T, image, ``error``, mean
    |x - x_hat|, and ``nearest``, mean absolute distance of x_hat to the nearest of the training images, in grey values
    of [0, 1].
    """
    task = variants.task.take(rows)
    bank, columns = training.flatten(1), []
    for kind, omega in KINDS.items():
        for step in steps:
            x_hat = variants.fitted(static_step=step, noise_fraction=omega).reconstruct(task.images, task.keys)
            nearest = torch.cdist(x_hat.flatten(1), bank, p=1).amin(dim=1) / bank.shape[1]
            error = absolute_error(task.images, x_hat).mean(dim=(1, 2))
            found = {"kind": kind, "T": step, "image": range(len(rows)), "error": error, "nearest": nearest}
            columns.append(pd.DataFrame(found))
    return pd.concat(columns, ignore_index=True)


def noised_minus_scaled(table: pd.DataFrame, column: str, steps: Sequence[int]) -> np.ndarray:
    """Mean over ``steps`` of the difference of the two kinds of start, image by image: [n]."""
    wide = table[table["T"].isin(steps)].pivot_table(index="image", columns="kind", values=column)
    return (wide["noised"] - wide["scaled"]).to_numpy()


def median_contrast(task: Task) -> float:
    """Median over the defects of |x - counterpart| inside the mask, grey values of [0, 1]; NaN without counterparts."""
    if not task.has_counterparts:
        return float("nan")
    rows = task.labels == 1
    difference = absolute_error(task.images[rows], task.batch["twin"][rows])
    return float(mean_where(difference, task.masks[rows]).median())


# --- adaptation -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def feature_distances(variants: Variants, **settings) -> pd.DataFrame:
    """Mean feature distance of each image of the task to its reconstruction, one row an image.

    Columns label; ``distance``, inside the mask of a defect that has one and over the image otherwise; for normal
    images ``autoencoder``, the distance to Dec(Enc(x)) alone, and ``flagged``, the share of the image whose distance
    to Dec(Enc(x)) lies above the level that 1 % of the pixels of held-out normal training images exceed by the whole
    method.
    """
    fitted, task, tables = variants.fitted(**settings), variants.task, []
    held_out = torch.cat([part.feature.flatten() for part in fitted.held_out_maps_])
    level, start = float(np.quantile(held_out.numpy(), 0.99)), 0
    for part in variants.maps(**settings):
        rows = slice(start, start + len(part.feature))
        start = rows.stop
        labels, masks = task.labels[rows], task.masks[rows]
        where = masks.bool() | ~masks.flatten(1).any(dim=1)[:, None, None]
        size = part.feature.shape[-2:]
        where = torch.nn.functional.interpolate(where[:, None].float(), size=size)[:, 0] > 0
        x_hat = fitted.decode(part.reconstruction.state.to(fitted.torch_device))
        alone = fitted.feature_map(part.reconstruction.features, x_hat)
        normal = torch.where(labels == 0, 1.0, float("nan"))
        columns = {
            "label": labels,
            "distance": mean_where(part.feature, where),
            "autoencoder": alone.mean(dim=(1, 2)) * normal,
            "flagged": (alone > level).float().mean(dim=(1, 2)) * normal,
        }
        tables.append(pd.DataFrame({name: values.numpy() for name, values in columns.items()}))
    return pd.concat(tables, ignore_index=True)


def relative_fall(before: pd.DataFrame, after: pd.DataFrame, label: int, n: int, seed: int) -> np.ndarray:
    """1 - mean distance after / mean distance before, over images of one label: draws [n + 1]."""
    means = [
        bootstrap.resampled_means(table.loc[table["label"] == label, "distance"], n, seed) for table in (after, before)
    ]
    return 1 - means[0] / means[1]


# --- scaling over the test set ----------------------------------------------------------------------------------------


def leave_one_out_of_scaling(detector: D3AD, task: Task) -> dict[str, float]:
    """What the public code's scaling over the test set does when the image with the largest latent distance is left
    out: the largest relative change of another image's score, and the I-AUROC of the others before and after."""
    maps = detector.maps(task.images, task.keys)
    rest = torch.arange(len(task.keys)) != int(maps.residual.flatten(1).amax(dim=1).argmax())

    def scores(rows: Tensor) -> Tensor:
        scaled = (min_max_over_batch(values[rows]) for values in (maps.residual, maps.feature))
        return image_score(anomaly_map(*scaled, weight=detector.map_weight, sigma=SMOOTHING * detector.image_size))

    before, after = scores(torch.ones_like(rest))[rest], scores(rest)
    return {
        "largest relative change of a score": float((after / before - 1).abs().max()),
        "I-AUROC before": float(metrics.image_auroc(before, task.labels[rest])),
        "I-AUROC after": float(metrics.image_auroc(after, task.labels[rest])),
    }


# --- DDAD -------------------------------------------------------------------------------------------------------------


def survival_over_guidance(ddad: DDAD, task: Task, weights: Sequence[float]) -> pd.DataFrame:
    """How much of each defect is left in DDAD's reconstruction over its pull towards the image, w.

    One row a weight and anomalous image: w, image, and ``survival`` (`metrics.counterfactual.defect_survival`) at
    DDAD's own image size. What is random is the same for an image and its counterpart.
    """
    hurt = task.take(torch.nonzero(task.labels == 1)[:, 0])
    size = (ddad.image_size, ddad.image_size)
    x, twin = (at_size(images, size) for images in (hurt.images, hurt.batch["twin"]))
    rows = []
    for w in weights:
        fitted = ddad.with_settings(guidance_weight=w)
        kept = defect_survival(x, twin, fitted.reconstruct(x, hurt.keys), fitted.reconstruct(twin, hurt.keys))
        rows.append(pd.DataFrame({"w": w, "image": range(len(kept)), "survival": kept.numpy()}))
    return pd.concat(rows, ignore_index=True)


def at_size(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] resized bilinearly, without aliases."""
    return torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def removal_table(reconstructions: Mapping[str, Tensor], task: Task) -> pd.DataFrame:
    """What methods do to defect images: one row a method and image, with removal, drift and fidelity
    (`metrics.counterfactual.removal_and_drift`).

    reconstructions : name -> [n, 3, H, W] of the ``task``'s images, all anomalous, at their size.
    """
    tables = []
    for name, x_hat in reconstructions.items():
        done = removal_and_drift(x_hat, task.images, task.batch["twin"], task.masks)
        found = {part: done[part].numpy() for part in ("removal", "drift", "fidelity")}
        tables.append(pd.DataFrame({"method": name, "image": range(len(x_hat))} | found))
    return pd.concat(tables, ignore_index=True)


def mean_intervals(table: pd.DataFrame, by: str, columns: Sequence[str], n: int, seed: int) -> pd.DataFrame:
    """Means over images with 95 % intervals, one row a group and column: ``by``, measure, value, low, high."""
    rows = []
    for column in columns:
        for name, part in table.groupby(by, sort=False):
            found = bootstrap.bootstrap_percentiles(bootstrap.resampled_means(part[column], n, seed))
            rows.append((name, column, *found))
    return pd.DataFrame(rows, columns=[by, "measure", "value", "low", "high"])


# --- metrics ----------------------------------------------------------------------------------------------------------


def simulated_misses(task: Task) -> BootstrapQuality:
    """Metrics of a made-up detector that knows every defect but those of some images (`simulated_maps`): it misses
    none, the half with the smallest or the half with the largest defects, of the images whose mask is known."""
    known = torch.nonzero((task.labels == 1) & task.with_masks)[:, 0]
    ordered = known[torch.argsort(task.masks[known].float().mean(dim=(1, 2)), stable=True)]
    half = len(ordered) // 2
    missed = {"none": ordered[:0], "smallest half": ordered[:half], "largest half": ordered[len(ordered) - half :]}
    predictions = {}
    for name, rows in missed.items():
        chosen = torch.zeros(len(task.labels), dtype=torch.bool)
        chosen[rows] = True
        maps = simulated_maps(task.masks.bool(), chosen, seed=task.seed)
        predictions[name] = Prediction(maps.flatten(1).amax(dim=1), maps)
    return BootstrapQuality.of(predictions, task.batch, task.bootstrap_samples, task.seed)


# --- time -------------------------------------------------------------------------------------------------------------


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_over_features_alone(detector: D3AD, images: Tensor, repetitions: int = 5) -> np.ndarray:
    """Time of D3AD over that of features and neighbours alone, the two in turns on the same images: [repetitions]."""
    return np.array(
        [
            seconds_of(lambda: detector.predict(images))
            / seconds_of(lambda: detector.dynamic_step_.steps(pooled_features(detector.features(images)[0])))
            for _ in range(repetitions)
        ]
    )
