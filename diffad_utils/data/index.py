"""Sample tables: which files make up a data set, where they were found, which split and defect they belong to.

Every reader passes through `load_index`, so what is true of all data sets is said here: masks that are not there, files
that are not read, kind of masks and range of greys (`facts`). What may be touched: the search for folders, as places
change; the columns of the table are fixed.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from diffad_utils.data import textures
from diffad_utils.data.facts import note_facts
from diffad_utils.data.layouts import LAYOUTS, DataError, DataWarning, Layout
from diffad_utils.data.layouts.common import is_hidden
from diffad_utils.data.rows import doubtful_labels, missing_files, missing_masks, repeated_keys
from diffad_utils.data.unread import unread_files
from diffad_utils.io import paths
from diffad_utils.io.messages import did_you_mean

COLUMNS = ["dataset", "category", "split", "label", "defect", "image", "mask", "twin"]
DATASETS = ("textures", *LAYOUTS)

# Where data sets are looked for after the argument and $DIFFAD_DATA; module attributes, so tests can move them.
REPOSITORY_DATA = paths.repository() / "data"
KAGGLE_INPUT = paths.KAGGLE / "input"
KAGGLE_DEPTH = 6  # /kaggle/input/<slug>/<folder>/... ; newer sessions add datasets/<owner>/ in front
ROOT_DEPTH = 2  # below a folder that the user names
KAGGLE_FOLDERS = 30_000  # folders looked at, so that an input with very many cannot stall the search for good


def unknown_name(what: str, got: str, known: Iterable[str]) -> str:
    """Message for a name that is not known: the known ones, and the closest of them if one is close."""
    known = list(known)
    return f"unknown {what} {got!r}{did_you_mean(got, known)}; known: {', '.join(known)}"


def _layout(dataset: str) -> Layout:
    if dataset not in LAYOUTS:
        raise ValueError(unknown_name("data set", dataset, DATASETS))
    return LAYOUTS[dataset]


# ------------------------------------------------------------------------------------------------ roots


def _named_folders() -> list[Path]:
    """Folders in $DIFFAD_DATA (several are separated by os.pathsep, as in $PATH)."""
    return [Path(part).expanduser() for part in os.environ.get("DIFFAD_DATA", "").split(os.pathsep) if part]


def _recognised_as(folder: Path) -> list[str]:
    return [name for name, layout in LAYOUTS.items() if name != "folder" and layout.recognises(folder)]


def _accepts(layout: Layout, folder: Path) -> bool:
    """Whether a folder met while searching is this data set.

    `folder` fits any MVTec-like tree, so a tree that is a known data set is left to that one.
    """
    readable = folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
    if not readable or not layout.recognises(folder):
        return False
    return layout.name != "folder" or not _recognised_as(folder)


def _folders_below(base: Path, depth: int, limit: int) -> Iterator[Path]:
    """Folders below `base`, breadth first: at most `depth` levels and `limit` folders.

    Links to folders are followed, as for weights. Each folder is visited once, so a link upwards makes no circle.
    """
    level = [base]
    seen = 0
    visited = {os.path.realpath(base)}
    for _ in range(depth):
        children: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    found = sorted(entry.path for entry in entries if entry.is_dir() and not is_hidden(entry.name))
            except PermissionError:
                continue
            found = [path for path in found if os.path.realpath(path) not in visited]
            visited.update(map(os.path.realpath, found))
            children += map(Path, found[: limit - seen])
            seen += len(found)
        yield from children
        if seen >= limit:
            return
        level = children


def _candidates(layout: Layout) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is meant for this data set by name), in the order of the search."""
    for base in [*_named_folders(), REPOSITORY_DATA]:
        if base != REPOSITORY_DATA:
            yield base, False
        yield base / layout.name, True
        if base.is_dir() and not layout.recognises(base):
            for child in sorted(path for path in base.iterdir() if path.is_dir() and path.name != layout.name):
                yield child, False
    if KAGGLE_INPUT.is_dir():
        for folder in _folders_below(KAGGLE_INPUT, KAGGLE_DEPTH, KAGGLE_FOLDERS):
            yield folder, False


def _found_in(folder: Path) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    shown = ", ".join(names[:8]) or "nothing"
    return shown + (f", ... ({len(names)} entries)" if len(names) > 8 else "")


