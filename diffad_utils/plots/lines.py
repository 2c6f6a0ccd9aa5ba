"""Curves, intervals and distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from diffad_utils.plots.style import ANOMALOUS, NORMAL, WIDTH


def roc_curves(scores: Mapping[str, Sequence[float]], labels: Sequence[int], title: str | None = None) -> Figure:
    """ROC curves of several scores [N] on the same labels [N], with the area in the legend."""
    figure, axis = plt.subplots(figsize=(4.8, 4.3))
    for name, values in scores.items():
        fpr, tpr, _ = roc_curve(labels, values)
        axis.plot(fpr, tpr, label=f"{name}: {roc_auc_score(labels, values):.3f}", linewidth=1.6)
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1, label="chance: 0.500")
    axis.set(xlabel="false positive rate (normal images)", ylabel="true positive rate (anomalous images)", title=title)
    axis.set_aspect("equal")
    axis.legend(title="I-AUROC", loc="lower right", fontsize=8, title_fontsize=8)
    return figure


def score_histograms(
    scores: Mapping[str, Sequence[float]], labels: Sequence[int], xlabels: Mapping[str, str] | None = None
) -> Figure:
    """Histograms of each score [N] for normal and anomalous images, side by side."""
    figure, axes = plt.subplots(1, len(scores), figsize=(WIDTH, 2.9), squeeze=False)
    group = np.where(np.asarray(labels) == 1, "anomalous", "normal")
    for axis, (name, values) in zip(axes[0], scores.items(), strict=True):
        table = pd.DataFrame({"score": np.asarray(values, dtype=float), "images": group})
        sns.histplot(
            table,
            x="score",
            hue="images",
            hue_order=["normal", "anomalous"],
            palette=[NORMAL, ANOMALOUS],
            bins=30,
            stat="count",
            element="step",
            ax=axis,
        )
        auroc = roc_auc_score(np.asarray(labels), np.asarray(values, dtype=float))
        axis.set(xlabel=(xlabels or {}).get(name, name), ylabel="images", title=f"{name} (I-AUROC {auroc:.3f})")
    return figure


def lines_with_intervals(
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str,
    xlabel: str,
    ylabel: str,
    trivial_baseline: float | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Lines of ``y`` over ``x`` by ``hue``, with the columns ``low`` and ``high`` as a band where the table has
    them."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    for name, part in table.groupby(hue, sort=False):
        part = part.sort_values(x)
        (line,) = axis.plot(part[x], part[y], marker="o", label=str(name))
        if {"low", "high"} <= set(part):
            axis.fill_between(part[x], part["low"], part["high"], color=line.get_color(), alpha=0.15, linewidth=0)
    if trivial_baseline is not None:
        axis.axhline(trivial_baseline, color="grey", linestyle="--", linewidth=1.2, label="trivial baseline")
    if log_x:
        ticks = sorted(table[x].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log_y else "linear")
    figure.legend(title=hue, fontsize=8, title_fontsize=8, loc="outside right upper")  # beside the lines, not on them
    return figure


def panels_with_intervals(
    table: pd.DataFrame,
    x: str,
    panels: Mapping[str, str],
    xlabel: str,
    hue: str | None = None,
    references: Mapping[str, float] | None = None,
    reference_label: str = "",
    columns: int = 4,
    lines: bool = True,
) -> Figure:
    """Small multiples: one panel a measure, the mean over ``x`` as points with intervals, joined by ``lines`` a
    ``hue``.

    panels : column of ``table`` -> what to call it; "<column> low" and "<column> high" are the interval's ends. x is
        taken as
    categories at equal distances, in order of appearance. references : column -> value, a dashed line.
    """
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 2.1 * rows + 0.5), squeeze=False)
    places = {value: i for i, value in enumerate(dict.fromkeys(table[x]))}
    for axis, (name, label) in zip(axes.flat, panels.items(), strict=False):
        for part_name, part in table.groupby(hue, sort=False) if hue else [(None, table)]:
            at, error = (
                part[x].map(places),
                np.stack([part[name] - part[f"{name} low"], part[f"{name} high"] - part[name]]),
            )
            style = dict(
                marker="o", markersize=4, capsize=2, linewidth=1.2, linestyle="-" if lines else "", label=part_name
            )
            axis.errorbar(at, part[name], yerr=error.clip(0), **style)
        if references is not None and name in references:
            axis.axhline(references[name], color="grey", linestyle="--", linewidth=1.2, label=reference_label)
        axis.set_xticks([*places.values()], [f"{v:g}" if isinstance(v, float) else str(v) for v in places], fontsize=7)
        axis.set_xlabel(xlabel, fontsize=8)
        axis.set_title(label, fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.margins(x=0.15)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    named = {name: handle for axis in axes.flat for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


def intervals_chart(
    table: pd.DataFrame, label: str, value: str, low: str, high: str, xlabel: str, group: str, reference: float = 0.5
) -> Figure:
    """Points with intervals, one row a ``label``, one panel a ``group``, two beside each other, on one axis, and a
    dotted line at ``reference``."""
    groups = list(dict.fromkeys(table[group]))
    columns = min(2, len(groups))
    rows = [groups[i : i + columns] for i in range(0, len(groups), columns)]
    heights = [0.8 + 0.24 * max((table[group] == name).sum() for name in row) for row in rows]
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(WIDTH, sum(heights)), sharex=True, squeeze=False, height_ratios=heights
    )
    for axis, name in zip(axes.flat, groups, strict=False):
        part = table[table[group] == name].iloc[::-1]
        error = np.stack([part[value] - part[low], part[high] - part[value]]).clip(0)
        axis.errorbar(part[value], part[label], xerr=error, fmt="o", color=NORMAL, ecolor=NORMAL, capsize=3)
        axis.axvline(reference, color="grey", linestyle=":", linewidth=1)
        axis.set(xlabel=xlabel, title=name, ylim=(-0.8, len(part) - 0.2))
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    return figure


def means_chart(table: pd.DataFrame, xlabel: str, reference: float = 0.5) -> Figure:
    """`intervals_chart` of a table with columns name, group, mean, low and high, or with five that mean this, in this
    order."""
    named = ["name", "group", "mean", "low", "high"]
    label, group, value, low, high = named if set(named) <= set(table) else table.columns
    return intervals_chart(table, label, value, low, high, xlabel, group, reference)


def range_chart(table: pd.DataFrame, label: str, low: str, high: str, xlabel: str) -> Figure:
    """Horizontal lines from ``low`` to ``high``, one row a ``label``."""
    table = table.iloc[::-1]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.26 * len(table)))
    axis.hlines(table[label], table[low], table[high], color=NORMAL, linewidth=2)
    for side in (low, high):
        axis.plot(table[side], table[label], "o", color=NORMAL, markersize=5)
    axis.set(xlabel=xlabel)
    axis.tick_params(axis="y", labelsize=8)
    return figure


def frequency_curves(panels: Mapping[str, Mapping[str, tuple]], limit: float) -> Figure:
    """Curves over spatial frequency, one panel a y-label: label -> name -> (frequency [K], mean [K], low [K], high
    [K]).

    Shown are frequencies above 0, the mean, up to 1/2; beyond that only the corners of the spectrum are left. A panel
    whose values span more than a factor of 100 is logarithmic. ``limit`` is marked: the finest frequency of the
    latent's grid.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.4), squeeze=False)
    for axis, (ylabel, curves) in zip(axes[0], panels.items(), strict=True):
        for name, values in curves.items():
            kept = (np.asarray(values[0]) > 0) & (np.asarray(values[0]) <= 0.5)
            frequency, mean, low, high = (np.asarray(v)[kept] for v in values)
            (line,) = axis.plot(frequency, mean, label=name, linewidth=1.6)
            axis.fill_between(frequency, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.axvline(limit, color="grey", linestyle="--", linewidth=1.2, label="finest of the latent's grid")
        means = np.concatenate([line.get_ydata() for line in axis.lines[: len(curves)]])
        wide = means.min() > 0 and means.max() > 100 * means.min()
        axis.set(
            xlabel="spatial frequency, cycles per pixel",
            ylabel=ylabel,
            xscale="log",
            yscale="log" if wide else "linear",
        )
        axis.set_xticks([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/64", "1/32", "1/16", "1/8", "1/4", "1/2"])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    return figure


def defect_survival(table: pd.DataFrame, hue: str = "defect") -> Figure:
    """Defects (``survival.survival_table``): size and contrast with survival as colour, and survival over contrast /
    autoencoder error.

    Left: area in percent of the image and contrast in grey values, both logarithmic. The line is the autoencoder's
    error there without any defect, the median over defects of nearby area. Right: survival against
    the ratio of contrast and that error of each defect, with the running median.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.6))
    table = table.sort_values("area")
    area, ratio = 100 * table["area"], table["contrast"] / table["vae_error"]
    colour = dict(c=table["survival"], cmap="viridis", vmin=0, vmax=1)
    points = axes[0].scatter(area, table["contrast"], s=22, edgecolor="grey", linewidth=0.3, **colour)
    window = max(5, len(table) // 5)
    if planted := area.nunique() <= 10:  # a few sizes, many of each
        vae_error = table["vae_error"].groupby(area)
    else:
        vae_error = table["vae_error"].rolling(window, center=True, min_periods=3)
    sizes = np.unique(area) if planted else area
    axes[0].plot(sizes, vae_error.median(), color=ANOMALOUS, linewidth=1.8, label="error of the autoencoder (median)")
    band = vae_error.quantile(0.1), vae_error.quantile(0.9)
    axes[0].fill_between(sizes, *band, color=ANOMALOUS, alpha=0.2, linewidth=0, label="10 to 90 % of defects")
    axes[0].set(
        xscale="log",
        yscale="log",
        xlabel="area of the defect, % of the image",
        ylabel="contrast (RMS), grey values of [0, 1]",
    )
    ticks = [0.1, 0.3, 1, 3, 10, 30]
    axes[0].set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes[0].set_yticks([0.02, 0.05, 0.1, 0.2, 0.4], ["0.02", "0.05", "0.1", "0.2", "0.4"])
    axes[0].minorticks_off()
    axes[0].legend(fontsize=8, loc="upper left")
    figure.colorbar(points, ax=axes[0], label="survival")
    for number, (name, rows) in enumerate(table.groupby(hue)):
        axes[1].scatter(
            ratio[rows.index], rows["survival"], s=16, label=name, marker="osD^vP*X<>p"[number % 11], alpha=0.75
        )
    ordered = ratio.sort_values()
    running = table.loc[ordered.index, "survival"].rolling(window, center=True, min_periods=3).median()
    axes[1].plot(ordered, running, color="black", linewidth=1.5)
    axes[1].axvline(1, color=ANOMALOUS, linewidth=1.5)
    axes[1].axhline(0.5, color="grey", linestyle=":", linewidth=1)
    axes[1].set(
        xscale="log", xlabel="contrast of the defect / autoencoder error there", ylabel="survival (1: kept, 0: gone)"
    )
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if ratio.min() / 1.5 <= t <= ratio.max() * 1.5]
    axes[1].set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes[1].minorticks_off()
    figure.legend(
        *axes[1].get_legend_handles_labels(),
        title=hue,
        fontsize=8,
        title_fontsize=8,
        ncols=6,
        loc="outside lower center",
    )
    return figure


def band_gains(table: pd.DataFrame) -> Figure:
    """Gain in dB by band of frequencies with its interval (``frequencies.gain_table``), one group of points a band."""
    figure, axis = plt.subplots(figsize=(WIDTH * 0.75, 3.4))
    names, bands = list(dict.fromkeys(table["name"])), list(dict.fromkeys(table["band"]))
    for number, name in enumerate(names):
        part = table[table["name"] == name].set_index("band").loc[bands]
        x = np.arange(len(bands)) + 0.16 * (number - (len(names) - 1) / 2)
        error = np.stack([part["gain"] - part["low"], part["high"] - part["gain"]]).clip(0)
        axis.errorbar(x, part["gain"], yerr=error, fmt="osD^v"[number % 5], capsize=3, label=name)
    axis.axhline(0, color="grey", linewidth=1)
    axis.set_xticks(range(len(bands)), bands)
    axis.set(xlabel="band of spatial frequencies, cycles per pixel", ylabel="gain over the plain autoencoder, dB")
    axis.legend(fontsize=8)
    return figure


def defect_sizes(area_percent: Sequence[float]) -> Figure:
    """Histogram of defect areas, in percent of the image, on a logarithmic axis."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    values = np.asarray(area_percent, dtype=float)
    sns.histplot(
        x=values, bins=np.geomspace(min(0.1, values.min()), max(25.0, values.max()), 25), color=ANOMALOUS, ax=axis
    )
    axis.set(xscale="log", xlabel="defect area, % of the image", ylabel="images")
    axis.set_xticks([0.1, 0.3, 1, 3, 10, 25], ["0.1", "0.3", "1", "3", "10", "25"])
    return figure


def bin_shares(bins: Mapping[str, Sequence[int]], last: int, xlabel: str = "bin") -> Figure:
    """Share of the images of each group in each bin 0 .. ``last``, bars side by side."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    table = pd.concat(
        [pd.DataFrame({"bin": np.asarray(values, dtype=int), "images": name}) for name, values in bins.items()]
    )
    shares = table.groupby("images", sort=False)["bin"].value_counts(normalize=True).rename("share").reset_index()
    sns.barplot(shares, x="bin", y="share", hue="images", order=range(last + 1), hue_order=list(bins), ax=axis)
    axis.set(xlabel=xlabel, ylabel="share of the group's images")
    axis.legend(fontsize=8, title=None)
    return figure


def points_by_size(table: pd.DataFrame, x: str, y: str, hue: str, xlabel: str, ylabel: str) -> Figure:
    """One point an image, ``x`` on a logarithmic axis."""
    figure, axis = plt.subplots(figsize=(7.2, 3.2))
    sns.scatterplot(table, x=x, y=y, hue=hue, s=28, ax=axis)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log")
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if table[x].min() / 2 <= t <= 2 * table[x].max()]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.legend(title=hue, fontsize=7, title_fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def stage_times(milliseconds: Mapping[str, float], whole: bool = True) -> Figure:
    """Time an image of each stage, as horizontal bars with milliseconds; with ``whole`` also with the share of their
    sum, for stages that follow each other and are no alternatives."""
    figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.32 * len(milliseconds)))
    names, values = list(milliseconds), list(milliseconds.values())
    bars = axis.barh(names[::-1], values[::-1], color=NORMAL)
    shares = [f" ({value / sum(values):.0%})" if whole else "" for value in values]
    labels = [f" {value:.3g} ms{share}" for value, share in zip(values, shares, strict=True)]
    axis.bar_label(bars, labels[::-1], fontsize=8)
    axis.set(xlabel="milliseconds an image")
    axis.margins(x=0.2)
    return figure


def training_curve(
    losses: Sequence[float], ylabel: str = "loss (mean squared error of the noise)", window: int = 25
) -> Figure:
    """Loss of every training step, thin, and its running mean."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    series = pd.Series(losses)
    axis.plot(series.index + 1, series, linewidth=0.5, alpha=0.4, color=NORMAL)
    axis.plot(
        series.index + 1, series.rolling(window, min_periods=1).mean(), color=NORMAL, label=f"mean of {window} steps"
    )
    axis.set(xlabel="training step", ylabel=ylabel, yscale="log")
    axis.legend()
    return figure


def fields(grid: Tensor, vectors: Mapping[str, Tensor], values: Mapping[str, Tensor], label: str) -> Figure:
    """Vector fields and scalar fields on a square grid of points [s * s, 2], side by side: arrows for ``vectors`` [s *
    s, 2] in each panel, all on one scale, over ``values`` [s * s] in colour, all on one scale. Both mappings have the
    same names."""
    side = round(len(grid) ** 0.5)
    figure, axes = plt.subplots(
        1, len(vectors), figsize=(WIDTH, WIDTH / len(vectors) * 0.95), sharey=True, squeeze=False
    )
    low, high = min(float(v.min()) for v in values.values()), max(float(v.max()) for v in values.values())
    longest = max(float(v.norm(dim=1).quantile(0.98)) for v in vectors.values())
    x, y = (grid[:, i].reshape(side, side).numpy() for i in range(2))
    for axis, (name, field) in zip(axes[0], vectors.items(), strict=True):
        picture = axis.pcolormesh(
            x, y, values[name].reshape(side, side).numpy(), cmap="viridis", vmin=low, vmax=high, shading="nearest"
        )
        axis.quiver(grid[:, 0], grid[:, 1], field[:, 0], field[:, 1], color="white", scale=longest * 18, width=0.005)
        axis.set(title=name, xlabel="first element of $x_t$")
        axis.title.set_fontsize(9)
        axis.set_aspect("equal")
        axis.grid(False)
    axes[0, 0].set_ylabel("second element of $x_t$")
    figure.colorbar(picture, ax=axes[0, :], shrink=0.8, pad=0.01, label=label)
    return figure


def curves(
    tables: Mapping[str, pd.DataFrame],
    x: str,
    ys: Sequence[str],
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    rule: float | None = None,
) -> Figure:
    """Columns ``ys`` of one or more tables over their column ``x``, one panel a table, with a dotted horizontal line at
    ``rule``."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(min(WIDTH, 5.2 * len(tables)), 3.4), sharey=True, squeeze=False
    )
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        for i, y in enumerate(ys):
            axis.plot(table[x], table[y], marker="o", markersize=4, label=y, linestyle=["-", "--", ":", "-."][i % 4])
        if rule is not None:
            axis.axhline(rule, color="grey", linestyle=":", linewidth=1)
        axis.set(xlabel=xlabel, title=title, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    axes[0, 0].set_ylabel(ylabel)
    axes[0, -1].legend(fontsize=7)
    return figure
