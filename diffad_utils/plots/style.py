"""One look for all figures."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

NORMAL, ANOMALOUS = "#2a6f97", "#c8553d"
WIDTH = 9.0  # inches; notebooks and report show figures at about this width


def set_style() -> None:
    """One look for all notebooks: seaborn's white grid, colour-blind palette, resolution fit for a web page."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {"figure.dpi": 72, "savefig.dpi": 110, "figure.constrained_layout.use": True, "image.interpolation": "nearest"}
    )


def larger(figure: Figure) -> Figure:
    """Titles and numbers of small panels in a size that can be read at the page's width."""
    for axis in figure.axes:
        axis.tick_params(labelsize=9)
        for label in (axis.title, axis.xaxis.label):
            label.set_fontsize(10)
    return figure
