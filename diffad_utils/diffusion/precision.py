"""Networks in fp32, bf16 or fp16 around a state that keeps its own dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from diffad_utils.diffusion.ddim import EpsFn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a detector's ``inference_precision`` may be."""


def check_precision(precision: str) -> None:
    """Raise ``ValueError`` for a precision that is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"inference_precision must be one of {list(PRECISIONS)}, got {precision!r}")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Networks that are called inside run in this one of `PRECISIONS`; fp32 turns autocast off, also a caller's."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def in_precision(eps_fn: EpsFn, precision: str) -> EpsFn:
    """``eps_fn`` with its network in `autocast` to one of `PRECISIONS`; the state, and so the result, stays as it
    was."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return eps_fn(x, t).to(x.dtype)

    return predict


def cuda_graph(eps_fn: EpsFn, x: Tensor, t: Tensor) -> EpsFn:
    """``eps_fn`` as a recorded CUDA graph for inputs like x [B, ...] and t [B] on the GPU: one launch instead of
    hundreds.

    The result lies in the graph's own memory until the next call, which is all that the loops here need; inputs of
    another shape or dtype go to ``eps_fn`` itself. ``eps_fn`` must not wait for the host.
    """
    recorded_x, recorded_t = x.clone(), t.clone()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside), torch.inference_mode():
        for _ in range(3):  # libraries choose their algorithms before the recording
            eps_fn(recorded_x, recorded_t)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        eps = eps_fn(recorded_x, recorded_t)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if x.shape != recorded_x.shape or x.dtype != recorded_x.dtype:
            return eps_fn(x, t)
        with torch.inference_mode():
            recorded_x.copy_(x)
            recorded_t.copy_(t)
            graph.replay()
        return eps

    return predict
