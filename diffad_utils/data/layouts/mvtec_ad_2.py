"""MVTec AD 2 (Heckler-Kram et al., arXiv 2503.21622, 2025): the tree of MVTec AD with test_public in place of test.

Labels and masks of test_private and test_private_mixed are only on the authors' evaluation server, so these images are
not read. The normal images of validation are for choosing thresholds without the test set; they are not read either.
What may be touched: published counts, once they are at hand.
"""

from __future__ import annotations

from pathlib import Path

from .common import CC_BY_NC_SA, Layout, any_category, list_folders
from .mvtec_like import is_mvtec_category, read_mvtec_tree

MVTEC_AD_2_CATEGORIES = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")


def _is_category(folder: Path) -> bool:
    return is_mvtec_category(folder, test="test_public")


LAYOUT = Layout(
    name="mvtec_ad_2",
    title="MVTec AD 2",
    licence=CC_BY_NC_SA,
    expected="<category>/train/good, <category>/test_public/{good,bad}, masks in test_public/ground_truth/bad",
    masks="yes",
    recognises=any_category(_is_category),
    fits=any_category(_is_category),
    categories=lambda root: [folder.name for folder in list_folders(root, root) if _is_category(folder)],
    read=lambda root, category, *, seed: read_mvtec_tree(
        "mvtec_ad_2", root, root / category, category, test="test_public"
    ),
    known_categories=MVTEC_AD_2_CATEGORIES,
    unused={
        "validation": "normal images for choosing thresholds",
        "test_private": "its labels are only on the evaluation server",
        "test_private_mixed": "its labels are only on the evaluation server",
    },
)