def _checked_root(layout: Layout, root: Path) -> Path:
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder (root given for data set {layout.name!r})")
    if not root.is_dir():
        raise DataError(f"{root}: a folder is expected as root of data set {layout.name!r}, got a file")
    if layout.fits(root):
        return root
    if layout.fits(root / layout.name):
        return root / layout.name
    found: list[Path] = []
    for child in _folders_below(root, ROOT_DEPTH, KAGGLE_FOLDERS):
        if not any(child.is_relative_to(outer) for outer in found) and _accepts(layout, child):
            found.append(child)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path.relative_to(root)) for path in found[:8]) + (", ..." if len(found) > 8 else "")
        raise DataError(
            f"{root} holds {len(found)} folders in the layout of data set {layout.name!r}: {listed}. Give one of them "
            "as root, or move their categories into one folder."
        )
    above = [parent for parent in root.absolute().parents[:2] if layout.fits(parent)]
    hint = f" {above[0]} is in that layout: give it as root." if above else ""
    raise DataError(
        f"{root} is not in the layout of data set {layout.name!r}. Expected: {layout.expected}. "
        f"Found: {_found_in(root)}.{hint}"
    )


def find_root(dataset: str, root: str | os.PathLike | None = None) -> Path:
    """Folder of a data set.

    Tried in this order: the argument; $DIFFAD_DATA (the data set's own folder, or a folder that holds data set
    folders; several separated by os.pathsep); data/<dataset> in the repository; /kaggle/input, where it is
    recognised by its layout, whatever the folders are called; for elpv the installed package elpv-dataset.

    Raises ValueError for an unknown data set or a root in another layout, FileNotFoundError where there is none.
    """
    layout = _layout(dataset)
    if root is not None and str(root) != "":
        return _checked_root(layout, Path(root).expanduser())
    for folder, named in _candidates(layout):
        if _accepts(layout, folder) or (named and folder.is_dir() and layout.fits(folder)):
            return folder
    if dataset == "elpv":
        spec = importlib.util.find_spec("elpv_dataset")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "data"
    named = ", ".join(map(str, _named_folders())) or "not set"
    raise FileNotFoundError(
        f"data set {dataset!r} was not found. Looked in $DIFFAD_DATA ({named}), {REPOSITORY_DATA / dataset} and "
        f"{KAGGLE_INPUT} (up to {KAGGLE_DEPTH} levels and {KAGGLE_FOLDERS} folders). Expected layout: "
        f"{layout.expected}. Give its folder as root, or set DIFFAD_DATA; "
        f"where to get it is written in data/{dataset}/README.md."
    )


# ------------------------------------------------------------------------------------------------ tables


def categories(dataset: str, root: str | os.PathLike | None = None) -> list[str]:
    """Categories of a data set, sorted, as found in its folder (textures: all it can render).

    Raises as `find_root` does.
    """
    if dataset == "textures":
        return sorted(textures.CATEGORIES)
    return sorted(_layout(dataset).categories(find_root(dataset, root)))


def category_names(dataset: str, root: str | os.PathLike | None = None) -> list[str]:
    """Names of a data set's categories: those in its folder, or the published ones where there is no such folder."""
    try:
        return categories(dataset, root)
    except (FileNotFoundError, DataError):
        return list(_layout(dataset).known_categories)


def resolve_category(category: str | int, names: Iterable[str], dataset: str = "the data set") -> str:
    """The category meant by a name, or by the number that YAML and shells make of a name of digits: 1 is "01".

    Raises DataError for a value that is no name, with the way to write it. A name that is not among `names` comes back
    as it is: whoever knows the data set says what is wrong with it.
    """
    names = list(names)
    if isinstance(category, str) and (category in names or not category.isdecimal()):
        return category
    number = int(category) if isinstance(category, (str, int)) and not isinstance(category, bool) else None
    padded = [name for name in names if name.isdecimal() and int(name) == number]
    # papermill's -y reads 010 as YAML 1.1 does: a number in base eight
    octal = [name for name in names if name[:1] == "0" and set(name) <= set("01234567") and int(name, 8) == number]
    if len(found := padded or (octal if isinstance(category, int) else [])) == 1:
        return found[0]
    if isinstance(category, str):
        return category
    raise DataError(
        f"category {category!r} of {dataset} is no name ({type(category).__name__}); known: {', '.join(names)}. Digits "
        "are text in quotes (YAML: category: '01'), or after papermill's -r (-r category 01)"
    )


