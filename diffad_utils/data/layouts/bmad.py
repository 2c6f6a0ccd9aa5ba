"""BMAD, medical sets (Bao et al., 2023): three of the six have masks, in label/ beside img/.

What may be touched: new sets. `valid` stays unread: it holds anomalous images.
"""

from __future__ import annotations

from pathlib import Path

from .common import Layout, any_category, list_folders, list_images, mask_for, sample_row


def _is_bmad_category(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() and (folder / "test" / "Ungood").is_dir()


def _bmad_categories(root: Path) -> list[str]:
    return [folder.name for folder in list_folders(root, root) if _is_bmad_category(folder)]


def _bmad_images(folder: Path, root: Path) -> list[Path]:
    """Sets with pixel labels keep images in <class>/img, the others directly in <class>."""
    return list_images(folder / "img" if (folder / "img").is_dir() else folder, root)


def _read_bmad(root: Path, category: str, *, seed: int) -> list[dict]:
    folder = root / category
    rows = [
        sample_row("bmad", category, "train", "good", image) for image in _bmad_images(folder / "train" / "good", root)
    ]
    rows += [
        sample_row("bmad", category, "test", "good", image) for image in _bmad_images(folder / "test" / "good", root)
    ]
    ungood = folder / "test" / "Ungood"
    truth = ungood / "label"
    masks = {mask.stem: mask for mask in list_images(truth, root)}
    for image in _bmad_images(ungood, root):
        mask = mask_for(image, truth, masks, suffixes=("",)) if truth.is_dir() else None
        rows.append(sample_row("bmad", category, "test", "Ungood", image, mask))
    return rows


LAYOUT = Layout(
    name="bmad",
    title="BMAD (medical)",
    licence="per set; see data/bmad/README.md",
    expected="<set>/{train/good,test/good,test/Ungood}, images directly in them or in img/ with masks in label/",
    masks="some categories",
    recognises=any_category(_is_bmad_category),
    fits=any_category(_is_bmad_category),
    categories=_bmad_categories,
    read=_read_bmad,
    unused={"valid": "it holds anomalous images, and nothing here is tuned on anomalies"},
)
