"""What every threshold accepts, over all pixels of a test set, from one sort of every score.

Every pixel-level metric is a sum over thresholds, and its curve bends only at the scores of anomalous pixels. So the
scores of normal pixels are sorted as bare float32 numbers, and those of anomalous pixels with the number of their
region in the lower half of a 64-bit integer whose upper half orders as the score does: sorting integers needs no index
array, and the region comes along. Equal scores are one threshold.

Counts of normal pixels above a threshold add up over parts of a test set. A test set larger than memory is therefore
kept as sorted runs in files (`Runs`); only the anomalous pixels are merged, a range of scores at a time.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

__all__ = ["Counts", "Runs", "count", "count_on_device", "pack", "regions", "unpack"]

# A defect may run diagonally: pixels that touch at a corner belong to one region (scipy's default is 4 neighbours).
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)

# Pixels of one class that are held before they become a sorted run; anomalous ones are merged in blocks of a quarter of
# it.
RUN_PIXELS = 2**21

REGION_BITS = 32


class Counts(NamedTuple):
    """Thresholds at distinct scores of anomalous pixels, descending, and what joins at or lies above each: [K] each."""

    thresholds: np.ndarray
    hits: np.ndarray  # int64: anomalous pixels at the threshold
    overlap: np.ndarray  # float64: sum of 1 / (area of its region) over these pixels
    false_above: np.ndarray  # int64: normal pixels above the threshold
    false: np.ndarray  # int64: normal pixels at or above it


def regions(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected regions (8 neighbours) of masks bool [N,H,W].

    Returns the region number of every anomalous pixel, int64 in the order of ``maps[masks]`` and counted through all
    images, and the area of every region in pixels, int64.
    """
    numbers, areas, found = [], [], 0
    for mask in masks:
        if mask.any():
            labelled, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
            number = labelled[mask].astype(np.int64)
            areas.append(np.bincount(number, minlength=count + 1)[1:])
            numbers.append(number + (found - 1))
            found += count
    if not numbers:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(numbers), np.concatenate(areas)


def pack(scores: np.ndarray, region: np.ndarray) -> np.ndarray:
    """float32 scores and region numbers below 2^32, as int64 that order by score, then by region."""
    bits = (np.ascontiguousarray(scores, dtype=np.float32) + np.float32(0.0)).view(np.int32)  # -0.0 becomes 0.0
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # negative floats order backwards as integers
    return (ordered.astype(np.int64) << REGION_BITS) | region


def unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and region numbers int64 of `pack`."""
    ordered = (packed >> REGION_BITS).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32), packed & (2**REGION_BITS - 1)


def _fits_float32(dtype: np.dtype) -> bool:
    return np.can_cast(dtype, np.float32, "safe")


def count(maps: np.ndarray, masks: np.ndarray) -> tuple[Counts, np.ndarray, int]:
    """Counts over maps [N,H,W] (real, finite) and masks bool [N,H,W] in memory.

    Returns the counts, the normal pixels' scores ascending, and the number of regions. Scores that are exact in float32
    are sorted packed; float64 and wide integers with an index array.
    """
    region, area = regions(masks)
    normal, anomalous = maps[~masks], maps[masks]
    normal.sort()
    if _fits_float32(maps.dtype):
        packed = pack(anomalous, region)
        packed.sort()
        anomalous, region = unpack(packed)
        anomalous = anomalous.astype(maps.dtype, copy=False)  # back to what the normal scores are
    else:
        order = np.argsort(anomalous)
        anomalous, region = anomalous[order], region[order]
    thresholds, hits, overlap = _merge_equal(anomalous, region, area)
    above = normal.size - np.searchsorted(normal, thresholds, side="right")
    at_or_above = normal.size - np.searchsorted(normal, thresholds, side="left")
    return Counts(thresholds[::-1], hits[::-1], overlap[::-1], above[::-1], at_or_above[::-1]), normal, len(area)


def _merge_equal(scores: np.ndarray, region: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ascending scores and their regions -> distinct scores, pixels at each, and their overlap."""
    if not scores.size:
        return scores, np.zeros(0, np.int64), np.zeros(0)
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    return scores[first], np.diff(np.r_[first, scores.size]), np.add.reduceat(1.0 / area[region], first)