def _check_category(layout: Layout, category: str, present: list[str], folder: Path) -> None:
    if category in present:
        return
    if category in layout.known_categories:
        raise DataError(
            f"category {category!r} of {layout.name} is not in {folder}, which holds {', '.join(present) or 'none'}"
        )
    message = unknown_name(f"category of {layout.name}", category, present or layout.known_categories)
    if (folder / category).is_dir():
        message += f" {folder / category} is there, but not in the layout of a category. Expected: {layout.expected}."
    raise DataError(message)


def _check_options(dataset: str, options: dict, known: Iterable[str]) -> None:
    for name in options:
        if name not in known:
            raise ValueError(unknown_name(f"option of data set {dataset}", name, list(known) or ["(it has none)"]))


def read_rows(dataset: str, root: Path, category: str | None = None, *, seed: int = 0, **options: Any) -> pd.DataFrame:
    """The table of `load_index` for files under `root`, without looking whether every file is there."""
    layout = _layout(dataset)
    _check_options(dataset, options, layout.options)
    variant = {"variant": options["variant"]} if "variant" in options else {}
    present = sorted(layout.categories(root, **variant))
    if category is not None:
        category = resolve_category(category, present, dataset)
        _check_category(layout, category, present, root)
    rows = []
    for name in present if category is None else [category]:
        found = layout.read(root, name, seed=seed, **options)
        if not any(row["split"] == "train" for row in found) or not any(row["split"] == "test" for row in found):
            empty = [split for split in ("train", "test") if not any(row["split"] == split for row in found)]
            unread = (
                unread_files(layout, layout.folder_of(root, name), [row["image"] for row in found])
                if not layout.listed
                else []
            )
            there = "".join(
                f" In {part.folder} {part.count} file(s) {part.suffix} are not read." for part in unread[:3]
            )
            raise DataError(
                f"{root}: category {name!r} of {dataset} has no {' and no '.join(empty)} images. "
                f"Expected layout: {layout.expected}.{there}"
            )
        rows += found
    if not rows:
        raise DataError(f"{root}: data set {dataset!r} has no images. Expected layout: {layout.expected}.")
    index = pd.DataFrame(rows, columns=COLUMNS)
    order = [(r.category, r.split, r.defect, os.path.basename(r.image), r.image) for r in index.itertuples()]
    index = index.iloc[sorted(range(len(index)), key=order.__getitem__)].reset_index(drop=True)
    return _plain(index)


def _plain(index: pd.DataFrame) -> pd.DataFrame:
    """Object columns with None for what is absent (pandas would turn None into NaN in its string type)."""
    index = index[COLUMNS].astype({"label": "int64"})
    for column in ("mask", "twin"):
        values = [None if value is None or value != value else str(value) for value in index[column]]
        index[column] = pd.Series(values, index=index.index, dtype=object)
    return index


def _without_missing_masks(layout: Layout, index: pd.DataFrame) -> pd.DataFrame:
    """The index with mask None where the file is not there. A DataWarning names the anomalous images without a mask,
    unless nobody promised masks."""
    missing = missing_masks(index)
    absent = index["image"].isin([file for file, _ in missing])
    index["mask"] = pd.Series([None if no else mask for no, mask in zip(absent, index["mask"])], dtype=object)
    expected = dict(missing)
    anomalous = index[index["label"] == 1]
    lines = []
    for _, rows in anomalous.groupby("category", sort=False):
        bare = rows.loc[rows["mask"].isna(), "image"]
        promised = layout.masks == "yes" or len(bare) < len(rows) or bare.isin(expected).any()
        lines += [f"  {image}: {expected.get(image, 'no mask is named')}" for image in bare if promised]
    if lines:
        more = f"\n  ... and {len(lines) - 10} more" if len(lines) > 10 else ""
        warnings.warn(
            f"{len(lines)} of {len(anomalous)} anomalous images have no mask. They count for metrics of images and are "
            "left out of those of pixels.\n" + "\n".join(lines[:10]) + more,
            DataWarning,
            stacklevel=3,
        )
    return index


def _warn_of_unread(layout: Layout, root: Path, index: pd.DataFrame, category: str | None) -> None:
    """A DataWarning with what lies in the folder of the category, or of all of them, and is not read."""
    if layout.listed:
        return
    used = [*index["image"], *index["mask"].dropna(), *index["twin"].dropna()]
    scanned = root if category is None else layout.folder_of(root, index["category"].iloc[0])
    unread = [part for part in unread_files(layout, scanned, used) if not part.known]
    if unread:
        listed = "\n".join(f"  {part.folder}: {part.count} file(s) {part.suffix}" for part in unread[:10])
        more = f"\n  ... and {len(unread) - 10} more folders" if len(unread) > 10 else ""
        warnings.warn(
            f"{sum(part.count for part in unread)} file(s) of {layout.name} are not read. Expected layout: "
            f"{layout.expected}.\n{listed}{more}",
            DataWarning,
            stacklevel=3,
        )


