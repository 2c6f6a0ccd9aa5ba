"""The tree of MVTec AD, which several data sets share: train/good, test/<defect>, ground_truth/<defect>.

What may be touched: what the tree promises. What only one data set does belongs into that data set's file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .common import list_folders, list_images, mask_for, sample_row


def is_mvtec_category(folder: Path) -> bool:
    """Whether a folder is a category: it has train/good and test."""
    return (folder / "train" / "good").is_dir() and (folder / "test").is_dir()


def mvtec_categories(root: Path) -> list[str]:
    """Names of the category folders in `root`."""
    return [folder.name for folder in list_folders(root, root) if is_mvtec_category(folder)]


def all_known(names: tuple[str, ...]) -> Callable[[Path], bool]:
    """Recogniser of an MVTec-like tree by its category names: there are some, and no others.

    A twin folder marks an export of `textures`, some of whose categories have the same names.
    """

    def recognises(root: Path) -> bool:
        if not root.is_dir():
            return False
        found = [folder for folder in root.iterdir() if is_mvtec_category(folder)]
        return bool(found) and all(folder.name in names and not (folder / "twin").is_dir() for folder in found)

    return recognises


def read_mvtec_tree(
    dataset: str, root: Path, folder: Path, category: str, *, masks_optional: bool = False
) -> list[dict]:
    """Rows of one category folder: train/good, test/<defect>, ground_truth/<defect>/<name>_mask.png (or <name>.png).

    Beside ground_truth there may be twin/<defect>/<name>.png, defect-free versions, as an export of textures has.
    masks_optional: a category without any ground_truth folder has no masks (mask None), rather than missing ones.
    """
    rows = [
        sample_row(dataset, category, "train", "good", image) for image in list_images(folder / "train" / "good", root)
    ]
    has_masks = not masks_optional or (folder / "ground_truth").is_dir()
    for defect_folder in list_folders(folder / "test", root):
        truth = folder / "ground_truth" / defect_folder.name
        masks = {mask.stem: mask for mask in list_images(truth, root)}
        twins = {twin.stem: twin for twin in list_images(folder / "twin" / defect_folder.name, root)}
        for image in list_images(defect_folder, root):
            wants_mask = has_masks and defect_folder.name != "good"
            mask = mask_for(image, truth, masks) if wants_mask else None
            twin = twins.get(image.stem) if defect_folder.name != "good" else None
            rows.append(sample_row(dataset, category, "test", defect_folder.name, image, mask, twin))
    return rows


def mvtec_reader(dataset: str) -> Callable[..., list[dict]]:
    """`Layout.read` of a data set that is such a tree."""
    return lambda root, category, *, seed: read_mvtec_tree(dataset, root, root / category, category)
