"""Methods against each other: differences on the same images, ranks over categories, and the table with its intervals.

Used by notebook 08 and the report; entry points: `table`, `pairwise`, `against_baseline`, `clear_winners`, `ranks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from diffad_utils import metrics, study
from diffad_utils.analyses.method_results import (
    BASELINE,
    COST,
    LOWER_IS_BETTER,
    QUALITY,
    MethodResult,
    mean_of_independent,
    seed_error,
    with_seeds,
)
from diffad_utils.metrics.pareto import pareto_front

FEWEST_CATEGORIES = 5
"""Categories needed before average ranks are compared."""

ABOVE = "above the baseline"
"""Verdict of `against_baseline`."""


def finished_runs(profile_folder: Path) -> tuple[Path, list[study.RunRecord]]:
    """The finished runs below a profile's folder; where there are none, those of ``reports/reference`` for the profile.

    Returns
    -------
    The folder that they are in, and the runs.

    Raises
    ------
    FileNotFoundError
        neither has a finished run.
    """
    folders = profile_folder, study.reference_folder() / profile_folder.name
    for folder in folders:
        if records := study.load_runs(folder):
            return folder, records
    raise FileNotFoundError(
        f"no finished run in {folders[0]} or {folders[1]}: run the other notebooks with this profile first"
    )


def difference(a: MethodResult, b: MethodResult, name: str, level: float = 0.95) -> tuple[float, float, float] | None:
    """a minus b of a metric on the same resampled images: (difference, low, high); None where it is not known.

    The interval is over images, and over seeds where one of them has several: of the difference seed by seed if they
    have the same seeds. Methods that were measured on different test images are compared on those that they share
    (`_on_shared_images`). Averages over the same tasks are compared task by task.
    """
    if name not in a.samples or name not in b.samples:
        return None
    if a.parts:
        by_task = [difference(x, y, name, level) for x, y in zip(a.parts, b.parts, strict=True)]
        return None if None in by_task else mean_of_independent(*np.transpose(by_task))
    if not same_images(a, b):
        return _on_shared_images(a, b, name, level)
    value = a.values[name] - b.values[name]
    ends = metrics.percentile_interval(a.samples[name] - b.samples[name], level)
    if a.seeds == b.seeds:
        error = seed_error(a.per_seed[name] - b.per_seed[name], level)
    else:
        error = np.hypot(*(seed_error(row.per_seed[name], level) for row in (a, b)))
    low, high = with_seeds(value, *ends, error)
    return value, float(low), float(high)


def same_images(a: MethodResult, b: MethodResult) -> bool:
    """Whether two methods were measured on the same test images, every seed of both."""
    complete = all(row.scores.notna().all(axis=None) for row in (a, b))
    return complete and a.scores.index.equals(b.scores.index)


def _on_shared_images(a: MethodResult, b: MethodResult, name: str, level: float) -> tuple[float, float, float] | None:
    """`difference` on the images of both, seed by seed where they share seeds, for image metrics; None for others, and
    with fewer than ten images of a class. The bounds over images are means over seeds, as wide as those of one seed:
    seeds may share images."""
    if name not in metrics.IMAGE_METRICS:
        return None
    mine, theirs = ([column for column in row.scores if column != "label"] for row in (a, b))
    shared = [seed for seed in mine if seed in theirs]
    rows, n, function = [], len(a.samples[name]), metrics.IMAGE_METRICS[name]
    for x, y in zip(shared or mine, shared or theirs, strict=False):
        both = pd.concat([a.scores["label"], a.scores[x].rename("a"), b.scores[y].rename("b")], axis=1, join="inner")
        both = both.dropna()
        label = both["label"].to_numpy()
        if min((label == 0).sum(), (label == 1).sum()) < 10:
            return None
        found = metrics.paired_bootstrap_difference(
            function, both["a"].to_numpy(), both["b"].to_numpy(), label, n, level=level
        )
        rows.append(found)
    if not rows:
        return None
    change, low, high = np.mean(rows, axis=0)
    low, high = with_seeds(change, low, high, seed_error([row[0] for row in rows], level))
    return float(change), float(low), float(high)


def against_baseline(measured: Sequence[MethodResult], name: str = "I-AUROC") -> pd.DataFrame:
    """Each method minus the trivial baseline of its task: task, method, baseline, difference, low, high, verdict.

    "above the baseline" or "below the baseline" if the interval excludes zero, else "no difference shown".
    """
    baselines = {row.task: row for row in measured if row.method == BASELINE}
    rows = []
    for row in measured:
        baseline = baselines.get(row.task)
        found = difference(row, baseline, name) if baseline is not None and row.method != BASELINE else None
        if found is not None:
            verdict = ABOVE if found[1] > 0 else "below the baseline" if found[2] < 0 else "no difference shown"
            rows.append(
                dict(
                    zip(
                        ("task", "method", "baseline", "difference", "low", "high", "verdict"),
                        (row.task, row.method, baseline.statistic, *found, verdict),
                        strict=True,
                    )
                )
            )
    return pd.DataFrame(rows, columns=["task", "method", "baseline", "difference", "low", "high", "verdict"])


def pairwise(measured: Sequence[MethodResult], name: str = "I-AUROC") -> pd.DataFrame:
    """Every pair of methods of a task, the better one as ``a``: task, a, b, difference, low, high (95 % each, not
    adjusted)."""
    rows, columns = [], ["task", "a", "b", "difference", "low", "high"]
    for task in dict.fromkeys(row.task for row in measured):
        here = sorted((r for r in measured if r.task == task and name in r.samples), key=lambda r: -r.values[name])
        for i, a in enumerate(here):
            for b in here[i + 1 :]:
                found = difference(a, b, name)
                if found is not None:
                    rows.append([task, a.method, b.method, *found])
    return pd.DataFrame(rows, columns=columns)


def clear_winners(measured: Sequence[MethodResult]) -> set[tuple[str, str, str]]:
    """(task, method, metric) of every value that is better than each other method's, at 95 % together (Bonferroni)."""
    found = set()
    for task in dict.fromkeys(row.task for row in measured):
        here = [row for row in measured if row.task == task]
        for name in QUALITY:
            known = [row for row in here if name in row.samples]
            if len(known) < 2:
                continue
            sign = -1 if name in LOWER_IS_BETTER else 1
            best, *others = sorted(known, key=lambda row: -sign * row.values[name])
            level = 1 - 0.05 / len(others)
            gaps = [difference(best, other, name, level) for other in others]
            if all(gap is not None and (gap[1] if sign > 0 else -gap[2]) > 0 for gap in gaps):
                found.add((task, best.method, name))
    return found