def load_index(
    dataset: str, root: str | os.PathLike | None = None, category: str | None = None, *, seed: int = 0, **options: Any
) -> pd.DataFrame:
    """The table of samples of a data set.

    Parameters
    ----------
    dataset: one of DATASETS.
    root: its folder; None or "" searches (see `find_root`). `textures` is rendered and ignores it.
    category: one category; None = all that are there. A number stands for the name of these digits: 1 for "01".
    seed: decides the split where the data set has none of its own (elpv, mtd), and what `textures` renders.
        The other data sets have official splits and ignore it.
    options:
        elpv: uncertain=False (True adds the cells with defect probability 1/3 and 2/3 to the test set, label 1,
        as defects "probability_1_3" and "probability_2_3"), train_fraction=0.8 (of the normal cells).
        mtd: train_fraction=0.8 (of MT_Free; whole tiles, see `layouts.mtd_tiles`).
        real_iad: variant="realiad_jsons" (folder of JSON files; "realiad_jsons_sv" = single view), resolution=None
        ("256", "512", "1024" or "raw"; None = the smallest that is there).

    Returns
    -------
    DataFrame with a RangeIndex, sorted by category, split, defect and file name, and the columns dataset, category,
    split ("train"|"test"), label (0 normal, 1 anomalous), defect ("good" for normal), image (path or key), mask
    (path or key, None where there is none), twin (key of the defect-free twin, or None). `attrs` holds what the files
    of a category have in common, see `facts`.

    Warns
    -----
    DataWarning: anomalous images whose mask is not there (mask None); files that lie in the folders and are not read.

    Raises
    ------
    ValueError: unknown data set, category or option; a root in another layout; no images; a listed image that is not
        there; a link or table entry that leads out of the root. The message names the file.
    FileNotFoundError: no folder of this data set was found, or the root given does not exist.
    """
    if dataset == "textures":
        return _textures_index(category, seed, options)
    _layout(dataset)
    folder = find_root(dataset, root)
    index = read_rows(dataset, folder, category, seed=seed, **options)
    missing = missing_files(index)
    if missing:
        listed = "\n".join(f"  {file}: {message}" for file, message in missing[:10])
        more = f"\n  ... and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(f"{dataset}: {len(missing)} file(s) missing:\n{listed}{more}")
    repeated = repeated_keys(index)
    if repeated:
        raise DataError(f"{repeated[0][0]}: {repeated[0][1]}")
    _warn_of_unread(_layout(dataset), folder, index, category)
    doubts = [f"  {message}" for _, message in doubtful_labels(index)]
    if doubts:
        warnings.warn("labels:\n" + "\n".join(doubts), DataWarning, stacklevel=2)
    return note_facts(_without_missing_masks(_layout(dataset), index))


def _textures_index(category: str | None, seed: int, options: dict) -> pd.DataFrame:
    known = sorted(textures.CATEGORIES)
    if category is not None and category not in known:
        raise ValueError(unknown_name("category of textures", category, known))
    names = known if category is None else [category]
    tables = [textures.index(name, seed, **options) for name in names]
    return _plain(pd.concat(tables, ignore_index=True))


def describe() -> pd.DataFrame:
    """One row a data set: dataset, title, categories (names, or how many), licence, masks, where (folder, or
    "not found"; "rendered" for textures)."""
    rows: list[dict] = [
        {
            "dataset": "textures",
            "title": "procedural textures with defect-free twins",
            "categories": ", ".join(sorted(textures.CATEGORIES)),
            "licence": "MIT (generator), CC0 (photographs)",
            "masks": "yes",
            "where": "rendered",
        }
    ]
    for layout in LAYOUTS.values():
        try:
            folder = find_root(layout.name)
            names, where = sorted(layout.categories(folder)), str(folder)
        except FileNotFoundError:
            names, where = list(layout.known_categories), "not found"
        except DataError as error:
            names, where = list(layout.known_categories), f"broken: {error}"
        rows.append(
            {
                "dataset": layout.name,
                "title": layout.title,
                "categories": ", ".join(names) if names else "as found",
                "licence": layout.licence,
                "masks": layout.masks,
                "where": where,
            }
        )
    return pd.DataFrame(rows)
