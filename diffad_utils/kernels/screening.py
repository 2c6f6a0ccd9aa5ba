"""Which rows of a bank can be a query's nearest (L2, on a CPU): a first pass with rounded products.

Processors with AVX512-BF16 multiply bfloat16 faster than float32. Rounding moves a query by a length ``e_q``
and a row of the bank by at most ``e_b``, both known, so a distance changes by at most ``e_q + e_b`` (triangle
inequality). The pass keeps the smallest rounded distance of each `GROUP` of rows. The smallest of these bounds the
nearest row's distance from above, and a group above that bound by more than all roundings does not have the nearest
row. For features of image patches one or two groups a query are left. Other processors do the same in float32: their
products cost as much as before, but the minimum of a group is cheaper than a list of the smallest.
"""

import torch
from torch import Tensor

# Rows of the bank of which one number is kept; rows and queries that meet in one product (a tile that stays in the
# cache); queries of a round, and how many minima they may have; groups a query may leave.
GROUP, ROWS, BLOCK, MINIMA, LEFT = 8, 1024, 512, 2**21, 24


def product_type() -> torch.dtype | None:
    """The fastest dtype whose products' error is known here; None if the user has allowed float32 to be cut."""
    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() and torch.backends.mkldnn.enabled:
        return torch.bfloat16
    return torch.float32 if torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee") else None


def candidates(
    queries: Tensor, bank: Tensor, centre: Tensor, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a query and a row that can be its nearest; all others cannot.

    Parameters
    ----------
    queries, bank : float32 [Q,D], [M,D] on the CPU, finite and below 1e15.
    centre : float32 [D]; the nearer to it the data are, the less rounding moves them.
    dtype : of the products, bfloat16 or float32.

    Returns
    -------
    query, row : int64 [pairs], ordered by query; a query's rows in no order.
    open : int64 [n], queries that leave more than a few groups (many near-ties) and are in no pair.
    """
    tiles = [_prepared_rows(rows, centre, dtype) for rows in bank.split(ROWS)]
    prepared = torch.cat([tile for tile, _, _ in tiles])
    moved, largest = (max(float(tile[part].max()) for tile in tiles) for part in (1, 2))
    height, start, found = max(BLOCK, MINIMA * GROUP // len(prepared)), 0, []
    for some in (queries[:BLOCK], *queries[BLOCK:].split(height)):
        minima, limits = _first_pass(some, prepared, centre, moved, largest)
        query, group = (minima <= limits[:, None]).nonzero(as_tuple=True)
        counts = torch.bincount(query, minlength=len(minima))
        few = counts <= LEFT
        query, rows = query[few[query]], _rows_of(group[few[query]], len(bank))
        inside = rows < len(bank)
        query = query[:, None].expand_as(rows)[inside]
        found.append((start + query, rows[inside], start + (~few).nonzero()[:, 0]))
        start += len(some)
        if 2 * int(few.sum()) < len(some):  # the rest would most likely come to nothing too
            found.append((query[:0], query[:0], torch.arange(start, len(queries))))
            break
    query, row, open_queries = (torch.cat(parts) for parts in zip(*found, strict=True))
    return query, row, open_queries


def _prepared_rows(rows: Tensor, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(-2 b, |b|^2 in three parts) for the rounded rows b, filled up to whole groups; how far each moved; their |b|."""
    rounded, moved = _rounded(rows, centre, dtype)
    norms = torch.linalg.vector_norm(rounded, dim=1, dtype=torch.float64)
    parts, rest = [], norms.square()
    for _ in range(3):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].double()
    filled = -(-len(rows) // GROUP) * GROUP
    prepared = torch.zeros(filled, rows.shape[1] + 4, dtype=dtype)
    prepared[: len(rows), :-4] = -2 * rounded
    prepared[: len(rows), -4:-1] = torch.stack(parts, dim=1)
    prepared[len(rows) :, -4] = torch.finfo(dtype).max  # in no answer
    return prepared, moved, norms


def _rounded(values: Tensor, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values less the centre in ``dtype``, and a bound on the length by which each moved, float64; also by the
    difference's own rounding to float32."""
    values = values - centre
    rounded = values.to(dtype)
    moved = torch.linalg.vector_norm(values - rounded, dim=1, dtype=torch.float64)
    length = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
    return rounded, moved + 2 * torch.finfo(torch.float32).eps * length


def _first_pass(
    queries: Tensor, prepared: Tensor, centre: Tensor, moved: float, largest: float
) -> tuple[Tensor, Tensor]:
    """|b|^2 - 2 q.b, the smallest of each group [q, groups], and the limit [q] above which a group is out."""
    dtype, columns = prepared.dtype, prepared.shape[1]
    rounded, e_q = _rounded(queries, centre, dtype)
    extended = torch.cat([rounded, torch.ones(len(queries), 4, dtype=dtype)], dim=1)
    minima = torch.empty(len(queries), len(prepared) // GROUP, dtype=dtype)
    for top in range(0, len(queries), BLOCK):
        block = extended[top : top + BLOCK]
        for left in range(0, len(prepared), ROWS):
            tile = block @ prepared[left : left + ROWS].T
            groups = minima[top : top + BLOCK, left // GROUP : (left + tile.shape[1]) // GROUP]
            torch.amin(tile.view(len(tile), GROUP, -1), dim=1, out=groups)
    least = minima.amin(1).double()
    # errors: of the float32 sum of `columns` terms and of what is too small for it; of rounding the sum to `dtype`
    own = torch.linalg.vector_norm(rounded, dim=1, dtype=torch.float64)
    numbers = torch.finfo(torch.float32)
    error = (columns + 16) * (numbers.eps * (own.square() + 2 * largest**2) + numbers.tiny * (1 + own + largest))
    share = torch.finfo(dtype).eps  # twice the largest relative error of rounding to the nearest
    most = (own.square() + least + share * least.abs() + error).clamp_min(0).sqrt() + e_q + moved
    limits = (most + e_q + moved).square() - own.square() + error
    # once more for the smallest of a group, and once for rounding the limit itself
    return minima, (limits + 2 * share * limits.abs() + numbers.tiny).to(dtype)


def _rows_of(group: Tensor, count: int) -> Tensor:
    """Rows [n, GROUP] of groups [n]: a tile's first, second, ... row and those a whole number of groups further."""
    tile = group // (ROWS // GROUP)
    in_tile = (count - tile * ROWS).clamp_max(ROWS)
    groups = (in_tile + GROUP - 1) // GROUP
    first = tile * ROWS + group % (ROWS // GROUP)
    return first[:, None] + groups[:, None] * torch.arange(GROUP)
