"""The figures that carry the study's answer (notebook 08 and the front page)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffad_utils.plots.style import ANOMALOUS, NORMAL, WIDTH

OTHER = "#8a919b"
"""Colour of methods without diffusion."""

PANEL_ROWS = 3
"""Height of a panel's title and axis, in rows of methods."""

VERDICTS = {"supported": "#1d6b3a", "not supported": ANOMALOUS, "varies": "#7a5b00"}


def answer_chart(table: pd.DataFrame, columns: int = 2) -> Figure:
    """I-AUROC of every method with its interval, its control without diffusion and the trivial baseline, by task.

    Parameters
    ----------
    table : task, method, family, I-AUROC, low, high, control, control low, control high, baseline, baseline low,
        baseline high, as `diffusion_controls.against_controls` has them; NaN where unknown.
    columns : panels beside each other; 1 for a narrow screen.
    """
    parts = [part.iloc[::-1].reset_index(drop=True) for _, part in table.groupby("task", sort=False)]
    columns = min(columns, len(parts))
    stacks: list[list[int]] = [[] for _ in range(columns)]

    def rows(stack: list[int]) -> int:
        return sum(len(parts[i]) + PANEL_ROWS for i in stack)

    for i in [0, *sorted(range(1, len(parts)), key=lambda i: -len(parts[i]))]:
        min(stacks, key=rows).append(i)  # after the first the largest, each below the shortest column so far
    total = max(map(rows, stacks))
    figure = plt.figure(figsize=(WIDTH if columns > 1 else 0.5 * WIDTH, 0.23 * total + 0.7))
    limits = _answer_limits(table)
    for stack, of_column in zip(map(sorted, stacks), np.atleast_1d(figure.subfigures(1, columns)), strict=True):
        heights = [len(parts[i]) + PANEL_ROWS for i in stack]
        rest = total - sum(heights)
        grid = of_column.add_gridspec(len(stack) + bool(rest), 1, height_ratios=heights + [rest] * bool(rest))
        for line, i in enumerate(stack):
            axis = of_column.add_subplot(grid[line])
            _answer_panel(axis, parts[i])
            axis.set(xlim=limits, xlabel="I-AUROC" if line == len(stack) - 1 else "")
        if rest:
            of_column.add_subplot(grid[-1]).axis("off")
    figure.legend(handles=_answer_legend(), loc="outside upper center", ncols=2 if columns > 1 else 1, fontsize=9)
    return figure


def _answer_limits(table: pd.DataFrame) -> tuple[float, float]:
    """The axis of every panel: from the lowest end to the highest, of intervals, controls and baselines."""
    ends = ["low", "high", "I-AUROC", "control", "control low", "control high", "baseline low", "baseline high"]
    drawn = table[ends].to_numpy(dtype=float)
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _answer_panel(axis: Axes, part: pd.DataFrame) -> None:
    first = part.iloc[0]
    if np.isfinite(first["baseline"]):
        axis.axvspan(first["baseline low"], first["baseline high"], color=ANOMALOUS, alpha=0.13, linewidth=0)
        axis.axvline(first["baseline"], color=ANOMALOUS, linestyle="--", linewidth=1.2)
    for y, row in part.iterrows():
        colour = NORMAL if row["family"] == "diffusion" else OTHER
        error = np.clip([[row["I-AUROC"] - row["low"]], [row["high"] - row["I-AUROC"]]], 0, None)
        axis.errorbar(row["I-AUROC"], y, xerr=error, fmt="o", color=colour, markersize=5, capsize=2, linewidth=1.2)
        if np.isfinite(row["control"]):
            axis.plot([row["control low"], row["control high"]], [y - 0.25] * 2, color="black", linewidth=0.7)
            axis.plot(row["control"], y - 0.25, "D", color="black", markerfacecolor="white", markersize=4.5)
    axis.set_yticks(range(len(part)), part["method"], fontsize=8)
    for label, family in zip(axis.get_yticklabels(), part["family"], strict=True):
        label.set_color("black" if family == "diffusion" else OTHER)
    axis.set(ylim=(-0.7, len(part) - 0.3))
    axis.set_title(first["task"], fontsize=9, loc="left")


def _answer_legend() -> list[Line2D]:
    dot = {"marker": "o", "linewidth": 1.2}
    diamond = {"marker": "D", "markerfacecolor": "white", "markersize": 4.5, "linewidth": 0.7}
    return [
        Line2D([], [], color=NORMAL, label="diffusion method", **dot),
        Line2D([], [], color=OTHER, label="method without diffusion", **dot),
        Line2D([], [], color="black", label="its control; line: interval of the difference", **diamond),
        Line2D([], [], color=ANOMALOUS, linestyle="--", label="trivial baseline, with its interval"),
    ]


def control_chart(controls: pd.DataFrame) -> Figure:
    """Method minus control with its interval: columns task, method, kind, difference, low, high; top to bottom."""
    rows = controls.iloc[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(WIDTH, 1.1 + 0.28 * len(rows)))
    for y, row in rows.iterrows():
        error = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
        colour = OTHER if row["low"] <= 0 <= row["high"] else NORMAL if row["low"] > 0 else ANOMALOUS
        axis.errorbar(row["difference"], y, xerr=np.clip(error, 0, None), fmt="o", color=colour, capsize=3)
    labels = [f"{r.method}, {r.task}" + (" (untrained)" if r.kind == "untrained" else "") for r in rows.itertuples()]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="I-AUROC of the method minus that of its control", ylim=(-0.7, len(rows) - 0.3))
    return figure


