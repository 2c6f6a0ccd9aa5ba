"""The papers' numbers beside ours, and where papers disagree about the same method.

Used by notebook 08; entry points: `beside_published`, `disagreements`, `published_gaps`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diffad_utils.analyses.method_results import QUALITY
from diffad_utils.io.paths import repository
from diffad_utils.methods import METHODS

PUBLISHED_DATASETS = {"mvtec_ad": "mvtec", "visa": "visa", "btad": "btad", "mpdd": "mpdd", "real_iad": "real_iad"}


PUBLISHED_METRICS = {"PRO": "AUPRO"}


def published_results(path: str | Path | None = None) -> pd.DataFrame:
    """``data/published/results.csv`` with quality metrics as shares of 1, under this study's metric names."""
    found = pd.read_csv(path or repository() / "data" / "published" / "results.csv", dtype={"category": str})
    found["metric"] = found["metric"].replace(PUBLISHED_METRICS)
    found = found[found["metric"].isin(QUALITY)]
    return found.assign(value=found["value"] / 100).reset_index(drop=True)


def beside_published(found: pd.DataFrame, published: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Our values beside the published ones of the same method, data set, category, metric and setting.

    Only the profiles with the papers' data and backbones are comparable (``kaggle``, ``kaggle-others``, ``paper``); for
    others, and for data that no paper used, the result is empty.
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
    if profile not in ("kaggle", "kaggle-others", "paper"):
        return pd.DataFrame(columns=columns)
    rows = []
    for _, row in found.iterrows():
        theirs = published[
            (published["method"] == _published_as(row["method"]))
            & (published["category"] == row["category"])
            & (published["dataset"] == PUBLISHED_DATASETS.get(row["dataset"]))
            & (published["setting"] == _published_setting(row["method"]))
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


def _published_setting(method: str) -> str | None:
    """The setting in which a method is run here, as its class says; None for a method that is not this project's."""
    return METHODS[method].published_setting if method in METHODS else None


def _published_as(method: str) -> str | None:
    """A method's name in ``data/published/results.csv``, as its class says; None without one."""
    return (METHODS[method].published_as if method in METHODS else None) or None


def disagreements(published: pd.DataFrame) -> pd.DataFrame:
    """Published values of one method on one data set, category, setting and metric that stand in several tasks.

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


def differing_averages(published: pd.DataFrame) -> pd.DataFrame:
    """The `disagreements` about averages over a data set that are above zero, with a column name, for the figure."""
    found = disagreements(published)
    found = found[(found["category"] == "average") & (found["range"] > 0)]
    return found.assign(name=found[["method", "dataset", "metric", "setting"]].agg(", ".join, axis="columns"))


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


def gaps_between_methods(found: pd.DataFrame, printed: pd.DataFrame) -> dict[str, list[float]]:
    """What is called a difference between methods: neighbours in our table, and best minus second in printed ones.

    found : `comparison.table` of single categories, with a column task. printed : `published_gaps`.
    """
    gaps = {}
    for metric in (name for name in ("I-AUROC", "AUPRO") if name in found):
        steps = [np.diff(np.sort(part[metric].dropna())) for _, part in found.groupby("task")]
        gaps[f"neighbouring methods here, {metric}"] = np.concatenate(steps).tolist()
    for metric in ("I-AUROC", "P-AUROC", "AUPRO"):
        gaps[f"best minus second in papers, {metric}"] = printed.loc[printed["metric"] == metric, "gap"].tolist()
    return gaps
