"""Every method on one ground: the table with its intervals, differences on the same images, ranks, published numbers.

Reads finished runs (`study.load_runs`) and nothing else. Values are the exact ones that the runs recorded; only the
*intervals* of pixel metrics use a grid of thresholds (`metrics.PixelCounts`), since a resample of exact curves takes
seconds.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from diffad_utils import claims, metrics
from diffad_utils.methods.trivial import PARTS, best_statistic
from diffad_utils.study import RunRecord, repository

FLOOR = "trivial"
"""The method whose best single statistic is the floor."""

QUALITY = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AUPRO", "removal", "drift", "SSIM")
COST = ("NFE", "parameters", "training s", "ms an image", "memory GiB")
LOWER_IS_BETTER = frozenset({"drift", *COST})
FEWEST_PLACES = 5
"""Categories needed before average ranks are compared."""


# --- one method on one category
# -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A method on a category, over its seeds.

    values : metric or cost -> mean over seeds. per_seed : metric -> values [S]. samples : metric -> bootstrap values
    [n], mean over seeds, from the same draws of images for every method with the same test images. statistic : the
    floor's.
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
                dataset, category, method, tuple(r.seed for r in members), values, per_seed, samples, runs[0][2], scores
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
            shared = functools.reduce(lambda a, b: [name for name in a if name in b], (row.values for row in mine))
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
            found.append(Measured(dataset, "average", method, mine[0].seeds, values, per_seed, samples, scores=which))
    return found


# --- differences
# ---------------------------------------------------------------------------------------------------------


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
    return tuple(float(value) for value in np.mean(rows, axis=0))


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


# --- tables
# ----------------------------------------------------------------------------------------------------------------


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


def display_name(row: pd.Series) -> str:
    """The method as tables show it; the floor with its statistic."""
    if row["method"] != FLOOR:
        return row["method"]
    return f"trivial floor ({row['statistic']})" if row.get("statistic") else "trivial floor"


def _text(row: pd.Series, name: str) -> str:
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    if name in ("NFE", "parameters", "images"):
        return f"{value:,.0f}".replace(",", " ")
    if name in COST:
        return f"{value:.3g}"
    bounds = [row.get(f"{name} {side}") for side in ("low", "high")]
    known = all(bound is not None and not pd.isna(bound) for bound in bounds)
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if known else "")


def formatted(found: pd.DataFrame, winners: set[tuple[str, str, str]], mark: Callable[[str, str], str]) -> pd.DataFrame:
    """The table as texts for people: data, method and the known columns.

    ``mark(text, kind)`` decorates cells: kind "floor" (the floor's row), "grey" (not above the floor) or "bold" (better
    than every other method, `clear_winners`).
    """
    columns = [name for name in ("images", *QUALITY, *COST) if name in found]
    rows = []
    for _, row in found.iterrows():
        place, method = f"{row['dataset']}/{row['category']}", row["method"]
        kind = "floor" if method == FLOOR else "grey" if row["above_floor"] is False else ""
        decorate = (lambda text, kind=kind: mark(text, kind)) if kind else str
        cells = {"data": decorate(place), "method": decorate(display_name(row)), "seeds": decorate(str(row["seeds"]))}
        for name in columns:
            text = _text(row, name)
            cells[name] = mark(text, "bold") if (place, method, name) in winners else decorate(text)
        rows.append(cells)
    return pd.DataFrame(rows)


def _markdown_mark(text: str, kind: str) -> str:
    return {"bold": f"**{text}**", "floor": f"*{text}*", "grey": f'<span style="color:#8a919b">{text}</span>'}[kind]


def _latex_mark(text: str, kind: str) -> str:
    return {"bold": rf"\textbf{{{text}}}", "floor": rf"\textit{{{text}}}", "grey": rf"\textcolor{{gray}}{{{text}}}"}[
        kind
    ]


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("–", "--")


def to_markdown(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> str:
    """The table in Markdown: the floor in italics, what is not above it in grey, clear winners in bold."""
    cells = formatted(found, winners, _markdown_mark)
    rows = [cells.columns, [":--", ":--", *["--:"] * (cells.shape[1] - 2)], *cells.to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def to_latex(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> str:
    """The table for a paper: needs booktabs and xcolor; marks as in `to_markdown`."""
    cells = formatted(found, winners, _latex_mark)
    lines = [" & ".join(_escaped(str(cell)) for cell in row) + r" \\" for row in [cells.columns, *cells.to_numpy()]]
    start = f"\\begin{{tabular}}{{ll{'r' * (cells.shape[1] - 2)}}}"
    return "\n".join([start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def to_html(found: pd.DataFrame, winners: set[tuple[str, str, str]], columns: Sequence[str] | None = None) -> str:
    """The table for a page, grouped by place: value with its interval in small print; marks as in `to_markdown`."""
    columns = [name for name in columns or ("images", *QUALITY, *COST) if name in found]
    heads = "".join(f"<th>{name}</th>" for name in columns)
    lines = [f"<table class='results'><thead><tr><th class='text'>Method</th>{heads}</tr></thead>"]
    for (dataset, category), part in found.groupby(["dataset", "category"], sort=False):
        place = f"{dataset}/{category}"
        lines.append(
            f"<tbody><tr class='place'><th class='text' colspan='{len(columns) + 1}'>{html.escape(place)}</th></tr>"
        )
        for _, row in part.iterrows():
            kind = "floor" if row["method"] == FLOOR else "grey" if row["above_floor"] is False else ""
            style = {"floor": "font-style:italic", "grey": "color:#7b838e", "": ""}[kind]
            cells = []
            for name in columns:
                value, _, bounds = _text(row, name).partition(" [")
                value = f"<b>{value}</b>" if (place, row["method"], name) in winners else value
                cells.append(
                    f"<td>{value}" + (f"<small>{bounds[:-1].replace(', ', '–')}</small>" if bounds else "") + "</td>"
                )
            name = html.escape(display_name(row)).replace(":", ":<wbr>")
            lines.append(f"<tr class='{kind}' style='{style}'><td class='text'>{name}</td>{''.join(cells)}</tr>")
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


# --- beside the papers
# -------------------------------------------------------------------------------------------------------

PUBLISHED_NAMES = {
    "invad": "InvAD",
    "esm": "ESM",
    "esm_sigma": "ESM-sigma",
    "sgm": "SGM",
    "ddad": "DDAD",
    "d3ad": "D3AD",
    "anomalib:patchcore": "PatchCore",
    "anomalib:padim": "PaDiM",
    "anomalib:fastflow": "FastFlow",
}
"""Methods here -> their names in ``data/published/results.csv``."""

PUBLISHED_DATASETS = {"mvtec_ad": "mvtec", "visa": "visa", "btad": "btad", "mpdd": "mpdd", "real_iad": "real_iad"}
PUBLISHED_METRICS = {"PRO": "AUPRO"}


def published_results(path: str | Path | None = None) -> pd.DataFrame:
    """``data/published/results.csv`` with quality metrics as shares of 1, under this study's metric names."""
    found = pd.read_csv(path or repository() / "data" / "published" / "results.csv", dtype={"category": str})
    found["metric"] = found["metric"].replace(PUBLISHED_METRICS)
    found = found[found["metric"].isin(QUALITY)]
    return found.assign(value=found["value"] / 100).reset_index(drop=True)


