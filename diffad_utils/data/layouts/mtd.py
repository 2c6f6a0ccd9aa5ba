"""MTD, magnetic tiles (Huang et al., 2018): masks beside the images, and a split by tiles, which the set has not.

Its masks hold grey levels between 0 and 255, traces of a lossy format: soft. Four of them are empty. What may be
touched: nothing that moves a picture to the other side of the split, without new reference numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .common import DataError, Layout, as_on_disk, list_folders, list_images, sample_row, seeded_train, train_count

_MTD_NAME = re.compile(r"exp(?P<exposure>\d+)_num_(?P<number>\d+)")
MTD_TILE_GAP = 300
# Images by defect: Huang et al., 2018 (1,344 images).
_PUBLISHED = {
    "magnetic_tile": {"good": 952, "MT_Blowhole": 115, "MT_Break": 85, "MT_Crack": 57, "MT_Fray": 32, "MT_Uneven": 103}
}


def mtd_tiles(numbers: Iterable[int]) -> dict[int, int]:
    """Map the numbers of the file names `exp<i>_num_<n>` to tiles: {number: smallest number of its tile}.

    In the published set no number comes twice: it counts the frames of a recording, in which a tile is shown at
    exposures 1, 2, ... some 10 to 60 frames apart. A tile is therefore a run of numbers with no step above
    MTD_TILE_GAP = 300 frames. How good that is was measured by cross-correlating the pictures of 286 files: of 173
    pairs that show the same tile, 162 fall into one run (all but 11; at a gap of 120 all but 29), while 12 pairs
    of different tiles are joined, which only costs freedom in the split. The 11 show tiles that were recorded again
    700 to 12,000 frames later; a file name does not tell those.

    Where one run would hold more than half of the numbers they are no frame counter, and each number is a tile.
    """
    ordered = sorted(set(numbers))
    tiles: dict[int, int] = {}
    for previous, number in zip([None, *ordered], ordered, strict=False):
        starts = previous is None or number - previous > MTD_TILE_GAP
        tiles[number] = number if starts else tiles[previous]
    largest = max(Counter(tiles.values()).values(), default=0)
    return {number: number for number in ordered} if 2 * largest > len(ordered) else tiles


def _mtd_number(path: Path) -> int:
    match = _MTD_NAME.fullmatch(path.stem)
    if match is None:
        raise DataError(f"{path}: file names of the magnetic tile set must have the form exp<i>_num_<n>")
    return int(match["number"])


def _is_mtd(root: Path) -> bool:
    return (root / "MT_Free" / "Imgs").is_dir()


def _mtd_images(root: Path) -> dict[str, list[Path]]:
    """{class: images}; the masks beside them are the .png files, the images the others."""
    return {
        folder.name: [path for path in list_images(folder / "Imgs", root) if path.suffix.lower() != ".png"]
        for folder in list_folders(root, root)
        if folder.name.startswith("MT_") and (folder / "Imgs").is_dir()
    }


def _mtd_train(images: dict[str, list[Path]], seed: int, train_fraction: float) -> set[Path]:
    """Pictures of MT_Free for training: whole tiles, train_fraction of all pictures of MT_Free.

    A tile that is also shown with a defect is in the test set already, so its defect-free pictures go there too.
    """
    free = images["MT_Free"]
    tile_of = mtd_tiles(_mtd_number(path) for path in free)
    if len(set(tile_of.values())) < len(tile_of):  # a frame counter, which then runs through all classes
        tile_of = mtd_tiles(_mtd_number(path) for paths in images.values() for path in paths)
        shown_defective = {tile_of[_mtd_number(path)] for name in images if name != "MT_Free" for path in images[name]}
    else:
        shown_defective = set()
    groups: dict[str, list[Path]] = {}
    for path in free:
        tile = tile_of[_mtd_number(path)]
        if tile not in shown_defective:
            groups.setdefault(str(tile), []).append(path)
    return seeded_train(groups, seed, train_count(len(free), train_fraction))


def _read_mtd(root: Path, category: str, *, seed: int, train_fraction: float = 0.8) -> list[dict]:
    images = _mtd_images(root)
    train = _mtd_train(images, seed, train_fraction)
    rows = []
    for name, paths in images.items():
        for path in paths:
            if name == "MT_Free":
                rows.append(sample_row("mtd", category, "train" if path in train else "test", "good", path))
            else:
                rows.append(sample_row("mtd", category, "test", name, path, as_on_disk(path.with_suffix(".png"))))
    return rows


LAYOUT = Layout(
    name="mtd",
    title="Magnetic Tile Defects",
    licence="free to use with citation (no formal licence)",
    expected="MT_Free/Imgs/exp<i>_num_<n>.jpg and MT_<Defect>/Imgs/<name>.jpg with the mask <name>.png beside it",
    masks="yes",
    recognises=_is_mtd,
    fits=_is_mtd,
    categories=lambda root: ["magnetic_tile"],
    read=_read_mtd,
    known_categories=("magnetic_tile",),
    mask_kind="soft",
    without_mask=frozenset({"exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057"}),
    options=("train_fraction",),
    published=_PUBLISHED,
    published_by_defect=True,
)
