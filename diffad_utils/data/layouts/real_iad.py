"""Real-IAD (Wang et al., CVPR 2024): one JSON a category, images of five views at several resolutions.

What may be touched: new variants and resolutions. Labels and splits are those of the JSON files.
"""

from __future__ import annotations

import json
from pathlib import Path

from .common import CC_BY_NC_SA, DataError, Layout, below, inside, list_folders, read_text, sample_row

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
# Only the sums are known here, so they are checked when all categories are there.
_PUBLISHED_TOTALS = {"train": 36_465, "test normal": 63_256, "test anomalous": 51_329}


def _real_iad_jsons(root: Path, variant: str) -> Path | None:
    """Folder with one <category>.json a category; archives unpack to realiad_jsons/<variant>/ or to <variant>/."""
    for folder in (root / "realiad_jsons" / variant, root / variant):
        if folder.is_dir() and any(path.suffix == ".json" for path in folder.iterdir()):
            return folder
    return None


def _real_iad_images(root: Path, resolution: str | None, category: str) -> Path:
    """Folder of the images: of the smallest resolution that has the category, which comes in an archive of its own."""
    wanted = REAL_IAD_RESOLUTIONS if resolution is None else (str(resolution),)
    there = [root / f"realiad_{name}" for name in wanted if (root / f"realiad_{name}").is_dir()]
    for folder in there:
        if (folder / category).is_dir():
            return folder
    if there:
        return there[0]
    raise DataError(
        f"{root}: Real-IAD images expected in one of {[f'realiad_{name}' for name in wanted]}; found "
        f"{[folder.name for folder in list_folders(root, root)]}"
    )


def _is_real_iad(root: Path) -> bool:
    return _real_iad_jsons(root, "realiad_jsons") is not None or _real_iad_jsons(root, "realiad_jsons_sv") is not None


def _real_iad_categories(root: Path, variant: str = "realiad_jsons") -> list[str]:
    folder = _real_iad_jsons(root, variant)
    return sorted(path.stem for path in folder.glob("*.json") if _has_images(root, path)) if folder else []


def _has_images(root: Path, table: Path) -> bool:
    """Whether images of a category are here: each has an archive of its own, and a category without one is none."""
    folders = [root / f"realiad_{name}" for name in REAL_IAD_RESOLUTIONS]
    if not any(folder.is_dir() for folder in folders):
        return True  # reading says that there are no images at all
    return any((folder / table.stem).is_dir() and any((folder / table.stem).iterdir()) for folder in folders)


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
    images = inside(root, _real_iad_images(root, resolution, category))
    rows = []
    for split, anomaly_class, image_path, mask_path in fields:
        defect = "good" if anomaly_class == normal else anomaly_class
        image = below(images, prefix, image_path)
        mask = below(images, prefix, mask_path) if mask_path and defect != "good" else None
        rows.append(sample_row("real_iad", category, split, defect, image, mask))
    return rows


LAYOUT = Layout(
    name="real_iad",
    title="Real-IAD",
    licence=CC_BY_NC_SA,
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
    listed=True,
    options=("variant", "resolution"),
    published_totals=_PUBLISHED_TOTALS,
)
