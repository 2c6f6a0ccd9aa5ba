"""Data sets: tables of samples (`load_index`), tensors (`ImageDataset`), and checks before anything is trained.

`layouts` knows the data sets, `index` finds and lists their files, `images` and `masks` read them, `loading` makes
samples of them, `check` says what is wrong. What may be touched: nothing that changes a pixel or a label of a data set
that is read already, without new reference numbers.
"""

from diffad_utils.data.check import Problem, Report, check, limits, report, require_both_classes, summary, validate
from diffad_utils.data.contents import contents, copies_between_splits
from diffad_utils.data.images import read_image
from diffad_utils.data.index import (
    DATASETS,
    categories,
    category_names,
    describe,
    find_root,
    load_index,
    resolve_category,
)
from diffad_utils.data.layouts import DataError, DataWarning
from diffad_utils.data.loading import ImageDataset, collate, load_batch, resize_mask
from diffad_utils.data.masks import read_mask
from diffad_utils.data.rows import sample_key
from diffad_utils.data.textures import export as export_textures

__all__ = [
    "DATASETS",
    "DataError",
    "DataWarning",
    "ImageDataset",
    "Problem",
    "Report",
    "categories",
    "category_names",
    "check",
    "collate",
    "contents",
    "copies_between_splits",
    "describe",
    "export_textures",
    "find_root",
    "limits",
    "load_batch",
    "load_index",
    "read_image",
    "read_mask",
    "report",
    "require_both_classes",
    "resize_mask",
    "resolve_category",
    "sample_key",
    "summary",
    "validate",
]
