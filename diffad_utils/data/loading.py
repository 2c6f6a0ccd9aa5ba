"""From a sample table to tensors: reading images and masks of any kind, resizing, batches."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from diffad_utils.data import textures
from diffad_utils.data.index import COLUMNS, sample_key
from diffad_utils.data.layouts import DataError

CACHE_BYTES = 2 * 1024**3
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def _open(path: str | Path) -> Image.Image:
    """Open and decode a file; anything wrong with it is a DataError that names it."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels ({error}); tile or downsize it first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable image, or truncated ({error})") from error
    return image


def read_image(path: str | Path) -> torch.Tensor:
    """Image file -> float32 [3, H, W] in [0, 1].

    Grey images are repeated over the three channels, palettes looked up, alpha dropped (not blended: there is no
    background to blend with). 16-bit grey is divided by 65535, everything else by 255; Pillow keeps the upper 8 of
    a 16-bit colour channel. EXIF rotation is not applied, as masks are drawn on the stored pixels.

    Raises DataError, naming the file, if it is missing, truncated, no image, a float image outside [0, 1], an integer
    image above 65535, or larger than Pillow's decompression bomb limit.
    """
    image = _open(path)
    if image.mode in _SIXTEEN_BIT or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float32)
        values = values if image.mode == "F" else values / 65535
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise DataError(
                f"{path}: {image.mode} image with values {values.min():g} to {values.max():g} after scaling; expected "
                "16-bit integers (0 to 65535) or floats in [0, 1]"
            )
        return torch.from_numpy(values)[None].repeat(3, 1, 1)
    # Palette entries may carry transparency; by way of RGBA Pillow drops it without a warning.
    image = image.convert("RGBA") if image.mode in ("P", "PA") else image
    values = np.array(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def read_mask(path: str | Path) -> torch.Tensor:
    """Mask file -> bool [H, W], True where anomalous.

    Every pixel that is not black counts (masks hold 255, 1, or a class number; palettes are looked up, alpha is
    ignored). In JPEG files, whose black is not exactly 0, the limit is half of full scale.
    Raises DataError, naming the file, if it cannot be read.
    """
    image = _open(path)
    lossy = image.format == "JPEG"
    if image.mode in ("P", "PA", "LA", "RGBA", "CMYK", "YCbCr"):
        image = image.convert("RGBA").convert("RGB")
    values = np.asarray(image)
    values = values.max(axis=2) if values.ndim == 3 else values
    return torch.from_numpy(np.ascontiguousarray(values >= 128 if lossy else values != 0))


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Float image [3, H, W] -> [3, *size]: bilinear with antialiasing, aspect ratio not kept, clamped to [0, 1]."""
    if tuple(image.shape[-2:]) == size:
        return image
    resized = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].clamp_(0, 1)


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bool mask [H, W] -> bool [*size], by area: a new pixel is set if at least half of it is covered.

    A mask never vanishes: if no pixel is half covered (a thin crack made much smaller), the pixels are kept whose
    coverage is at least half of the largest one.
    """
    if tuple(mask.shape) == size:
        return mask
    coverage = _area(mask, size)
    largest = coverage.max()
    if largest == 0:
        return torch.zeros(size, dtype=torch.bool)
    return coverage >= (0.5 if largest >= 0.5 else largest / 2)


def _overlap(old: int, new: int) -> torch.Tensor:
    """[new, old] share of each new cell covered by each old cell, both grids spanning the same length."""
    edges_old = torch.arange(old + 1, dtype=torch.float64) / old
    edges_new = torch.arange(new + 1, dtype=torch.float64) / new
    low = torch.maximum(edges_old[None, :-1], edges_new[:-1, None])
    high = torch.minimum(edges_old[None, 1:], edges_new[1:, None])
    return (high - low).clamp_(min=0) * new


def _area(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Share of each new pixel that the mask covers, float64 [*size]: exact for any ratio of sizes (torch's "area"
    mode rounds to whole pixels). 1e-9 absorbs rounding, so that exactly one half counts as half."""
    rows, columns = _overlap(mask.shape[0], size[0]), _overlap(mask.shape[1], size[1])
    coverage = rows @ mask.double() @ columns.T
    return torch.where(coverage < 1e-9, torch.zeros_like(coverage), coverage + 1e-9)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, (int, np.integer)) else size
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or not all(isinstance(side, (int, np.integer)) and side >= 1 for side in pair)
    ):
        raise ValueError(f"size must be a positive int or (height, width), both positive ints; got {size!r}")
    return int(pair[0]), int(pair[1])


class ImageDataset(Dataset):
    """Samples of an index as tensors.

    `dataset[i]` is a dict: image float32 [3, H, W] in [0, 1]; mask bool [H, W] (all False for a normal image, and
    where the data set has no masks); label int; key str; and twin float32 [3, H, W] where the index has one.

    Parameters
    ----------
    index: table from `load_index`, or rows of it.
    size: int (square) or (height, width), pixels. Images of any size are resized to it.
    cache: keep decoded and resized samples in memory, up to CACHE_BYTES (2 GiB); samples beyond that are read anew.

    Raises ValueError for an empty index or one without its columns; reading a sample raises DataError (a ValueError)
    naming the file that is unreadable, or whose mask is empty or of another size than the image.
    """

    def __init__(self, index: pd.DataFrame, size: int | tuple[int, int] = 256, *, cache: bool = True):
        absent = [column for column in COLUMNS if column not in index.columns]
        if absent:
            raise ValueError(f"index without the columns {absent}; expected a table from load_index with {COLUMNS}")
        if len(index) == 0:
            raise ValueError("index has zero images; did a filter leave nothing?")
        self.index = index.reset_index(drop=True)
        self.size = _pair(size)
        self.cache = cache
        self._cached: dict[int, dict] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict:
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        i %= len(self)
        sample = self._cached.get(i)
        if sample is None:
            sample = self._read(i)
            used = sum(value.nbytes for value in sample.values() if isinstance(value, torch.Tensor))
            if self.cache and self._cached_bytes + used <= CACHE_BYTES:
                self._cached[i] = sample
                self._cached_bytes += used
        # Copies, so that an in-place augmentation cannot reach the cache.
        return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in sample.items()}

    def _read(self, i: int) -> dict:
        row = self.index.iloc[i]
        sample = _render(row, self.size) if row["dataset"] == "textures" else _read_files(row, self.size)
        return {**sample, "label": int(row["label"]), "key": sample_key(row)}


def _read_files(row: pd.Series, size: tuple[int, int]) -> dict:
    image = read_image(row["image"])
    mask = torch.zeros(size, dtype=torch.bool)
    if isinstance(row["mask"], str) and row["label"]:
        mask = resize_mask(checked_mask(row["mask"], row["image"], tuple(image.shape[-2:])), size)
    sample = {"image": resize_image(image, size), "mask": mask}
    if isinstance(row["twin"], str):
        sample["twin"] = resize_image(read_image(row["twin"]), size)
    return sample


def checked_mask(mask_path: str, image_path: str, image_size: tuple[int, int]) -> torch.Tensor:
    """`read_mask`, refusing an empty mask and one whose size is not image_size (height, width) with a DataError."""
    mask = read_mask(mask_path)
    if tuple(mask.shape) != image_size:
        raise DataError(
            f"{mask_path}: mask is {mask.shape[1]} x {mask.shape[0]} (width x height) but its image {image_path} is "
            f"{image_size[1]} x {image_size[0]}; they must be equal"
        )
    if not mask.any():
        raise DataError(f"{mask_path}: mask of the anomalous image {image_path} is empty (no pixel is set)")
    return mask


def _render(row: pd.Series, size: tuple[int, int]) -> dict:
    key = textures.parse_key(row["image"])
    drawn = textures.render(key.category, key.split, key.index, seed=key.seed, size=size, defect=key.defect)
    sample = {"image": _channels_first(drawn.image), "mask": torch.from_numpy(drawn.mask.copy())}
    if isinstance(row["twin"], str):
        sample["twin"] = _channels_first(drawn.twin)
    return sample


def _channels_first(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), dtype=np.float32, order="C"))


def collate(samples: list[dict]) -> dict:
    """Stack samples into a batch.

    image float32 [B, 3, H, W], mask bool [B, H, W], label int64 [B], key list[str]; and twin [B, 3, H, W] if any
    sample has one (a normal image is its own twin).
    Raises ValueError for no samples, and for anomalous samples without a twin beside others with one.
    """
    if not samples:
        raise ValueError("collate got no samples")
    batch = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "mask": torch.stack([sample["mask"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        "key": [sample["key"] for sample in samples],
    }
    if any("twin" in sample for sample in samples):
        odd = [sample["key"] for sample in samples if sample["label"] and "twin" not in sample]
        if odd:
            raise ValueError(f"{odd[0]}: anomalous sample without a twin in a batch of samples with twins")
        batch["twin"] = torch.stack([sample.get("twin", sample["image"]) for sample in samples])
    return batch


def load_batch(dataset: ImageDataset) -> dict:
    """Every sample of a (small) data set as one batch, see `collate`; 13 H W bytes an image, 25 with twins."""
    return collate([dataset[i] for i in range(len(dataset))])
