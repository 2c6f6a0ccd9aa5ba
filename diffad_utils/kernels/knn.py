"""Exact k nearest neighbours under the L1 and L2 distance, tiled, on CPU and CUDA through torch.

The search has three steps, for a tile of queries at a time:

1. *Candidates.* Tile by tile over the bank, a fast lower bound of every distance in the input's own precision: for L2
   |q|^2 + |b|^2 - 2 q.b by matrix multiplication, for L1 the sum of absolute differences (on a GPU by the Triton kernel
   of `l1_triton`, where Triton is there); in both cases less a bound on the rounding error. A running list keeps the
   ``c`` smallest, ``c`` somewhat larger than ``k``.
2. *Re-ranking.* The candidates' distances from direct differences in float64.
3. *Certificate.* If the k-th distance is below the c-th lower bound, no row outside the list belongs to the answer.
   Queries for which it is not (many near-ties) go round again, first with at most k copies of each row in the bank
   (features of an empty background repeat thousands of times), then with a list eight times as long.

On a CPU the one nearest row under L2 takes a shorter way: `screening` leaves a few rows for each query, and step 2 is
done for these; the queries for which it leaves too many go the way above.

So the answer is exact, not only likely, and memory stays bounded by the tiles: the [Q,M] distance matrix never exists.
A bank may be a memory-mapped array (`open_bank`); its rows are read a tile at a time and never all in memory.
"""

import json
import mmap
import operator
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffad_utils.kernels import screening

try:  # Triton comes with torch's builds for CUDA; on its first launch it needs a C compiler and Python's headers
    from diffad_utils.kernels.l1_triton import l1_distances
except ImportError:
    l1_distances = None

# Elements in one tile: [queries, bank] lower bounds, and rows [queries, D] and [bank, D] that meet in it.
TILE_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
BANK_TILE = {"cpu": 4096, "cuda": 32768}

# Sums over D run in pieces of this length, which keeps the bound on their rounding error small for long vectors.
PIECE = 512

# More candidates than neighbours, so that ordinary rounding does not cost a second round.
SPARE = 16

# Queries and rows of the bank from which `screening` is quicker.
SCREENED_QUERIES, SCREENED_ROWS = 128, 512

# Relative error of a product whose factors the hardware has cut to a shorter type (if the user allowed it to).
SHORT_PRODUCT = {"none": 0.0, "ieee": 0.0, "tf32": 2.0**-9, "bf16": 2.0**-7}


