"""Figures of scores, their variances and reverse processes (notebook 05)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffad_utils.plots.style import ANOMALOUS, NORMAL, WIDTH


def posterior_variance(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Signal, noise and what is left of the signal's variance, a row a noise level (`posterior_tables`).

    Left: densities of the signal and of X_t. Middle: mean of the signal given X_t with one standard deviation to each
    side. Right: that variance over X_t, with the noise, 1 - alpha_bar_t, dashed.
    """
    figure, axes = plt.subplots(len(tables), 3, figsize=(WIDTH, 2.3 * len(tables) + 0.3), squeeze=False)
    for row, (name, table) in zip(axes, tables.items(), strict=True):
        table = table[table["density"] > 1e-3 * table["density"].max()]
        x, mean, sigma = table["x"], table["mean"], np.sqrt(table["variance"])
        row[0].fill_between(x, table["signal density"], color=NORMAL, alpha=0.35, linewidth=0, label="signal")
        row[0].plot(x, table["density"], color="black", label="$X_t$: signal + noise")
        row[1].plot(x, x, color="grey", linestyle=":", linewidth=1, label="$X_t$ itself")
        row[1].plot(x, mean, color=NORMAL, label="mean given $X_t$")
        row[1].fill_between(
            x, mean - sigma, mean + sigma, color=NORMAL, alpha=0.25, linewidth=0, label="$\\pm\\,\\sigma_t$"
        )
        row[2].plot(x, table["variance"], color=ANOMALOUS, label="$\\sigma_t^2$: not known from $X_t$")
        row[2].axhline(
            table["noise"].iloc[0], color="black", linestyle="--", linewidth=1, label="$1-\\bar\\alpha_t$: noise added"
        )
        row[2].set_ylim(0, None)
        row[0].set_ylabel(f"{name}\ndensity")
        row[1].set_ylabel("signal")
        row[2].set_ylabel("variance")
    for above, below in zip(axes[0], axes[-1], strict=True):  # a legend over the curves would hide some
        above.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        below.set_xlabel("$X_t$")
    return figure


def objectives(table: pd.DataFrame) -> Figure:
    """The columns ESM and DSM of `printed_objectives` over b, a panel a power l, each on an axis of its own."""
    powers = sorted(table["l"].unique())
    figure, axes = plt.subplots(1, len(powers), figsize=(WIDTH, 2.7), squeeze=False)
    for axis, power in zip(axes[0], powers, strict=True):
        part = table[table["l"] == power]
        axis.plot(part["b"], part["ESM"], color=NORMAL, label="ESM$_l$")
        axis.plot(part["b"], part["DSM"], color=ANOMALOUS, linestyle="--", label="DSM$_l$")
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=f"l = {power}", xlabel="b")
    axes[0, 0].set_ylabel("expectation, as printed")
    axes[0, 0].legend(fontsize=8)
    return figure


def schedule_match(table: pd.DataFrame, points: Mapping[int, float]) -> Figure:
    """The columns of ``table`` over t, logarithmic, and the ``points`` {t: value} that are printed."""
    figure, axis = plt.subplots(figsize=(5.6, 3.2))
    for i, name in enumerate(table.columns.drop("t")):
        axis.plot(table["t"], table[name], label=name, linestyle=["-", "--", ":", "-."][i % 4])
    axis.plot([*points], [*points.values()], "o", color="black", label="printed")
    axis.set(xlabel="t", yscale="log", ylabel="variance of SGM")
    axis.legend(fontsize=8)
    return figure


def seed_differences(table: pd.DataFrame, reference: float = 0.0) -> Figure:
    """Differences with intervals, a panel a ``comparison``, a point a training ``seed``; columns effect, low, high."""
    names = list(dict.fromkeys(table["comparison"]))
    figure, axes = plt.subplots(1, len(names), figsize=(WIDTH, 2.5), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        part = table[table["comparison"] == name]
        error = np.stack([part["effect"] - part["low"], part["high"] - part["effect"]]).clip(0)
        axis.errorbar(range(len(part)), part["effect"], yerr=error, fmt="o", color=NORMAL, capsize=3)
        axis.axhline(reference, color="grey", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(part)), [str(seed) for seed in part["seed"]])
        axis.set(xlabel="seed of the training", xlim=(-0.5, len(part) - 0.5))
        axis.set_title(name, fontsize=9)
    axes[0, 0].set_ylabel("difference")
    return figure
