"""What the files of a data set hold: each image and mask decoded once, for `check` and `validate`.

What may be touched: what is measured of a file. What follows from it is said in `check`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from diffad_utils.data.facts import Facts, facts_in
from diffad_utils.data.images import FULL_SCALE, WORKERS, content_digest, is_deep, open_image
from diffad_utils.data.layouts import DataError
from diffad_utils.data.masks import checked_mask

_EIGHT_NEIGHBOURS = np.ones((3, 3))
_TIFF_BITS = 258  # the tag BitsPerSample


def open_quickly(path: str | Path) -> tuple[int, int]:
    """Read a whole image file with as little decoding as proves it intact; returns (height, width).

    PNG: every chunk's checksum. JPEG: decoded at 1/8 scale. Others: decoded. Raises DataError naming the file.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("L", (max(1, width // 8), max(1, height // 8)))
                image.load()
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels ({error}); tile or downsize it first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable image, or truncated ({error})") from error
    return height, width


@dataclass(frozen=True)
class ImageContent:
    """height, width in pixels; bits: 8 or 16 a value (1 for two-level files, 32 for floats), as stored; low, high: its
    smallest and largest stored value (colours of 16 bits: of the upper 8 bits that are read); digest: see
    `images.content_digest`, "" for a picture of one colour, which cannot be told from another one; cut: whether it is a
    picture with 16 bits a colour, of which 8 are read."""

    height: int
    width: int
    bits: int
    low: float
    high: float
    digest: str
    cut: bool


def _is_cut(path: str, image: Image.Image) -> bool:
    """Whether a PNG or TIFF has 16 bits a colour channel (Pillow keeps the upper 8)."""
    if image.format == "TIFF":
        return image.mode in ("RGB", "RGBA", "RGBX") and max(image.tag_v2.get(_TIFF_BITS, (8,))) > 8
    with open(path, "rb") as file:
        header = file.read(26)
    return header[:8] == b"\x89PNG\r\n\x1a\n" and header[24] == 16 and header[25] in (2, 6)


def image_content(path: str) -> ImageContent:
    """Decode an image and measure it. Raises DataError, naming the file, if it cannot be read."""
    open_quickly(path)
    image = open_image(path)
    bits = {"1": 1, "F": 32}.get(image.mode, 16 if is_deep(image) else 8)
    bands = _extrema(image)
    low, high = min(low for low, _ in bands), max(high for _, high in bands)
    digest = "" if all(low == high for low, high in bands) else content_digest(image)
    return ImageContent(image.height, image.width, bits, low, high, digest, _is_cut(path, image))


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    """Smallest and largest value of each channel that is read (alpha is not)."""
    if is_deep(image) or image.mode in ("1", "F"):
        values = np.asarray(image)
        return [(float(values.min()), float(values.max()))]
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGBA").convert("RGB")
    found = image.getextrema()
    return [(float(low), float(high)) for low, high in (found if isinstance(found[0], tuple) else [found])]


@dataclass(frozen=True)
class MaskContent:
    """fault: why the mask is not usable or not to be believed, or None; share of the image that is set, in [0, 1];
    regions: sets of pixels connected through edges or corners."""

    fault: str | None
    share: float
    regions: int


def mask_content(mask: str, image: str, size: tuple[int, int], facts: Facts) -> MaskContent:
    """Decode a mask and measure it. Raises DataError as `masks.checked_mask`."""
    pixels, fault = checked_mask(mask, image, size, facts.mask_kind)
    values = pixels.numpy()
    return MaskContent(fault, float(values.mean()), int(ndimage.label(values, _EIGHT_NEIGHBOURS)[1]))


@dataclass(frozen=True)
class Contents:
    """images, masks: {path: what it holds} of the files that can be read; errors: (file, "unreadable", "range" or
    "mask", message) of the others. Files that are not there are left out."""

    images: dict[str, ImageContent]
    masks: dict[str, MaskContent]
    errors: list[tuple[str, str, str]]


def _without_path(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def _row_contents(row: Any, facts: Facts) -> Contents:
    found = Contents({}, {}, [])
    if not os.path.isfile(row.image):
        return found
    try:
        found.images[row.image] = image_content(row.image)
    except DataError as error:
        found.errors.append((row.image, "unreadable", _without_path(error, row.image)))
        return found
    measured = found.images[row.image]
    highest = 1 if measured.bits == 32 else FULL_SCALE
    if not 0 <= measured.low <= measured.high <= highest:
        message = (
            f"values from {measured.low:g} to {measured.high:g}; expected integers from 0 to {FULL_SCALE} or floats in "
            "[0, 1]: save it so"
        )
        found.errors.append((row.image, "range", message))
    size = measured.height, measured.width
    if isinstance(row.mask, str) and row.label and os.path.isfile(row.mask):
        try:
            found.masks[row.mask] = mask_content(row.mask, row.image, size, facts)
        except DataError as error:
            found.errors.append((row.mask, "mask", _without_path(error, row.mask)))
    if isinstance(row.twin, str) and os.path.isfile(row.twin):
        try:
            open_quickly(row.twin)
        except DataError as error:
            found.errors.append((row.twin, "unreadable", _without_path(error, row.twin)))
    return found


def contents(index: pd.DataFrame) -> Contents:
    """Decode every file of an index that is there. Rendered samples (textures) are skipped."""
    index = index[index["dataset"] != "textures"]
    facts = facts_in(index)
    rows = list(index.itertuples())
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(_row_contents, rows, [facts[f"{row.dataset}/{row.category}"] for row in rows]))
    together = Contents({}, {}, [])
    for part in parts:
        together.images.update(part.images)
        together.masks.update(part.masks)
        together.errors.extend(part.errors)
    return together


def copies_between_splits(index: pd.DataFrame, found: Contents | None = None) -> list[tuple[str, str]]:
    """(test image, training image) for every test image whose picture is also a training image of its category.

    Pictures are compared by their decoded pixels, so another name or another lossless format does not hide a copy.
    Pictures of one colour are not compared.
    Rendered samples (textures) are skipped: every one is drawn from a random stream of its own.
    found: from `contents`, where the files were decoded already.
    """
    found = contents(index) if found is None else found
    rows = [row for row in index.itertuples() if row.image in found.images and found.images[row.image].digest]
    train: dict[tuple, str] = {}
    for row in rows:
        if row.split == "train":
            train.setdefault((row.dataset, row.category, found.images[row.image].digest), row.image)
    keys: Iterable = ((row, (row.dataset, row.category, found.images[row.image].digest)) for row in rows)
    return [(row.image, train[key]) for row, key in keys if row.split == "test" and key in train]


def contradictions(index: pd.DataFrame, found: Contents) -> list[tuple[str, str]]:
    """(anomalous image, normal image) with the same picture, in any split of a category."""
    rows = [row for row in index.itertuples() if row.image in found.images and found.images[row.image].digest]
    normal = {(row.category, found.images[row.image].digest): row.image for row in rows if not row.label}
    keys = ((row, (row.category, found.images[row.image].digest)) for row in rows if row.label)
    return [(row.image, normal[key]) for row, key in keys if key in normal]
