"""BTAD, products of BeanTech (Mishra et al., ISIE 2021): folders called ok and ko, two kinds of mask files.

What may be touched: types of files. Split and labels are the publication's.
"""

from __future__ import annotations

from pathlib import Path

from .common import CC_BY_NC_SA, Layout, any_category, by_split, list_folders, list_images, mask_for, sample_row

BTAD_CATEGORIES = ("01", "02", "03")
# (train, test normal, test anomalous): Mishra et al., ISIE 2021 (2,540 images).
_PUBLISHED = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}


def _is_btad_category(folder: Path) -> bool:
    return (folder / "train" / "ok").is_dir() and (folder / "test").is_dir()


def _read_btad(root: Path, category: str, *, seed: int) -> list[dict]:
    folder = root / category
    truth = folder / "ground_truth" / "ko"
    masks = {mask.stem: mask for mask in list_images(truth, root)}
    rows = [
        sample_row("btad", category, "train", "good", image) for image in list_images(folder / "train" / "ok", root)
    ]
    rows += [sample_row("btad", category, "test", "good", image) for image in list_images(folder / "test" / "ok", root)]
    rows += [
        sample_row("btad", category, "test", "ko", image, mask_for(image, truth, masks, suffixes=("", "_mask")))
        for image in list_images(folder / "test" / "ko", root)
    ]
    return rows


LAYOUT = Layout(
    name="btad",
    title="BTAD (BeanTech)",
    licence=CC_BY_NC_SA,
    expected="01|02|03/{train/ok,test/ok,test/ko,ground_truth/ko}, masks .png or .bmp",
    masks="yes",
    recognises=any_category(_is_btad_category),
    fits=any_category(_is_btad_category),
    categories=lambda root: [folder.name for folder in list_folders(root, root) if _is_btad_category(folder)],
    read=_read_btad,
    known_categories=BTAD_CATEGORIES,
    published=by_split(_PUBLISHED),
)
