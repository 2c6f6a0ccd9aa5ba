"""Methods side by side (notebook 08)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffad_utils.plots.answer import OTHER
from diffad_utils.plots.style import ANOMALOUS, NORMAL, WIDTH


def claim_forest(rows: pd.DataFrame, margin: float, title: str = "") -> Figure:
    """Forest plot of one claim: each seed and category with its interval, the pooled effect as a diamond, the margin.

    Parameters
    ----------
    rows : variant (a panel each), label, effect, low, high, level ("seed", "category" or "pooled"), top to bottom.
    margin : dotted line; what lies to its right speaks for the claim.

    Raises
    ------
    ValueError
        No row.
    """
    if not len(rows):
        raise ValueError("nothing to draw: the claim has no evidence, show its reason instead")
    panels = {name: part.iloc[::-1].reset_index(drop=True) for name, part in rows.groupby("variant", sort=False)}
    heights = [0.8 + 0.24 * len(part) for part in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(WIDTH, sum(heights) + 0.3), sharex=True, squeeze=False, height_ratios=heights
    )
    styles = {
        "seed": dict(marker="o", color="grey", markerfacecolor="white", markersize=4, linewidth=0.8),
        "category": dict(marker="o", color=NORMAL, markersize=5),
        "pooled": dict(marker="D", color=ANOMALOUS, markersize=8, linewidth=2),
    }
    for axis, (name, part) in zip(axes.flat, panels.items(), strict=True):
        for y, row in part.iterrows():
            error = [[row["effect"] - row["low"]], [row["high"] - row["effect"]]]
            axis.errorbar(row["effect"], y, xerr=np.clip(error, 0, None), **styles[row["level"]])
        axis.axvline(margin, color="grey", linestyle=":", linewidth=1)
        axis.set(yticks=range(len(part)), yticklabels=part["label"], ylim=(-0.8, len(part) - 0.2))
        axis.set_title(textwrap.fill(name, 90), fontsize=9, loc="left")
    axes[-1, 0].set_xlabel(f"effect, larger speaks for the claim; dotted: margin {margin:g}")
    if title:
        figure.suptitle(textwrap.fill(title, 100), fontsize=10)
    return figure


MARKERS = "osD^vPX<>*"


def method_styles(methods: Sequence[str]) -> dict[str, dict]:
    """A colour and a marker for each method, the same in every figure of a notebook for the same list of methods."""
    colours = sns.color_palette("colorblind", 10)
    names = enumerate(sorted(set(methods)))
    return {name: {"color": colours[i % 10], "marker": MARKERS[(i + i // 10) % len(MARKERS)]} for i, name in names}


def _legend_beside(figure: Figure, axis: Axes, title: str) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, title=title, title_fontsize=8)


def _panels(count: int, height: float, most: int = 4) -> tuple[Figure, np.ndarray]:
    """A grid of ``count`` panels with one vertical axis, at most ``most`` beside each other, `height` inches a row."""
    columns = min(most, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, sharey=True)
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, axes


def method_scatter(
    table: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, front: pd.Series | None = None, log_x: bool = False
) -> Figure:
    """Methods as points of columns ``x`` and ``y``, one panel a task, with the intervals ``<name> low`` and ``high``
    that there are.

    ``front`` marks rows that a line connects (a Pareto front).
    """
    table = table.dropna(subset=[x, y])
    tasks = list(dict.fromkeys(table["task"]))
    styles = method_styles(table["method"])
    figure, axes = _panels(len(tasks), 3.9)
    for axis, task in zip(axes.flat, tasks, strict=False):
        part = table[table["task"] == task]
        for _, row in part.iterrows():
            errors = {side: _error(row, name) for side, name in (("xerr", x), ("yerr", y))}
            axis.errorbar(
                row[x], row[y], **errors, linestyle="", alpha=0.35, color=styles[row["method"]]["color"], linewidth=1
            )
            axis.plot(row[x], row[y], linestyle="", markersize=7, **styles[row["method"]])
        if front is not None:
            best = part[front[part.index]].sort_values(x)
            axis.plot(best[x], best[y], color="grey", linewidth=1, zorder=0, drawstyle="steps-post")
        if log_x:
            axis.set_xscale("log")
            _plain_ticks(axis.xaxis)
        axis.set(xlabel=xlabel, title=task)
    for row in axes:
        row[0].set_ylabel(ylabel)
    for name, style in styles.items():
        axes[0, 0].plot([], [], linestyle="", label=name, **style)
    _legend_beside(figure, axes[0, 0], "method")
    return figure


def _plain_ticks(axis: Axes) -> None:
    """Numbers instead of powers on a logarithmic axis, between decades too where it spans few of them."""
    low, high = axis.get_view_interval()
    decades = high / max(low, 1e-12)
    axis.set_major_locator(
        LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8) if decades < 5 else (1, 2, 5) if decades < 50 else (1,))
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _error(row: pd.Series, name: str) -> Any:
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return None
    return [[max(row[name] - low, 0)], [max(high - row[name], 0)]]


def recall_chart(table: pd.DataFrame) -> Figure:
    """Recall over the area of the defects (columns task, method, family, bin, area, recall), one panel a task: each
    method thin, the means of diffusion methods and of the others thick, the trivial baseline (family "") dashed."""
    tasks = list(dict.fromkeys(table["task"]))
    ours, baseline = table["family"] == "diffusion", table["family"] == ""
    styles = {
        "diffusion methods": (ours, {"color": NORMAL}),
        "methods without diffusion": (~ours & ~baseline, {"color": OTHER}),
        "trivial baseline": (baseline, {"color": ANOMALOUS, "linestyle": "--"}),
    }
    figure, axes = _panels(len(tasks), 3.0)
    for axis, task in zip(axes.flat, tasks, strict=False):
        for name, (rows, style) in styles.items():
            here = table[rows & (table["task"] == task)]
            for _, part in here.groupby("method"):
                axis.plot(part["area"], part["recall"], linewidth=0.7, alpha=0.45, **style)
            mean = here.groupby("bin")[["area", "recall"]].mean()
            axis.plot(mean["area"], mean["recall"], marker="o", markersize=4, linewidth=2.2, label=name, **style)
        axis.set(xscale="log", xlabel="defect area, %", title=task, ylim=(-0.03, 1.03))
        ticks = sorted(table.loc[table["task"] == task, "area"].unique())
        axis.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
        axis.minorticks_off()
    for row in axes:
        row[0].set_ylabel("share of defects found")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def cost_growth(table: pd.DataFrame, images: Sequence[int], by_size: pd.DataFrame | None = None) -> Figure:
    """Left: seconds for training and n images, from "training s" and "ms an image", averaged over tasks. Right:
    milliseconds an image against network evaluations, every run. With ``by_size`` (`comparison.time_by_size`) a third
    panel: milliseconds an image over the side of the images, with a dotted line that grows as the number of pixels
    does."""
    table = table.dropna(subset=["training s", "ms an image"])
    styles = method_styles([*table["method"], *([] if by_size is None else by_size["method"])])
    sized = by_size is not None and len(by_size) > 0
    figure, axes = plt.subplots(1, 2 + sized, figsize=(WIDTH, 3.9))
    left, right = axes[:2]
    n = np.asarray(images, dtype=float)
    for name, part in table.groupby("method"):
        fit, each = part["training s"].mean(), part["ms an image"].mean()
        left.plot(n, fit + n * each / 1000, linewidth=1.2, markersize=4, label=name, **styles[name])
        right.plot(part["NFE"].clip(lower=0), part["ms an image"], linestyle="", markersize=6, **styles[name])
    left.set(xscale="log", yscale="log", xlabel="images to inspect", ylabel="seconds, training included")
    right.set_xscale("symlog", linthresh=1)
    right.set_yscale("log")
    _plain_ticks(right.yaxis)
    right.set(xlabel="network evaluations an image\n(0: no diffusion)", ylabel="ms an image", xlim=(-0.3, None))
    if sized:
        _time_over_size(axes[2], by_size, styles)
    _legend_beside(figure, left, "method")
    return figure


def _time_over_size(axis: Axes, by_size: pd.DataFrame, styles: Mapping[str, dict]) -> None:
    for name, part in by_size.groupby("method"):
        axis.plot(part["pixels"], part["ms an image"], linewidth=1.2, markersize=5, **styles[name])
    sides = np.array(sorted(by_size["pixels"].unique()), dtype=float)
    start = by_size.loc[by_size["pixels"] == sides[0], "ms an image"].min()
    axis.plot(sides, start * (sides / sides[0]) ** 2, linestyle=":", color="grey", linewidth=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    marked = [
        side for i, side in enumerate(sides) if i in (0, len(sides) - 1) or sides[-1] / side > 1.5
    ]  # others would overlap the last
    axis.set_xticks(marked, [f"{side:g}" for side in marked])
    axis.minorticks_off()
    _plain_ticks(axis.yaxis)
    axis.set(xlabel="side of the image, pixels\n(dotted: as the pixels grow)", ylabel="ms an image")


def critical_differences(average: pd.Series, p_values: pd.DataFrame) -> Figure:
    """Average ranks (1 is best) on a line; bars connect methods that do not differ by Nemenyi's test at 5 %."""
    import scikit_posthocs

    figure, axis = plt.subplots(figsize=(WIDTH, 1.4 + 0.22 * len(average)))
    scikit_posthocs.critical_difference_diagram(average, p_values, ax=axis, label_props={"fontsize": 9})
    axis.set_xlabel("average rank (left is better)")
    return figure


