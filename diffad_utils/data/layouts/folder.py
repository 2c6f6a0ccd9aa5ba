"""Any folder in the layout of MVTec AD: one category or several, with or without masks.

What may be touched: what people do differently in trees of their own belongs into `mvtec_like`, for all of them.
"""

from __future__ import annotations

from pathlib import Path

from .common import Layout, any_category
from .mvtec_like import is_mvtec_category, mvtec_categories, read_mvtec_tree


def _folder_categories(root: Path) -> list[str]:
    return [root.resolve().name] if is_mvtec_category(root) else mvtec_categories(root)


def _read_folder(root: Path, category: str, *, seed: int) -> list[dict]:
    folder = root if is_mvtec_category(root) else root / category
    return read_mvtec_tree("folder", root, folder, category, masks_optional=True)


LAYOUT = Layout(
    name="folder",
    title="any folder in the MVTec AD layout",
    licence="its own",
    expected=(
        "<category>/train/good and <category>/test/<defect>, or the same without <category>; masks, if any, in "
        "ground_truth/<defect>/<name>_mask.png or <name>.png"
    ),
    masks="if ground_truth is there",
    recognises=lambda root: is_mvtec_category(root) or any_category(is_mvtec_category)(root),
    fits=lambda root: is_mvtec_category(root) or any_category(is_mvtec_category)(root),
    categories=_folder_categories,
    read=_read_folder,
)
