"""What the files of a category have in common, found once for all of its images: kind of the masks, range of the greys.

Both are properties of a data set (who drew the masks, which camera took the pictures), not of a sample or a batch.
`load_index` looks at a whole category and leaves the facts in `index.attrs`, so that every part of the index is read
alike; an index that was put together otherwise is looked at as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from diffad_utils.data.images import FULL_SCALE, deep_maxima, grey_scale
from diffad_utils.data.layouts import LAYOUTS
from diffad_utils.data.masks import sampled_kind

ATTRIBUTE = "files"  # key in index.attrs: {"<dataset>/<category>": [mask_kind, grey_scale]}


class Facts(NamedTuple):
    """mask_kind: "classes", "soft" or None (masks have one level besides black, or there are none); grey_scale: what
    grey values of more than 8 bits are divided by."""

    mask_kind: str | None = None
    grey_scale: int = FULL_SCALE


def facts_of(rows: pd.DataFrame) -> Facts:
    """The facts of one category, from rows of an index."""
    dataset = rows["dataset"].iloc[0]
    if dataset == "textures":
        return Facts()
    declared = LAYOUTS[dataset].mask_kind if dataset in LAYOUTS else None
    masks = sorted(rows.loc[rows["label"] == 1, "mask"].dropna())
    maxima = deep_maxima(rows["image"])
    scale = grey_scale(max(maxima.values())) if maxima else FULL_SCALE
    return Facts(declared or sampled_kind(masks), scale)


def note_facts(index: pd.DataFrame) -> pd.DataFrame:
    """Leave the facts of every category in `index.attrs`. Returns the index."""
    groups = index.groupby(["dataset", "category"], sort=False)
    index.attrs[ATTRIBUTE] = {f"{dataset}/{name}": list(facts_of(rows)) for (dataset, name), rows in groups}
    return index


def facts_in(index: pd.DataFrame) -> dict[str, Facts]:
    """{"<dataset>/<category>": facts}: those that `load_index` left, and for other categories from the rows here."""
    noted = index.attrs.get(ATTRIBUTE, {})
    groups = index.groupby(["dataset", "category"], sort=False)
    return {
        f"{dataset}/{name}": Facts(*noted[f"{dataset}/{name}"]) if f"{dataset}/{name}" in noted else facts_of(rows)
        for (dataset, name), rows in groups
    }
