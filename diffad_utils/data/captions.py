"""What to call things in a prompt: the noun of a category, the phrase of a defect, and captions made of both.

The categories of `textures` have the nouns that the small models were trained with; those of ELPV say what they are of,
and every other category is called by its own name. Prompts for CLIP compare the state of a part, as WinCLIP does (Jeong
et al., CVPR 2023, section 4.1).

What may be touched: new nouns and phrases; the small models were trained on the old ones.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

#: Nouns for the categories of `textures`, with their article.
NOUNS = {
    "blister": "a blister pack",
    "brick": "a brick wall",
    "carpet": "a woven carpet",
    "connector": "a pin connector",
    "gravel": "a gravel bed",
    "grid": "a wire mesh",
    "leather": "a leather hide",
    "tile": "a stone tile",
    "wood": "a wooden board",
}
#: Nouns for categories of other data sets whose names do not say what is to be seen. The small models were not trained
#: with them: to those a solar cell is a word, and a picture, that they have never met.
OTHER_NOUNS = {"mono": "a monocrystalline solar cell", "poly": "a polycrystalline solar cell"}
#: What a part with a defect is a part "with".
DEFECTS = {
    "color_shift": "a color shift",
    "contamination": "a contamination",
    "crack": "a crack",
    "distortion": "a distortion",
    "hole": "a hole",
    "misplaced_part": "a misplaced part",
    "missing_part": "a missing part",
    "scratch": "a scratch",
    "stain": "a stain",
    "thread": "a thread",
    "worn": "a worn spot",
}


def noun(category: str) -> str:
    """ "carpet" -> "a woven carpet"; "mono" -> "a monocrystalline solar cell"; an unknown category keeps its own name:
    "metal_nut" -> "a metal nut"."""
    if category in NOUNS or category in OTHER_NOUNS:
        return NOUNS.get(category) or OTHER_NOUNS[category]
    name = category.replace("_", " ").replace("-", " ")
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def caption(category: str, state: str = "") -> str:
    """A caption for a category and a state.

    state: "good" -> "a flawless woven carpet"; "damaged" -> "a damaged woven carpet"; "" -> "a woven carpet"; a defect
    -> "a woven carpet with a hole". A defect that is not in `DEFECTS` is called by its name: "a metal nut with a flip".
    """
    article, _, name = noun(category).partition(" ")
    if state == "good":
        return f"a flawless {name}"
    if state == "damaged":
        return f"a damaged {name}"
    if not state:
        return f"{article} {name}"
    return f"{article} {name} with {DEFECTS.get(state) or noun(state)}"


def categories_of(keys: Sequence[str] | None, count: int, known: Sequence[str]) -> list[str]:
    """The category of each of ``count`` images: the only one known, or the one in its key "dataset/category/...".

    Raises ``ValueError`` where several are known and there are no keys, another number of them, or a key that names
    another one.
    """
    if len(known) == 1:
        return [*known] * count
    if keys is None:
        raise ValueError(f"the detector was fitted on {', '.join(known)}: give the image keys, which name the category")
    if len(keys) != count:
        raise ValueError(f"expected one key an image, got {len(keys)} keys for {count} images")
    categories = [key.split("/")[1] if "/" in key else key for key in keys]
    unknown = sorted(set(categories) - set(known))
    if unknown:
        raise ValueError(f"categories {unknown} were not among the training categories {[*known]}")
    return categories


def fill_prompt(template: str | Mapping[str, str], category: str) -> str:
    """The prompt of a category.

    template : text in which {category} is the category's own name ("metal nut") and {noun} its `noun`
        ("woven carpet" for carpet), or a mapping from categories to such texts.

    Raises ``ValueError`` for a category that the mapping does not have, or another name in braces.
    """
    if isinstance(template, Mapping):
        if category not in template:
            there = ", ".join(sorted(template)) or "none"
            raise ValueError(f"no prompt for category {category!r}; there are prompts for {there}")
        template = template[category]
    known = {"category": category.replace("_", " "), "noun": noun(category).partition(" ")[2]}
    unknown = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None} - known.keys()
    if unknown:
        raise ValueError(f"template {template!r} has fields {sorted(unknown)}; known are {{category}} and {{noun}}")
    return template.format(**known)
