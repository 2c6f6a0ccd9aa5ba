"""Every figure of the study. Each function draws one figure from tensors or tables and returns it; captions are the
caller's."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

NORMAL, ANOMALOUS = "#2a6f97", "#c8553d"
WIDTH = 9.0  # inches; notebooks and report show figures at about this width


def set_style() -> None:
    """One look for all notebooks: seaborn's white grid, colour-blind palette, resolution fit for a web page."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {"figure.dpi": 72, "savefig.dpi": 110, "figure.constrained_layout.use": True, "image.interpolation": "nearest"}
    )


def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    masks: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """Images [N, 3, H, W] in [0, 1] as a grid, with the outline of masks [N, H, W] (bool) drawn where given."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    side = WIDTH / columns
    label_height = 0.28 if titles is not None else 0.05
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * (side + label_height) + (0.35 if title else 0)), squeeze=False
    )
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            _show(axis, images[i])
            if masks is not None:
                _outline(axis, masks[i])
            if titles is not None:
                axis.set_title(titles[i], fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def labelled_rows(
    rows: Mapping[str, Tensor],
    columns: Sequence[str] | None = None,
    cmap: str = "inferno",
    side: float | None = None,
    shared_scale: bool = False,
) -> Figure:
    """One row a name: images [N, 3, H, W] as they are, maps [N, H, W] in colour on one scale a row, masks (bool) in
    grey.

    ``columns`` [N] are titles above the first row. ``side`` : of a picture, inches; by default as large as fits. Below
    one inch the names stand upright beside their rows. ``shared_scale`` : one scale for the maps of all rows.
    """
    n = len(next(iter(rows.values())))
    side = min((WIDTH - 1.0) / n, 1.6) if side is None else side
    maps = [values for values in rows.values() if values.ndim == 3 and values.is_floating_point()]
    shared = (
        {"vmin": min(float(m.min()) for m in maps), "vmax": max(float(m.max()) for m in maps)}
        if shared_scale and maps
        else None
    )
    figure, axes = plt.subplots(len(rows), n, figsize=(1.0 + side * n, side * len(rows) + 0.3), squeeze=False)
    longest = max((len(line) for title in columns or () for line in title.split("\n")), default=1)
    title_size = min(8.0, 0.85 * side * 72 / (0.6 * longest))  # a letter is about 0.6 as wide as it is high
    for r, (name, values) in enumerate(rows.items()):
        is_map = values.ndim == 3 and values.is_floating_point()
        limits = (shared or {"vmin": float(values.min()), "vmax": float(values.max())}) if is_map else {}
        for c in range(n):
            axis = axes[r, c]
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if values.ndim == 4:
                _show(axis, values[c])
            else:
                picture = axis.imshow(values[c].numpy(), cmap=cmap if is_map else "gray", **limits)
            if c == 0:
                upright = {"rotation": 0, "ha": "right", "va": "center"} if side < 1 else {}
                axis.set_ylabel(
                    textwrap.fill(name, 18), fontsize=8, **upright
                )  # a prompt is longer than its row is high
            if r == 0 and columns is not None:
                axis.set_title(columns[c], fontsize=title_size)
        if is_map:
            figure.colorbar(picture, ax=axes[r, :], shrink=0.9, pad=0.01).ax.tick_params(labelsize=7)
    return figure


def strength_strips(
    images: Tensor, reconstructions: Tensor, masks: Tensor | None, strengths: Sequence[float], names: Sequence[str]
) -> Figure:
    """Two rows an image: it and its reconstructions over strength, and below its mask and the residuals |x - x_hat|.

    images [D, 3, H, W]; reconstructions [K, D, 3, H, W] for ``strengths`` [K] (0: the autoencoder alone); masks [D, H,
    W] bool or None; names [D]. All residuals are means over channels on one colour scale, up to their 99.8th
    percentile.
    """
    residuals = (reconstructions - images).abs().mean(dim=2)
    limit = float(np.quantile(residuals.numpy(), 0.998))
    side = WIDTH / (len(strengths) + 1.4)
    figure, axes = plt.subplots(
        2 * len(images), len(strengths) + 1, figsize=(WIDTH, 2 * len(images) * side + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for d, name in enumerate(names):
        picture_row, residual_row = axes[2 * d], axes[2 * d + 1]
        _show(picture_row[0], images[d])
        picture_row[0].set_ylabel(name, fontsize=8)
        residual_row[0].set_ylabel("mask, |x - x̂|" if masks is not None else "|x - x̂|", fontsize=8)
        if masks is None:
            residual_row[0].axis("off")
        else:
            residual_row[0].imshow(masks[d].numpy(), cmap="gray", vmin=0, vmax=1)
        for k in range(len(strengths)):
            _show(picture_row[k + 1], reconstructions[k, d])
            shown = residual_row[k + 1].imshow(residuals[k, d].numpy(), cmap="inferno", vmin=0, vmax=limit)
    for axis, title in zip(axes[0], ["x", *(f"x̂, {s:g}" if s else "x̂, VAE only" for s in strengths)], strict=True):
        axis.set_title(title, fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.5, pad=0.01, aspect=30, label="|x - x̂|, grey values").ax.tick_params(
        labelsize=7
    )
    return figure


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
    table: pd.DataFrame, x: str, curves: Mapping[str, str], xlabel: str, crossing: tuple[float, float] | None
) -> Figure:
    """Curves of ``table`` over ``x`` with bands, and where the first two cross.

    curves: name -> label; the table has columns ``<name>``, ``<name> low`` and ``<name> high``.
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


