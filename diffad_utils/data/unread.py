"""What lies in a data set's folder and is not read: counted a folder and type, so that nothing is dropped silently.

What may be touched: which types of files are worth a word. Folders that a data set has and that are left out on
purpose are stated in its layout (`Layout.unused`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from diffad_utils.data.layouts import IMAGE_EXTENSIONS, Layout, is_normal
from diffad_utils.data.layouts.common import is_hidden, split_masks
from diffad_utils.data.layouts.mvtec_like import is_mask_folder

#: Types of pictures and volumes that people have and no reader here takes.
OTHER_PICTURES = (
    ".avif",
    ".dcm",
    ".exr",
    ".gif",
    ".heic",
    ".jp2",
    ".nii",
    ".npy",
    ".npz",
    ".pgm",
    ".ppm",
    ".raw",
    ".tga",
)


MANY = 5  # folders side by side; more of them are named by the folder around them


class Unread(NamedTuple):
    """Pictures of one type in one folder that no reader took: how many, why, and whether the layout says so."""

    folder: str
    suffix: str
    count: int
    why: str
    known: bool


def _is_picture(file: str) -> bool:
    return file.lower().endswith((*IMAGE_EXTENSIONS, *OTHER_PICTURES)) and not file.startswith(".")


def _is_mask_of_normal(parts: tuple[str, ...]) -> bool:
    """Whether a file lies in a folder of (black) masks for normal images, such as ground_truth/good."""
    return any(is_mask_folder(part) for part in parts) and any(is_normal(part) for part in parts)


def _pictures(scanned: Path, used: Iterable[str]) -> Iterator[tuple[Path, bool]]:
    """(picture that is not in `used`, whether it is the mask of a normal image) below the folder `scanned`."""
    scanned = Path(os.path.abspath(scanned))  # without "..", which `Path.absolute` keeps
    used = {os.path.abspath(path) for path in used}
    for folder, names, files in os.walk(scanned):
        names[:] = sorted(name for name in names if not is_hidden(name))
        parts = Path(folder).relative_to(scanned).parts
        pictures = [Path(folder, file) for file in sorted(files) if _is_picture(file)]
        images_read = {path.stem for path in pictures if str(path) in used}
        masks = {mask for stem, mask in split_masks(pictures)[1].items() if stem in images_read}
        for path in pictures:
            if str(path) not in used:
                yield path, path in masks or _is_mask_of_normal(parts)


def masks_of_normal(scanned: Path, used: Iterable[str]) -> list[Path]:
    """Files below `scanned` that are taken as masks of normal images, and so not read: they should be black."""
    return [path for path, is_mask in _pictures(scanned, used) if is_mask]


def unread_files(layout: Layout, scanned: Path, used: Iterable[str]) -> list[Unread]:
    """Pictures below the folder `scanned` that are not in `used` (paths of images, masks and twins), by folder.

    scanned: the folder of a category (`Layout.folder_of`), or the data set's root. Masks of normal images count as
    read. Links to folders are not followed.
    """
    counts: Counter = Counter()
    for path, is_mask in _pictures(scanned, used):
        if not is_mask:
            parts = path.parent.relative_to(os.path.abspath(scanned)).parts
            counts[str(scanned.joinpath(*parts)), parts, path.suffix.lower()] += 1
    return [_unread(layout, *where, count) for where, count in sorted(_siblings_together(counts).items())]


def _siblings_together(counts: Counter) -> Counter:
    """Counts with more than MANY folders of one parent and type put together under the parent."""
    siblings = Counter((parts[:-1], suffix) for _, parts, suffix in counts)
    merged: Counter = Counter()
    for (folder, parts, suffix), count in counts.items():
        together = bool(parts) and siblings[parts[:-1], suffix] > MANY
        merged[(os.path.dirname(folder), parts[:-1], suffix) if together else (folder, parts, suffix)] += count
    return merged


def _unread(layout: Layout, folder: str, parts: tuple[str, ...], suffix: str, count: int) -> Unread:
    for part in parts[:2]:  # the first is the category where a whole data set is scanned
        if part in layout.unused:
            return Unread(folder, suffix, count, layout.unused[part], True)
    convert = "a type of file that is not read here; convert it to PNG or TIFF"
    return Unread(folder, suffix, count, convert if suffix in OTHER_PICTURES else f"expected {layout.expected}", False)
