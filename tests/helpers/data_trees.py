"""Small trees of images and masks in the layout of MVTec AD."""

from pathlib import Path

import numpy as np
from PIL import Image


def image(path: Path, size=(12, 10), value=90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def mask(path: Path, size=(12, 10), value=255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), np.uint8)
    values[2:5, 3:7] = value
    Image.fromarray(values).save(path)
    return path


def mvtec_tree(root: Path, *categories: str, suffix="_mask") -> Path:
    for category in categories:
        for i in range(3):
            image(root / category / "train" / "good" / f"{i:03d}.png")
        for i in range(2):
            image(root / category / "test" / "good" / f"{i:03d}.png")
            image(root / category / "test" / "broken" / f"{i:03d}.png")
            mask(root / category / "ground_truth" / "broken" / f"{i:03d}{suffix}.png")
    return root
