"""The device that networks run on, and what happens when its memory runs out."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

ALIGNMENT = 64
"""Bytes. Libraries add in another order where a tensor begins elsewhere."""


def pick_device(device: str = "auto") -> torch.device:
    """``"auto"``: CUDA, then Apple's MPS, then the CPU; else the device named.

    ``ValueError`` if CUDA is asked for and absent, or another than the first GPU: accelerate and Triton work on the
    current one.
    """
    if device.startswith("cuda:") and device != "cuda:0":
        raise ValueError(
            f"device={device!r}: choose a GPU with CUDA_VISIBLE_DEVICES={device[5:]} in the environment and "
            f"device='cuda'"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch sees no CUDA device; use device='auto' or 'cpu'")
    return torch.device(device)


def settled(tensor: Tensor) -> Tensor:
    """The same numbers, contiguous and from a multiple of `ALIGNMENT` on, as a file gives them back: sums over another
    layout differ in the last bits."""
    tensor = tensor.detach().contiguous().view(-1).view(tensor.shape)  # sides of length 1 have other strides, too
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


@contextlib.contextmanager
def generators_kept(seed: int | None = None) -> Iterator[None]:
    """The global generators of Python, numpy and torch are afterwards where they were; inside torch's and numpy's start
    from ``seed``, if there is one."""
    plain, numbers = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if seed is not None or torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numbers)


def in_pieces(function: Callable[[slice], T], count: int, size: int) -> tuple[list[T], int]:
    """``function`` over consecutive slices of ``range(count)``, of at most ``size`` each: its results, and the size.

    Where memory runs out the size is halved, with a warning, until a slice fits; what is done by then is kept.
    accelerate's ``find_executable_batch_size`` would begin again from the first slice. Raises
    ``torch.OutOfMemoryError`` if a single row does not fit.
    """
    outputs, start = [], 0
    while start < count:
        rows = slice(start, min(start + size, count))
        tried = rows.stop - rows.start
        try:
            outputs.append(function(rows))
            start = rows.stop
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if tried == 1:
                raise torch.OutOfMemoryError(
                    "out of memory with a single image: use a smaller image_size, low_memory=True where the method has "
                    "it, or another device"
                ) from error
        while size >= tried:
            size //= 2
        warnings.warn(f"out of memory with {tried} images at once; going on with {size}", stacklevel=2)
        if torch.cuda.is_available():  # here, not above: while the error is handled it holds on to the memory
            torch.cuda.empty_cache()
    return outputs, size


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a GPU's or a CPU's memory did not suffice."""
    from accelerate.utils.memory import should_reduce_batch_size  # needed once in a blue moon, and slow to import

    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
