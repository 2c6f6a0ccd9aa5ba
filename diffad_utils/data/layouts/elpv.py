"""ELPV, solar cells (Deitsch et al., Solar Energy 2019): a table of probabilities, no masks, no split.

What may be touched: nothing that moves a cell to the other side of the split, without new reference numbers.
"""

from __future__ import annotations

from pathlib import Path

from .common import (
    CC_BY_NC_SA,
    DataError,
    Layout,
    as_on_disk,
    below,
    inside,
    read_text,
    sample_row,
    seeded_train,
    train_count,
)

ELPV_DEFECTS = {"0.00": "good", "0.33": "probability_1_3", "0.67": "probability_2_3", "1.00": "defective"}
# Images by defect: Deitsch et al., 2019 (2,624 cells).
_PUBLISHED = {
    "mono": {"good": 588, "probability_1_3": 117, "probability_2_3": 56, "defective": 313},
    "poly": {"good": 920, "probability_1_3": 178, "probability_2_3": 50, "defective": 402},
}


def _is_elpv(root: Path) -> bool:
    return (root / "labels.csv").is_file() and (root / "images").is_dir()


def elpv_table(root: Path) -> list[tuple[str, str, str]]:
    """Lines of labels.csv as (path below root, defect name of the probability, "mono" or "poly")."""
    path = inside(root, root / "labels.csv")
    table = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            image, probability, cell_type = fields
            defect = ELPV_DEFECTS[f"{float(probability):.2f}"]
        except (ValueError, KeyError):
            raise DataError(
                f"{path}, line {number}: '<image> <0, 1/3, 2/3 or 1> <mono|poly>' expected; got {line!r}"
            ) from None
        table.append((image, defect, cell_type))
    return table


def _read_elpv(
    root: Path, category: str, *, seed: int, uncertain: bool = False, train_fraction: float = 0.8
) -> list[dict]:
    table = [(image, defect) for image, defect, cell_type in elpv_table(root) if cell_type == category]
    normal = {image: [image] for image, defect in table if defect == "good"}
    train = seeded_train(normal, seed, train_count(len(normal), train_fraction))
    return [
        sample_row("elpv", category, "train" if image in train else "test", defect, below(root, image))
        for image, defect in table
        if uncertain or defect in ("good", "defective")
    ]


LAYOUT = Layout(
    name="elpv",
    title="ELPV solar cells",
    licence=CC_BY_NC_SA,
    expected="labels.csv and images/cell<nnnn>.png (as in the Python package elpv-dataset)",
    masks="no",
    recognises=_is_elpv,
    fits=_is_elpv,
    categories=lambda root: sorted({kind for image, _, kind in elpv_table(root) if as_on_disk(root / image).is_file()}),
    read=_read_elpv,
    known_categories=("mono", "poly"),
    listed=True,
    options=("uncertain", "train_fraction"),
    published=_PUBLISHED,
    published_by_defect=True,
)
