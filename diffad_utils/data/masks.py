"""Mask files to boolean masks: what the grey levels of a mask mean, and whether a mask is usable at all.

Masks come in two kinds. In "classes", levels are numbers of defect classes (VisA: 1 to 9) and every pixel that is not
black is anomalous. In "soft", levels say how much of a pixel is anomalous (edges that were interpolated or drawn
smoothly, traces of a lossy format), and a pixel counts from half of full scale on, or from half of the mask's own
maximum where that is lower. Black and one other level is both. Which kind it is belongs to the data set
(`layouts.Layout.mask_kind`); where that is not known, the levels of its masks decide (`kind_of`).

What may be touched: `kind_of`, for data sets that nobody has met yet. Known data sets state theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from diffad_utils.data.images import open_image
from diffad_utils.data.layouts import DataError

KINDS = ("classes", "soft")
FEW = 16  # levels: no more than this many defect classes are expected in one data set
SMALL = 31  # class numbers are small; drawn levels use the scale
TRACE = 16  # of 255: darker than this, a soft mask holds traces of a lossy format and no defect
NEARLY_ALL = 0.9  # share of the image; a mask above it is suspected (and see `fault_of`)
SAMPLED = 24  # masks of a category that are looked at


@dataclass(frozen=True)
class Levels:
    """A mask as stored: values [H, W] (colours: the largest channel), its full scale, whether a lossy format (JPEG)
    wrote it, and whether colours are constant while transparency varies."""

    values: np.ndarray
    full_scale: float
    lossy: bool
    shape_in_alpha: bool


def read_levels(path: str | Path) -> Levels:
    """A mask file as stored, before its levels are given a meaning. Raises DataError, naming the file."""
    image = open_image(path)
    lossy = image.format == "JPEG" or (image.format == "WEBP" and image.mode in ("RGB", "RGBA"))
    shape_in_alpha = False
    if image.mode in ("P", "PA", "LA", "RGBA", "CMYK", "YCbCr"):
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        colours = np.asarray(image.convert("RGB"))
        shape_in_alpha = bool(alpha.min() < alpha.max()) and len(np.unique(colours.reshape(-1, 3), axis=0)) == 1
        image = image.convert("RGB")
    values = np.asarray(image)
    values = values.max(axis=2) if values.ndim == 3 else values
    if values.dtype.kind == "f":
        full_scale = 1.0 if values.max(initial=0) <= 1 else 255.0
    else:
        full_scale = 1.0 if values.dtype == bool else (255.0 if values.max(initial=0) <= 255 else 65535.0)
    return Levels(values, full_scale, lossy, shape_in_alpha)


def _levels_in(values: np.ndarray) -> set:
    """Levels that occur, black aside."""
    if values.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()) - {0}
    return set(np.unique(values).tolist()) - {0}


def _solid(values: np.ndarray) -> set:
    """Levels that somewhere fill a square of 3 x 3 pixels. An interpolated edge is thinner; a class is not."""
    same = ndimage.minimum_filter(values, 3, mode="nearest") == ndimage.maximum_filter(values, 3, mode="nearest")
    return _levels_in(values[same])


def kind_of(masks: Sequence[Levels]) -> str | None:
    """The kind of some masks of one data set, from their levels: "classes", "soft", or None where all of them are
    black and one other level, so that both kinds agree.

    - Any lossy or float mask: soft.
    - Few levels (16 at most) and each fills an area somewhere: classes, drawn with any levels. The largest may be thin,
      as some draw a line around each defect (255, "void").
    - Few levels, all small numbers (up to 31): classes, unless most levels between 0 and the largest are only as thin
      as an edge.
    - Anything else is soft: interpolation and lossy formats leave many levels, most of them thin.
    """
    present = [m for m in masks if m.values.any()]
    if any(m.lossy or m.values.dtype.kind == "f" for m in present):
        return "soft"
    levels = set().union(*(_levels_in(m.values) for m in present))
    if len(levels) <= 1:
        return None
    if len(levels) > FEW:
        return "soft"
    solid = set().union(*(_solid(m.values) for m in present))
    thin = levels - solid - {max(levels)}
    if levels - {max(levels)} <= solid or (
        max(levels) <= SMALL and not (len(thin) >= 3 and 2 * len(thin) > len(levels))
    ):
        return "classes"
    return "soft"


def binarise(levels: Levels, kind: str | None = None) -> np.ndarray:
    """Bool mask [H, W] of a mask as stored. kind: "classes" or "soft"; None decides from this mask alone."""
    kind = kind or kind_of([levels]) or ("soft" if levels.lossy else "classes")
    values = levels.values
    if kind == "classes":
        return values != 0
    largest = values.max(initial=0)
    if largest < TRACE / 255 * min(levels.full_scale, 255.0):
        return np.zeros(values.shape, bool)
    return values >= min(levels.full_scale, float(largest)) / 2


def read_mask(path: str | Path, kind: str | None = None) -> torch.Tensor:
    """Mask file -> bool [H, W], True where anomalous.

    kind: what its levels mean, "classes" or "soft" (see the head of this file); None decides from this file's levels.
    Palettes are looked up, of colours the largest channel counts, alpha is ignored.
    Raises DataError, naming the file, if it cannot be read.
    """
    return torch.from_numpy(np.ascontiguousarray(binarise(read_levels(path), kind)))


def sampled_kind(paths: Sequence[str]) -> str | None:
    """`kind_of` SAMPLED masks, evenly taken from all of them; files that cannot be read are left out."""
    chosen = [paths[i] for i in sorted({round(i) for i in np.linspace(0, len(paths) - 1, min(SAMPLED, len(paths)))})]
    found = []
    for path in chosen:
        try:
            found.append(read_levels(path))
        except DataError:
            continue  # reading it for a sample, and `check`, say what is wrong with it
    return kind_of(found)


# ------------------------------------------------------------------------------------------------- faults


def _is_picture(values: np.ndarray) -> bool:
    """Whether most pixels have levels between black and the largest one, and more levels than classes would have."""
    between = (values > 0.1 * values.max()) & (values < 0.9 * values.max())
    return bool(between.mean() > 0.5) and len(np.unique(values)) > FEW


def fault_of(levels: Levels, mask: np.ndarray) -> str | None:
    """Why a mask cannot be used, or is not to be believed; None where nothing is wrong."""
    if levels.shape_in_alpha:
        return (
            "its colours are the same everywhere and the shape is in its transparency, which is not read; save the "
            "alpha channel as the mask"
        )
    if not mask.any():
        traces = int(np.count_nonzero(levels.values))
        return "mask is empty (no pixel is set)" + (f", but for {traces} pixels of almost black" if traces else "")
    if _is_picture(levels.values):
        return "most of it is neither black nor bright; is it a picture, or a heat map, and no mask?"
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if mask.mean() > NEARLY_ALL or border.all() or (mask.mean() > 0.6 and border.mean() > 2 / 3):
        return f"mask covers {100 * mask.mean():.0f} % of the image; is it drawn the other way round?"
    return None


def checked_mask(
    mask_path: str, image_path: str, image_size: tuple[int, int], kind: str | None = None
) -> tuple[torch.Tensor, str | None]:
    """(bool mask [H, W], why it is not usable or not to be believed, or None): `read_mask` with `fault_of`.

    Raises DataError for a file that cannot be read, or whose size is not image_size (height, width).
    """
    levels = read_levels(mask_path)
    if levels.values.shape != tuple(image_size):
        height, width = levels.values.shape
        raise DataError(
            f"{mask_path}: mask is {width} x {height} (width x height) but its image {image_path} is "
            f"{image_size[1]} x {image_size[0]}; they must be equal"
        )
    mask = binarise(levels, kind)
    fault = fault_of(levels, mask)
    if levels.shape_in_alpha:
        mask = np.zeros_like(mask)
    return torch.from_numpy(np.ascontiguousarray(mask)), fault
