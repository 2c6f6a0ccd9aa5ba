"""Pairwise L1 distances on a GPU: a Triton kernel that keeps a tile of sums in registers.

``torch.cdist(p=1)`` gives each pair of rows a block of threads of its own, which reads both rows from memory. Here a
program computes a tile of 64 x 64 pairs: per column it loads 64 + 64 numbers and uses each 64 times.

With ``TRITON_INTERPRET=1`` in the environment before the import, the same kernel runs on CPU tensors (slowly), which is
how it is tested where there is no GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 64


@triton.jit
def _l1_kernel(queries, rows, sums, query_count, row_count, columns, PIECE: tl.constexpr, TILE: tl.constexpr):
    """sums [Q,M] from queries [D,Q] and rows [D,M], column-major so that neighbouring threads read neighbouring
    numbers."""
    q = tl.program_id(0) * TILE + tl.arange(0, TILE)
    r = tl.program_id(1) * TILE + tl.arange(0, TILE)
    query_inside, row_inside = q < query_count, r < row_count
    a_at, b_at = queries + q, rows + r  # advance by a column each time, which does not overflow 32 bits
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for piece in range(0, columns, PIECE):
        part = tl.zeros((TILE, TILE), dtype=tl.float32)
        for _ in range(piece, tl.minimum(piece + PIECE, columns)):
            a = tl.load(a_at, mask=query_inside, other=0.0).to(tl.float32)
            b = tl.load(b_at, mask=row_inside, other=0.0).to(tl.float32)
            part += tl.abs(a[:, None] - b[None, :])
            a_at += query_count
            b_at += row_count
        total += part  # in pieces, which keeps the rounding error of long sums small
    where = q.to(tl.int64)[:, None] * row_count + r[None, :]
    tl.store(sums + where, total, mask=query_inside[:, None] & row_inside[None, :])


def l1_distances(queries: torch.Tensor, rows: torch.Tensor, piece: int) -> torch.Tensor:
    """Sums of absolute differences, float32 [Q,M], of queries [Q,D] and rows [M,D] (float16, bfloat16 or float32).

    Sums run in float32 over ``piece`` columns at a time, one after the other; the pieces are then added.
    """
    sums = torch.empty(len(queries), len(rows), dtype=torch.float32, device=queries.device)
    if sums.numel():
        grid = triton.cdiv(len(queries), TILE), triton.cdiv(len(rows), TILE)
        _l1_kernel[grid](
            queries.T.contiguous(),
            rows.T.contiguous(),
            sums,
            len(queries),
            len(rows),
            queries.shape[1],
            PIECE=piece,
            TILE=TILE,
        )
    return sums
