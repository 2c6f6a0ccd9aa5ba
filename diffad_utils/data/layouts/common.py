"""What every reader shares: the description of a data set, listing files safely, rows, seeded splits.

A reader lists what the layout promises and nothing else. It does not open images; it names the mask that
the layout calls for, whether or not the file is there, so that `load_index` can refuse it and `check` can
report it. Every path it gives lies inside the root: a symbolic link or a table entry that leads out of it is
refused, because the checksum and the licence of a data set end at its folder.

What may be touched: what is true of every data set belongs here; what is true of one, in its own file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
CC_BY_NC_SA = "CC BY-NC-SA 4.0"


class DataError(ValueError):
    """A data set on disk breaks a rule; the message names the file, the rule and what to do."""


class DataWarning(UserWarning):
    """Something about a data set that is read all the same, and what follows from it."""


@dataclass(frozen=True)
class Layout:
    """What is known about a data set before its files are seen.

    `recognises` decides whether a folder found by searching is this data set (strict: known names count);
    `fits` whether a folder the user named can be read as it (lenient: the tree's shape alone counts).
    """

    name: str
    title: str
    licence: str
    expected: str
    masks: str  # "yes", "no" or "some categories"
    recognises: Callable[[Path], bool]
    fits: Callable[[Path], bool]
    categories: Callable[[Path], list[str]]
    read: Callable[..., list[dict]]
    known_categories: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    published: dict[str, dict[str, int]] = field(default_factory=dict)  # {category: {group: images}}; see `by_split`
    published_by_defect: bool = False  # groups are defects, where the data set has no split of its own
    published_totals: dict[str, int] = field(default_factory=dict)  # {group: images} over all known categories
    mask_kind: str | None = None  # what grey levels of masks mean: "classes" or "soft" (see data.masks); None = look
    without_mask: frozenset[str] = frozenset()  # published anomalous images (stems) that are known to have no mask
    unused: dict[str, str] = field(default_factory=dict)  # folder below a category -> why its files are not read
    listed: bool = False  # a table in the data set names its files; else its folders do

    def folder_of(self, root: Path, category: str) -> Path:
        """The folder that holds the files of a category and of no other one."""
        return root / category if (root / category).is_dir() else root


# ---------------------------------------------------------------------------------------------- files


def inside(root: Path, path: Path) -> Path:
    """Return `path` unchanged if, with every symbolic link followed, it lies inside `root`.

    Raises DataError otherwise.
    """
    real_root, real_path = os.path.realpath(root), os.path.realpath(path)
    if real_path != real_root and not real_path.startswith(real_root.rstrip(os.sep) + os.sep):
        raise DataError(
            f"{path} leads out of the data set's folder {root} (to {real_path}). Links and table entries must stay "
            "inside it: copy the files in, or give the folder that really holds them as root."
        )
    return path


def as_on_disk(path: Path) -> Path:
    """`path`, or the file there whose ending has small letters for capitals or the reverse: 0000.jpg for 0000.JPG.

    Copies of data sets change endings while their tables keep them.
    """
    endings = (path.suffix, path.suffix.lower(), path.suffix.upper())
    return next((found for found in map(path.with_suffix, endings) if found.is_file()), path)


def below(root: Path, *parts: str) -> Path:
    """Join a path read from a table (CSV, JSON) to `root`, as `as_on_disk`; absolute paths and escapes raise
    DataError."""
    path = inside(root, root.joinpath(*(part.replace("\\", "/") for part in parts)))
    found = as_on_disk(path)
    return path if found == path else inside(root, found)


def read_text(path: Path) -> str:
    """Contents of a UTF-8 text file, a byte order mark left out. Raises DataError, naming the file, for other bytes."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's own: .DS_Store, ._000.png, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def _entries(folder: Path, root: Path) -> list[os.DirEntry]:
    if not folder.is_dir():
        return []
    inside(root, folder)
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink():
            inside(root, Path(entry.path))
    return entries


def list_images(folder: Path, root: Path) -> list[Path]:
    """Image files directly in `folder`, by name; hidden files are left out, other types too."""
    return [
        Path(entry.path)
        for entry in _entries(folder, root)
        if entry.name.lower().endswith(IMAGE_EXTENSIONS) and entry.is_file()
    ]


def list_folders(folder: Path, root: Path) -> list[Path]:
    """Folders directly in `folder`, by name; hidden ones are left out."""
    return [Path(entry.path) for entry in _entries(folder, root) if entry.is_dir()]


def child_folders(folder: Path) -> list[Path]:
    """Folders directly in `folder` while a data set is searched for: links are not judged, nothing is sorted, and a
    folder with very many files costs one look."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir()]


def sample_row(
    dataset: str,
    category: str,
    split: str,
    defect: str,
    image: Path,
    mask: Path | None = None,
    twin: Path | None = None,
) -> dict:
    return {
        "dataset": dataset,
        "category": category,
        "split": split,
        "label": int(defect != "good"),
        "defect": defect,
        "image": str(image),
        "mask": None if mask is None else str(mask),
        "twin": None if twin is None else str(twin),
    }


def mask_for(image: Path, folder: Path, masks: dict[str, Path], suffixes: Iterable[str] = ("_mask", "")) -> Path:
    """The mask of `image` among `masks` (stem -> file of `folder`); where there is none, the path it should have."""
    for suffix in suffixes:
        if image.stem + suffix in masks:
            return masks[image.stem + suffix]
    return folder / f"{image.stem}{next(iter(suffixes))}.png"


# fmt: off
_NORMAL = frozenset({
    "good", "goods", "ok", "okay", "io", "gut", "normal", "healthy", "intact", "undamaged", "flawless", "faultless",
    "perfect", "defectfree", "nodefect", "nodefects", "nondefect", "nondefective", "anomalyfree", "noanomaly",
    "nonanomalous", "notanomalous",
})
# fmt: on


def is_normal(name: str) -> bool:
    """Whether a folder's name says that its images are normal: good, OK, Normal, defect-free, ..."""
    return re.sub(r"[\W_]", "", name.lower()) in _NORMAL


_WORDS_OF_NORMAL = _NORMAL - {"io", "gut"}
_NEGATED = frozenset({"not", "no", "non", "un", "bad", "defect", "defective", "anomaly", "anomalous"})


def sounds_normal(name: str) -> bool:
    """Whether one word of a folder's name says normal and none says the contrary (good_ones, 000_good, ok-parts), so
    that it may hold normal images although `is_normal` does not take it for that."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    return not is_normal(name) and bool(words & _WORDS_OF_NORMAL) and not words & _NEGATED


_MASK = r"(?:masks?|gt|ground[_-]?truth|labels?|seg(?:mentation)?|anno(?:tations?)?)"
_MASK_SUFFIX = re.compile(rf"(?P<image>.+?)[ _.-]?{_MASK}", re.IGNORECASE)
_MASK_PREFIX = re.compile(rf"{_MASK}[ _.-](?P<image>.+)", re.IGNORECASE)
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


def split_masks(files: list[Path]) -> tuple[list[Path], dict[str, Path]]:
    """(images, {stem of an image: its mask}) of the files of one folder, where masks may lie beside the images.

    A mask has its image's name and "mask", "gt", "ground_truth", "label", "seg" or "annotation" after it or before it
    (`000_mask.png` beside `000.png`), or just its image's name where the image is a JPEG and the mask is lossless (as
    MTD and Real-IAD have it). A file whose name says mask but that has no image there is an image. Of several masks of
    one image the last by name counts, and the others are neither.
    """
    stems = {path.stem for path in files}
    jpegs = {path.stem for path in files if path.suffix.lower() in (".jpg", ".jpeg")}
    images, masks = [], {}
    for path in files:
        match = _MASK_SUFFIX.fullmatch(path.stem) or _MASK_PREFIX.fullmatch(path.stem)
        if match and match["image"] in stems and match["image"] != path.stem:
            masks[match["image"]] = path
        elif path.stem in jpegs and path.suffix.lower() in _LOSSLESS:
            masks[path.stem] = path
        else:
            images.append(path)
    return images, masks


# ---------------------------------------------------------------------------------------- seeded splits


def seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """Names in an order fixed by (seed, name) alone: SHA-256 ranks, so neither the file system's order, nor the
    other names, nor a library version changes how two names compare."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name))