def task_rows(rows: Mapping[str, tuple[np.ndarray, np.ndarray | None, Sequence[str]]]) -> Figure:
    """A row of images a task: task -> images [N, H, W, 3] in [0, 1], masks bool [N, H, W] or None, titles [N]."""
    most = max(len(images) for images, _, _ in rows.values())
    side = (WIDTH - 0.9) / most
    figure, axes = plt.subplots(len(rows), most, figsize=(WIDTH, len(rows) * (side + 0.25)), squeeze=False)
    for line, (task, (images, masks, titles)) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
            axis.grid(False)
        for i, axis in enumerate(line[: len(images)]):
            axis.imshow(images[i])
            axis.set_title(titles[i], fontsize=8)
            if masks is not None and masks[i].any():
                axis.contour(masks[i], levels=[0.5], colors=ANOMALOUS, linewidths=1.2)
        line[0].set_ylabel(textwrap.fill(task.replace("/", "/ "), 12), fontsize=8)
    return figure


def case_strip(
    images: np.ndarray, masks: np.ndarray | None, titles: Sequence[str], maps: np.ndarray, columns: int | None = None
) -> Figure:
    """Images over their anomaly maps: images [N, H, W, 3] in [0, 1], masks bool [N, H, W] or None, titles [N], maps [N,
    h, w] in [0, 1]. columns : pictures beside each other, all of them by default; fewer for a narrow screen."""
    count = len(images)
    columns = min(columns or count, count)
    lines = -(-count // columns)
    side = min((WIDTH if lines == 1 else 0.5 * WIDTH) / columns, 1.8)
    size = (side * columns, (2 * side + 0.45) * lines)
    figure, axes = plt.subplots(2 * lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for i in range(lines * columns):
        above, below = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        if i >= count:
            above.axis("off")
            below.axis("off")
            continue
        above.imshow(images[i])
        above.set_title(titles[i], fontsize=7)
        if masks is not None and masks[i].any():
            above.contour(masks[i], levels=[0.5], colors="#00d5ff", linewidths=1.2)
        below.imshow(maps[i], cmap="inferno", vmin=0, vmax=1)
    for line in range(lines):
        axes[2 * line, 0].set_ylabel("image", fontsize=8)
        axes[2 * line + 1, 0].set_ylabel("anomaly map", fontsize=8)
    return figure


def difference_matrices(pairs: pd.DataFrame) -> Figure:
    """Row minus column of pairs (task, a, b, difference, low, high), a panel a task; a dot where the interval contains
    zero."""
    groups = list(pairs.groupby("task", sort=False))
    orders = [list(dict.fromkeys([*part["a"], *part["b"]])) for _, part in groups]  # the better one first
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(WIDTH, 0.55 * WIDTH * lines), squeeze=False)
    limit = max(float(pairs[["difference"]].abs().max().iloc[0]), 1e-6)
    for axis, (task, part), order in zip(axes.flat, groups, orders, strict=False):
        values, unclear = np.full((len(order),) * 2, np.nan), np.zeros((len(order),) * 2, dtype=bool)
        at = {name: i for i, name in enumerate(order)}
        for pair in part.itertuples():
            i, j = at[pair.a], at[pair.b]
            values[i, j], values[j, i] = pair.difference, -pair.difference
            unclear[i, j] = unclear[j, i] = pair.low <= 0 <= pair.high
        picture = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.scatter(*np.nonzero(unclear)[::-1], s=5, color="black")
        size = min(7.0, 165 / len(order))  # points: a panel's side over the names
        axis.set_xticks(range(len(order)), order, rotation=90, fontsize=size)
        axis.set_yticks(range(len(order)), order, fontsize=size)
        axis.grid(False)
        axis.set_title(task, fontsize=9)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    figure.colorbar(picture, ax=axes, label="I-AUROC of the row minus the column", shrink=0.5)
    return figure


def claims_chart(ledger: pd.DataFrame) -> Figure:
    """Every claim with a pooled interval: distance of the effect from its margin, in half widths of the interval.

    Columns claim_id, statement, verdict, effect, low, high, margin. Units differ between claims, so the axis has none:
    beyond 1 the interval lies wholly on one side of the margin.
    """
    half = ((ledger["high"] - ledger["low"]) / 2).clip(lower=1e-12)
    rows = ledger.assign(distance=((ledger["effect"] - ledger["margin"]) / half).clip(-6, 6)).sort_values("distance")
    figure, axis = plt.subplots(figsize=(WIDTH, 1.0 + 0.2 * len(rows)))
    axis.axvspan(-1, 1, color=OTHER, alpha=0.15, linewidth=0)
    axis.axvline(0, color="black", linewidth=0.8)
    colours = [VERDICTS.get(verdict, OTHER) for verdict in rows["verdict"]]
    axis.errorbar(rows["distance"], range(len(rows)), xerr=1, fmt="none", ecolor=colours, linewidth=1.2)
    axis.scatter(rows["distance"], range(len(rows)), color=colours, s=26, zorder=3)
    pairs = zip(rows["claim_id"], rows["statement"], strict=True)
    named = [textwrap.shorten(f"{claim} {statement}", 78, placeholder=" …") for claim, statement in pairs]
    axis.set_yticks(range(len(rows)), named, fontsize=7)
    axis.set(xlabel="distance from the margin, half widths of the interval; right speaks for the claim")
    axis.set(ylim=(-0.8, len(rows) - 0.2))
    verdicts = [*VERDICTS.items(), ("undecided", OTHER)]
    handles = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in verdicts]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    return figure
