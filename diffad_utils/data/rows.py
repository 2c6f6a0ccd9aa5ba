"""What can be said of a table of samples without opening a file: keys of samples, files that are not there, labels.

What may be touched: a new fault that paths alone show. Faults of what the files hold belong into `contents`.
"""

from __future__ import annotations

import os
import re
from collections import Counter

import pandas as pd

from diffad_utils.data.layouts import LAYOUTS, sounds_normal


def sample_key(row: dict | pd.Series) -> str:
    """Key of a sample, unique in its index: "<dataset>/<category>/<split>/<defect>/<file name or number>"."""
    parts = str(row["image"]).replace("\\", "/").split("/")
    # Real-IAD keeps the views of one object in a folder of their own.
    name = "/".join(parts[-2:]) if row["dataset"] == "real_iad" else parts[-1]
    return f"{row['dataset']}/{row['category']}/{row['split']}/{row['defect']}/{name}"


def missing_files(index: pd.DataFrame) -> list[tuple[str, str]]:
    """(file, message) for every image or twin of the index that is not there; rendered samples are skipped."""
    missing = []
    for row in index[index["dataset"] != "textures"].itertuples():
        if not os.path.isfile(row.image):
            missing.append((row.image, "image is listed by the data set but there is no such file"))
        if row.twin is not None and not os.path.isfile(row.twin):
            missing.append((row.twin, "twin is listed by the data set but there is no such file"))
    return missing


def missing_masks(index: pd.DataFrame) -> list[tuple[str, str]]:
    """(image, message) for every anomalous image whose mask is called for by the layout or a table, and not there."""
    rows = index[(index["dataset"] != "textures") & index["mask"].notna()].itertuples()
    return [
        (row.image, f"anomalous image without its mask; expected {row.mask}")
        for row in rows
        if not os.path.isfile(row.mask)
    ]


def repeated_keys(index: pd.DataFrame) -> list[tuple[str, str]]:
    """(image, message) for every image whose key (`sample_key`) another one has before it."""
    keys = pd.Series([sample_key(row) for row in index.to_dict("records")], index=index.index, dtype=object)
    message = "same key as another image: split, label and name; rename one (folders of normal images are read as one)"
    return [(image, message) for image in index.loc[keys.duplicated(), "image"]]


def _pairs(stems: list[str]) -> str | None:
    """The ending that makes half of the names out of the other half ("_defect" for a, a_defect, b, b_defect), "" for
    names that all come twice, None where there is none. Endings of digits alone count things."""
    if len(stems) >= 4 and set(Counter(stems).values()) == {2}:
        return ""
    known = set(stems)
    endings = Counter(stem[cut:] for stem in known for cut in range(1, len(stem)) if stem[:cut] in known)
    half = [
        ending for ending, count in endings.items() if 4 <= 2 * count == len(stems) and re.search("[a-z]", ending, re.I)
    ]
    return half[0] if half else None


def doubtful_labels(index: pd.DataFrame) -> list[tuple[str, str]]:
    """(image, message) for every folder of images whose label or number is in doubt: taken as anomalous although its
    name sounds normal, or half of its images named after the other half, as masks and copies are."""
    said = []
    for (category, split, defect), rows in index.groupby(["category", "split", "defect"], sort=False):
        where, first = f"{len(rows)} image(s) {split}/{defect} of {category}", rows["image"].iloc[0]
        if rows["label"].iloc[0] and sounds_normal(defect):
            message = "are taken as anomalous; if they are normal, call the folder good"
            said.append((first, f"{where} {message}"))
        listed = rows["dataset"].iloc[0] in LAYOUTS and LAYOUTS[rows["dataset"].iloc[0]].listed
        ending = None if listed else _pairs([os.path.splitext(os.path.basename(image))[0] for image in rows["image"]])
        if ending is not None:
            how = (
                f"as the other half with {ending!r} after it" if ending else "as the other half, with another extension"
            )
            message = (
                f"half of {where} are named {how}; if they are masks, end their names in _mask; if copies, remove them"
            )
            said.append((first, message))
    return said
