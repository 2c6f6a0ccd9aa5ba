"""Readers: from a folder in a data set's official layout to rows of the sample table. One file a data set.

To add a data set: one file with its reader, its published counts and a `LAYOUT`, its name in `_MODULES` here, and
`data/<name>/README.md`. `LAYOUTS` is the registry: {name: Layout}. A tree that two data sets could claim goes to the
first of them.
"""

from __future__ import annotations

from . import bmad, btad, elpv, folder, mpdd, mtd, mvtec_ad, mvtec_ad_2, real_iad, visa
from .common import (
    IMAGE_EXTENSIONS,
    DataError,
    DataWarning,
    Layout,
    is_normal,
    list_folders,
    list_images,
    seeded_order,
    seeded_train,
    sounds_normal,
)
from .mtd import MTD_TILE_GAP, mtd_tiles

_MODULES = (elpv, mvtec_ad, mvtec_ad_2, visa, btad, mpdd, mtd, real_iad, bmad, folder)

LAYOUTS: dict[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in _MODULES}

__all__ = [
    "IMAGE_EXTENSIONS",
    "LAYOUTS",
    "MTD_TILE_GAP",
    "DataError",
    "DataWarning",
    "Layout",
    "is_normal",
    "list_folders",
    "list_images",
    "mtd_tiles",
    "seeded_order",
    "seeded_train",
    "sounds_normal",
]
