"""Is a data set complete and readable? Counts against the published totals, every file opened, every mask paired."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from diffad_utils.data.index import find_root, load_index, missing_files, read_rows, unknown_name
from diffad_utils.data.layouts import LAYOUTS, DataError, Layout, list_images
from diffad_utils.data.loading import ImageDataset, checked_mask

WORKERS = min(8, os.cpu_count() or 1)  # Pillow and zlib release the interpreter lock while they decode


@dataclass(frozen=True)
class Problem:
    """One thing wrong. rule is "layout" (cannot be read as this data set), "count", "missing" (a file that
    is listed or called for), "unreadable", "mask" (unreadable, empty, wrong size) or "orphan" (mask of no image)."""

    file: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: [{self.rule}] {self.message}"


# ---------------------------------------------------------------------------------------- published totals


def published_counts(dataset: str) -> dict[str, dict[str, int]]:
    """{category: {group: number of images}} where published; groups are splits ("train", "test normal", "test
    anomalous") or, where the data set has no split of its own, defects. Empty for the other data sets."""
    return LAYOUTS[dataset].published if dataset in LAYOUTS else {}


def _groups(rows: pd.DataFrame, by_defect: bool) -> Counter:
    if by_defect:
        return Counter(rows["defect"])
    return Counter(
        "train" if row.split == "train" else ("test anomalous" if row.label else "test normal")
        for row in rows.itertuples()
    )


def count_problems(dataset: str, index: pd.DataFrame, root: str | Path) -> list[Problem]:
    """Differences between the index and the published numbers: missing categories, and counts a category and group."""
    problems = []
    for category, expected in published_counts(dataset).items():
        rows = index[index["category"] == category]
        if len(rows) == 0:
            total = sum(expected.values())
            problems.append(Problem(str(root), "count", f"category {category} is missing ({total} images expected)"))
            continue
        found = _groups(rows, LAYOUTS[dataset].published_by_defect)
        for group in [*expected, *sorted(set(found) - set(expected))]:
            if found[group] != expected.get(group, 0):
                what = f"category {category}, {group}: {found[group]} images, {expected.get(group, 0)} expected"
                problems.append(Problem(str(root), "count", what))
    if LAYOUTS[dataset].published_totals:
        problems += _total_problems(LAYOUTS[dataset], index, root)
    return problems


def _total_problems(layout: Layout, index: pd.DataFrame, root: str | Path) -> list[Problem]:
    absent = sorted(set(layout.known_categories) - set(index["category"]))
    if absent:
        return [Problem(str(root), "count", f"category {category} is missing") for category in absent]
    found = _groups(index, by_defect=False)
    return [
        Problem(str(root), "count", f"{group}: {found[group]} images, {expected} expected")
        for group, expected in layout.published_totals.items()
        if found[group] != expected
    ]


# ------------------------------------------------------------------------------------------------- files


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


def _without_path(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def _row_problems(row) -> list[Problem]:
    problems = []
    if not os.path.isfile(row.image):
        return problems  # reported by missing_files
    try:
        size = open_quickly(row.image)
    except DataError as error:
        return [Problem(row.image, "unreadable", _without_path(error, row.image))]
    if isinstance(row.mask, str) and row.label and os.path.isfile(row.mask):
        try:
            checked_mask(row.mask, row.image, size)
        except DataError as error:
            problems.append(Problem(row.mask, "mask", _without_path(error, row.mask)))
    if isinstance(row.twin, str) and os.path.isfile(row.twin):
        try:
            open_quickly(row.twin)
        except DataError as error:
            problems.append(Problem(row.twin, "unreadable", _without_path(error, row.twin)))
    return problems


def file_problems(index: pd.DataFrame) -> list[Problem]:
    """Open every file of an index: missing files, unreadable or truncated ones, masks that are empty or of another
    size than their image. Rendered samples (textures) are skipped."""
    on_disk = index[index["dataset"] != "textures"]
    problems = [Problem(file, "missing", message) for file, message in missing_files(on_disk)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(_row_problems, on_disk.itertuples()):
            problems += found
    return problems


def validate(index: pd.DataFrame) -> None:
    """Open all files of an index before anything is trained on them.

    Raises DataError (a ValueError) that lists the first ten problems by file and rule, and how many there are; and
    ValueError for an index without rows.
    """
    if len(index) == 0:
        raise ValueError("index has zero images; did a filter leave nothing?")
    problems = file_problems(index)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(f"{len(problems)} problem(s) in the data:\n{listed}{more}")


_MASK_FOLDERS = ("mvtec_ad", "mpdd", "visa", "btad", "mtd", "folder")


def orphan_problems(index: pd.DataFrame, root: Path) -> list[Problem]:
    """Mask files that belong to no image, in the folders where masks were expected."""
    used = {os.path.realpath(path) for path in [*index["image"], *index["mask"].dropna()]}
    problems = []
    for folder in sorted({os.path.dirname(mask) for mask in index["mask"].dropna()}):
        for path in list_images(Path(folder), root):
            if os.path.realpath(path) not in used:
                problems.append(Problem(str(path), "orphan", "mask without an image of that name"))
    return problems


# ------------------------------------------------------------------------------------------------- check


def _unpaired_problems(dataset: str, index: pd.DataFrame) -> list[Problem]:
    """Anomalous images for which the data set's own table names no mask (only where it promises masks)."""
    if LAYOUTS[dataset].masks != "yes":
        return []
    bare = index[(index["label"] == 1) & index["mask"].isna()]
    message = "anomalous image without a mask in the data set's table"
    return [Problem(image, "missing", message) for image in bare["image"]]


def _read_tolerantly(dataset: str, root: Path) -> tuple[pd.DataFrame | None, list[Problem]]:
    """Rows of every category that can be read, and a problem for each that cannot."""
    options = {"uncertain": True} if dataset == "elpv" else {}
    try:
        names = sorted(LAYOUTS[dataset].categories(root))
    except DataError as error:
        return None, [Problem(str(root), "layout", str(error))]
    tables, problems = [], []
    for name in names:
        try:
            tables.append(read_rows(dataset, root, name, **options))
        except DataError as error:
            problems.append(Problem(str(root / name), "layout", str(error)))
    return (pd.concat(tables, ignore_index=True) if tables else None), problems


def _textures_problems() -> list[Problem]:
    """Render one sample of every category and defect, small; nothing is on disk that could be missing."""
    index = load_index("textures").drop_duplicates(["category", "split", "defect"])
    samples = ImageDataset(index, 64, cache=False)
    problems = []
    for i in range(len(samples)):
        sample = samples[i]
        image, mask = sample["image"], sample["mask"]
        if not (image.isfinite().all() and image.min() >= 0 and image.max() <= 1):
            problems.append(Problem(sample["key"], "unreadable", "rendered values are not finite or not in [0, 1]"))
        if bool(mask.any()) != bool(sample["label"]):
            problems.append(Problem(sample["key"], "mask", "mask does not agree with the label"))
    return problems


def check(dataset: str, root: str | os.PathLike | None = None) -> list[Problem]:
    """List what is wrong with a data set on disk; an empty list means it is complete and sound.

    Compares the number of images with the published ones (`published_counts`), opens every file, pairs every
    anomalous image with its mask (same size, not empty) and every mask with its image, where the data set has masks.
    textures are not on disk: one sample of every category and defect is rendered.

    Raises ValueError for an unknown data set or a root in another layout, FileNotFoundError if none is found.
    """
    if dataset == "textures":
        return _textures_problems()
    if dataset not in LAYOUTS:
        raise ValueError(unknown_name("data set", dataset, ("textures", *LAYOUTS)))
    folder = find_root(dataset, root)
    index, problems = _read_tolerantly(dataset, folder)
    if index is None:
        return problems or [Problem(str(folder), "layout", f"no images; expected {LAYOUTS[dataset].expected}")]
    problems += count_problems(dataset, index, folder)
    problems += file_problems(index)
    problems += _unpaired_problems(dataset, index)
    if dataset in _MASK_FOLDERS:
        problems += orphan_problems(index, folder)
    return problems
