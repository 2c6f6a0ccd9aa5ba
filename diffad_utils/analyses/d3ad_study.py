"""The experiments of notebook 06 on D3AD: what goes into a picture or an effect, one function each.

Effects are draws [n + 1] over resampled images, the value of the data first, so that differences are paired.

Used by notebook 06; entry points: `beside_controls`, `bins_by_group`, `by_thirds`, `faded`, `strong_perturbation`,
`feature_distances`, `simulated_misses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
from diffad_utils.io import store
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.d3ad.conditioning import DynamicStep, pooled_features, scaled_start
from diffad_utils.methods.d3ad.maps import anomaly_map, image_score, min_max_over_batch
from diffad_utils.methods.kept import kept
from diffad_utils.methods.reconstruction import SMOOTHING
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import absolute_error, mean_where, reconstruction_metrics

KINDS = {"scaled": 0.0, "noised": 1.0}
"""omega of the start of a reconstruction: Algorithm 1's and DDPM's."""

FEWEST_DEFECTS = 30
"""Masks of defects below which thirds by area are not compared: ten a third."""


def means(values: Sequence[float], task: Task) -> np.ndarray:
    """Means over resampled images, with the task's seed and number of resamples: [n + 1]."""
    return bootstrap.resampled_means(values, task.bootstrap_samples, task.seed)


def mean_intervals(table: pd.DataFrame, by: str, columns: Sequence[str], task: Task) -> pd.DataFrame:
    """Means over images with 95 % intervals, one row a group and column: ``by``, measure, value, low, high."""
    rows = []
    for column in columns:
        for name, part in table.groupby(by, sort=False):
            found = bootstrap.bootstrap_percentiles(means(part[column], task))
            rows.append((name, column, *found))
    return pd.DataFrame(rows, columns=[by, "measure", "value", "low", "high"])


def all_metrics(prediction: Prediction, task: Task) -> dict[str, float]:
    """`metrics.evaluate`, and of reconstructions what counterparts tell (`reconstruction_metrics`), where there are."""
    found = metrics.evaluate(prediction, task.batch)
    return found | (reconstruction_metrics(prediction.reconstruction, task.batch) if task.has_counterparts else {})


def as_records(experiments: Mapping[str, object]) -> dict[str, object]:
    """Tables among the experiments as lists of rows, for ``run.record``."""
    return {
        name: found.to_dict("records") if isinstance(found, pd.DataFrame) else found
        for name, found in experiments.items()
    }


# --- controls ---------------------------------------------------------------------------------------------------------


def beside_controls(task: Task, scores: Mapping[str, Tensor]) -> tuple[pd.DataFrame, list[dict]]:
    """I-AUROC of scores [N] by name, and of the first minus each of the others, paired.

    Returns a table (method, data, I-AUROC, low, high), and for each of the others `Task.control_row`.
    """
    accuracies = [{"method": name, "data": task.name} | task.accuracy(score) for name, score in scores.items()]
    table = pd.DataFrame(accuracies)
    (_, first), *others = scores.items()
    return table, [task.control_row(first, score, name) for name, score in others]


def differences(records: Sequence[Mapping], method: str) -> dict[str, tuple[float, float, float]]:
    """Records of `beside_controls` as effects: "D3AD minus trivial baseline, I-AUROC" -> (value, low, high)."""
    return {
        f"{method} minus {entry['what']}, I-AUROC": (entry["difference"], entry["low"], entry["high"])
        for entry in records
    }


def not_above(record: Mapping, method: str) -> str:
    """An objection where ``method`` is not above the control of a record of `beside_controls` by its interval."""
    return "" if record["low"] > 0 else f"{method} is not above the {record['what']}"


def evaluations_in_words(prediction: Prediction) -> str:
    """How many network evaluations an image takes."""
    return (
        f"An image takes {prediction.nfe:.1f} network evaluations on average and "
        f"{int(prediction.parts['evaluations'].max())} at most. The number depends on the step: from a smaller one "
        "fewer DDIM steps are left. The picture shows single images only; removal and drift are measured further down, "
        "where the data set has defect-free counterparts."
    )


