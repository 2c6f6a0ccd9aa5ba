"""MPDD, metal parts (Jezek et al., ICUMT 2021): what is published about it; its tree is read by `mvtec_like`.

What may be touched: nothing but errata of the publication.
"""

from __future__ import annotations

from .common import CC_BY_NC_SA, Layout, any_category, by_split
from .mvtec_like import all_known, is_mvtec_category, mvtec_categories, mvtec_reader

MPDD_CATEGORIES = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")
# (train, test normal, test anomalous): Jezek et al., ICUMT 2021 (888 + 176 + 282).
_PUBLISHED = {
    "bracket_black": (289, 32, 47),
    "bracket_brown": (185, 26, 51),
    "bracket_white": (110, 30, 30),
    "connector": (128, 30, 14),
    "metal_plate": (54, 26, 71),
    "tubes": (122, 32, 69),
}

LAYOUT = Layout(
    name="mpdd",
    title="MPDD (metal parts)",
    licence=CC_BY_NC_SA,
    expected="<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/<name>_mask.png",
    masks="yes",
    recognises=all_known(MPDD_CATEGORIES),
    fits=any_category(is_mvtec_category),
    categories=mvtec_categories,
    read=mvtec_reader("mpdd"),
    known_categories=MPDD_CATEGORIES,
    published=by_split(_PUBLISHED),
)