def count_on_device(maps: torch.Tensor, masks: torch.Tensor) -> tuple[Counts, int]:
    """`count` with the sorting on the tensors' device: maps float16, bfloat16 or float32 [N,H,W], masks bool [N,H,W].

    Regions are found on the CPU (scipy), everything else on the device. Returns the counts on the CPU and the number of
    regions; they equal those of `count`, the overlaps to float64 rounding.
    """
    region, area = (torch.from_numpy(values).to(maps.device) for values in regions(masks.cpu().numpy()))
    flat, anomalous_pixels = maps.float().flatten(), masks.flatten()
    normal = flat[~anomalous_pixels].sort().values
    bits = (flat[anomalous_pixels] + 0.0).view(torch.int32)
    packed = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << REGION_BITS) | region
    packed = packed.sort(descending=True).values
    ordered = (packed >> REGION_BITS).int()
    distinct, hits = torch.unique_consecutive(ordered, return_counts=True)
    thresholds = (distinct ^ ((distinct >> 31) & 0x7FFFFFFF)).view(torch.float32)
    # sums over runs of equal scores as differences of a running sum: on a CPU the same in every run, unlike atomic
    # additions
    reached = (1.0 / area[packed & (2**REGION_BITS - 1)].double()).cumsum(0)[hits.cumsum(0) - 1]
    overlap = reached.diff(prepend=reached.new_zeros(1))
    above = len(normal) - torch.searchsorted(normal, thresholds, right=True)
    at_or_above = len(normal) - torch.searchsorted(normal, thresholds)
    return Counts(*(part.cpu().numpy() for part in (thresholds, hits, overlap, above, at_or_above))), len(area)


