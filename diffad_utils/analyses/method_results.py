"""What each method reached on each category: values, costs and bootstrap samples, from finished runs and nothing else.

Values are the exact ones that the runs recorded. The bootstrap samples of pixel metrics are from maps at the size at
which a run keeps them and from a grid of thresholds (`metrics.PixelCounts`), since a resample of exact curves takes
seconds. Both move the level of a metric, so only the spread of these samples is used: they are laid around the exact
value. Used by notebook 08 and the report; entry points: `measure`, `averages`.

Sources
    Zou and Donner, "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27 (2008): the interval of a sum of independent parts from their intervals (`mean_of_independent`,
    `with_seeds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from diffad_utils import metrics
from diffad_utils.analyses import map_summaries
from diffad_utils.methods import METHODS
from diffad_utils.methods.trivial import PARTS, best_statistic
from diffad_utils.study import RunRecord

BASELINE = "trivial"
"""The method whose best single statistic is the trivial baseline."""

QUALITY = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AUPRO", "removal", "drift", "SSIM")

COST = ("NFE", "parameters", "training s", "ms an image", "memory GiB")

SHARES = frozenset(QUALITY[:7])
"""Metrics from 0 to 1."""

LOWER_IS_BETTER = frozenset({"drift", *COST})


@dataclass(frozen=True)
class MethodResult:
    """A method on a category, over its seeds.

    values : metric or cost -> mean over seeds. per_seed : metric -> values [S]; empty for averages over tasks.
    samples : metric -> bootstrap values [n], mean over seeds, from the same draws of images for every method with the
    same test images. statistic : the baseline's.
    family : one of `methods.base.FAMILIES` (`family_of`).
    scores : label [N] and one column of scores a seed, by key; averages over tasks have no scores.
    parts : of an average over tasks, the results that it is made of.
    """

    dataset: str
    category: str
    method: str
    seeds: tuple[int, ...]
    values: dict[str, float]
    per_seed: dict[str, np.ndarray] = field(repr=False)
    samples: dict[str, np.ndarray] = field(repr=False)
    statistic: str = ""
    family: str = ""
    scores: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    parts: tuple[MethodResult, ...] = field(default=(), repr=False)

    @property
    def task(self) -> str:
        return f"{self.dataset}/{self.category}"

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % interval over images, and over seeds where there are several; of an average over tasks from theirs. None
        for costs and what is unknown."""
        if self.parts:
            ends = [part.interval(name) for part in self.parts]
            if name not in self.values or None in ends:
                return None
            return mean_of_independent([part.values[name] for part in self.parts], *np.transpose(ends))[1:]
        if name not in self.samples:
            return None
        over_images = metrics.percentile_interval(self.samples[name])
        low, high = with_seeds(self.values[name], *over_images, seed_error(self.per_seed.get(name, ())))
        return (max(low, 0.0), min(high, 1.0)) if name in SHARES else (low, high)