def convention_effects(
    effects: pd.DataFrame, gaps: Mapping[str, Sequence[float]], xlabel: str = "change of the metric"
) -> Figure:
    """Above: the change that each convention makes, one point a run (columns convention, metric, change); below, on the
    same axis: absolute differences between methods, by where they are from."""
    names = effects.groupby("convention")["change"].apply(lambda c: c.abs().median()).sort_values().index.tolist()
    heights = [max(len(names), 1), max(len(gaps), 1)]
    size = (WIDTH, 1.6 + 0.27 * sum(heights))
    figure, (above, below) = plt.subplots(2, 1, figsize=size, sharex=True, gridspec_kw={"height_ratios": heights})
    colours = dict(zip(sorted(effects["metric"].unique()), sns.color_palette("colorblind", 10), strict=False))
    for metric, part in effects.groupby("metric"):
        position = part["convention"].map({name: i for i, name in enumerate(names)}).to_numpy(float)
        jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(part))
        above.scatter(part["change"], position + jitter, s=14, alpha=0.7, color=colours[metric], label=metric)
    above.set_yticks(range(len(names)), names, fontsize=8)
    above.set_title("what one convention does", fontsize=9)
    above.legend(fontsize=8, loc="lower right")
    for i, values in enumerate(gaps.values()):
        jitter = np.random.default_rng(1).uniform(-0.22, 0.22, len(values))
        below.scatter(np.abs(values), i + jitter, s=14, alpha=0.5, color="grey")
        if len(values):
            below.plot([np.median(np.abs(values))] * 2, [i - 0.35, i + 0.35], color="black", linewidth=1.6)
    below.set_yticks(range(len(gaps)), list(gaps), fontsize=8)
    below.set_title("the gap by which one method is called better (bar: median)", fontsize=9)
    below.set_xlabel(xlabel)
    for axis in (above, below):
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=0.02, linscale=1.0)
    reach = max([*effects["change"].abs(), 0.02]) * 1.3
    ticks = [t for t in (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if abs(t) <= reach]
    below.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
    below.set_xlim(-reach, reach)
    return figure
