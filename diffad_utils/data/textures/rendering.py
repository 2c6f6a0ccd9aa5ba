"""The embedded data set `textures`: procedural surfaces and objects, each defective image with its defect-free twin.

An image is a pure function of (seed, category, split, defect, index) at any size: a random stream derived from these
through `numpy.random.SeedSequence` and Philox draws a scene in unit-square coordinates (`surfaces`), a defect is
blended over it (`defects`), and both versions go through the same camera (illumination, gain, contrast, sensor noise, 8
bits). What may be touched: new categories and defects in the tables; the order of random draws is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from . import defects, surfaces
from .canvas import canvas

#: A pixel belongs to the mask where max over channels |image - twin| > THRESHOLD, i.e. differs by 5 or more grey levels
#: of 255. The half level keeps the comparison clear of float32 rounding (images are whole multiples of 1/255).
THRESHOLD = 4.5 / 255
#: Bounds of the mask's area as a fraction of the image.
AREA = (0.001, 0.25)
#: Isolated specks of fewer pixels than this fraction of the image are not kept as differences.
SPECK = 2e-4
#: The canvas on which a defect is judged; smaller images are averaged down from a canvas of at least this size.
REFERENCE = (256, 256)

_MARKS = ("scratch", "hole", "stain", "color_shift", "thread", "contamination")
#: category -> the defects that make sense for it.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "blister": ("missing_part", "misplaced_part", "hole", "stain", "scratch", "contamination", "crack"),
    "brick": ("scratch", "hole", "stain", "color_shift", "contamination", "crack", "worn"),
    "carpet": (*_MARKS, "worn", "distortion"),
    "connector": ("missing_part", "misplaced_part", "scratch", "stain", "thread", "contamination", "crack"),
    "gravel": (*_MARKS, "worn"),
    "grid": ("hole", "stain", "color_shift", "thread", "contamination", "worn", "distortion"),
    "leather": (*_MARKS, "crack", "worn"),
    "tile": (*_MARKS, "crack", "worn"),
    "wood": (*_MARKS, "crack", "distortion"),
}
DEFECTS: tuple[str, ...] = tuple(sorted({name for names in CATEGORIES.values() for name in names}))
SPLITS = ("train", "test")
COLUMNS = ("dataset", "category", "split", "label", "defect", "image", "mask", "twin")


class Sample(NamedTuple):
    """image, twin: float32 [H, W, 3] in [0, 1], whole multiples of 1/255; mask: bool [H, W]; defect: name or "good"."""

    image: np.ndarray
    twin: np.ndarray
    mask: np.ndarray
    defect: str


class Key(NamedTuple):
    seed: int
    category: str
    split: str
    defect: str
    index: int
    part: str  # "image", "twin" or "mask"


def _check(category: str, split: str, defect: str, index: int, seed: int) -> None:
    if category not in CATEGORIES:
        raise ValueError(f"textures: unknown category {category!r}; known ones: {', '.join(CATEGORIES)}")
    if split not in SPLITS:
        raise ValueError(f"textures: unknown split {split!r}; expected one of: {', '.join(SPLITS)}")
    if defect != "good" and defect not in CATEGORIES[category]:
        raise ValueError(
            f"textures: category {category!r} has no defect {defect!r}; it has: good, {', '.join(CATEGORIES[category])}"
        )
    if defect != "good" and split == "train":
        raise ValueError(
            f"textures: the training split holds normal images only, got defect {defect!r}; use split='test'"
        )
    if index < 0 or seed < 0:
        raise ValueError(f"textures: index and seed must be 0 or more, got index={index}, seed={seed}")


def stream(*key: int | str) -> Generator:
    """An independent random generator for a key of ints and strings."""
    entropy = [crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _conditions(seed: int, category: str, split: str, defect: str, index: int) -> np.ndarray:
    """Evenly spread imaging conditions [5] in [0, 1): point `index` of an additive recurrence (Roberts' R sequence).

    Normal and anomalous test images thus see the same range of gain, contrast, noise and light by design, instead of
    by luck, and so do small test sets. Defects of one category share a sequence (their indices are distinct).
    """
    offset = stream(seed, category, split, "good" if defect == "good" else "anomalous", "conditions").random(5)
    phi = 1.0
    for _ in range(40):  # the real root of phi**6 = phi + 1
        phi = (1 + phi) ** (1 / 6)
    return (offset + (index + 1) * phi ** -np.arange(1.0, 6.0)) % 1.0


def _largest_change(difference: np.ndarray) -> np.ndarray:
    """Max over channels of |difference|: [H, W, 3] -> [H, W]."""
    red, green, blue = np.moveaxis(np.abs(difference), 2, 0)
    return np.maximum(np.maximum(red, green), blue)


def _visible(difference: np.ndarray) -> np.ndarray:
    """Mask [H, W] of a difference [H, W, 3], without specks smaller than SPECK (unless there is nothing else)."""
    mask = _largest_change(difference) > THRESHOLD
    regions, _count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return (sizes >= min(SPECK * mask.size, sizes.max()))[regions] & mask


def suitable(twin: np.ndarray, image: np.ndarray) -> bool:
    """Is the visible area inside AREA, with a margin for the camera, at the size drawn and at a half and a quarter?"""
    difference = 0.75 * (image - twin)
    half = reduce(difference, 2)
    areas = [_visible(change).mean() for change in (difference, half, reduce(half, 2))]
    return 1.3 * AREA[0] < min(areas) and max(areas) < 0.9 * AREA[1]


def _surface(seed: int, category: str, split: str, defect: str, index: int, shape: tuple[int, int]) -> surfaces.Surface:
    rng = stream(seed, category, split, defect, index, "scene")
    return getattr(surfaces, category)(canvas(*shape), rng, split)


def _blend(
    surface: surfaces.Surface, attempt: int, seed: int, category: str, split: str, defect: str, index: int
) -> np.ndarray:
    rng = stream(seed, category, split, defect, index, "defect", attempt)
    twin = surface.color
    alpha, layer = getattr(defects, defect)(canvas(*twin.shape[:2]), rng, surface, twin)
    return twin + alpha[..., None] * (layer - twin)


@lru_cache(maxsize=4)
def _reference(*key: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """(twin, image, attempt) on the reference canvas: a defect is redrawn until it is suitable there."""
    surface = _surface(*key, REFERENCE)
    for attempt in range(200):
        image = _blend(surface, attempt, *key)
        if suitable(surface.color, image):
            return surface.color, image, attempt
    raise RuntimeError(f"textures: none of 200 draws of {key} has a visible area within {AREA} of the image")


def _scene(*key: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance [H, W, 3] without and with the defect on a canvas of `shape`; every size takes the same draw."""
    if key[3] == "good":
        twin = _surface(*key, shape).color
        return twin, twin
    twin, image, attempt = _reference(*key)
    if shape != REFERENCE:
        surface = _surface(*key, shape)
        twin, image = surface.color, _blend(surface, attempt, *key)
    return twin, image


def camera(reflectances: Sequence[np.ndarray], conditions: np.ndarray, rng: Generator) -> list[np.ndarray]:
    """Photograph scenes [H, W, 3] under one illumination, gain, contrast, white balance and sensor noise, to 8 bits.

    The first scene sets the mean that contrast turns around. Returns whole grey levels, float32 [H, W, 3] in 0..255.
    """
    gain, contrast, noise, vignette, tilt = (float(c) for c in conditions)
    first = reflectances[0]
    board = canvas(*first.shape[:2])
    angle, cx, cy = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)
    x, y = board.x - cx, board.y - cy
    light = 1 + 0.25 * tilt * (float(np.cos(angle)) * x + float(np.sin(angle)) * y)
    light = light * (1 - 0.5 * vignette * (x * x + y * y)) * (0.72 + 0.5 * gain)
    balance = (1 + rng.normal(0, 0.01, 3)).astype(np.float32)
    factor = light[..., None] * balance
    grain = rng.standard_normal((*board.shape, 3), dtype=np.float32)
    grain = (0.004 + 0.014 * noise) * (0.6 * grain + 0.4 * grain.mean(2, keepdims=True))
    contrast = 0.75 + 0.5 * contrast
    offset = (1 - contrast) * first.mean((0, 1)) * factor + grain
    return [np.rint(np.clip(contrast * scene * factor + offset, 0, 1) * 255) for scene in reflectances]


