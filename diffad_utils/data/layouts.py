"""Readers: from a folder in a data set's official layout to rows of the sample table.

A reader lists what the layout promises and nothing else. It does not open images; it names the mask that
the layout calls for, whether or not the file is there, so that `load_index` can refuse it and `check` can
report it. Every path it gives lies inside the root: a symbolic link or a table entry that leads out of it is
refused, because the checksum and the licence of a data set end at its folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

MVTEC_AD_CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)
MPDD_CATEGORIES = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")
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
BTAD_CATEGORIES = ("01", "02", "03")
MTD_CLASSES = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Free", "MT_Uneven")
REAL_IAD_CATEGORIES = (
    "audiojack",
    "bottle_cap",
    "button_battery",
    "end_cap",
    "eraser",
    "fire_hood",
    "mint",
    "mounts",
    "pcb",
    "phone_battery",
    "plastic_nut",
    "plastic_plug",
    "porcelain_doll",
    "regulator",
    "rolled_strip_base",
    "sim_card_set",
    "switch",
    "tape",
    "terminalblock",
    "toothbrush",
    "toy",
    "toy_brick",
    "transistor1",
    "u_block",
    "usb",
    "usb_adaptor",
    "vcpill",
    "wooden_beads",
    "woodstick",
    "zipper",
)
REAL_IAD_RESOLUTIONS = ("256", "512", "1024", "raw")


class DataError(ValueError):
    """A data set on disk breaks a rule; the message names the file, the rule and what to do."""


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


def below(root: Path, *parts: str) -> Path:
    """Join a path read from a table (CSV, JSON) to `root`; absolute paths and escapes raise DataError."""
    return inside(root, root.joinpath(*(part.replace("\\", "/") for part in parts)))


def read_text(path: Path) -> str:
    """Contents of a UTF-8 text file, a byte order mark left out. Raises DataError, naming the file, for other bytes."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _entries(folder: Path, root: Path) -> list[os.DirEntry]:
    if not folder.is_dir():
        return []
    inside(root, folder)
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
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