def alpha_curves(table: pd.DataFrame, floor: float | None = None) -> Figure:
    """Left: I-AUROC of the hybrid score over alpha, raw and calibrated. Right: what the squared error's weight comes
    to.

    ``table`` is `diagnostics.alpha_curve`'s, with columns low and high for the I-AUROC.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for (kind, part), colour in zip(table.groupby("kind", sort=False), (ANOMALOUS, NORMAL), strict=False):
        left.plot(part["alpha"], part["I-AUROC"], marker="o", color=colour, label=kind)
        left.fill_between(part["alpha"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
        right.plot(
            part["alpha"], part["effective_alpha"], color=colour, linestyle="--", label=f"{kind}: weight in equal units"
        )
        right.plot(part["alpha"], part["mse_share"], marker="o", color=colour, label=f"{kind}: share of the variance")
    if floor is not None:
        left.axhline(floor, color="grey", linestyle="--", linewidth=1.2, label="trivial floor")
    for axis in (left, right):
        axis.axvspan(0.3, 0.9, color="grey", alpha=0.08, linewidth=0)
        axis.set_xlabel("alpha (shaded: the slides' range)")
        axis.legend(fontsize=7)
    left.set_ylabel("I-AUROC")
    right.set(ylabel="of the squared error", ylim=(-0.05, 1.05))
    return figure


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
    floor: float | None = None,
    log_x: bool = False,
) -> Figure:
    """Lines of ``y`` over ``x`` by ``hue``, with the columns ``low`` and ``high`` as a band where the table has
    them."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for name, part in table.groupby(hue, sort=False):
        part = part.sort_values(x)
        (line,) = axis.plot(part[x], part[y], marker="o", label=str(name))
        if {"low", "high"} <= set(part):
            axis.fill_between(part[x], part["low"], part["high"], color=line.get_color(), alpha=0.15, linewidth=0)
    if floor is not None:
        axis.axhline(floor, color="grey", linestyle="--", linewidth=1.2, label="trivial floor")
    if log_x:
        ticks = sorted(table[x].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(title=hue, fontsize=8, title_fontsize=8)
    return figure


def panels_with_intervals(
    table: pd.DataFrame,
    x: str,
    panels: Mapping[str, str],
    xlabel: str,
    hue: str | None = None,
    floors: Mapping[str, float] | None = None,
    floor_label: str = "",
    columns: int = 4,
    lines: bool = True,
) -> Figure:
    """Small multiples: one panel a measure, the mean over ``x`` as points with intervals, joined by ``lines`` a
    ``hue``.

    panels : column of ``table`` -> what to call it; "<column> low" and "<column> high" are the interval's ends. x is
        taken as
    categories at equal distances, in order of appearance. floors : column -> value, a dashed line.
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
        if floors is not None and name in floors:
            axis.axhline(floors[name], color="grey", linestyle="--", linewidth=1.2, label=floor_label)
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


def _legend_beside(figure: Figure, axis, title: str) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, title=title, title_fontsize=8)


def method_scatter(
    table: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, front: pd.Series | None = None, log_x: bool = False
) -> Figure:
    """Methods as points of columns ``x`` and ``y``, one panel a place, with the intervals ``<name> low`` and ``high``
    that there are.

    ``front`` marks rows to join by a line (a Pareto front).
    """
    table = table.dropna(subset=[x, y])
    places = list(dict.fromkeys(table["place"]))
    styles = method_styles(table["method"])
    figure, axes = plt.subplots(1, len(places), figsize=(WIDTH, 3.9), squeeze=False, sharey=True)
    for axis, place in zip(axes[0], places, strict=True):
        part = table[table["place"] == place]
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
        axis.set(xlabel=xlabel, title=place)
    axes[0, 0].set_ylabel(ylabel)
    for name, style in styles.items():
        axes[0, 0].plot([], [], linestyle="", label=name, **style)
    _legend_beside(figure, axes[0, 0], "method")
    return figure


def _plain_ticks(axis) -> None:
    """Numbers instead of powers on a logarithmic axis, between decades too where it spans few of them."""
    low, high = axis.get_view_interval()
    decades = high / max(low, 1e-12)
    axis.set_major_locator(
        LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8) if decades < 5 else (1, 2, 5) if decades < 50 else (1,))
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _error(row: pd.Series, name: str):
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return None
    return [[max(row[name] - low, 0)], [max(high - row[name], 0)]]


def difference_matrix(pairs: pd.DataFrame, order: Sequence[str], title: str, label: str) -> Figure:
    """Row minus column of pairs (columns a, b, difference, low, high) in ``order``; a dot where the interval contains
    zero."""
    n = len(order)
    values, unclear = np.full((n, n), np.nan), np.zeros((n, n), dtype=bool)
    at = {name: i for i, name in enumerate(order)}
    for pair in pairs.itertuples():
        i, j = at[pair.a], at[pair.b]
        values[i, j], values[j, i] = pair.difference, -pair.difference
        unclear[i, j] = unclear[j, i] = pair.low <= 0 <= pair.high
    side = min(7.5, 2.2 + 0.36 * n)
    figure, axis = plt.subplots(figsize=(side + 1.2, side))
    limit = np.nanmax(np.abs(values)) if n > 1 else 1.0
    picture = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
    axis.scatter(*np.nonzero(unclear)[::-1], s=9, color="black")
    axis.set_xticks(range(n), order, rotation=90, fontsize=8)
    axis.set_yticks(range(n), order, fontsize=8)
    axis.grid(False)
    axis.set(xlabel="against", ylabel="method", title=title)
    figure.colorbar(picture, ax=axis, label=label, shrink=0.8)
    return figure


def recall_chart(table: pd.DataFrame) -> Figure:
    """Recall over the area of the defects (columns place, method, area, recall, low, high), one panel a place."""
    places, styles = list(dict.fromkeys(table["place"])), method_styles(table["method"])
    figure, axes = plt.subplots(1, len(places), figsize=(WIDTH, 3.8), squeeze=False, sharey=True)
    for axis, place in zip(axes[0], places, strict=True):
        for name, part in table[table["place"] == place].groupby("method"):
            axis.plot(part["area"], part["recall"], linewidth=1.2, markersize=5, **styles[name])
        axis.set(xscale="log", xlabel="median defect area, % of the image", title=place, ylim=(-0.03, 1.03))
        ticks = sorted(table.loc[table["place"] == place, "area"].unique())
        axis.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("share of defective images found")
    for name, style in styles.items():
        axes[0, 0].plot([], [], label=name, **style)
    _legend_beside(figure, axes[0, 0], "method")
    return figure


def cost_growth(table: pd.DataFrame, images: Sequence[int], by_size: pd.DataFrame | None = None) -> Figure:
    """Left: seconds for training and n images, from "training s" and "ms an image", averaged over places. Right:
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


def _time_over_size(axis, by_size: pd.DataFrame, styles: Mapping[str, dict]) -> None:
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
    """Average ranks (1 is best) on a line; bars join methods that Nemenyi's test does not tell apart at 5 %."""
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
    below.set_title("what is called a difference between methods (bar: median)", fontsize=9)
    below.set_xlabel(xlabel)
    for axis in (above, below):
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=0.02, linscale=1.0)
    reach = max([*effects["change"].abs(), 0.02]) * 1.3
    ticks = [t for t in (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if abs(t) <= reach]
    below.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
    below.set_xlim(-reach, reach)
    return figure


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
    """Defects (``bottleneck.survival_table``): size and contrast with survival as colour, and survival over contrast /
    floor.

    Left: area in percent of the image and contrast in grey values, both logarithmic; the noise floor, the median over
    defects of nearby area of what the reconstruction changes without any defect, is drawn in. Right: survival against
    the ratio of contrast and floor of each defect, with the running median.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.6))
    table = table.sort_values("area")
    area, ratio = 100 * table["area"], table["contrast"] / table["floor"]
    colour = dict(c=table["survival"], cmap="viridis", vmin=0, vmax=1)
    points = axes[0].scatter(area, table["contrast"], s=22, edgecolor="grey", linewidth=0.3, **colour)
    window = max(5, len(table) // 5)
    if planted := area.nunique() <= 10:  # a few sizes, many of each
        floor = table["floor"].groupby(area)
    else:
        floor = table["floor"].rolling(window, center=True, min_periods=3)
    sizes = np.unique(area) if planted else area
    axes[0].plot(sizes, floor.median(), color=ANOMALOUS, linewidth=1.8, label="noise floor (median)")
    band = floor.quantile(0.1), floor.quantile(0.9)
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
        xscale="log", xlabel="contrast of the defect / noise floor at its place", ylabel="survival (1: kept, 0: gone)"
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
    """Gain in dB by band of frequencies with its interval (``bottleneck.gain_table``), one group of points a band."""
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


def stage_times(milliseconds: Mapping[str, float]) -> Figure:
    """Time an image of each stage, as horizontal bars with the share of the whole."""
    figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.32 * len(milliseconds)))
    names, values = list(milliseconds), list(milliseconds.values())
    bars = axis.barh(names[::-1], values[::-1], color=NORMAL)
    axis.bar_label(bars, [f" {value / sum(values):.0%}" for value in values[::-1]], fontsize=8)
    axis.set(xlabel="milliseconds an image")
    axis.margins(x=0.12)
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


def captioned_strips(
    rows: Mapping[str, Tensor], columns: Sequence[str], captions: Mapping[str, Sequence[str]]
) -> Figure:
    """One row a name of images [N, 3, H, W], with ``columns`` [N] above the first row and ``captions[name]`` [N] under
    each image."""
    n = len(columns)
    side = WIDTH / n
    figure, axes = plt.subplots(len(rows), n, figsize=(WIDTH, len(rows) * (side + 0.3) + 0.3), squeeze=False)
    for r, (name, images) in enumerate(rows.items()):
        for c, axis in enumerate(axes[r]):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            _show(axis, images[c])
            axis.set_xlabel(captions[name][c], fontsize=7)
            if c == 0:
                axis.set_ylabel(name, fontsize=9)
            if r == 0:
                axis.set_title(columns[c], fontsize=9)
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


def _show(axis, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())


def _outline(axis, mask: Tensor) -> None:
    if bool(mask.any()):
        axis.contour(mask.float().numpy(), levels=[0.5], colors="#e63946", linewidths=1.0)
