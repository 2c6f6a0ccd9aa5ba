"""Pictures small enough for a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

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


def data_uri(path: Path) -> str:
    """A PNG file as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(small_png(Path(path).read_bytes())).decode("ascii")
