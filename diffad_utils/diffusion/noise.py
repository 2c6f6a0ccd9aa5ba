"""Noise that depends on seed and image key only, so that an image's result does not depend on its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_noise(shape: Sequence[int], seed: int, keys: Sequence[str]) -> Tensor:
    """Standard normal noise [B, *shape], float32 on the CPU, one generator an image seeded by (seed, image key).

    An image gets the same noise whatever its position in the batch or the test set, and whatever the device.

    Examples
    --------
    >>> both, alone = image_noise((2,), 0, ["a", "b"]), image_noise((2,), 0, ["b"])
    >>> torch.equal(both[1], alone[0])
    True
    """

    def draw(key: str) -> Tensor:
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(*shape, generator=generator)

    return torch.stack([draw(key) for key in keys])
