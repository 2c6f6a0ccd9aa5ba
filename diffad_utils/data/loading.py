"""From a sample table to tensors: resizing, samples, batches. `images` and `masks` read the files.

What may be touched: what a sample holds. Methods and notebooks rely on every name in it.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.transform import resize_local_mean
from torch.utils.data import Dataset

from diffad_utils.data import textures
from diffad_utils.data.facts import Facts, facts_in
from diffad_utils.data.images import FULL_SCALE, read_image
from diffad_utils.data.index import COLUMNS
from diffad_utils.data.layouts import DataWarning
from diffad_utils.data.masks import checked_mask, read_mask
from diffad_utils.data.rows import sample_key

__all__ = ["ImageDataset", "collate", "load_batch", "name_once", "read_image", "read_mask", "resize_mask"]

CACHE_BYTES = 2 * 1024**3


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


def _area(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Share of each new pixel that the mask covers, float64 [*size]: exact for any ratio of sizes (torch's "area"
    mode rounds to whole pixels). 1e-9 absorbs rounding, so that exactly one half counts as half."""
    share = resize_local_mean(mask.numpy().astype(np.float64), size, grid_mode=True, preserve_range=True)
    coverage = torch.from_numpy(share)
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
    where there is no usable mask); label int; key str; and twin float32 [3, H, W] where the index has one.

    An anomalous image whose mask is empty is named in a DataWarning, once. It counts for metrics of images and is
    left out of those of pixels (`metrics.evaluate`).

    Parameters
    ----------
    index: table from `load_index`, or rows of it.
    size: int (square) or (height, width), pixels. Images of any size are resized to it.
    cache: keep decoded and resized samples in memory, up to CACHE_BYTES (2 GiB); samples beyond that are read anew.

    Raises ValueError for an empty index or one without its columns; reading a sample raises DataError (a ValueError)
    naming the file that is unreadable, or whose mask is of another size than the image.
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
        self._facts: dict[str, Facts] | None = None
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
        if row["dataset"] == "textures":
            sample = _render(row, self.size)
        else:
            self._facts = facts_in(self.index) if self._facts is None else self._facts
            sample = _read_files(row, self.size, self._facts[f"{row['dataset']}/{row['category']}"])
        return {**sample, "label": int(row["label"]), "key": sample_key(row)}


def _read_files(row: pd.Series, size: tuple[int, int], facts: Facts) -> dict:
    scale = {} if facts.grey_scale == FULL_SCALE else {"full_scale": facts.grey_scale}
    image = read_image(row["image"], **scale)
    mask = torch.zeros(size, dtype=torch.bool)
    if isinstance(row["mask"], str) and row["label"]:
        stored, fault = checked_mask(row["mask"], row["image"], tuple(image.shape[-2:]), facts.mask_kind)
        if fault:
            name_once([(row["mask"], fault)])
        mask = resize_mask(stored, size)
    sample = {"image": resize_image(image, size), "mask": mask}
    if isinstance(row["twin"], str):
        sample["twin"] = resize_image(read_image(row["twin"], **scale), size)
    return sample


_named: set[tuple[str, str]] = set()


def name_once(faults: Iterable[tuple[str, str]]) -> None:
    """Say in one DataWarning what is wrong with masks, (file, fault) each, that nobody has named in this process."""
    new = [fault for fault in dict.fromkeys(faults) if fault not in _named]
    _named.update(new)
    if new:
        listed = "\n".join(f"  {file}: {fault}" for file, fault in new[:10])
        more = f"\n  ... and {len(new) - 10} more" if len(new) > 10 else ""
        warnings.warn(
            f"{len(new)} mask(s) of anomalous images are empty or not to be believed. An image without a usable mask "
            f"counts for metrics of images and is left out of those of pixels.\n{listed}{more}",
            DataWarning,
            stacklevel=2,
        )


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
