"""Pictures small enough for a page."""

from __future__ import annotations

import io

from PIL import Image


def small_png(content: bytes, scale: float = 1.0, colours: int = 256) -> bytes:
    """A PNG with ``colours`` colours where that makes it smaller (256: a third, for most figures), and ``scale`` times its
    width."""
    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    small = io.BytesIO()
    picture.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue() if scale < 1 else min(content, small.getvalue(), key=len)
