"""Image files to tensors: every kind of file that people have, and which range its values have.

What may be touched: a kind of file that is not read yet. How values become [0, 1] is a rule of the whole study.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffad_utils.data.layouts import DataError

WORKERS = min(8, os.cpu_count() or 1)  # Pillow and zlib release the interpreter lock while they decode
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_DEEP_TYPES = (".png", ".tif", ".tiff")  # of the extensions read here, only these can hold more than 8 bits
_TIFF_MAXIMUM = 281  # the tag MaxSampleValue
_TIFF_PHOTOMETRIC = 262  # the tag PhotometricInterpretation; 0 is "white is zero"
FULL_SCALE = 65535


def open_image(path: str | Path) -> Image.Image:
    """Open and decode a file; anything wrong with it is a DataError that names it."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels ({error}); tile or downsize it first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable image, or truncated ({error})") from error
    if image.format == "TIFF":
        _check_tiff(path, image)
    return image


def _check_tiff(path: str | Path, image: Image.Image) -> None:
    """Refuse what Pillow would read as something else: a stack of pages, of which it takes the first, and deep grey
    values with white as zero, which it turns round for 8 bits only. A smaller second page is a preview."""
    if is_deep(image) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
        raise DataError(f"{path}: {image.mode} TIFF that stores white as zero; save it with black as zero (MinIsBlack)")
    size, pages = image.size, getattr(image, "n_frames", 1)
    same = 0
    for page in range(1, pages):
        image.seek(page)
        same += image.size == size
    if same:
        raise DataError(
            f"{path}: {pages} pages in one TIFF, {same + 1} of the same size; expected one image a file. Save the page "
            "that is meant under a name of its own"
        )
    if pages > 1:
        image.seek(0)
        image.load()


def is_deep(image: Image.Image) -> bool:
    """Whether an opened file holds grey values of more than 8 bits (integers)."""
    return image.mode in SIXTEEN_BIT or image.mode == "I"


def read_image(path: str | Path, full_scale: int = FULL_SCALE) -> torch.Tensor:
    """Image file -> float32 [3, H, W] in [0, 1].

    Grey images are repeated over the three channels, palettes looked up, alpha dropped (not blended: there is no
    background to blend with). 16-bit grey is divided by full_scale, everything else by 255; Pillow keeps the upper 8 of
    a 16-bit colour channel. EXIF rotation is not applied, as masks are drawn on the stored pixels.

    full_scale: the largest value that the camera could give; `grey_scale` finds it for a whole data set.

    Raises DataError, naming the file, if it is missing, truncated, no image, a float image outside [0, 1], an integer
    image above full_scale, or larger than Pillow's decompression bomb limit.
    """
    image = open_image(path)
    if is_deep(image) or image.mode == "F":
        values = np.asarray(image).astype(np.float32)
        values = values if image.mode == "F" else values / full_scale
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise DataError(
                f"{path}: {image.mode} image with values {values.min():g} to {values.max():g} after scaling; expected "
                f"integers from 0 to {full_scale} or floats in [0, 1]"
            )
        return torch.from_numpy(values)[None].repeat(3, 1, 1)
    # Palette entries may carry transparency; by way of RGBA Pillow drops it without a warning.
    image = image.convert("RGBA") if image.mode in ("P", "PA") else image
    values = np.array(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


# --------------------------------------------------------------------------------- range of deep grey values


def _scale_of_file(path: str) -> int | None:
    """Largest value that a deep grey file states (TIFF's MaxSampleValue) or else holds; None for other files."""
    try:
        with Image.open(path) as image:
            if not is_deep(image):
                return None
            stated = getattr(image, "tag_v2", {}).get(_TIFF_MAXIMUM)
            stated = int(stated[0] if isinstance(stated, tuple) else stated) if stated else 0
            return max(stated, int(np.asarray(image).max()))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None  # reading the file says what is wrong with it


def deep_maxima(paths: Iterable[str]) -> dict[str, int]:
    """{path: largest value stated or held} of those files that hold grey values of more than 8 bits."""
    paths = [path for path in paths if str(path).lower().endswith(_DEEP_TYPES)]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = dict(zip(paths, pool.map(_scale_of_file, paths), strict=True))
    return {path: value for path, value in found.items() if value is not None}


def grey_scale(largest: int) -> int:
    """Full scale of a camera whose largest value in a whole data set is `largest`: 2^n - 1 for the smallest of 8, 10,
    12, 14 and 16 bits that holds it. 4095 -> 4095, 3900 -> 4095, 200 -> 255, 40000 -> 65535."""
    return next((2**bits - 1 for bits in (8, 10, 12, 14) if largest < 2**bits), FULL_SCALE)


# --------------------------------------------------------------------------------------------------- content


def content_digest(image: Image.Image) -> str:
    """Checksum of a decoded picture's size and brightness: equal for copies under other names or in other lossless
    formats, and for a grey picture and its RGB version. Alpha counts for nothing, as it is not read."""
    if is_deep(image) or image.mode == "F":
        pixels = np.asarray(image).astype(np.float32).tobytes()
    else:
        rgb = image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA", "LA", "RGBA") else image
        pixels = rgb.convert("L").tobytes()
    return hashlib.sha256(f"{image.size}".encode() + pixels).hexdigest()
