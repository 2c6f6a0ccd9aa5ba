"""A method against its controls."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata

from diffad_utils.plots.style import ANOMALOUS, NORMAL, WIDTH


def against_control(
    table: pd.DataFrame, control: Sequence[float], method: Sequence[float], labels: Sequence[int]
) -> Figure:
    """Left: I-AUROC of a method and its controls with intervals. Right: the two scores of each image, as ranks.

    Parameters
    ----------
    table : columns label, I-AUROC, low, high; the first row is on top, and a dotted line goes through its value.
    control, method : scores [N] of the right panel's axes. Ranks, since an I-AUROC depends on the order alone.
    labels : [N] in {0, 1}.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), width_ratios=(1.25, 1))
    rows = table.iloc[::-1]
    error = np.stack([rows["I-AUROC"] - rows["low"], rows["high"] - rows["I-AUROC"]]).clip(0)
    left.errorbar(rows["I-AUROC"], rows["label"], xerr=error, fmt="o", color=NORMAL, ecolor=NORMAL, capsize=3)
    left.axvline(table["I-AUROC"].iloc[0], color=NORMAL, linestyle=":", linewidth=1)
    left.axvline(0.5, color="grey", linestyle=":", linewidth=1)
    left.set(xlabel="I-AUROC (grey dots: chance)", ylim=(-0.6, len(rows) - 0.4))
    labels, ranks = np.asarray(labels), [rankdata(values) for values in (control, method)]
    for value, colour, name, marker in ((0, NORMAL, "normal", "o"), (1, ANOMALOUS, "anomalous", "^")):
        chosen = labels == value
        right.scatter(ranks[0][chosen], ranks[1][chosen], s=16, color=colour, marker=marker, alpha=0.7, label=name)
    right.plot([1, len(labels)], [1, len(labels)], color="grey", linewidth=1)
    right.set(xlabel="rank of an image without diffusion", ylabel="rank of an image by the method")
    right.legend(fontsize=8, loc="lower right")
    return figure