def train_count(total: int, fraction: float) -> int:
    """How many of `total` images are `fraction` of them; at least one is left on each side where there are two."""
    if not 0 < fraction < 1:
        raise ValueError(f"train_fraction must lie between 0 and 1 (exclusive); got {fraction}")
    return min(max(round(fraction * total), 1), max(total - 1, 0))


def seeded_train(groups: dict[str, list], seed: int, count: int) -> set:
    """Members chosen for training: whole groups in seeded order, at most `count` members in all.

    groups maps a group's name to its members; a group that would overshoot is passed over for the next that fits.
    """
    chosen: set = set()
    for name in seeded_order(groups, seed):
        if len(chosen) + len(groups[name]) <= count:
            chosen.update(groups[name])
    return chosen


# ------------------------------------------------------------------------------------------------ registry


def any_category(is_category: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """Recogniser of a root: at least one folder in it is a category."""
    return lambda root: any(is_category(folder) for folder in child_folders(root))


def by_split(counts: dict[str, tuple[int, int, int]]) -> dict[str, dict[str, int]]:
    """{category: (train, test normal, test anomalous)} -> {category: {group: images}}, for `Layout.published`."""
    names = ("train", "test normal", "test anomalous")
    return {category: dict(zip(names, row, strict=True)) for category, row in counts.items()}