def reduce(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor x factor pixels of [H, W, 3]."""
    if factor == 1:
        return image
    rows = sum(image[k::factor] for k in range(factor))
    return sum(rows[:, k::factor] for k in range(factor)) / np.float32(factor**2)


@lru_cache(maxsize=8)
def _render(category: str, split: str, index: int, seed: int, shape: tuple[int, int], defect: str) -> Sample:
    # Drawn on at least 256 pixels a side and averaged down, which is what keeps fine structure from aliasing at small
    # sizes.
    factor = -(-REFERENCE[0] // min(shape))
    twin, image = _scene(seed, category, split, defect, index, shape=(shape[0] * factor, shape[1] * factor))
    scenes = [reduce(scene, factor) for scene in ((twin,) if defect == "good" else (twin, image))]
    levels = camera(
        scenes,
        _conditions(seed, category, split, defect, index),
        stream(seed, category, split, defect, index, "camera"),
    )
    twin, image = levels[0] / np.float32(255), levels[-1] / np.float32(255)
    mask = np.zeros(shape, bool)
    if defect != "good":
        mask = _visible(image - twin)
        specks = (_largest_change(image - twin) > THRESHOLD) & ~mask
        image[specks] = twin[specks]
    for array in (image, twin, mask):
        array.flags.writeable = False  # shared through the cache
    return Sample(image, twin, mask, defect)


def render(
    category: str, split: str, index: int, *, seed: int = 0, size: int | Sequence[int] = 256, defect: str | None = None
) -> Sample:
    """Draw one sample.

    Parameters: category in CATEGORIES; split "train" or "test"; index >= 0; size in pixels, int or (height, width), the
    scene is the same at every size; defect one of CATEGORIES[category], or None (or "good") for a normal image.
    Returns a Sample of read-only arrays; for a normal image the twin is the image and the mask is empty.
    Raises ValueError for an unknown category, split or defect, and for a defect in the training split.
    """
    defect = defect or "good"
    _check(category, split, defect, index, seed)
    shape = (size, size) if isinstance(size, (int, np.integer)) else size
    if len(shape) != 2 or min(shape) < 16:
        raise ValueError(f"textures: size must be an int or (height, width) of at least 16 pixels, got {size!r}")
    return _render(category, split, int(index), int(seed), (int(shape[0]), int(shape[1])), defect)


def format_key(seed: int, category: str, split: str, defect: str, index: int, part: str = "image") -> str:
    """For example "textures:seed=0/carpet/test/hole/0007", with "#twin" or "#mask" after it for the other parts."""
    return f"textures:seed={seed}/{category}/{split}/{defect}/{index:04d}" + ("" if part == "image" else f"#{part}")


_KEY = re.compile(r"textures:seed=(\d+)/(\w+)/(\w+)/(\w+)/(\d+)(?:#(twin|mask))?")


def parse_key(key: str) -> Key:
    """The parts of a key. Raises ValueError where the key is malformed or names what does not exist."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(
            f"textures: {key!r} is no key; expected textures:seed=<n>/<category>/<split>/<defect>/<index>, "
            "optionally with #twin or #mask after it"
        )
    seed, category, split, defect, index, part = match.groups()
    _check(category, split, defect, int(index), int(seed))
    return Key(int(seed), category, split, defect, int(index), part or "image")