def seed_error(per_seed: ArrayLike, level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean of values [S] over seeds; 0 for one."""
    values = np.asarray(per_seed, dtype=np.float64)
    if len(values) < 2:
        return 0.0
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def with_seeds(value: ArrayLike, low: ArrayLike, high: ArrayLike, error: ArrayLike) -> tuple[Any, Any]:
    """Ends of the interval of a value with two independent errors: that over images (low, high) and `seed_error`; each
    a number or an array of one shape."""
    return value - np.hypot(value - low, error), value + np.hypot(high - value, error)


def mean_of_independent(effects: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> tuple[float, float, float]:
    """Mean of independent effects [K], and the ends of its interval from theirs."""
    effects, lows, highs = (np.asarray(part, dtype=np.float64) for part in (effects, lows, highs))
    mean, k = float(effects.mean()), len(effects)
    return mean, mean - float(np.linalg.norm(effects - lows)) / k, mean + float(np.linalg.norm(highs - effects)) / k


def images_of(record: RunRecord) -> pd.DataFrame:
    """The run's score table sorted by key, so that every method has the same images in the same order."""
    return record.scores().sort_values("key", ignore_index=True)


def maps_of(record: RunRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(keys [n], maps float32 [n, H, W] at the masks' size, masks bool [n, H, W]) of the images that metrics of pixels
    are computed over (`metrics.with_masks`), sorted by key; None without both."""
    found, masks = record.maps(), record.masks()
    if found is None or masks is None:
        return None
    import torch

    from diffad_utils.scoring import upsample_map

    keys, maps = found
    order = np.argsort(keys)
    maps = torch.from_numpy(maps[order].astype(np.float32))
    if maps.shape[1:] != masks.shape[1:]:
        maps = upsample_map(maps, masks.shape[1:])
    label = record.scores().set_index("key").loc[keys[order], "label"].to_numpy()
    rows = metrics.with_masks(label, masks[order])
    return (keys[order][rows], maps.numpy()[rows], masks[order][rows]) if rows.any() else None


def pixel_samples(record: RunRecord, n: int, seed: int) -> dict[str, np.ndarray]:
    """Bootstrap values [n] of the metrics of pixels, of float32 precision, from the run's maps, or from what a copy
    without them has in their place (`map_summaries`); empty without either."""
    if record.maps() is None:
        summary = map_summaries.read(record, bootstrap_samples=n, seed=seed)
        return {} if summary is None else summary.samples
    arrays = map_summaries.kept(record, "pixel samples", {"n": n, "seed": seed}, lambda: _samples(record, n, seed))
    return {name: values.astype(np.float64) for name, values in arrays.items()}


def _samples(record: RunRecord, n: int, seed: int) -> dict[str, np.ndarray]:
    maps = maps_of(record)
    if maps is None:
        return {}
    images = images_of(record)
    drawn_from = images.loc[np.isin(images["key"].to_numpy(str), maps[0]), "label"].to_numpy()
    drawn = np.concatenate(list(metrics.bootstrap_draws(drawn_from == 1, n, seed)))
    found = metrics.metrics_from_counts(metrics.pixel_counts(*maps[1:]), drawn)
    return {name: values.astype(np.float32) for name, values in found.items()}


def areas_of(record: RunRecord) -> pd.Series | None:
    """Share of the image that is defective, by key, of the images that metrics of pixels are computed over; None for
    data without masks."""
    maps = maps_of(record)
    if maps is not None:
        return pd.Series(maps[2].mean(axis=(1, 2)), index=maps[0])
    summary = map_summaries.read(record)
    return pd.Series(summary.area, index=summary.key) if summary is not None and len(summary.key) else None


def family_of(record: RunRecord) -> str:
    """What the method of a run is, one of `methods.base.FAMILIES`: from its manifest, and for runs recorded before that
    said so from its class, which is loaded then. "unknown" if there is no such method here."""
    said = record.manifest.get("detector", {}).get("family")
    return said or (METHODS[record.method].family if record.method in METHODS else "unknown")


def baseline_scores(images: pd.DataFrame) -> tuple[str, np.ndarray]:
    """Name and values [N] of the best trivial statistic in a trivial run's table, chosen with the labels."""
    best, _ = best_statistic({name: images[name].to_numpy() for name in PARTS}, images["label"].to_numpy())
    return best, images[best].to_numpy()


def costs_of(record: RunRecord) -> dict[str, float]:
    """What a run cost, as far as its manifest says: `COST`."""
    manifest, timing = record.manifest, record.manifest.get("timing", {})
    memory = manifest.get("peak_memory_bytes", {})
    known = {
        "NFE": manifest.get("nfe"),
        "parameters": manifest.get("detector", {}).get("weights"),
        "training s": timing.get("fit_s"),
        "ms an image": timing.get("ms_per_image"),
        "memory GiB": max(memory.values()) / 2**30 if memory else None,
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def _measure_run(
    record: RunRecord, n: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray], str, pd.DataFrame]:
    """(values, bootstrap samples, baseline's statistic, label and score by key) of one run."""
    images = images_of(record)
    label = images["label"].to_numpy()
    values = {name: record.metrics[name] for name in QUALITY if name in record.metrics}
    statistic, score = baseline_scores(images) if record.method == BASELINE else ("", images["score"].to_numpy())
    if statistic:
        values |= {name: float(function(score, label)) for name, function in metrics.IMAGE_METRICS.items()}
    image_metrics = {name: function for name, function in metrics.IMAGE_METRICS.items() if name in values}
    samples = {
        name: metrics.paired_bootstrap(function, [score], label, n, seed)[:, 0]
        for name, function in image_metrics.items()
    }
    times = np.concatenate(list(metrics.bootstrap_draws(label == 1, n, seed)))
    of_pixels = pixel_samples(record, n, seed) if "AUPRO" in values else {}
    samples |= {name: values[name] + drawn - drawn.mean() for name, drawn in of_pixels.items() if name in values}
    rebuilt = record.reconstructions()
    if rebuilt is not None:
        rebuilt = rebuilt.sort_values("key", ignore_index=True)
        for name in ("removal", "drift", "SSIM"):
            if name in values and name in rebuilt:
                known = rebuilt[name].notna().to_numpy()
                drawn = times[:, known]
                samples[name] = drawn @ rebuilt.loc[known, name].to_numpy() / drawn.sum(axis=1)
    return (
        values,
        samples,
        statistic,
        pd.DataFrame({"label": label, record.seed: score}, index=images["key"].to_numpy()),
    )


def measure(records: Sequence[RunRecord], n: int = 1000, seed: int = 0) -> list[MethodResult]:
    """One `MethodResult` a data set, category and method, with ``n`` bootstrap resamples of the test images.

    Where a data set's split depends on the seed, each seed has test images of its own, of which it shares some with the
    others. The bootstrap values are as far spread then as those of one seed.

    Raises ``ValueError`` if the seeds of a method were measured on different numbers of test images.
    """
    groups: dict[tuple, list[RunRecord]] = {}
    for record in records:
        if (record.folder / "scores.parquet").is_file():
            groups.setdefault((record.dataset, record.category, record.method), []).append(record)
    found = []
    for (dataset, category, method), members in groups.items():
        runs = [_measure_run(record, n, seed) for record in members]
        tables = [run[3] for run in runs]
        label = pd.concat([table["label"] for table in tables]).groupby(level=0).first()
        scores = pd.concat([label, *(table.drop(columns="label") for table in tables)], axis=1).sort_index()
        if len({(len(table), int(table["label"].sum())) for table in tables}) > 1:
            folders = " and ".join(str(record.folder) for record in members)
            raise ValueError(
                f"{folders} have different numbers of test images, so their seeds cannot be averaged; rerun the older "
                "ones"
            )
        shared = [name for name in QUALITY if all(name in run[0] for run in runs)]
        per_seed = {name: np.array([run[0][name] for run in runs]) for name in shared}
        same = all(table.index.equals(tables[0].index) for table in tables)
        samples = {
            name: _over_seeds(np.stack([run[1][name] for run in runs]), same)
            for name in shared
            if all(name in run[1] for run in runs)
        }
        costs = pd.DataFrame([costs_of(record) for record in members]).mean().to_dict()
        values = {"images": float(len(tables[0]))} | {name: float(v.mean()) for name, v in per_seed.items()} | costs
        found.append(
            MethodResult(
                dataset,
                category,
                method,
                tuple(r.seed for r in members),
                values,
                per_seed,
                samples,
                statistic=runs[0][2],
                family=family_of(members[0]),
                scores=scores,
            )
        )
    return found


def _over_seeds(samples: np.ndarray, same_images: bool) -> np.ndarray:
    """Bootstrap values [n] of the mean over seeds from [S, n]; of other images a seed as far spread as those of one."""
    mean = samples.mean(axis=0)
    if same_images or not mean.std():
        return mean
    return mean.mean() + (mean - mean.mean()) * samples.std(axis=1).mean() / mean.std()


def average_of(rows: Sequence[MethodResult], dataset: str) -> MethodResult:
    """The mean of one method's results over tasks (category "average"), of what is known in every one.

    Tasks are independent, so an interval of the mean is narrower than that of one task. ``seeds`` are the fewest that
    a task has.
    """
    shared = [name for name in rows[0].values if all(name in row.values for row in rows)]
    sampled = [name for name in shared if all(name in row.samples for row in rows)]
    return MethodResult(
        dataset,
        "average",
        rows[0].method,
        min((row.seeds for row in rows), key=len),
        {name: float(np.mean([row.values[name] for row in rows])) for name in shared}
        | {"images": sum(row.values["images"] for row in rows)},
        {},
        {name: np.mean([row.samples[name] for row in rows], axis=0) for name in sampled},
        family=rows[0].family,
        parts=tuple(rows),
    )


def averages(measured: Sequence[MethodResult]) -> list[MethodResult]:
    """Averages over the categories of each data set that has several (category "average"), and over all tasks (data
    set "all"), for the methods that have every one of them and the metrics known in every one."""
    groups: dict[str, list[MethodResult]] = {"all": list(measured)}
    for row in measured:
        groups.setdefault(row.dataset, []).append(row)
    found = []
    for dataset, rows in groups.items():
        tasks = {row.task for row in rows}
        for method in dict.fromkeys(row.method for row in rows):
            mine = [row for row in rows if row.method == method]
            if len(tasks) >= 2 and len(mine) == len(tasks):
                found.append(average_of(mine, dataset))
    return found


def time_by_size(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Prediction time over the side of the images, from runs that measured it (`img2img_settings.time_by_size`),
    averaged over runs: method, pixels (the side), ms an image; empty without any."""
    rows = [
        (record.method, int(name[len("ms_at_") : -len("px")]), value)
        for record in records
        for name, value in record.manifest.get("timing", {}).items()
        if name.startswith("ms_at_")
    ]
    found = pd.DataFrame(rows, columns=["method", "pixels", "ms an image"])
    return found.groupby(["method", "pixels"], as_index=False).mean()