def _row(
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


# --------------------------------------------------------------------------------- MVTec AD and relatives


def _is_mvtec_category(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() and (folder / "test").is_dir()


def _mvtec_categories(root: Path) -> list[str]:
    return [folder.name for folder in list_folders(root, root) if _is_mvtec_category(folder)]


def _all_known(names: tuple[str, ...]) -> Callable[[Path], bool]:
    """Recogniser of an MVTec-like tree by its category names: there are some, and no others.

    A twin folder marks an export of `textures`, some of whose categories have the same names.
    """

    def recognises(root: Path) -> bool:
        if not root.is_dir():
            return False
        found = [folder for folder in root.iterdir() if _is_mvtec_category(folder)]
        return bool(found) and all(folder.name in names and not (folder / "twin").is_dir() for folder in found)

    return recognises


def read_mvtec_tree(
    dataset: str, root: Path, folder: Path, category: str, *, masks_optional: bool = False
) -> list[dict]:
    """Rows of one category folder: train/good, test/<defect>, ground_truth/<defect>/<name>_mask.png (or <name>.png).

    Beside ground_truth there may be twin/<defect>/<name>.png, defect-free versions, as an export of textures has.
    masks_optional: a category without any ground_truth folder has no masks (mask None), rather than missing ones.
    """
    rows = [_row(dataset, category, "train", "good", image) for image in list_images(folder / "train" / "good", root)]
    has_masks = not masks_optional or (folder / "ground_truth").is_dir()
    for defect_folder in list_folders(folder / "test", root):
        truth = folder / "ground_truth" / defect_folder.name
        masks = {mask.stem: mask for mask in list_images(truth, root)}
        twins = {twin.stem: twin for twin in list_images(folder / "twin" / defect_folder.name, root)}
        for image in list_images(defect_folder, root):
            wants_mask = has_masks and defect_folder.name != "good"
            mask = mask_for(image, truth, masks) if wants_mask else None
            twin = twins.get(image.stem) if defect_folder.name != "good" else None
            rows.append(_row(dataset, category, "test", defect_folder.name, image, mask, twin))
    return rows


def _mvtec_reader(dataset: str) -> Callable[..., list[dict]]:
    return lambda root, category, *, seed: read_mvtec_tree(dataset, root, root / category, category)


def _folder_categories(root: Path) -> list[str]:
    return [root.resolve().name] if _is_mvtec_category(root) else _mvtec_categories(root)


def _read_folder(root: Path, category: str, *, seed: int) -> list[dict]:
    folder = root if _is_mvtec_category(root) else root / category
    return read_mvtec_tree("folder", root, folder, category, masks_optional=True)


# ------------------------------------------------------------------------------------------------- VisA


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
    if _visa_csv(root).is_file():
        return sorted({line["object"] for line in _visa_table(root)})
    return _mvtec_categories(root)


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
        rows.append(_row("visa", category, line["split"], defect, image, mask if defect == "bad" else None))
    return rows


# ------------------------------------------------------------------------------------------------- BTAD


def _is_btad_category(folder: Path) -> bool:
    return (folder / "train" / "ok").is_dir() and (folder / "test").is_dir()


def _read_btad(root: Path, category: str, *, seed: int) -> list[dict]:
    folder = root / category
    truth = folder / "ground_truth" / "ko"
    masks = {mask.stem: mask for mask in list_images(truth, root)}
    rows = [_row("btad", category, "train", "good", image) for image in list_images(folder / "train" / "ok", root)]
    rows += [_row("btad", category, "test", "good", image) for image in list_images(folder / "test" / "ok", root)]
    rows += [
        _row("btad", category, "test", "ko", image, mask_for(image, truth, masks, suffixes=("", "_mask")))
        for image in list_images(folder / "test" / "ko", root)
    ]
    return rows


# -------------------------------------------------------------------------------------------------- MTD

_MTD_NAME = re.compile(r"exp(?P<exposure>\d+)_num_(?P<number>\d+)")
MTD_TILE_GAP = 300


def mtd_tiles(numbers: Iterable[int]) -> dict[int, int]:
    """Map the numbers of the file names `exp<i>_num_<n>` to tiles: {number: smallest number of its tile}.

    In the published set no number comes twice: it counts the frames of a recording, in which a tile is shown at
    exposures 1, 2, ... some 10 to 60 frames apart. A tile is therefore a run of numbers with no step above
    MTD_TILE_GAP = 300 frames. How good that is was measured by cross-correlating the pictures of 286 files: of 173
    pairs that show the same tile, 162 fall into one run (all but 11; at a gap of 120 all but 29), while 12 pairs
    of different tiles are joined, which only costs freedom in the split. The 11 show tiles that were recorded again
    700 to 12,000 frames later; a file name does not tell those.

    Where one run would hold more than half of the numbers they are no frame counter, and each number is a tile.
    """
    ordered = sorted(set(numbers))
    tiles: dict[int, int] = {}
    for previous, number in zip([None, *ordered], ordered, strict=False):
        starts = previous is None or number - previous > MTD_TILE_GAP
        tiles[number] = number if starts else tiles[previous]
    largest = max(Counter(tiles.values()).values(), default=0)
    return {number: number for number in ordered} if 2 * largest > len(ordered) else tiles


def _mtd_number(path: Path) -> int:
    match = _MTD_NAME.fullmatch(path.stem)
    if match is None:
        raise DataError(f"{path}: file names of the magnetic tile set must have the form exp<i>_num_<n>")
    return int(match["number"])


def _is_mtd(root: Path) -> bool:
    return (root / "MT_Free" / "Imgs").is_dir()


def _mtd_images(root: Path) -> dict[str, list[Path]]:
    """{class: images}; the masks beside them are the .png files, the images the others."""
    return {
        folder.name: [path for path in list_images(folder / "Imgs", root) if path.suffix.lower() != ".png"]
        for folder in list_folders(root, root)
        if folder.name.startswith("MT_") and (folder / "Imgs").is_dir()
    }


def _mtd_train(images: dict[str, list[Path]], seed: int, train_fraction: float) -> set[Path]:
    """Pictures of MT_Free for training: whole tiles, train_fraction of all pictures of MT_Free.

    A tile that is also shown with a defect is in the test set already, so its defect-free pictures go there too.
    """
    free = images["MT_Free"]
    tile_of = mtd_tiles(_mtd_number(path) for path in free)
    if len(set(tile_of.values())) < len(tile_of):  # a frame counter, which then runs through all classes
        tile_of = mtd_tiles(_mtd_number(path) for paths in images.values() for path in paths)
        shown_defective = {tile_of[_mtd_number(path)] for name in images if name != "MT_Free" for path in images[name]}
    else:
        shown_defective = set()
    groups: dict[str, list[Path]] = {}
    for path in free:
        tile = tile_of[_mtd_number(path)]
        if tile not in shown_defective:
            groups.setdefault(str(tile), []).append(path)
    return seeded_train(groups, seed, train_count(len(free), train_fraction))


def _read_mtd(root: Path, category: str, *, seed: int, train_fraction: float = 0.8) -> list[dict]:
    images = _mtd_images(root)
    train = _mtd_train(images, seed, train_fraction)
    rows = []
    for name, paths in images.items():
        for path in paths:
            if name == "MT_Free":
                rows.append(_row("mtd", category, "train" if path in train else "test", "good", path))
            else:
                rows.append(_row("mtd", category, "test", name, path, path.with_suffix(".png")))
    return rows


# ------------------------------------------------------------------------------------------------- ELPV


def _is_elpv(root: Path) -> bool:
    return (root / "labels.csv").is_file() and (root / "images").is_dir()


ELPV_DEFECTS = {"0.00": "good", "0.33": "probability_1_3", "0.67": "probability_2_3", "1.00": "defective"}


def elpv_table(root: Path) -> list[tuple[str, str, str]]:
    """Lines of labels.csv as (path below root, defect name of the probability, "mono" or "poly")."""
    path = inside(root, root / "labels.csv")
    table = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            image, probability, cell_type = fields
            defect = ELPV_DEFECTS[f"{float(probability):.2f}"]
        except (ValueError, KeyError):
            raise DataError(
                f"{path}, line {number}: '<image> <0, 1/3, 2/3 or 1> <mono|poly>' expected; got {line!r}"
            ) from None
        table.append((image, defect, cell_type))
    return table


def _read_elpv(
    root: Path, category: str, *, seed: int, uncertain: bool = False, train_fraction: float = 0.8
) -> list[dict]:
    table = [(image, defect) for image, defect, cell_type in elpv_table(root) if cell_type == category]
    normal = {image: [image] for image, defect in table if defect == "good"}
    train = seeded_train(normal, seed, train_count(len(normal), train_fraction))
    return [
        _row("elpv", category, "train" if image in train else "test", defect, below(root, image))
        for image, defect in table
        if uncertain or defect in ("good", "defective")
    ]


# --------------------------------------------------------------------------------------------- Real-IAD


def _real_iad_jsons(root: Path, variant: str) -> Path | None:
    """Folder with one <category>.json a category; archives unpack to realiad_jsons/<variant>/ or to <variant>/."""
    for folder in (root / "realiad_jsons" / variant, root / variant):
        if folder.is_dir() and any(path.suffix == ".json" for path in folder.iterdir()):
            return folder
    return None


def _real_iad_images(root: Path, resolution: str | None) -> Path:
    wanted = REAL_IAD_RESOLUTIONS if resolution is None else (str(resolution),)
    for name in wanted:
        if (root / f"realiad_{name}").is_dir():
            return root / f"realiad_{name}"
    raise DataError(
        f"{root}: Real-IAD images expected in one of {[f'realiad_{name}' for name in wanted]}; found "
        f"{[folder.name for folder in list_folders(root, root)]}"
    )


def _is_real_iad(root: Path) -> bool:
    return _real_iad_jsons(root, "realiad_jsons") is not None or _real_iad_jsons(root, "realiad_jsons_sv") is not None


def _real_iad_categories(root: Path, variant: str = "realiad_jsons") -> list[str]:
    folder = _real_iad_jsons(root, variant)
    return sorted(path.stem for path in folder.glob("*.json")) if folder else []


def _read_real_iad(
    root: Path, category: str, *, seed: int, variant: str = "realiad_jsons", resolution: str | None = None
) -> list[dict]:
    jsons = _real_iad_jsons(root, variant)
    if jsons is None:
        raise DataError(f"{root}: no folder {variant} with <category>.json files (option variant)")
    path = inside(root, jsons / f"{category}.json")
    try:
        content = json.loads(read_text(path))
        meta = content.get("meta", {})
        prefix, normal = meta.get("prefix", f"{category}/"), meta.get("normal_class", "OK")
        entries = [(split, entry) for split in ("train", "test") for entry in content[split]]
        fields = [(split, e["anomaly_class"], e["image_path"], e.get("mask_path")) for split, e in entries]
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path}: Real-IAD's JSON expected, with lists 'train' and 'test' of entries that have anomaly_class, "
            f"image_path and mask_path; {type(error).__name__}: {error}"
        ) from error
    images = inside(root, _real_iad_images(root, resolution))
    rows = []
    for split, anomaly_class, image_path, mask_path in fields:
        defect = "good" if anomaly_class == normal else anomaly_class
        image = below(images, prefix, image_path)
        mask = below(images, prefix, mask_path) if mask_path and defect != "good" else None
        rows.append(_row("real_iad", category, split, defect, image, mask))
    return rows


