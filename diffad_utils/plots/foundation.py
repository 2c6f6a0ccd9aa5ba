"""Figures of the shipped models, how they were trained and what they are worth (notebook 00)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAIR_OF_CHARTS = (12, 3.6)  # inches


def picture_rows(
    rows: Sequence[Sequence[np.ndarray]],
    size: tuple[float, float],
    *,
    titles: Sequence[Sequence[str]] = (),
    fontsize: float | str = "large",
    names: Sequence[str] = (),
    colours: Mapping[int, tuple[str, float]] | None = None,
) -> Figure:
    """Pictures in rows of equal length.

    Parameters
    ----------
    rows : pictures [H, W, 3], uint8 or in [0, 1], or [H, W].
    size : inches, width and height.
    titles : of each picture in the first row, or in as many rows as are given.
    names : one a row, left of it; upright, or along the picture's side where there are three rows at most.
    colours : number of a row of [H, W] pictures -> colour map, and the value that is brightest; 0 is darkest.
    """
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=size, squeeze=False)
    for number, (line, pictures) in enumerate(zip(axes, rows, strict=True)):
        cmap, largest = (colours or {}).get(number, (None, None))
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, cmap=cmap, vmin=0, vmax=largest)
            axis.set_axis_off()
    for line, texts in zip(axes, titles, strict=False):
        for axis, text in zip(line, texts, strict=True):
            axis.set_title(text, fontsize=fontsize)
    along = len(rows) <= 3
    for axis, pictures, name in zip(axes[:, 0], rows, names, strict=False):
        middle = len(pictures[0]) / 2
        axis.text(-8 if along else -10, middle, name, rotation=90 * along, ha="right", va="center")
    if len(titles) > 1:
        figure.tight_layout()
    return figure


def vae_training(records: Sequence[Mapping], quality: pd.DataFrame, after_crops: pd.DataFrame) -> Figure:
    """Loss of both stages, and PSNR by category.

    Parameters
    ----------
    records : of the crops and of the decoder: ``steps``, ``losses`` and ``settings`` with ``num_steps``.
    quality, after_crops : `foundation.quality.autoencoder_quality` after both stages and after the first.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=PAIR_OF_CHARTS)
    crops, decoder = records
    left.plot(crops["steps"], crops["losses"], label="crops")
    steps = crops["settings"]["num_steps"] + np.array(decoder["steps"])
    left.plot(steps, decoder["losses"], label="decoder at the sizes of use")
    left.set(xlabel="step", ylabel="training loss (squared error, range -1 to 1)", yscale="log")
    error = [quality["psnr"] - quality["low"], quality["high"] - quality["psnr"]]
    right.errorbar(quality["psnr"], quality["category"], xerr=error, fmt="o")
    right.plot(after_crops["psnr"], quality["category"], "x", label="after the crops alone")
    right.axvline(quality["psnr"].mean(), color="gray", linestyle="--", label="mean over categories")
    right.axvline(22, color="tab:red", linestyle=":", label="22 dB asked for")
    right.set(xlabel="PSNR of Dec(Enc(x)), dB")
    for axis in (left, right):
        axis.legend()
    return figure


def vae_sizes(sizes: Mapping[str, pd.DataFrame], statistics: pd.DataFrame) -> Figure:
    """PSNR and colour cast over the side of the picture, a line an entry of ``sizes``
    (`foundation.quality.autoencoder_by_size`); PSNR by category with the statistics of `statistics_of_tiles`."""
    figure, (psnr, cast, right) = plt.subplots(1, 3, figsize=(15, 3.6))
    for label, table in sizes.items():
        psnr.plot(table["size"], table["psnr"], "o-", label=label)
        cast.plot(table["size"], table["largest"], "o-", label=label)
    psnr.set(xlabel="side of the picture, pixels", ylabel="PSNR of Dec(Enc(x)), dB")
    cast.set(xlabel="side of the picture, pixels", ylabel="largest colour cast, grey levels")
    cast.axhline(1.5, color="tab:red", linestyle=":", label="1.5 asked for")
    for name, marker in (("whole", "o"), ("tiles", "s"), ("borrowed", "x")):
        right.plot(statistics[name], statistics["category"], marker, label=name)
    right.set(xlabel="PSNR of Dec(Enc(x)) after the crops alone, dB")
    for axis in (psnr, cast, right):
        axis.legend()
    return figure


