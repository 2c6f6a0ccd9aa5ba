"""Every method on one ground: the table with its intervals, differences on the same images, ranks, published numbers.

Reads finished runs (`study.load_runs`) and nothing else. Values are the exact ones that the runs recorded; only the
*intervals* of pixel metrics use a grid of thresholds (`metrics.PixelCounts`), since a resample of exact curves takes
seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from diffad_utils import metrics
from diffad_utils.methods import METHODS
from diffad_utils.methods.trivial import PARTS, best_statistic
from diffad_utils.study import RunRecord

FLOOR = "trivial"
"""The method whose best single statistic is the floor."""


QUALITY = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AUPRO", "removal", "drift", "SSIM")


COST = ("NFE", "parameters", "training s", "ms an image", "memory GiB")


LOWER_IS_BETTER = frozenset({"drift", *COST})


FEWEST_PLACES = 5
"""Categories needed before average ranks are compared."""


@dataclass(frozen=True)
class Measured:
    """A method on a category, over its seeds.

    values : metric or cost -> mean over seeds. per_seed : metric -> values [S]. samples : metric -> bootstrap values
    [n], mean over seeds, from the same draws of images for every method with the same test images. statistic : the
    floor's.
    family : one of `methods.base.FAMILIES` (`family_of`).
    scores : label [N] and one column of scores a seed, by key; averages over categories have no scores.
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

    @property
    def place(self) -> str:
        return f"{self.dataset}/{self.category}"

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % interval: over seeds (Student's t) where there are several, else over images; None for costs and what is
        unknown."""
        return interval(self.per_seed.get(name), self.samples.get(name))


def interval(per_seed: np.ndarray | None, samples: np.ndarray | None) -> tuple[float, float] | None:
    """See `Measured.interval`."""
    if per_seed is not None and len(per_seed) > 1:
        half = stats.t.ppf(0.975, len(per_seed) - 1) * per_seed.std(ddof=1) / np.sqrt(len(per_seed))
        return float(per_seed.mean() - half), float(per_seed.mean() + half)
    return None if samples is None else metrics.percentile_interval(samples)


def images_of(record: RunRecord) -> pd.DataFrame:
    """The run's score table sorted by key, so that every method has the same images in the same order."""
    return record.scores().sort_values("key", ignore_index=True)


def maps_of(record: RunRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(keys [N], maps float32 [N, H, W] at the masks' size, masks bool [N, H, W]) sorted by key; None without both."""
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
    return keys[order], maps.numpy(), masks[order]


def family_of(record: RunRecord) -> str:
    """What the method of a run is, one of `methods.base.FAMILIES`: from its manifest, and for runs recorded before that
    said so from its class, which is loaded then. "unknown" if there is no such method here."""
    said = record.manifest.get("detector", {}).get("family")
    return said or (METHODS[record.method].family if record.method in METHODS else "unknown")


def floor_scores(images: pd.DataFrame) -> tuple[str, np.ndarray]:
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
    """(values, bootstrap samples, floor's statistic, label and score by key) of one run."""
    images = images_of(record)
    label = images["label"].to_numpy()
    values = {name: record.metrics[name] for name in QUALITY if name in record.metrics}
    statistic, score = floor_scores(images) if record.method == FLOOR else ("", images["score"].to_numpy())
    if statistic:
        values |= {name: float(function(score, label)) for name, function in metrics.IMAGE_METRICS.items()}
    image_metrics = {name: function for name, function in metrics.IMAGE_METRICS.items() if name in values}
    samples = {
        name: metrics.paired_bootstrap(function, [score], label, n, seed)[:, 0]
        for name, function in image_metrics.items()
    }
    times = np.concatenate(list(metrics.bootstrap_draws(label == 1, n, seed)))
    maps = maps_of(record) if "AUPRO" in values else None
    if maps is not None:
        samples |= {
            k: v for k, v in metrics.metrics_from_counts(metrics.pixel_counts(*maps[1:]), times).items() if k in values
        }
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


def measure(records: Sequence[RunRecord], n: int = 1000, seed: int = 0) -> list[Measured]:
    """One `Measured` a data set, category and method, with ``n`` bootstrap resamples of the test images.

    Raises ``ValueError`` if the seeds of a method were measured on different test images.
    """
    groups: dict[tuple, list[RunRecord]] = {}
    for record in records:
        if (record.folder / "scores.parquet").is_file():
            groups.setdefault((record.dataset, record.category, record.method), []).append(record)
    found = []
    for (dataset, category, method), members in groups.items():
        runs = [_measure_run(record, n, seed) for record in members]
        scores = pd.concat([runs[0][3]["label"], *(run[3].drop(columns="label") for run in runs)], axis=1)
        if scores.isna().any(axis=None):
            folders = " and ".join(str(record.folder) for record in members)
            raise ValueError(
                f"{folders} have different test images, so their seeds cannot be averaged; rerun the older ones"
            )
        shared = [name for name in QUALITY if all(name in run[0] for run in runs)]
        per_seed = {name: np.array([run[0][name] for run in runs]) for name in shared}
        samples = {
            name: np.mean([run[1][name] for run in runs], axis=0)
            for name in shared
            if all(name in run[1] for run in runs)
        }
        costs = pd.DataFrame([costs_of(record) for record in members]).mean().to_dict()
        values = {"images": float(len(scores))} | {name: float(v.mean()) for name, v in per_seed.items()} | costs
        found.append(
            Measured(
                dataset,
                category,
                method,
                tuple(r.seed for r in members),
                values,
                per_seed,
                samples,
                runs[0][2],
                family_of(members[0]),
                scores,
            )
        )
    return found


def averages(measured: Sequence[Measured]) -> list[Measured]:
    """Averages over the categories of each data set that has several (category "average"), and over all places (data
    set "all"), for the methods that have every one of them and the metrics known in every one."""
    groups: dict[str, list[Measured]] = {"all": list(measured)}
    for row in measured:
        groups.setdefault(row.dataset, []).append(row)
    found = []
    for dataset, rows in groups.items():
        places = {row.place for row in rows}
        for method in dict.fromkeys(row.method for row in rows):
            mine = [row for row in rows if row.method == method]
            if len(places) < 2 or len(mine) < len(places):
                continue
            shared = [name for name in mine[0].values if all(name in row.values for row in mine)]
            values = {name: float(np.mean([row.values[name] for row in mine])) for name in shared}
            values["images"] = sum(row.values["images"] for row in mine)
            same = len({row.seeds for row in mine}) == 1

            def mean(part, name):
                return np.mean([getattr(row, part)[name] for row in mine], axis=0)  # noqa: B023

            per_seed = {
                name: mean("per_seed", name) for name in shared if same and all(name in row.per_seed for row in mine)
            }
            samples = {name: mean("samples", name) for name in shared if all(name in row.samples for row in mine)}
            which = pd.concat(
                [row.scores[["label"]] for row in mine]
            )  # compared only with averages over the same images
            found.append(
                Measured(
                    dataset,
                    "average",
                    method,
                    mine[0].seeds,
                    values,
                    per_seed,
                    samples,
                    family=mine[0].family,
                    scores=which,
                )
            )
    return found


def difference(a: Measured, b: Measured, name: str, level: float = 0.95) -> tuple[float, float, float] | None:
    """a minus b of a metric on the same resampled images: (difference, low, high); None where it is not known.

    Methods that were measured on different test images are compared on those that they share (`_on_shared_images`).
    """
    if name not in a.samples or name not in b.samples:
        return None
    if not a.scores.index.equals(b.scores.index):
        return _on_shared_images(a, b, name, level)
    return a.values[name] - b.values[name], *metrics.percentile_interval(a.samples[name] - b.samples[name], level)


def _on_shared_images(a: Measured, b: Measured, name: str, level: float) -> tuple[float, float, float] | None:
    """`difference` on the images of both, for image metrics; None for others, and with fewer than ten images of a
    class."""
    shared = a.scores.index.intersection(b.scores.index)
    label = a.scores.loc[shared, "label"].to_numpy() if len(shared) else np.zeros(0)
    if name not in metrics.IMAGE_METRICS or a.scores.shape[1] < 2 or min((label == 0).sum(), (label == 1).sum()) < 10:
        return None
    n, function = len(a.samples[name]), metrics.IMAGE_METRICS[name]
    seeds = [row.scores.loc[shared].drop(columns="label").to_numpy().T for row in (a, b)]
    rows = [
        metrics.paired_bootstrap_difference(function, x, y, label, n, level=level) for x, y in zip(*seeds, strict=False)
    ]
    change, low, high = np.mean(rows, axis=0)
    return float(change), float(low), float(high)


def against_floor(measured: Sequence[Measured], name: str = "I-AUROC") -> pd.DataFrame:
    """Each method minus the floor of its place: columns place, method, floor, difference, low, high, verdict.

    "above the floor" or "below the floor" if the interval excludes zero, else "no difference shown".
    """
    floors = {row.place: row for row in measured if row.method == FLOOR}
    rows = []
    for row in measured:
        floor = floors.get(row.place)
        found = difference(row, floor, name) if floor is not None and row.method != FLOOR else None
        if found is not None:
            verdict = (
                "above the floor" if found[1] > 0 else "below the floor" if found[2] < 0 else "no difference shown"
            )
            rows.append(
                dict(
                    zip(
                        ("place", "method", "floor", "difference", "low", "high", "verdict"),
                        (row.place, row.method, floor.statistic, *found, verdict),
                        strict=True,
                    )
                )
            )
    return pd.DataFrame(rows, columns=["place", "method", "floor", "difference", "low", "high", "verdict"])


def pairwise(measured: Sequence[Measured], name: str = "I-AUROC") -> pd.DataFrame:
    """Every pair of methods of a place, the better one as ``a``: place, a, b, difference, low, high (95 % each, not
    adjusted)."""
    rows, columns = [], ["place", "a", "b", "difference", "low", "high"]
    for place in dict.fromkeys(row.place for row in measured):
        here = sorted((r for r in measured if r.place == place and name in r.samples), key=lambda r: -r.values[name])
        for i, a in enumerate(here):
            for b in here[i + 1 :]:
                found = difference(a, b, name)
                if found is not None:
                    rows.append([place, a.method, b.method, *found])
    return pd.DataFrame(rows, columns=columns)


def clear_winners(measured: Sequence[Measured]) -> set[tuple[str, str, str]]:
    """(place, method, metric) of every value that is better than each other method's, at 95 % together (Bonferroni)."""
    found = set()
    for place in dict.fromkeys(row.place for row in measured):
        here = [row for row in measured if row.place == place]
        for name in QUALITY:
            known = [row for row in here if name in row.samples]
            if len(known) < 2:
                continue
            sign = -1 if name in LOWER_IS_BETTER else 1
            best, *others = sorted(known, key=lambda row: -sign * row.values[name])
            level = 1 - 0.05 / len(others)
            gaps = [difference(best, other, name, level) for other in others]
            if all(gap is not None and (gap[1] if sign > 0 else -gap[2]) > 0 for gap in gaps):
                found.add((place, best.method, name))
    return found


class Ranks(NamedTuple):
    """Average ranks (1 is best) of methods over places, Friedman's p, and Nemenyi's p for each pair."""

    average: pd.Series
    p: float
    pairs: pd.DataFrame
    places: int


def ranks(measured: Sequence[Measured], name: str = "I-AUROC") -> Ranks | None:
    """Friedman's test and Nemenyi's post-hoc test (Demsar, JMLR 2006) over the places where every method was measured.

    Methods that were not measured on all places are left out; None with fewer than `FEWEST_PLACES` places or 3 methods.
    """
    table = pd.DataFrame(
        [{"place": r.place, "method": r.method, name: r.values[name]} for r in measured if name in r.values]
    )
    if table.empty:
        return None
    table = table.pivot(index="place", columns="method", values=name).dropna(axis="columns")
    if len(table) < FEWEST_PLACES or table.shape[1] < 3:
        return None
    import scikit_posthocs  # not in every image that notebooks run in, and needed with many categories only

    sign = 1 if name in LOWER_IS_BETTER else -1
    average = (sign * table).rank(axis="columns").mean().sort_values()
    p = stats.friedmanchisquare(*(table[column] for column in table)).pvalue
    return Ranks(average, float(p), scikit_posthocs.posthoc_nemenyi_friedman(table), len(table))


def table(measured: Sequence[Measured]) -> pd.DataFrame:
    """One row a `Measured`, floor first and then by I-AUROC: dataset, category, method, seeds, above_floor, every known
    metric and cost, and for each metric ``<name> low`` and ``<name> high``. What is unknown is NaN.

    above_floor : True if the method's I-AUROC is above the floor's by the paired interval; None without a floor.
    """
    verdicts = against_floor(measured).set_index(["place", "method"])["verdict"].to_dict()
    rows = []
    for row in measured:
        verdict = verdicts.get((row.place, row.method))
        cells = {
            "dataset": row.dataset,
            "category": row.category,
            "method": row.method,
            "seeds": len(row.seeds),
            "above_floor": None if verdict is None else verdict == "above the floor",
            "statistic": row.statistic,
        }
        for name in (name for name in ("images", *QUALITY, *COST) if name in row.values):
            cells[name] = row.values[name]
            bounds = row.interval(name)
            if bounds is not None:
                cells[f"{name} low"], cells[f"{name} high"] = bounds
        rows.append(cells)
    found = pd.DataFrame(rows)
    named = [column for name in ("images", *QUALITY, *COST) for column in (name, f"{name} low", f"{name} high")]
    found = found[
        [c for c in found if c not in named] + [c for c in named if c in found]
    ]  # one order, whatever methods there are
    order = found.assign(floor=found["method"] != FLOOR, best=-found.get("I-AUROC", pd.Series(0.0, index=found.index)))
    return found.loc[order.sort_values(["dataset", "category", "floor", "best"]).index].reset_index(drop=True)


def recall_by_size(records: Sequence[RunRecord], false_alarms: float = 0.05, bins: int = 3) -> pd.DataFrame:
    """Share of defective images found, by the area of their defects, where ``false_alarms`` of the normal ones are
    flagged.

    Columns place, method, bin (0 is smallest), area (median, percent of the image), recall, low, high (Wilson), n. The
    threshold is the quantile of the normal test images, as in any ROC point; no method knows it in use. Places without
    masks are left out; the areas are those of any run with masks there.
    """
    areas: dict[tuple, pd.Series] = {}
    for record in records:
        place, found = (record.dataset, record.category), maps_of(record)
        if found is not None:
            here = pd.Series(found[2].mean(axis=(1, 2)) * 100, index=found[0])
            areas[place] = here.combine_first(areas[place]) if place in areas else here
    rows = []
    for record in records:
        area = areas.get((record.dataset, record.category))
        if area is None or not (record.folder / "scores.parquet").is_file():
            continue
        images = images_of(record).set_index("key")
        score = (
            pd.Series(floor_scores(images.reset_index())[1], images.index)
            if record.method == FLOOR
            else images["score"]
        )
        threshold = np.quantile(score[images["label"] == 0], 1 - false_alarms, method="higher")
        hit = (score > threshold)[(images["label"] == 1) & images.index.isin(area.index)]
        group = pd.qcut(area[hit.index].rank(method="first"), bins, labels=False)
        for b, part in hit.groupby(group):
            low, high = stats.binomtest(int(part.sum()), len(part)).proportion_ci(method="wilson")
            rows.append(
                [
                    f"{record.dataset}/{record.category}",
                    record.method,
                    record.seed,
                    int(b),
                    float(area[part.index].median()),
                    float(part.mean()),
                    low,
                    high,
                    len(part),
                ]
            )
    return pd.DataFrame(rows, columns=["place", "method", "seed", "bin", "area", "recall", "low", "high", "n"])


def pareto(found: pd.DataFrame, cost: str = "ms an image", quality: str = "I-AUROC") -> pd.Series:
    """Which rows of a place nothing beats: none is at least as good and as cheap, and better in one. bool, by row."""
    front = pd.Series(False, index=found.index)
    for _, part in found.dropna(subset=[cost, quality]).groupby(["dataset", "category"]):
        c, q = part[cost].to_numpy(), part[quality].to_numpy()
        beaten = ((q >= q[:, None]) & (c <= c[:, None]) & ((q > q[:, None]) | (c < c[:, None]))).any(axis=1)
        front[part.index] = ~beaten
    return front


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


class Wall(NamedTuple):
    """The same defects for every method: keys [n], masks bool [n, H, W] or None, method -> maps float32 [n, h, w]."""

    keys: list[str]
    masks: np.ndarray | None
    maps: dict[str, np.ndarray]


def wall(records: Sequence[RunRecord], count: int) -> Wall | None:
    """Maps of ``count`` anomalous images of one category, from small defects to large ones where there are masks.

    One run a method (the first seed); methods without maps are left out. None if no run has any.
    """
    first = {record.method: record for record in reversed(records) if record.seed == records[0].seed}
    kept = {name: found for name, record in sorted(first.items()) if (found := record.maps()) is not None}
    if not kept:
        return None
    with_masks = next((m for record in first.values() if (m := maps_of(record)) is not None), None)
    if with_masks is None:
        keys = images_of(records[0]).query("label == 1")["key"].tolist()
    else:
        area = with_masks[2].mean(axis=(1, 2))
        keys = with_masks[0][np.argsort(area, kind="stable")][(area == 0).sum() :].tolist()
    keys = [key for key in keys if all(key in maps[0] for maps in kept.values())]
    keys = [keys[i] for i in np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)]
    masks = None if with_masks is None else with_masks[2][[with_masks[0].tolist().index(key) for key in keys]]

    def rows(maps):
        return maps[1][[maps[0].tolist().index(key) for key in keys]].astype(np.float32)

    return Wall(keys, masks, {name: rows(maps) for name, maps in kept.items()})
