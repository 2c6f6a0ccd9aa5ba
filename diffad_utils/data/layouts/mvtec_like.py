"""The tree of MVTec AD, which several data sets share: train/good, test/<defect>, ground_truth/<defect>.

What people's own trees do differently is read here too, for all of these data sets: normal images under another name
(`is_normal`), masks beside the images (`split_masks`) or inside test. What may be touched: what the tree promises. What
only one data set does belongs into that data set's file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .common import child_folders, is_normal, list_folders, list_images, mask_for, sample_row, split_masks

# fmt: off
_MASK_FOLDERS = frozenset({
    "groundtruth", "groundtruths", "gt", "mask", "masks", "label", "labels", "annotation", "annotations",
    "segmentation", "segmentations", "anomalymask", "anomalymasks", "defectmask", "defectmasks",
})
# fmt: on


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name says that it holds masks: ground_truth, GT, Masks, annotations, ..."""
    return re.sub(r"[\W_]", "", name.lower()) in _MASK_FOLDERS


def _normal_folders(folder: Path, root: Path) -> list[Path]:
    return [child for child in list_folders(folder, root) if is_normal(child.name)]


def is_mvtec_category(folder: Path, test: str = "test") -> bool:
    """Whether a folder is a category: it has test, and in train a folder of normal images (good, OK, ...)."""
    return (folder / test).is_dir() and any(is_normal(child.name) for child in child_folders(folder / "train"))


def mvtec_categories(root: Path) -> list[str]:
    """Names of the category folders in `root`."""
    return [folder.name for folder in list_folders(root, root) if is_mvtec_category(folder)]


def all_known(names: tuple[str, ...]) -> Callable[[Path], bool]:
    """Recogniser of an MVTec-like tree by its category names: there are some, and no others.

    A twin folder marks an export of `textures`, some of whose categories have the same names.
    """

    def recognises(root: Path) -> bool:
        found = [folder for folder in child_folders(root) if is_mvtec_category(folder)]
        return bool(found) and all(folder.name in names and not (folder / "twin").is_dir() for folder in found)

    return recognises


def read_mvtec_tree(
    dataset: str, root: Path, folder: Path, category: str, *, test: str = "test", masks_optional: bool = False
) -> list[dict]:
    """Rows of one category folder: train/good, test/<defect>, ground_truth/<defect>/<name>_mask.png (or <name>.png).

    Masks may also lie in test/ground_truth/<defect> or beside their images. Beside ground_truth there may be
    twin/<defect>/<name>.png, defect-free versions, as an export of textures has.
    masks_optional: a category without any mask has none (mask None), rather than missing ones.
    """
    rows = []
    for normal in _normal_folders(folder / "train", root):
        images, _ = split_masks(list_images(normal, root))
        rows += [sample_row(dataset, category, "train", "good", image) for image in images]
    for defect_folder in list_folders(folder / test, root):
        if not is_mask_folder(defect_folder.name):
            rows += _test_rows(dataset, root, folder, category, test, defect_folder)
    if masks_optional and not any(row["mask"] and Path(row["mask"]).is_file() for row in rows):
        rows = [row | {"mask": None} for row in rows]
    return rows


def _test_rows(dataset: str, root: Path, folder: Path, category: str, test: str, defect_folder: Path) -> list[dict]:
    """Rows of one folder of test images."""
    images, beside = split_masks(list_images(defect_folder, root))
    if is_normal(defect_folder.name):
        return [sample_row(dataset, category, "test", "good", image) for image in images]
    rows = []
    truth, masks = _masks_of(root, folder, test, defect_folder.name)
    twins = {twin.stem: twin for twin in list_images(folder / "twin" / defect_folder.name, root)}
    for image in images:
        mask = mask_for(image, truth, masks)
        if not mask.is_file():
            mask = split_masks([image, *masks.values()])[1].get(image.stem) or beside.get(image.stem) or mask
        rows.append(sample_row(dataset, category, "test", defect_folder.name, image, mask, twins.get(image.stem)))
    return rows


def _masks_of(root: Path, folder: Path, test: str, defect: str) -> tuple[Path, dict[str, Path]]:
    """(folder where the masks of a defect belong, {stem: mask}): the first of the mask folders that has any."""
    for parent in (folder, folder / test):
        for child in list_folders(parent, root):
            if is_mask_folder(child.name):
                found = list_images(child / defect, root)
                if found:
                    return child / defect, {mask.stem: mask for mask in found}
    for child in list_folders(folder / test / defect, root):
        if is_mask_folder(child.name):
            found = list_images(child, root)
            if found:
                return child, {mask.stem: mask for mask in found}
    return folder / "ground_truth" / defect, {}


def mvtec_reader(dataset: str) -> Callable[..., list[dict]]:
    """`Layout.read` of a data set that is such a tree."""
    return lambda root, category, *, seed: read_mvtec_tree(dataset, root, root / category, category)