# --- steps ------------------------------------------------------------------------------------------------------------


def bins_by_group(dynamic: DynamicStep, distances: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Bins int64 of training images, and of normal and defective test images by their distances [N]."""
    groups = {"normal test": 0, "defective test": 1}
    return {"training": dynamic.bin_of(dynamic.distances_)} | {
        name: dynamic.bin_of(distances[labels == label]) for name, label in groups.items()
    }


def mean_bins(detector: D3AD, distances: Tensor, labels: Tensor) -> pd.DataFrame:
    """Mean bin of each group, with training images left out of their own neighbours and, as in the public code, not."""
    inside = DynamicStep(k=detector.k, t_max=detector.t_max, leave_one_out=False).fit(detector.dynamic_step_.bank_)
    rules = {"left out": detector.dynamic_step_, "own neighbour (public code)": inside}
    return pd.DataFrame(
        {
            name: {group: float(bins.double().mean()) for group, bins in bins_by_group(rule, distances, labels).items()}
            for name, rule in rules.items()
        }
    ).rename_axis("mean bin")


def areas_and_distances(task: Task, distances: Tensor) -> pd.DataFrame:
    """One row an anomalous image with a mask: area in percent of the image, distance, and kind of defect."""
    rows = torch.nonzero((task.labels == 1) & task.with_masks)[:, 0]
    area = 100 * task.masks[rows].float().mean(dim=(1, 2))
    kinds = [task.kinds[i] for i in rows.tolist()]
    return pd.DataFrame({"area": area.numpy(), "distance": distances[rows].numpy(), "defect": kinds})


def with_steps(titles: Sequence[str], steps: Tensor) -> list[str]:
    """Titles [n] with the steps [n] of the images below."""
    return [f"{title}\nstep {int(step)}" for title, step in zip(titles, steps, strict=True)]


def table5(adapted_from_noise: Prediction, epochs: int, t_max: int) -> dict[str, dict | Prediction]:
    """The rows of the paper's table 5, as `Variants.compare` takes them; DIC + DA is a prediction of a detector that
    was adapted to reconstructions from noise."""
    noised = {"noise_fraction": 1.0, "adaptation_epochs": 0}
    return {
        "neither, T_max": noised | {"static_step": t_max},
        "DIC": noised,
        "DIC + DA": adapted_from_noise,
        "DIC + DS": {"adaptation_epochs": 0},
        "DIC + DS + DA": {"adaptation_epochs": epochs},
    }


def undone(*detectors: D3AD) -> str:
    """An objection where an epoch of one of their adaptations was taken back, else ""."""
    return "the adaptation was undone" if any(d.adaptation_log_.undone for d in detectors) else ""


def options_of_the_code(epochs: int) -> dict[str, dict]:
    """Each departure of D3AD's public code alone, as `Variants.compare` takes them; the first is ours."""
    everywhere = {"adaptation_strides": (4, 8, 16), "adaptation_epochs": epochs}
    return {
        "ours": {},
        "plan: code": {"plan": "code"},
        "own neighbour": {"leave_one_out": False},
        "latent drawn": {"posterior": "draw"},
        "adapted on all blocks": everywhere,
        "adapted as in the code": everywhere | {"adaptation_loss": "flattened", "adaptation_batch_statistics": True},
        "scaled over the images": {"normalisation": "batch"},
    }


# --- size -------------------------------------------------------------------------------------------------------------


class Thirds(NamedTuple):
    """values : variant -> pixel AUROC within the image [n] of each anomalous image with a mask. areas : of the masks,
    share of the image [n]. sizes : "small", "medium" or "large" [n]."""

    values: dict[str, np.ndarray]
    areas: np.ndarray
    sizes: np.ndarray

    def count(self, *sizes: str) -> int:
        """Images in these thirds."""
        return int(np.isin(self.sizes, sizes).sum())

    def table(self, task: Task) -> pd.DataFrame:
        """One row a variant and third: variant, third, value, low, high."""
        rows = [
            (name, size, *bootstrap.bootstrap_percentiles(means(values[self.sizes == size], task)))
            for size in SIZES
            for name, values in self.values.items()
        ]
        return pd.DataFrame(rows, columns=["variant", "third", "value", "low", "high"])


def by_thirds(predictions: Mapping[str, Prediction], task: Task) -> Thirds | None:
    """How well each defect stands out in its own map, by thirds of its area; None with fewer than `FEWEST_DEFECTS`
    masks of defects."""
    rows = (task.labels == 1) & task.with_masks
    if int(rows.sum()) < FEWEST_DEFECTS:
        return None
    masks = task.masks[rows]
    values = {name: image_pixel_auroc(found.anomaly_map[rows], masks) for name, found in predictions.items()}
    areas = masks.float().mean(dim=(1, 2)).numpy()
    return Thirds(values, areas, size_groups(areas))


# --- strong perturbation ----------------------------------------------------------------------------------------------


class Faded(NamedTuple):
    """images : "scaled" and "noised" -> Dec(z_t) [times, n, 3, H, W]. ssim : to the image, [times, n]. last_seen : the
    last t with half of the SSIM at the first, [n]. titles : "t = 1" and so on, [times]."""

    images: dict[str, Tensor]
    ssim: dict[str, np.ndarray]
    last_seen: dict[str, np.ndarray]
    titles: list[str]


@torch.inference_mode()
def faded(detector: D3AD, task: Task, times: Sequence[int]) -> Faded:
    """The decoded state z_t of a task's images [n, 3, H, W] over t, scaled only and with the noise of the forward
    process."""
    images, keys = task.images, task.keys
    z = detector.reconstruction(images, keys).state
    noise = image_noise(z.shape[1:], detector.seed, keys)
    seen, ssim, last = {}, {}, {}
    for kind, omega in KINDS.items():
        states = [scaled_start(z, torch.full((len(z),), t), detector.schedule, omega, noise) for t in times]
        seen[kind] = torch.stack([detector.decode(state.to(detector.torch_device)) for state in states])
        ssim[kind] = np.stack([metrics.reconstruction(images, shown)["ssim"] for shown in seen[kind]])
        visible = ssim[kind] >= 0.5 * ssim[kind][0]
        last[kind] = np.array([max(t for t, shown in zip(times, column, strict=True) if shown) for column in visible.T])
    return Faded(seen, ssim, last, [f"t = {t}" for t in times])


def faded_in_words(faded: Faded) -> str:
    """The SSIM behind ``last_seen`` at the first and the last t, so that it is not taken for what the eye sees."""
    ends = [f"{kind} {found[0].mean():.2f} and {found[-1].mean():.2f}" for kind, found in faded.ssim.items()]
    return (
        f"This is about SSIM and not about what the eye sees. At {faded.titles[0]} and {faded.titles[-1]} its mean is: "
        f"{'; '.join(ends)}. An image counts as shown while its SSIM is at least half of its value at "
        f"{faded.titles[0]}; a picture in which the eye finds no texture can still have so much."
    )


def strong_perturbation(variants: Variants, normal: Task, steps: Sequence[int], training: Tensor) -> pd.DataFrame:
    """What a reconstruction from high steps does to normal images: one row a kind of start, step and image.

    normal : a task of normal images. training : normal images [m, 3, H, W]. Columns start, kind, T, image, ``error``,
    mean |x - x_hat|, and ``nearest``, mean absolute distance of x_hat to the nearest of the training images, in grey
    values of [0, 1].
    """
    bank, columns = training.flatten(1), []
    for kind, omega in KINDS.items():
        for step in steps:
            x_hat = variants.fitted(static_step=step, noise_fraction=omega).reconstruct(normal.images, normal.keys)
            nearest = torch.cdist(x_hat.flatten(1), bank, p=1).amin(dim=1) / bank.shape[1]
            error = absolute_error(normal.images, x_hat).mean(dim=(1, 2))
            found = {
                "start": f"{kind}, T = {step}",
                "kind": kind,
                "T": step,
                "image": range(len(x_hat)),
                "error": error,
                "nearest": nearest,
            }
            columns.append(pd.DataFrame(found))
    return pd.concat(columns, ignore_index=True)


def median_contrast(task: Task) -> float:
    """Median over the defects of |x - counterpart| inside the mask, grey values of [0, 1]; NaN without counterparts."""
    if not task.has_counterparts:
        return float("nan")
    rows = task.labels == 1
    difference = absolute_error(task.images[rows], task.batch["twin"][rows])
    return float(mean_where(difference, task.masks[rows]).median())


# --- adaptation -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def feature_distances(variants: Variants, **settings: Any) -> pd.DataFrame:
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


def adaptation_record(variants: Variants, traces: Mapping[int, pd.DataFrame]) -> list[dict]:
    """`feature_distances` by epochs of adaptation for the run's record: mean distances, their ratio, and what became
    of the features' variance."""
    rows = []
    for epochs, table in traces.items():
        log = variants.fitted(adaptation_epochs=epochs).adaptation_log_
        normal, defects = (table[table["label"] == label] for label in (0, 1))
        row = {"epochs": epochs, "normal": normal["distance"].mean(), "defects": defects["distance"].mean()}
        row |= {"Dec(Enc(x)), normal": normal["autoencoder"].mean(), "flagged": normal["flagged"].mean()}
        row |= {"contrast": row["defects"] / row["normal"], "epochs kept": log.epochs, "undone": log.undone}
        rows.append(row | {f"variance of block {j + 2}": value for j, value in enumerate(log.variance_after)})
    return rows


def traces_table(traces: Mapping[int, pd.DataFrame], task: Task) -> pd.DataFrame:
    """`feature_distances` by epochs of adaptation as means with intervals: images, measure, value, low, high."""
    labelled = [
        table.assign(images=np.where(table["label"] == 1, "defects", "normal") + f", {epochs} epochs")
        for epochs, table in traces.items()
    ]
    return mean_intervals(pd.concat(labelled), "images", ["distance"], task)


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


def scaling_in_words(leak: Mapping[str, float]) -> str:
    """What `leave_one_out_of_scaling` found."""
    return (
        "If a bar does not touch zero, the option makes a difference on these images. With maps scaled over the test "
        "set, the score of an image depends on the other images. When one is left out, another's score changes by up "
        f"to {leak['largest relative change of a score']:.0%}."
    )


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
    """Wall time of one call; of what comes from the store, the time that it took when it was computed."""
    start = store.clock()
    work()
    return store.clock() - start


@kept()
def time_over_features_alone(detector: D3AD, images: Tensor, repetitions: int = 5) -> np.ndarray:
    """Time of D3AD over that of features and neighbours alone, the two in turns on the same images: [repetitions]."""
    with store.paused():
        ratios = [
            seconds_of(lambda: detector.predict(images))
            / seconds_of(lambda: detector.dynamic_step_.steps(pooled_features(detector.features(images)[0])))
            for _ in range(repetitions)
        ]
    return np.array(ratios)


def stage_milliseconds(detector: D3AD, images: int) -> dict[str, float]:
    """Time an image of each stage of D3AD since its clock was cleared: "encode_ms" and so on."""
    return {f"{name}_ms": 1000 * seconds / images for name, seconds in detector.stage_seconds.items()}


def ratios_in_words(ratios: np.ndarray) -> str:
    """What `time_over_features_alone` found."""
    return (
        f"D3AD takes {np.median(ratios):.1f} times as long as features and nearest neighbours alone "
        f"({ratios.min():.1f} to {ratios.max():.1f} in {len(ratios)} repetitions). This holds for this machine and "
        "networks of these sizes."
    )
