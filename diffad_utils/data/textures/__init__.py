"""The embedded data set `textures`: drawn when asked for, each defective image with its defect-free twin.

`canvas` has the coordinates and noises to draw with, `surfaces` the defect-free scenes, `defects` what may be wrong
with them, `rendering` puts a sample together. What may be touched: a new surface or defect gets a function and a line
in `rendering.CATEGORIES`; whatever changes a pixel of the others needs new reference numbers.
"""

from diffad_utils.data.textures.rendering import (
    AREA,
    CATEGORIES,
    COLUMNS,
    DEFECTS,
    REFERENCE,
    SPECK,
    SPLITS,
    THRESHOLD,
    Key,
    Sample,
    camera,
    export,
    format_key,
    index,
    load_key,
    parse_key,
    reduce,
    render,
    stream,
    suitable,
)

__all__ = [
    "AREA",
    "CATEGORIES",
    "COLUMNS",
    "DEFECTS",
    "REFERENCE",
    "SPECK",
    "SPLITS",
    "THRESHOLD",
    "Key",
    "Sample",
    "camera",
    "export",
    "format_key",
    "index",
    "load_key",
    "parse_key",
    "reduce",
    "render",
    "stream",
    "suitable",
]