class Runs:
    """Pixels of a test set that arrives in parts, as sorted runs in files; memory does not grow with the test set.

    Parameters
    ----------
    folder : where the runs are written (8 bytes an anomalous pixel, 4 a normal one). A temporary folder, removed by
        ``close``, if None.
    run_pixels : pixels of a class that are sorted at once; later a quarter as many anomalous ones are merged at once.

    Attributes
    ----------
    normal, anomalous : pixels so far. areas : of every region so far.
    """

    def __init__(self, folder: str | Path | None = None, run_pixels: int = RUN_PIXELS):
        if run_pixels < 1:
            raise ValueError(f"run_pixels must be at least 1, got {run_pixels}")
        self._temporary = tempfile.TemporaryDirectory(prefix="pixel-runs-") if folder is None else None
        self._folder = Path(self._temporary.name if folder is None else folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run_pixels = run_pixels
        # one piece of memory for all parts: pieces that come and go would break the heap up
        self._waiting = {"normal": np.empty(run_pixels, np.float32), "anomalous": np.empty(run_pixels, np.int64)}
        self._used = {"normal": 0, "anomalous": 0}
        self._files: dict[str, list[Path]] = {"normal": [], "anomalous": []}
        self._areas: list[int] = []
        self.normal = self.anomalous = self.regions = 0
        self.lowest, self.highest = np.inf, -np.inf

    def close(self) -> None:
        """Remove the runs' files."""
        for path in (*self._files["normal"], *self._files["anomalous"]):
            path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def add(self, maps: np.ndarray, masks: np.ndarray) -> None:
        """Take in maps [N,H,W] whose values float32 holds exactly, and masks bool [N,H,W]."""
        region, area = regions(masks)
        self._areas += area.tolist()
        anomalous, normal = maps[masks].astype(np.float32, copy=False), maps[~masks].astype(np.float32, copy=False)
        self._keep("anomalous", pack(anomalous, region + self.regions))
        self._keep("normal", normal)
        self.normal, self.anomalous = self.normal + normal.size, self.anomalous + anomalous.size
        self.regions += area.size
        self.lowest, self.highest = min(self.lowest, float(maps.min())), max(self.highest, float(maps.max()))

    def _keep(self, kind: str, values: np.ndarray) -> None:
        while values.size:
            used, room = self._used[kind], self._waiting[kind][self._used[kind] :]
            part, values = values[: room.size], values[room.size :]
            room[: part.size] = part
            self._used[kind] = used + part.size
            if part.size == room.size:
                self._write(kind)

    def _write(self, kind: str) -> None:
        run, self._used[kind] = self._waiting[kind][: self._used[kind]], 0
        if not run.size:
            return
        run.sort()
        path = self._folder / f"{kind}-{len(self._files[kind])}"
        run.tofile(path)
        self._files[kind].append(path)

    def counts(self) -> Iterator[Counts]:
        """Blocks of `Counts`, descending, that together are those of `count` on all parts at once."""
        for kind in self._files:
            self._write(kind)
        area = np.array(self._areas, np.int64)
        anomalous = [np.memmap(path, dtype=np.int64, mode="r") for path in self._files["anomalous"]]
        normal = [np.memmap(path, dtype=np.float32, mode="r") for path in self._files["normal"]]
        splits = self._splits(anomalous)
        edges = []  # of the blocks in each run
        for run in anomalous:
            edges.append(np.searchsorted(run, splits))
            _drop(run)
        for block in reversed(range(len(edges[0]) - 1) if edges else range(0)):
            parts = []
            for run, edge in zip(anomalous, edges, strict=True):
                packed = _read(run, edge[block], edge[block + 1])
                parts.append(_merge_equal(*unpack(packed), area))
            thresholds, kind = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
            if not thresholds.size:
                continue
            hits = np.zeros(thresholds.size, np.int64)
            np.add.at(hits, kind, np.concatenate([part[1] for part in parts]))
            overlap = np.bincount(kind, np.concatenate([part[2] for part in parts]), minlength=thresholds.size)
            above, at_or_above = np.zeros_like(hits), np.zeros_like(hits)
            for run in normal:
                low, high = np.searchsorted(run, thresholds[0], "left"), np.searchsorted(run, thresholds[-1], "right")
                part = _read(run, low, high)
                above += run.size - low - np.searchsorted(part, thresholds, side="right")
                at_or_above += run.size - low - np.searchsorted(part, thresholds, side="left")
            yield Counts(thresholds[::-1], hits[::-1], overlap[::-1], above[::-1], at_or_above[::-1])

    def _splits(self, runs: list[np.ndarray]) -> np.ndarray:
        """Packed values that cut the merged runs into blocks of about ``run_pixels`` / 4; equal scores stay
        together."""
        block = max(1, self._run_pixels // 4)
        stride = max(1, block // (4 * max(1, len(runs))))
        parts = [np.zeros(0, np.int64)]
        for run in runs:
            parts.append(np.array(run[::stride]))
            _drop(run)
        samples = np.sort(np.concatenate(parts))
        inner = samples[:: max(1, block // stride)][1:]
        inner = np.unique(inner >> REGION_BITS) << REGION_BITS  # the lowest region number of that score
        return np.r_[np.iinfo(np.int64).min, inner, np.iinfo(np.int64).max]


def _read(run: np.memmap, start: int, stop: int) -> np.ndarray:
    """Elements of a run, by reading and not by mapping, so that they leave memory with the array."""
    _drop(run)
    return np.fromfile(run.filename, run.dtype, int(stop - start), offset=int(start) * run.dtype.itemsize)


def _drop(run: np.memmap) -> None:
    """The pages of the file that a search has touched leave memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        run._mmap.madvise(mmap.MADV_DONTNEED)
