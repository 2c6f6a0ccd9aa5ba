"""VisA (Zou et al., ECCV 2022): its own table of files, or the tree it is often converted to.

Its masks hold numbers of defect classes. What may be touched: another table that the authors publish.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .common import DataError, Layout, any_category, as_on_disk, below, by_split, inside, read_text, sample_row
from .mvtec_like import all_known, is_mvtec_category, mvtec_categories, read_mvtec_tree

VISA_CATEGORIES = (
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
)
# (train, test normal, test anomalous): Zou et al., one-class split of split_csv/1cls.csv (8,659 + 962 + 1,200).
_PUBLISHED = {
    "candle": (900, 100, 100),
    "capsules": (542, 60, 100),
    "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100),
    "fryum": (450, 50, 100),
    "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100),
    "pcb1": (904, 100, 100),
    "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100),
    "pcb4": (904, 101, 100),
    "pipe_fryum": (450, 50, 100),
}


def _visa_csv(root: Path) -> Path:
    return root / "split_csv" / "1cls.csv"


def _visa_table(root: Path) -> list[dict[str, str]]:
    path = inside(root, _visa_csv(root))
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        columns, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV table ({error})") from error
    missing = {"object", "split", "label", "image", "mask"} - set(columns)
    if missing:
        raise DataError(
            f"{path}: columns object, split, label, image, mask, separated by commas, expected; missing "
            f"{sorted(missing)}, got {columns}"
        )
    return rows


def _visa_categories(root: Path) -> list[str]:
    if _visa_csv(root).is_file():  # a category whose images are not there is none
        return sorted({line["object"] for line in _visa_table(root) if as_on_disk(root / line["image"]).is_file()})
    return mvtec_categories(root)


def _read_visa(root: Path, category: str, *, seed: int) -> list[dict]:
    if not _visa_csv(root).is_file():
        return read_mvtec_tree("visa", root, root / category, category)
    rows = []
    for number, line in enumerate(_visa_table(root), start=2):
        if line["object"] != category:
            continue
        if line["split"] not in ("train", "test") or line["label"] not in ("normal", "anomaly"):
            raise DataError(
                f"{_visa_csv(root)}, line {number}: split must be train or test and label normal or anomaly; got "
                f"split {line['split']!r}, label {line['label']!r}"
            )
        mask = below(root, line["mask"]) if line["mask"] else None
        defect = "good" if line["label"] == "normal" else "bad"
        image = below(root, line["image"])
        rows.append(sample_row("visa", category, line["split"], defect, image, mask if defect == "bad" else None))
    return rows


LAYOUT = Layout(
    name="visa",
    title="VisA",
    licence="CC BY 4.0",
    expected=(
        "split_csv/1cls.csv (columns object, split, label, image, mask) beside the category folders, or the "
        "converted tree <category>/{train/good,test/good,test/bad,ground_truth/bad}"
    ),
    masks="yes",
    recognises=lambda root: _visa_csv(root).is_file() or all_known(VISA_CATEGORIES)(root),
    fits=lambda root: _visa_csv(root).is_file() or any_category(is_mvtec_category)(root),
    categories=_visa_categories,
    read=_read_visa,
    known_categories=VISA_CATEGORIES,
    mask_kind="classes",
    listed=True,
    published=by_split(_PUBLISHED),
)
