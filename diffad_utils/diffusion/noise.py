"""Noise of a kind, and noise that depends on seed and image key only, so that an image's result does not depend on its
batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from diffad_utils.diffusion.simplex import simplex_noise

NOISES = ("gaussian", "simplex")
"""Kinds of noise: independent at each element, or AnoDDPM's (`simplex`); both with mean 0 and variance 1."""


def draw_noise(shape: Sequence[int], generator: torch.Generator, kind: str = "gaussian") -> Tensor:
    """Noise of a kind of `NOISES`, float32 ``shape`` on the CPU; simplex noise is a field over the last two dimensions.

    Raises ``ValueError`` for another kind.
    """
    if kind == "gaussian":
        return torch.randn(*shape, generator=generator)
    if kind == "simplex":
        return simplex_noise(shape, generator)
    raise ValueError(f"noise must be one of {NOISES}, got {kind!r}")


def image_noise(shape: Sequence[int], seed: int, keys: Sequence[str], kind: str = "gaussian") -> Tensor:
    """Noise of a kind of `NOISES` [B, *shape], float32 on the CPU, one generator an image seeded by (seed, image key).

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
        return draw_noise(shape, generator, kind)

    return torch.stack([draw(key) for key in keys])