def beside_published(found: pd.DataFrame, published: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Our values beside the published ones of the same method, data set, category and metric, in the one-class setting.

    Only the profiles with the papers' data and backbones are comparable (``kaggle``, ``paper``); for others, and for
    data that no paper used, the result is empty.
    """
    columns = [
        "dataset",
        "category",
        "method",
        "metric",
        "ours",
        "low",
        "high",
        "published",
        "source_id",
        "table",
        "setting",
    ]
    if profile not in ("kaggle", "paper"):
        return pd.DataFrame(columns=columns)
    rows = []
    for _, row in found.iterrows():
        theirs = published[
            (published["method"] == PUBLISHED_NAMES.get(row["method"]))
            & (published["category"] == row["category"])
            & (published["dataset"] == PUBLISHED_DATASETS.get(row["dataset"]))
            & (published["setting"] == "one-class")
        ]
        rows += [
            [
                row["dataset"],
                row["category"],
                row["method"],
                t.metric,
                row[t.metric],
                row.get(f"{t.metric} low"),
                row.get(f"{t.metric} high"),
                t.value,
                t.source_id,
                t.table,
                t.setting,
            ]
            for t in theirs.itertuples()
            if t.metric in row and not pd.isna(row[t.metric])
        ]
    return pd.DataFrame(rows, columns=columns)


def disagreements(published: pd.DataFrame) -> pd.DataFrame:
    """Published values of one method on one data set, category, setting and metric that stand in several places.

    An independent reproduction, named in brackets after the method, is another source of the same quantity. Columns
    dataset, category, setting, method, metric, low, high, range, values ("source, table: value; ..."), widest range
    first.
    """
    rows = []
    base = published.assign(
        name=published["method"], method=published["method"].str.replace(r" \(.*\)$", "", regex=True)
    )
    for key, part in base.groupby(["dataset", "category", "setting", "method", "metric"]):
        if part.groupby(["source_id", "table", "name"]).ngroups > 1:
            text = "; ".join(f"{r.source_id}, {r.table}: {r.value:.3f}" for r in part.itertuples())
            low, high = part["value"].min(), part["value"].max()
            rows.append([*key, low, high, high - low, text])
    columns = ["dataset", "category", "setting", "method", "metric", "low", "high", "range", "values"]
    found = pd.DataFrame(rows, columns=columns).round({"range": 6})  # 0.97 - 0.97 in floating point is not a difference
    return found.sort_values("range", ascending=False, ignore_index=True)


def published_gaps(published: pd.DataFrame) -> pd.DataFrame:
    """What papers call a difference: the best average of each printed table minus the second best, by metric.

    Columns source_id, table, dataset, metric, best, second, gap; tables with fewer than three methods are left out.
    """
    rows = []
    for key, part in published[published["category"] == "average"].groupby(["source_id", "table", "dataset", "metric"]):
        ordered = part.sort_values("value", ascending=False)
        if ordered["method"].nunique() >= 3:
            rows.append(
                [
                    *key,
                    ordered["method"].iloc[0],
                    ordered["method"].iloc[1],
                    ordered["value"].iloc[0] - ordered["value"].iloc[1],
                ]
            )
    return pd.DataFrame(rows, columns=["source_id", "table", "dataset", "metric", "best", "second", "gap"])


# --- by the size of the defect
# -----------------------------------------------------------------------------------------------


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
    """Prediction time over the side of the images, from runs that measured it (`diagnostics.time_by_size`), averaged
    over runs: method, pixels (the side), ms an image; empty without any."""
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


CLAIMS_BETWEEN_METHODS = (
    ("C15a", "autoencoder", "img2img", "I-AUROC"),
    ("C30", "anomalib:patchcore", "img2img", "I-AUROC"),
    ("C30", "anomalib:patchcore", "img2img", "AUPRO"),
)
"""Claims that compare methods of different notebooks: the claim says that the first is better by the metric."""


def findings_between_methods(measured: Sequence[Measured], section: str) -> list[dict]:
    """A finding (`claims.finding`, with dataset and category) for each of `CLAIMS_BETWEEN_METHODS` and place that has
    both methods."""
    at = {(row.place, row.method): row for row in measured}
    found = []
    for claim, better, worse, name in CLAIMS_BETWEEN_METHODS:
        for place in dict.fromkeys(row.place for row in measured):
            a, b = at.get((place, better)), at.get((place, worse))
            effect = difference(a, b, name) if a is not None and b is not None else None
            if effect is not None:
                row = claims.finding(
                    claim, *effect, len(a.scores), measure=f"{name} of {better} minus {worse}", section=section
                )
                found.append(row | {"dataset": a.dataset, "category": a.category})
    return found


def joining_record(records: Sequence[RunRecord], found: list[dict], folder: Path) -> RunRecord:
    """The comparison's own findings in the form of a run's, with the weights of all runs, for `claims.ledger`."""
    weights = {entry["name"]: entry for record in records for entry in record.manifest["weights"]}
    manifest = {"notebook": "08_comparison", "weights": list(weights.values())}
    return RunRecord(folder, "", "", "comparison", 0, {}, {}, {}, {}, manifest, [], found)


# --- the answer
# ------------------------------------------------------------------------------------------------------------

DIFFUSION = frozenset({"img2img", "lora", "pixel_ddpm", "sgm", "esm", "esm_sigma", "ddad", "d3ad", "invad"})
"""Methods that are diffusion models; the others are what they are compared with."""

CLIP_METHODS = frozenset({"clip_knn", "clip_zero_shot", "clip_probe", "anomalib:winclip"})
"""Methods without diffusion on CLIP, which knows captioned pictures."""

REASONS = ("C03", "C07", "C09", "C14", "C26", "C30", "C31", "C37", "C47a", "C68")
"""Claims about *why* diffusion models find defects or do not."""


def answer(ledger: pd.DataFrame, measured: Sequence[Measured]) -> list[str]:
    """Three sentences from the ledger (`claims.ledger`) and the measurements: how good, why, and what became of the
    claims."""
    return [_how_good(measured), _reasons(ledger), _count_of_claims(ledger)]


def _how_good(measured: Sequence[Measured]) -> str:
    floors = {(row.place, row.method): row.verdict for row in against_floor(measured).itertuples()}
    sentences, outcomes = [], []
    for place in dict.fromkeys(row.place for row in measured):
        here = sorted(
            (r for r in measured if r.place == place and "I-AUROC" in r.samples), key=lambda r: -r.values["I-AUROC"]
        )
        ours = [r for r in here if r.method in DIFFUSION]
        others = [r for r in here if r.method not in DIFFUSION and r.method != FLOOR]
        if not ours:
            continue
        above = sum(floors.get((place, r.method)) == "above the floor" for r in ours)
        text = f"on {place}, {above} of {len(ours)} diffusion methods are above the trivial floor"
        if others:
            outcomes.append(_outcome(ours[0], others[0]))
            text += (
                f", and the best of them ({ours[0].method}, I-AUROC {ours[0].values['I-AUROC']:.3f}) is "
                f"{outcomes[-1]} the best "
                f"detector without diffusion ({others[0].method}, {others[0].values['I-AUROC']:.3f})"
            )
            text += _against_the_best_without_clip(ours[0], others)
        sentences.append(text)
    if not sentences:
        return "No diffusion method has a finished run here, so nothing can be said about their accuracy yet."
    caution = "Either best is picked on these test images, which the intervals do not account for." if outcomes else ""
    if len(sentences) > 6:
        counts = ", ".join(f"{kind} it on {outcomes.count(kind)}" for kind in dict.fromkeys(outcomes))
        return (
            f"{len(outcomes)} of {len(sentences)} categories also have a detector without diffusion: "
            f"against the best of them, the best diffusion method is {counts}. {caution}"
        ).strip()
    text = "; ".join(sentences) + f". {caution}"
    return (text[0].upper() + text[1:]).strip()


def _outcome(ours: Measured, other: Measured) -> str:
    _, low, high = difference(ours, other, "I-AUROC")
    return "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"


def _against_the_best_without_clip(ours: Measured, others: Sequence[Measured]) -> str:
    """The comparison once more where the best rival is CLIP's, which has learnt from captions what damage looks
    like."""
    rest = [r for r in others if r.method not in CLIP_METHODS]
    if others[0] in rest or not rest:
        return ""
    return (
        f"; without CLIP's it is {_outcome(ours, rest[0])} the best ({rest[0].method}, {rest[0].values['I-AUROC']:.3f})"
    )


def _reasons(ledger: pd.DataFrame) -> str:
    rows = ledger[ledger["claim_id"].isin(REASONS)]

    def quoted(part):
        return "; ".join(f"“{row.statement.rstrip('.')}” ({row.claim_id})" for row in part.itertuples())

    supported, refuted = (rows[rows["verdict"] == verdict] for verdict in claims.DECIDED)
    pieces = [
        f"{name}: {quoted(part)}"
        for name, part in (("supported here", supported), ("not supported here", refuted))
        if len(part)
    ]
    open_ones = len(rows) - len(supported) - len(refuted)
    if not pieces:
        return (
            f"Of the {len(rows)} reasons that the sources give for success or failure, none is decided by these runs."
        )
    rest = f"; {open_ones} of {len(rows)} reasons are undecided or not tested" if open_ones else ""
    return "Of the reasons that the sources give for success or failure, " + "; ".join(pieces) + rest + "."


def _count_of_claims(ledger: pd.DataFrame) -> str:
    count = ledger["verdict"].value_counts()

    def of(verdict):
        return int(count.get(verdict, 0))

    untested = of(claims.NOT_TESTED) + of(claims.OUT_OF_SCOPE)
    return (
        f"Of {len(ledger)} falsifiable claims of the sources, {len(ledger) - untested} were judged here: "
        f"{of(claims.SUPPORTED)} are supported, {of(claims.NOT_SUPPORTED)} are not, {of(claims.VARIES)} vary between "
        f"categories, {of(claims.OPEN)} that say “some” are open, and {of(claims.INCONCLUSIVE)} stay inconclusive; "
        f"{of(claims.OUT_OF_SCOPE)} name data that are not here."
    )