def load_key(key: str, size: int | Sequence[int] = 256) -> np.ndarray:
    """The array behind a key: image or twin float32 [H, W, 3] in [0, 1], mask bool [H, W]; read-only."""
    seed, category, split, defect, index, part = parse_key(key)
    return getattr(render(category, split, index, seed=seed, size=size, defect=defect), part)


def index(
    category: str | None = None, seed: int = 0, train: int = 200, test_good: int = 40, test_anomalous: int = 60
) -> pd.DataFrame:
    """The table of samples of one category (None: all), sorted by category, split, defect, index; see COLUMNS.

    Anomalous image i has the category's defect number i modulo their count; indices are unique over the defects, so a
    larger test_anomalous adds images and changes none. mask and twin are None for normal images.
    """
    if category is not None:
        _check(category, "train", "good", 0, seed)
    rows = []
    for name in CATEGORIES if category is None else [category]:
        kinds = CATEGORIES[name]
        samples = [("train", "good", i) for i in range(train)] + [("test", "good", i) for i in range(test_good)]
        samples += [("test", kinds[i % len(kinds)], i) for i in range(test_anomalous)]
        for split, defect, i in samples:
            anomalous = defect != "good"
            rows.append(
                (
                    "textures",
                    name,
                    split,
                    int(anomalous),
                    defect,
                    format_key(seed, name, split, defect, i),
                    format_key(seed, name, split, defect, i, "mask") if anomalous else None,
                    format_key(seed, name, split, defect, i, "twin") if anomalous else None,
                )
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).astype({"label": int})
    return table.sort_values(["category", "split", "defect", "image"], ignore_index=True)


def export(
    folder: str | Path, categories: Iterable[str] | None = None, size: int = 256, seed: int = 0, **counts: int
) -> Path:
    """Write an MVTec-like tree of 8-bit PNGs, with a `twin/<defect>/` folder beside `ground_truth/<defect>/`.

    <folder>/<category>/{train/good, test/<defect>}/0007.png, ground_truth/<defect>/0007_mask.png (0 or 255) and
    twin/<defect>/0007.png. Images are 8-bit already, so nothing is lost. `counts` go to `index`. Returns the folder.
    """
    folder = Path(folder)
    for name in categories or CATEGORIES:
        for row in index(name, seed=seed, **counts).itertuples():
            key = parse_key(row.image)
            sample = render(name, row.split, key.index, seed=seed, size=size, defect=row.defect)
            _save(sample.image, folder / name / row.split / row.defect / f"{key.index:04d}.png")
            if row.label:
                _save(sample.mask, folder / name / "ground_truth" / row.defect / f"{key.index:04d}_mask.png")
                _save(sample.twin, folder / name / "twin" / row.defect / f"{key.index:04d}.png")
    return folder


def _save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(array * 255.0).astype(np.uint8)).save(path)