@torch.no_grad()
def knn(queries: Any, bank: Any, k: int, p: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of the bank for each query, exactly.

    A query that is itself a row of the bank finds itself first, at distance 0.

    Parameters
    ----------
    queries : [Q,D] array or tensor; Q may be 0.
    bank : [M,D] array or tensor; on the queries' device if both are tensors. A ``numpy.memmap`` (`open_bank`) stays
        on disk and goes to the queries' device a tile at a time.
    k : number of neighbours, 1 <= k <= M.
    p : 1 (sum of absolute differences) or 2 (Euclidean; not squared).

    Returns
    -------
    distances: [Q,k] ascending; float64 if one of the inputs is, else float32 (computed in float64, then rounded).
    indices: int64 [Q,k], rows of the bank. Equal distances are ordered by index; two that differ in float64 keep
        that order also where they are equal after rounding to float32.
    Both on the device of the tensor input, or on the CPU.

    Raises
    ------
    ValueError
        inputs not two-dimensional, without columns, of different D or on different devices; NaN, infinite
        or overflowing values; k not an integer in [1, M]; p not 1 or 2.
    """
    queries, bank = _check_inputs(queries, bank)
    k = _check_k(k, len(bank))
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    distance_type = queries.dtype
    largest = max(_largest([queries], "queries"), _largest((tile for _, tile in bank.tiles()), "bank"))
    if largest > 1e15:  # squares and their sums would come close to float32's range
        queries, bank.dtype = queries.double(), torch.float64
    distances = torch.empty(len(queries), k, dtype=distance_type, device=queries.device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        centre = bank.mean() if p == 2 else None
        reduced = False
        pending, count = torch.arange(len(queries), device=queries.device), min(len(bank), k + SPARE)
        if k == 1 and p == 2 and _screening_pays(queries, bank):
            pending = _screened(queries, bank, centre, distances, indices)
        while len(pending):
            open_rows = []
            for rows in pending.split(_queries_per_tile(bank, count)):
                some = queries if len(rows) == len(queries) else queries[rows]  # all of them need no copy
                exact, found, certain = _search(some, bank, centre, k, count, p)
                distances[rows[certain]] = exact[certain].to(distance_type)
                indices[rows[certain]] = bank.row_numbers(found[certain])
                open_rows.append(rows[~certain])
            pending = torch.cat(open_rows)
            if len(pending) and not reduced:
                bank.kept, reduced = _first_copies(bank, k), True
            elif len(pending):
                count = 8 * count
            count = min(len(bank), count)
    return distances, indices


def open_bank(path: str | Path, name: str) -> np.memmap:
    """One tensor of a safetensors file as a read-only memory map, for ``knn(queries, bank, ...)``.

    A detector's bank in ``detector.safetensors`` can so be searched without loading it.

    Raises
    ------
    FileNotFoundError
        no such file.
    KeyError
        no tensor of that name (the names there are listed).
    ValueError
        a dtype that numpy has not (bfloat16).
    """
    path = Path(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    if name not in header:
        raise KeyError(f"{path} has no tensor {name!r}, but {sorted(key for key in header if key != '__metadata__')}")
    entry, types = header[name], {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1", "I32": "<i4", "I64": "<i8"}
    if entry["dtype"] not in types:
        raise ValueError(f"{path}: {name!r} is {entry['dtype']}; a mapped bank is one of {sorted(types)}")
    offset = 8 + size + entry["data_offsets"][0]
    return np.memmap(path, types[entry["dtype"]], mode="r", offset=offset, shape=tuple(entry["shape"]))


class _Bank:
    """Rows of the bank as tensors of one dtype on one device, a tile at a time.

    values : tensor [M,D], or memory map [M,D]. kept : rows that take part, int64 ascending; None for all.
    """

    def __init__(self, values: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.values, self.device, self.dtype, self.kept = values, device, dtype, None
        self.in_file = isinstance(values, np.memmap) and device.type == "cpu"
        # a tile of a file is in memory several times: mapped, in whole large pages, copied, and the one before
        self.elements = TILE_ELEMENTS[device.type] // (16 if self.in_file else 1)

    def __len__(self) -> int:
        return len(self.values) if self.kept is None else len(self.kept)

    @property
    def columns(self) -> int:
        return self.values.shape[1]

    def rows(self, chosen: Any) -> torch.Tensor:
        """Rows [n,D] for a slice or an int64 tensor of positions."""
        if self.kept is not None:
            chosen = self.kept[chosen]
        if isinstance(self.values, torch.Tensor):
            return self.values[chosen].to(self.dtype)
        chosen = chosen if isinstance(chosen, slice) else chosen.cpu().numpy()
        tile = np.array(self.values[chosen], copy=True)
        if hasattr(
            mmap, "MADV_DONTNEED"
        ):  # or the whole bank would end up in this process's memory; it stays in the system's cache
            self.values._mmap.madvise(mmap.MADV_DONTNEED)
        return torch.from_numpy(tile).to(self.device, self.dtype)

    def row_numbers(self, positions: torch.Tensor) -> torch.Tensor:
        return positions if self.kept is None else self.kept[positions]

    def tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first position, rows [n,D]) through all rows."""
        height = min(BANK_TILE[self.device.type], max(16 if self.in_file else 64, self.elements // self.columns))
        for start in range(0, len(self), height):
            yield start, self.rows(slice(start, start + height))

    def mean(self) -> torch.Tensor:
        total = torch.zeros(self.columns, dtype=torch.float64, device=self.device)
        for _, tile in self.tiles():
            total += tile.sum(0, dtype=torch.float64)
        return (total / len(self)).to(self.dtype)


def _check_inputs(queries: Any, bank: Any) -> tuple[torch.Tensor, _Bank]:
    named = {"queries": queries, "bank": bank}
    devices = {value.device for value in named.values() if isinstance(value, torch.Tensor)}
    if len(devices) > 1:
        raise ValueError(f"queries are on {queries.device}, bank is on {bank.device}: move them to one device")
    device = devices.pop() if devices else torch.device("cpu")
    tensors = {}
    for name, value in named.items():
        if name == "bank" and isinstance(value, np.memmap):
            tensors[name] = _as_mapped(value)
            continue
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(_as_array(value, name), device=device)
        if tensor.ndim != 2 or tensor.shape[1] == 0:
            raise ValueError(f"{name} must have shape [rows, D] with D > 0, got {list(tensor.shape)}")
        if tensor.is_complex():
            raise ValueError(f"{name} must be real, got {tensor.dtype}")
        tensors[name] = tensor if tensor.dtype == torch.float64 else tensor.float()
    queries, bank = tensors.values()
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries have D = {queries.shape[1]} columns, bank has {bank.shape[1]}: they must be equal")
    if isinstance(bank, np.memmap):
        common = torch.float64 if bank.dtype == np.float64 else queries.dtype
        return queries.to(common).contiguous(), _Bank(bank, device, common)
    common = torch.promote_types(queries.dtype, bank.dtype)
    return queries.to(common).contiguous(), _Bank(bank.to(common).contiguous(), device, common)


def _as_mapped(bank: np.memmap) -> np.memmap:
    if bank.ndim != 2 or bank.shape[1] == 0:
        raise ValueError(f"bank must have shape [rows, D] with D > 0, got {list(bank.shape)}")
    if bank.dtype.kind not in "biuf" or not bank.dtype.isnative:
        raise ValueError(
            f"a memory-mapped bank must be real numbers in this machine's byte order, got dtype {bank.dtype!r}"
        )
    return bank


def _as_array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
        array = value
    else:  # nested lists, whose numbers are float32 as torch would make them
        try:
            array = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be an array, a tensor or a list of rows of one length") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    # torch shares the memory, but not of another byte order, of negative strides, or read-only without a warning
    return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])


def _check_k(k: int, rows: int) -> int:
    try:
        k = operator.index(k)
    except TypeError as error:
        raise ValueError(f"k must be an integer, got {k!r}") from error
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k > rows:
        raise ValueError(f"k = {k} neighbours asked for, but the bank has {rows} rows")
    return k


def _largest(tiles: Iterable, name: str) -> float:
    """Largest absolute value (0 for no rows); NaN goes through ``amax``, so one pass checks everything."""
    largest = 0.0
    for values in tiles:
        here = float(torch.maximum(values.amax(), -values.amin())) if values.numel() else 0.0
        if not here < 1e150:
            raise ValueError(f"{name} must be finite and below 1e150 in size, got NaN, infinite or larger values")
        largest = max(largest, here)
    return largest


def _first_copies(bank: _Bank, k: int) -> torch.Tensor:
    """Ascending indices of the bank without the copies of a row after its k-th: they are in no answer.

    Equal rows have equal hashes; whether rows of one hash are equal is then looked up, so that a collision costs time
    only.
    """
    everything = torch.arange(len(bank), device=bank.device)
    row_kind = torch.unique(_row_hashes(bank), dim=0, return_inverse=True)[1]
    kinds, order = row_kind.sort(stable=True)
    first_of_kind = torch.searchsorted(kinds, kinds)
    model = torch.empty_like(order)
    model[order] = order[first_of_kind]  # the first row of each row's kind
    for start, tile in bank.tiles():
        if not torch.equal(tile, bank.rows(model[start : start + len(tile)])):
            return everything
    return order[everything - first_of_kind < k].sort().values


def _row_hashes(bank: _Bank) -> torch.Tensor:
    """Two 64-bit hashes of every row's bits, int64 [M,2]: sums of bit patterns times fixed random odd numbers."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (2, bank.columns), generator=generator).to(bank.device) * 2 + 1
    integers = torch.int64 if bank.dtype == torch.float64 else torch.int32
    hashes = torch.empty(len(bank), 2, dtype=torch.int64, device=bank.device)
    for start, tile in bank.tiles():
        for part in range(0, len(tile), 64):
            bits = (tile[part : part + 64] + 0.0).view(integers).long()
            for which in range(2):
                hashes[start + part : start + part + len(bits), which] = (bits * factors[which]).sum(1)
    return hashes


def _queries_per_tile(bank: _Bank, count: int) -> int:
    elements = TILE_ELEMENTS[bank.device.type]
    columns = min(BANK_TILE[bank.device.type], len(bank)) + 2 * count
    return max(1, min(elements // columns, max(64, elements // bank.columns)))


def _screening_pays(queries: torch.Tensor, bank: _Bank) -> bool:
    """Whether `screening` applies (float32, in memory, on a CPU) and is quicker."""
    in_memory = isinstance(bank.values, torch.Tensor) and not bank.values.is_cuda
    enough = len(queries) >= SCREENED_QUERIES and len(bank) >= SCREENED_ROWS
    return in_memory and enough and bank.dtype == torch.float32 and screening.product_type() is not None


def _screened(
    queries: torch.Tensor, bank: _Bank, centre: torch.Tensor, distances: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """Fill in the nearest rows of the queries to which `screening` leaves a few; returns the other queries."""
    pair, row, pending = screening.candidates(queries, bank.values, centre, screening.product_type())
    powers = _pair_powers(queries, bank, pair, row, p=2)
    least = powers.new_full([len(queries)], torch.inf).scatter_reduce(0, pair, powers, "amin")
    nearest = powers == least[pair]
    distances[:, 0] = least.sqrt()
    indices[:, 0] = torch.full([len(queries)], len(bank)).scatter_reduce(0, pair[nearest], row[nearest], "amin")
    return pending


def _search(
    queries: torch.Tensor, bank: _Bank, centre: torch.Tensor | None, k: int, count: int, p: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For one tile of queries: float64 distances [q,k], indices [q,k], and which rows [q] are proven."""
    bounds, candidates = _candidates(queries, bank, centre, count, p)
    candidates = candidates.sort(dim=1).values  # so that a stable sort by distance leaves ties in order of index
    powers = _exact_powers(queries, bank, candidates, p)
    powers, order = powers.sort(dim=1, stable=True)
    powers, found = powers[:, :k], candidates.gather(1, order[:, :k])
    rounding = 1.0 + bank.columns * torch.finfo(torch.float64).eps
    certain = (powers[:, -1] * rounding < bounds[:, -1]) | (count == len(bank))
    return (powers if p == 1 else powers.sqrt()), found, certain


def _candidates(
    queries: torch.Tensor, bank: _Bank, centre: torch.Tensor | None, count: int, p: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` rows with the smallest lower bounds: float64 bounds [q,count] ascending, indices [q,count]."""
    lower_bound = _lower_bound_l1 if p == 1 else _lower_bound_l2_squared
    best = indices = None
    for start, rows in bank.tiles():
        tile = lower_bound(queries, rows, centre)
        values, columns = tile.topk(min(count, tile.shape[1]), dim=1, largest=False)
        columns += start
        if best is not None:
            values, columns = torch.cat([best, values], dim=1), torch.cat([indices, columns], dim=1)
            values, order = values.topk(min(count, values.shape[1]), dim=1, largest=False)
            columns = columns.gather(1, order)
        best, indices = values, columns
    # squares below the smallest normal number may have been lost
    return best.double() - bank.columns * torch.finfo(bank.dtype).tiny, indices


def _sum_error(values: torch.Tensor) -> float:
    """Bound on the relative error of a sum of D terms of one sign, in pieces; eps is twice the unit roundoff."""
    columns = values.shape[1]
    return (min(columns, PIECE) + columns / PIECE + 16) * torch.finfo(values.dtype).eps


def _lower_bound_l2_squared(queries: torch.Tensor, rows: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    # Moving the origin into the data's middle leaves distances as they are and makes the terms that cancel smaller.
    queries, rows = queries - centre, rows - centre
    backend = torch.backends.cuda.matmul if rows.is_cuda else torch.backends.mkldnn.matmul
    short = 0.0
    if rows.dtype == torch.float32:
        short = SHORT_PRODUCT.get(backend.fp32_precision, max(SHORT_PRODUCT.values()))
    # |error| <= share * (|q|^2 + |b|^2), because 2 |q| |b| <= |q|^2 + |b|^2
    share = 1.0 - _sum_error(rows) - short
    bound = torch.add(queries.square().sum(1)[:, None] * share, rows.square().sum(1) * share)
    for piece in _pieces(rows.shape[1]):
        bound.addmm_(queries[:, piece], rows[:, piece].T, alpha=-2.0)
    return bound


def _lower_bound_l1(queries: torch.Tensor, rows: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    if rows.is_cuda and rows.dtype == torch.float32 and l1_distances is not None:
        return l1_distances(queries, rows, PIECE).mul_(1.0 - _sum_error(rows))
    total = torch.zeros(len(queries), len(rows), dtype=rows.dtype, device=rows.device)
    for piece in _pieces(rows.shape[1]):
        if rows.is_cuda:
            total += torch.cdist(queries[:, piece], rows[:, piece], p=1)
        else:
            _add_absolute_differences(total, queries[:, piece], rows[:, piece])
    return total.mul_(1.0 - _sum_error(rows))


def _add_absolute_differences(total: torch.Tensor, queries: torch.Tensor, rows: torch.Tensor) -> None:
    """total += pairwise L1 distances, in blocks that stay in the cache."""
    width = 64
    height = max(1, 2**19 // (width * rows.shape[1]))
    for top in range(0, len(queries), height):
        for left in range(0, len(rows), width):
            difference = queries[top : top + height, None] - rows[None, left : left + width]
            total[top : top + height, left : left + width] += difference.abs_().sum(2)


def _exact_powers(queries: torch.Tensor, bank: _Bank, candidates: torch.Tensor, p: int) -> torch.Tensor:
    """Distances to the power p of each query to its candidates [q,c]: [q,c]."""
    pair = torch.arange(len(queries), device=bank.device).repeat_interleave(candidates.shape[1])
    return _pair_powers(queries, bank, pair, candidates.flatten(), p).view_as(candidates)


def _pair_powers(
    queries: torch.Tensor, bank: _Bank, pair: torch.Tensor, candidates: torch.Tensor, p: int
) -> torch.Tensor:
    """Distances to the power p between queries[pair] and the rows [n] of the bank, from direct differences in float64:
    [n]."""
    powers = torch.empty(len(pair), dtype=torch.float64, device=bank.device)
    step = max(4, bank.elements // 16 // bank.columns)
    for start in range(0, len(powers), step):
        part = slice(start, start + step)
        difference = bank.rows(candidates[part]).double() - queries[pair[part]]
        powers[part] = (difference.abs_() if p == 1 else difference.square_()).sum(1)
    return powers


def _pieces(columns: int) -> Iterator[slice]:
    return (slice(start, start + PIECE) for start in range(0, columns, PIECE))
