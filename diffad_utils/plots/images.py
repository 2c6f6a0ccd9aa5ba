"""Images, masks and maps in rows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from diffad_utils.plots.style import WIDTH


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


def border_maps(rows: Mapping[str, Mapping[int, Tensor]]) -> Figure:
    """A row a kind of padding, a column a stride: maps [h, w] of relative deviations, logarithmic, on one scale."""
    strides = list(next(iter(rows.values())))
    figure, axes = plt.subplots(len(rows), len(strides), figsize=(WIDTH * 0.75, 0.4 + 1.6 * len(rows)), squeeze=False)
    scale = LogNorm(vmin=1e-3, vmax=max(1e-2, *(float(m.max()) for maps in rows.values() for m in maps.values())))
    for r, (name, maps) in enumerate(rows.items()):
        for axis, (stride, deviation) in zip(axes[r], maps.items(), strict=True):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            shown = axis.imshow(deviation.clamp_min(1e-3).numpy(), norm=scale, cmap="inferno")
            if r == 0:
                axis.set_title(f"stride {stride}", fontsize=9)
        axes[r, 0].set_ylabel(name, fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01, label="relative deviation").ax.tick_params(labelsize=7)
    return figure


def _show(axis: Axes, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())


def _outline(axis: Axes, mask: Tensor) -> None:
    if bool(mask.any()):
        axis.contour(mask.float().numpy(), levels=[0.5], colors="#e63946", linewidths=1.0)
