"""Pictures small enough for a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageStat

SEEN = 1.5  # grey levels of 255: the mean change of a picture below which fewer colours are not seen


def small_png(content: bytes, scale: float = 1.0, colours: int = 256) -> bytes:
    """A PNG with fewer colours where that makes it smaller (256: a third, for most figures), and ``scale`` times its
    width.

    With less than 256 ``colours``, a picture that they would change visibly, such as a photograph, stays as it is.
    """
    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    reduced = picture.quantize(colours, dither=Image.Dither.NONE)
    change = ImageStat.Stat(ImageChops.difference(picture, reduced.convert("RGB"))).mean
    if colours < 256 and max(change) > SEEN:
        return content
    small = io.BytesIO()
    reduced.save(small, "PNG", optimize=True)
    return small.getvalue() if scale < 1 else min(content, small.getvalue(), key=len)


def sprite_sheet(pictures: Any, columns: int, limit: int) -> bytes:
    """Pictures [N, 3, H, W] in [0, 1] (tensor or array) side by side in ``columns``, row by row, as one JPEG.

    Its quality is the highest of a few with which it has at most ``limit`` bytes. Raises ``ValueError`` if N is no
    multiple of ``columns``, or if even the lowest quality is larger than ``limit``.
    """
    values = np.asarray(pictures)
    n, channels, height, width = values.shape
    if n % columns:
        raise ValueError(f"{n} pictures do not fill rows of {columns}")
    grid = values.reshape(n // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    grey = (grid.clip(0, 1) * 255).round().astype(np.uint8)
    sheet = Image.fromarray(grey.reshape(n // columns * height, columns * width, channels))
    for quality in (90, 85, 80, 70, 60, 45, 30):
        small = io.BytesIO()
        sheet.save(small, "JPEG", quality=quality, optimize=True)
        if small.tell() <= limit:
            return small.getvalue()
    raise ValueError(f"{n} pictures of {width} x {height} need {small.tell()} bytes, more than {limit}: show fewer")


def data_uri(path: Path) -> str:
    """A PNG or JPEG (``.jpg``) file as a ``data:`` address."""
    content, kind = Path(path).read_bytes(), "jpeg" if Path(path).suffix == ".jpg" else "png"
    shown = content if kind == "jpeg" else small_png(content)
    return f"data:image/{kind};base64," + base64.b64encode(shown).decode("ascii")