def clip_training(record: Mapping, quality: pd.DataFrame) -> Figure:
    """Training loss, and zero-shot I-AUROC by category (`foundation.quality.clip_quality`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=PAIR_OF_CHARTS)
    left.plot(record["steps"], record["losses"])
    left.set(xlabel="step", ylabel="training loss (contrastive + marks), nats")
    auroc = quality["I-AUROC"]
    right.errorbar(auroc, quality["category"], xerr=[auroc - quality["low"], quality["high"] - auroc], fmt="o")
    right.axvline(auroc.mean(), color="gray", linestyle="--", label="mean over categories")
    right.axvline(0.75, color="tab:red", linestyle=":", label="0.75 asked for")
    right.axvline(0.5, color="black", linewidth=0.5)
    right.set(xlabel='zero-shot I-AUROC, "with a <defect>" against "flawless"')
    right.legend()
    return figure


def unet_training(record: Mapping) -> Figure:
    """Training loss of the UNet with its text encoder."""
    figure, axis = plt.subplots(figsize=(6, 3.2))
    axis.plot(record["steps"], record["losses"])
    axis.set(xlabel="step", ylabel="squared error of the noise", yscale="log")
    return figure


def strength_quality(sweep: pd.DataFrame, vae_psnr: float) -> Figure:
    """What image-to-image keeps over its strength (`foundation.quality.strength_sweep`), and the VAE's own PSNR, dB."""
    figure, (left, right) = plt.subplots(1, 2, figsize=PAIR_OF_CHARTS)
    error = [sweep["psnr"] - sweep["low"], sweep["high"] - sweep["psnr"]]
    left.errorbar(sweep["strength"], sweep["psnr"], error, fmt="o-", label="to the input")
    left.plot(sweep["strength"], sweep["psnr_to_vae"], "s--", label="to Dec(Enc(x))")
    left.axhline(vae_psnr, color="gray", linewidth=0.8, label="Dec(Enc(x)) to the input")
    left.set(xlabel="strength", ylabel="PSNR, dB")
    left.legend()
    right.plot(sweep["strength"], sweep["family_kept"], "o-", label="img2img: family still named rightly")
    right.set(xlabel="strength", ylim=(0, 1.05), ylabel="share of images")
    right.legend(loc="lower left")
    return figure


def backbone_training(terms: pd.DataFrame, validation: pd.DataFrame, strides: Sequence[int]) -> Figure:
    """Terms of the loss, a column each (mean of 50 steps, and on unseen pictures), and what is learnt.

    ``validation`` has a row a step: the terms, ``mark_auroc_<stride>`` and ``family_accuracy``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=PAIR_OF_CHARTS)
    for name in terms:
        (line,) = left.plot(terms[name].rolling(50, min_periods=1).mean(), label=name)
        left.plot(validation[name], "o", color=line.get_color(), markersize=4)
    left.set(xlabel="step", ylabel="loss term", yscale="log")
    for stride in strides:
        right.plot(validation[f"mark_auroc_{stride}"], "o-", label=f"marks, stride {stride}: pixel AUROC")
    right.plot(validation["family_accuracy"], "s--", color="gray", label="family: accuracy")
    right.set(xlabel="step", ylim=(0, 1))
    for axis in (left, right):
        axis.legend()
    return figure


def trained_and_random(table: pd.DataFrame, random_seeds: int) -> Figure:
    """I-AUROC of trained and random weights by data set, a panel a feature bank
    (`foundation.backbone_quality.compare`)."""
    banks = list(table.groupby("bank"))
    figure, axes = plt.subplots(1, len(banks), figsize=PAIR_OF_CHARTS, sharey=True, squeeze=False)
    for axis, (bank, part) in zip(axes[0], banks, strict=True):
        _trained_and_random(axis, part, random_seeds)
        axis.set_title(bank)
    axes[0, 0].set_ylabel("I-AUROC")
    axes[0, 0].legend()
    return figure


def _trained_and_random(axis: Axes, part: pd.DataFrame, random_seeds: int) -> None:
    position = np.arange(len(part))
    error = [part["trained"] - part["low"], part["high"] - part["trained"]]
    axis.errorbar(position - 0.1, part["trained"], error, fmt="o", label="trained")
    interval = [part["random"] - part["random_low"], part["random_high"] - part["random"]]
    label = f"random, {random_seeds} seeds"
    axis.errorbar(position + 0.1, part["random"], interval, fmt="s", color="gray", label=label)
    axis.axhline(0.5, color="black", linewidth=0.5)
    axis.set_xticks(position, part["set"], rotation=20)
