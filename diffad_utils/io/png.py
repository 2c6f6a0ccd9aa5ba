"""Pictures small enough for a page."""

from __future__ import annotations

import io

from PIL import Image


def small_png(content: bytes, scale: float = 1.0) -> bytes:
    """A PNG with 256 colours where that makes it smaller (a third, for most figures), and ``scale`` times its width."""
    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    small = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue() if scale < 1 else min(content, small.getvalue(), key=len)