# ------------------------------------------------------------------------------------------------- BMAD


def _is_bmad_category(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() and (folder / "test" / "Ungood").is_dir()


def _bmad_categories(root: Path) -> list[str]:
    return [folder.name for folder in list_folders(root, root) if _is_bmad_category(folder)]


def _bmad_images(folder: Path, root: Path) -> list[Path]:
    """Sets with pixel labels keep images in <class>/img, the others directly in <class>."""
    return list_images(folder / "img" if (folder / "img").is_dir() else folder, root)


def _read_bmad(root: Path, category: str, *, seed: int) -> list[dict]:
    folder = root / category
    rows = [_row("bmad", category, "train", "good", image) for image in _bmad_images(folder / "train" / "good", root)]
    rows += [_row("bmad", category, "test", "good", image) for image in _bmad_images(folder / "test" / "good", root)]
    ungood = folder / "test" / "Ungood"
    truth = ungood / "label"
    masks = {mask.stem: mask for mask in list_images(truth, root)}
    for image in _bmad_images(ungood, root):
        mask = mask_for(image, truth, masks, suffixes=("",)) if truth.is_dir() else None
        rows.append(_row("bmad", category, "test", "Ungood", image, mask))
    return rows


# ---------------------------------------------------------------------------------------------- registry


def _any_category(is_category: Callable[[Path], bool]) -> Callable[[Path], bool]:
    return lambda root: root.is_dir() and any(is_category(folder) for folder in root.iterdir() if folder.is_dir())


_CC_BY_NC_SA = "CC BY-NC-SA 4.0"

_REGISTRY = (
    Layout(
        name="elpv",
        title="ELPV solar cells",
        licence=_CC_BY_NC_SA,
        expected="labels.csv and images/cell<nnnn>.png (as in the Python package elpv-dataset)",
        masks="no",
        recognises=_is_elpv,
        fits=_is_elpv,
        categories=lambda root: sorted({cell_type for _, _, cell_type in elpv_table(root)}),
        read=_read_elpv,
        known_categories=("mono", "poly"),
        options=("uncertain", "train_fraction"),
    ),
    Layout(
        name="mvtec_ad",
        title="MVTec AD",
        licence=_CC_BY_NC_SA,
        expected="<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/<name>_mask.png",
        masks="yes",
        recognises=_all_known(MVTEC_AD_CATEGORIES),
        fits=_any_category(_is_mvtec_category),
        categories=_mvtec_categories,
        read=_mvtec_reader("mvtec_ad"),
        known_categories=MVTEC_AD_CATEGORIES,
    ),
    Layout(
        name="visa",
        title="VisA",
        licence="CC BY 4.0",
        expected=(
            "split_csv/1cls.csv (columns object, split, label, image, mask) beside the category folders, or the "
            "converted tree <category>/{train/good,test/good,test/bad,ground_truth/bad}"
        ),
        masks="yes",
        recognises=lambda root: _visa_csv(root).is_file() or _all_known(VISA_CATEGORIES)(root),
        fits=lambda root: _visa_csv(root).is_file() or _any_category(_is_mvtec_category)(root),
        categories=_visa_categories,
        read=_read_visa,
        known_categories=VISA_CATEGORIES,
    ),
    Layout(
        name="btad",
        title="BTAD (BeanTech)",
        licence=_CC_BY_NC_SA,
        expected="01|02|03/{train/ok,test/ok,test/ko,ground_truth/ko}, masks .png or .bmp",
        masks="yes",
        recognises=_any_category(_is_btad_category),
        fits=_any_category(_is_btad_category),
        categories=lambda root: [folder.name for folder in list_folders(root, root) if _is_btad_category(folder)],
        read=_read_btad,
        known_categories=BTAD_CATEGORIES,
    ),
    Layout(
        name="mpdd",
        title="MPDD (metal parts)",
        licence=_CC_BY_NC_SA,
        expected="<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/<name>_mask.png",
        masks="yes",
        recognises=_all_known(MPDD_CATEGORIES),
        fits=_any_category(_is_mvtec_category),
        categories=_mvtec_categories,
        read=_mvtec_reader("mpdd"),
        known_categories=MPDD_CATEGORIES,
    ),
    Layout(
        name="mtd",
        title="Magnetic Tile Defects",
        licence="free to use with citation (no formal licence)",
        expected="MT_Free/Imgs/exp<i>_num_<n>.jpg and MT_<Defect>/Imgs/<name>.jpg with the mask <name>.png beside it",
        masks="yes",
        recognises=_is_mtd,
        fits=_is_mtd,
        categories=lambda root: ["magnetic_tile"],
        read=_read_mtd,
        known_categories=("magnetic_tile",),
        options=("train_fraction",),
    ),
    Layout(
        name="real_iad",
        title="Real-IAD",
        licence=_CC_BY_NC_SA,
        expected=(
            "realiad_jsons/<category>.json (or realiad_jsons/realiad_jsons/<category>.json) and "
            "realiad_256|512|1024|raw/<category>/{OK,NG}/..."
        ),
        masks="yes",
        recognises=_is_real_iad,
        fits=_is_real_iad,
        categories=_real_iad_categories,
        read=_read_real_iad,
        known_categories=REAL_IAD_CATEGORIES,
        options=("variant", "resolution"),
    ),
    Layout(
        name="bmad",
        title="BMAD (medical)",
        licence="per set; see data/bmad/README.md",
        expected="<set>/{train/good,test/good,test/Ungood}, images directly in them or in img/ with masks in label/",
        masks="some categories",
        recognises=_any_category(_is_bmad_category),
        fits=_any_category(_is_bmad_category),
        categories=_bmad_categories,
        read=_read_bmad,
    ),
    Layout(
        name="folder",
        title="any folder in the MVTec AD layout",
        licence="its own",
        expected=(
            "<category>/train/good and <category>/test/<defect>, or the same without <category>; masks, if any, in "
            "ground_truth/<defect>/<name>_mask.png or <name>.png"
        ),
        masks="if ground_truth is there",
        recognises=lambda root: _is_mvtec_category(root) or _any_category(_is_mvtec_category)(root),
        fits=lambda root: _is_mvtec_category(root) or _any_category(_is_mvtec_category)(root),
        categories=_folder_categories,
        read=_read_folder,
    ),
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _REGISTRY}