class Ranks(NamedTuple):
    """Average ranks (1 is best) of methods over tasks, Friedman's p, and Nemenyi's p for each pair; the methods that
    were not measured on each of the tasks, which have no rank."""

    average: pd.Series
    p: float
    pairs: pd.DataFrame
    tasks: int
    left_out: tuple[str, ...]


def ranks(measured: Sequence[MethodResult], name: str = "I-AUROC") -> Ranks | None:
    """Friedman's test and Nemenyi's post-hoc test (Demsar, JMLR 2006) over the tasks where every method was measured.

    Methods that were not measured on all of them are left out, and named; None with fewer than `FEWEST_CATEGORIES`
    tasks or 3 methods.
    """
    table = pd.DataFrame(
        [{"task": r.task, "method": r.method, name: r.values[name]} for r in measured if name in r.values]
    )
    if table.empty:
        return None
    every = table.pivot(index="task", columns="method", values=name)
    table = every.dropna(axis="columns")
    if len(table) < FEWEST_CATEGORIES or table.shape[1] < 3:
        return None
    import scikit_posthocs  # not in every image that notebooks run in, and needed with many categories only

    sign = 1 if name in LOWER_IS_BETTER else -1
    average = (sign * table).rank(axis="columns").mean().sort_values()
    p = stats.friedmanchisquare(*(table[column] for column in table)).pvalue
    left_out = tuple(sorted(set(every) - set(table)))
    return Ranks(average, float(p), scikit_posthocs.posthoc_nemenyi_friedman(table), len(table), left_out)


def table(measured: Sequence[MethodResult]) -> pd.DataFrame:
    """One row a `MethodResult`, the trivial baseline first and then by I-AUROC: dataset, category, method, seeds,
    above_baseline, every known metric and cost, and for each metric ``<name> low`` and ``<name> high``. What is unknown
    is NaN.

    above_baseline : True if the method's I-AUROC is above the trivial baseline's by the paired interval; None without
    one.
    """
    verdicts = against_baseline(measured).set_index(["task", "method"])["verdict"].to_dict()
    rows = []
    for row in measured:
        verdict = verdicts.get((row.task, row.method))
        cells = {
            "dataset": row.dataset,
            "category": row.category,
            "method": row.method,
            "family": row.family,
            "seeds": len(row.seeds),
            "above_baseline": None if verdict is None else verdict == ABOVE,
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
    order = found.assign(
        baseline=found["method"] != BASELINE, best=-found.get("I-AUROC", pd.Series(0.0, index=found.index))
    )
    return found.loc[order.sort_values(["dataset", "category", "baseline", "best"]).index].reset_index(drop=True)


def known(found: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows of `table` that are single tasks and know the columns, with a column task; empty where none does."""
    own = found.assign(task=found["dataset"] + "/" + found["category"])[found["category"] != "average"]
    own = own.dropna(subset=list(columns)) if set(columns) <= set(own) else own.iloc[:0]
    return own.reset_index(drop=True)


def pareto(found: pd.DataFrame, cost: str = "ms an image", quality: str = "I-AUROC") -> pd.Series:
    """Which rows of a task nothing beats: none is at least as good and as cheap, and better in one. bool, by row."""
    front = pd.Series(False, index=found.index)
    for _, part in found.dropna(subset=[cost, quality]).groupby(["dataset", "category"]):
        front[part.index] = pareto_front(part[quality], part[cost])
    return front
