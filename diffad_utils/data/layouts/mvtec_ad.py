"""MVTec AD (Bergmann et al., CVPR 2019): what is published about it; its tree is read by `mvtec_like`.

What may be touched: nothing but errata of the publication.
"""

from __future__ import annotations

from .common import CC_BY_NC_SA, Layout, any_category, by_split
from .mvtec_like import all_known, is_mvtec_category, mvtec_categories, mvtec_reader

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
# (train, test normal, test anomalous): Bergmann et al., IJCV 2021, Table 1 (3,629 + 467 + 1,258).
_PUBLISHED = {
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}

LAYOUT = Layout(
    name="mvtec_ad",
    title="MVTec AD",
    licence=CC_BY_NC_SA,
    expected="<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/<name>_mask.png",
    masks="yes",
    recognises=all_known(MVTEC_AD_CATEGORIES),
    fits=any_category(is_mvtec_category),
    categories=mvtec_categories,
    read=mvtec_reader("mvtec_ad"),
    known_categories=MVTEC_AD_CATEGORIES,
    published=by_split(_PUBLISHED),
)
