"""Figures over strength, guidance and steps (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffad_utils.plots.lines import ANOMALOUS, NORMAL
from diffad_utils.plots.style import WIDTH


def heat_maps(
    table: pd.DataFrame, values: Mapping[str, str], x: str, y: str, rows: str, labels: Mapping[str, str]
) -> Figure:
    """One panel a value and a ``rows`` setting: the value over ``x`` and ``y``, written into the cells.

    values: column of ``table`` -> title; panels of one value share a colour scale, at least 0.1 wide (faint differences
    look faint), whose ends stand under the title. labels: axis names of x, y and rows.
    """
    settings = sorted(table[rows].unique())
    size = (WIDTH, 0.9 + len(settings) * (0.55 + 0.42 * table[y].nunique()))
    figure, axes = plt.subplots(len(settings), len(values), figsize=size, squeeze=False, sharex=True, sharey=True)
    for r, setting in enumerate(settings):
        for c, (column, title) in enumerate(values.items()):
            panel = table[table[rows] == setting].pivot(index=y, columns=x, values=column).sort_index(ascending=False)
            limits = _limits(table[column])
            sns.heatmap(
                panel,
                ax=axes[r, c],
                annot=True,
                fmt=".2f",
                annot_kws={"size": 8},
                cmap="viridis",
                cbar=False,
                vmin=limits[0],
                vmax=limits[1],
            )
            axes[r, c].set(xlabel=labels[x] if r == len(settings) - 1 else "", ylabel="")
            if r == 0:
                axes[r, c].set_title(f"{title}\n{limits[0]:.2f} to {limits[1]:.2f}")
            axes[r, c].tick_params(axis="y", rotation=0)
        axes[r, 0].set_ylabel(f"{labels[rows]} {setting:g}\n{labels[y]}")
    return figure


def _limits(values: pd.Series, least: float = 0.1) -> tuple[float, float]:
    """Ends of a colour scale that is at least ``least`` wide, and not beyond 1 where no value is."""
    low, high = float(values.min()), float(values.max())
    wider = max(0.0, least - (high - low)) / 2
    down = max(0.0, high + wider - 1) if high <= 1 else 0.0
    return low - wider - down, high + wider - down


def compromise(
    table: pd.DataFrame,
    x: str,
    curves: Mapping[str, str],
    xlabel: str,
    crossing: tuple[float, float] | None,
    oracle: float | None = None,
) -> Figure:
    """Curves of ``table`` over ``x`` with bands, and where the first two cross.

    curves: name -> label; the table has columns ``<name>``, ``<name> low`` and ``<name> high``. oracle: the first one's
    value for a perfect editor, a dashed line.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for name, label in curves.items():
        (line,) = axis.plot(table[x], table[name], marker="o", label=label)
        axis.fill_between(
            table[x], table[f"{name} low"], table[f"{name} high"], color=line.get_color(), alpha=0.15, linewidth=0
        )
    if crossing is not None:
        axis.plot(
            *crossing,
            marker="*",
            markersize=13,
            color="black",
            linestyle="none",
            label=f"crossing at {crossing[0]:.2f}",
        )
    if oracle is not None:
        name = next(iter(curves.values()))
        axis.axhline(oracle, color="C0", linestyle="--", linewidth=1.2, label=f"oracle: {name} of a perfect editor")
    axis.axhline(1, color="grey", linestyle=":", linewidth=1)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(xlabel=xlabel, ylabel="mean over anomalous images")
    axis.legend(fontsize=8)
    return figure


def pareto(
    table: pd.DataFrame, front: Sequence[bool], drift: str, removal: str, hue: str, limits: tuple[float, float]
) -> Figure:
    """Settings as points of drift and removal, those that nothing beats circled; ``limits`` (drift, removal) bound what
    would do."""
    figure, axis = plt.subplots(figsize=(5.6, 3.8))
    sns.scatterplot(table, x=drift, y=removal, hue=hue, palette="viridis", s=45, ax=axis, legend="full")
    best = table[np.asarray(front)]
    axis.scatter(best[drift], best[removal], s=130, facecolors="none", edgecolors="black", label="not beaten")
    (left, right), (low, high) = ((table[name].min(), table[name].max()) for name in (drift, removal))
    wide, tall = (
        0.06 * (right - min(0.0, left)),
        0.06 * (max(1.0, high) - low),
    )  # of the whole axis: else circles are cut off at the frame
    left, right, low, high = min(0.0, left - wide), max(limits[0], right) + wide, low - tall, max(1.0, high + tall)
    axis.fill_between([left, limits[0]], limits[1], high, color="#6a994e", alpha=0.15, linewidth=0, label="would do")
    axis.set(
        xlim=(left, right),
        ylim=(low, high),
        xlabel="drift outside the mask / size of the defect",
        ylabel="removal inside the mask",
    )
    axis.legend(fontsize=8, title=hue, title_fontsize=8, loc="best")
    return figure


def alpha_curves(table: pd.DataFrame, trivial_baseline: float | None = None) -> Figure:
    """Left: I-AUROC of the hybrid score over alpha, raw and calibrated. Right: what the squared error's weight comes
    to.

    ``table`` is `img2img_settings.alpha_curve`'s, with columns low and high for the I-AUROC.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for (kind, part), colour in zip(table.groupby("kind", sort=False), (ANOMALOUS, NORMAL), strict=False):
        left.plot(part["alpha"], part["I-AUROC"], marker="o", color=colour, label=kind)
        left.fill_between(part["alpha"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
        right.plot(
            part["alpha"], part["effective_alpha"], color=colour, linestyle="--", label=f"{kind}: weight in equal units"
        )
        right.plot(part["alpha"], part["mse_share"], marker="o", color=colour, label=f"{kind}: share of the variance")
    if trivial_baseline is not None:
        left.axhline(trivial_baseline, color="grey", linestyle="--", linewidth=1.2, label="trivial baseline")
    for axis in (left, right):
        axis.axvspan(0.3, 0.9, color="grey", alpha=0.08, linewidth=0)
        axis.set_xlabel("alpha (shaded: the slides' range)")
        axis.legend(fontsize=7)
    left.set_ylabel("I-AUROC")
    right.set(ylabel="of the squared error", ylim=(-0.05, 1.05))
    return figure
