"""Simplex noise in octaves: noise with more power at low frequencies, for diffusion models of normal images.

Sources: Wyatt, Leach, Schmon, Willcocks, "AnoDDPM: Anomaly Detection with Denoising Diffusion Probabilistic Models
using Simplex Noise" (CVPR Workshops 2022, section 3) for its use: a defect is larger than a pixel, so noise that covers
it has to be correlated over its size. For the noise itself: Perlin, "Improving noise", and Gustavson, "Simplex noise
demystified" (2005; the algorithm in two dimensions, in the public domain): each point of a triangular lattice has a
random gradient g, and a position at distance d of it gets (1/2 - |d|^2)^4 g.d of each point nearer than sqrt(1/2).

The paper has a starting frequency of 2^-6 a pixel, N = 6 octaves, each of twice the frequency before, and a decay of
gamma = 0.8 an octave; images of 256 pixels, one channel. Where its public code (Julian-Wyatt/AnoDDPM,
`generate_simplex_noise`) or ours differs:

- *Variance*: the code uses the sum of the octaves as it is. Ours is divided by its standard deviation, which is known
  in closed form (`SIMPLEX_STD`), so that it has the variance 1 of the Gaussian noise it stands for, and alpha_bar means
  the same. It is not scaled by the statistics of a field.
- *Dimensions*: the code cuts three-dimensional noise at the timestep, and its octaves are one field at different scales
  about one point. Ours is two-dimensional, with gradients and a position of the lattice drawn anew for each field and
  octave, so that octaves are independent and no position is special.
- *Draws*: the code's default seed is drawn once, when the module is imported, so that fields at one timestep are equal.
  Ours are independent over images, channels and draws, from the generator given.
- *Sizes*: AnoDDPM is in pixels only. In a field with a side below 64 cells, such as latents, the first octave has the
  side for a period; octaves with a period below two cells are left out, because the field cannot hold them.
- *On the way back* the code adds Gaussian noise by default; DDIM adds none, and where a detector does it is of its
  kind.

The library on PyPI (`opensimplex`) computes a value at a time, too slow for training unless it is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PERIOD, OCTAVES, DECAY = 64.0, 6, 0.8
"""AnoDDPM's: cells that a wave of the first octave takes (1 / its frequency), octaves, decay of amplitude an octave."""

SIMPLEX_STD = math.sqrt(math.sqrt(3) * math.pi * 0.5**11 / 90)
"""Of one octave, at a random position: the density of lattice points, sqrt(3), times the integral over the plane of
(1/2 - r^2)^8 r^2 / 2, the mean square of one point's share for a gradient of random direction."""

SKEW, UNSKEW = (math.sqrt(3) - 1) / 2, (3 - math.sqrt(3)) / 6
"""From the plane to the lattice's own coordinates, x + SKEW (x + y), and back, i - UNSKEW (i + j)."""


def simplex_noise(
    shape: Sequence[int],
    generator: torch.Generator,
    period: float = PERIOD,
    octaves: int = OCTAVES,
    decay: float = DECAY,
) -> Tensor:
    """Independent fields of simplex noise with mean 0 and variance 1: float32 ``shape`` = [..., H, W], on the CPU.

    Mean and variance are over draws; a single field, which holds few waves of the first octave, has others.

    Parameters
    ----------
    generator : of the CPU; all that is random comes from it.
    period : of the first octave, cells; the larger side of the field where that is less. octaves : at most so many,
        each with half the period of the one before, down to two cells. decay : ratio of their amplitudes, above 0.

    Raises ``ValueError`` for a shape without two sides of at least 2, or settings out of range.
    """
    if len(shape) < 2 or min(shape[-2:]) < 2:
        raise ValueError(f"simplex noise needs a shape [..., H, W] with sides of at least 2, got {list(shape)}")
    if period < 2 or octaves < 1 or decay <= 0:
        got = f"{period}, {octaves} and {decay}"
        raise ValueError(f"expected period >= 2, octaves >= 1 and decay > 0, got {got}")
    fields, period = math.prod(shape[:-2]), min(period, max(shape[-2:]))
    periods = [period / 2**i for i in range(octaves) if period / 2**i >= 2]
    noise, total = torch.zeros(fields, *shape[-2:]), 0.0
    for i, cells in enumerate(periods):
        noise += decay**i * _octave(fields, shape[-2], shape[-1], cells, generator)
        total += decay ** (2 * i)
    return (noise / (SIMPLEX_STD * math.sqrt(total))).reshape(tuple(shape))


def _octave(fields: int, height: int, width: int, period: float, generator: torch.Generator) -> Tensor:
    """One octave, with standard deviation `SIMPLEX_STD`: [fields, height, width]."""
    start = torch.rand(fields, 2, generator=generator)  # within one cell of the lattice, in its own coordinates
    start = (start - UNSKEW * start.sum(dim=1, keepdim=True))[:, :, None, None]
    y, x = torch.meshgrid(torch.arange(height) / period, torch.arange(width) / period, indexing="ij")
    x, y = x + start[:, 0], y + start[:, 1]
    skewed = SKEW * (x + y)
    i, j = (x + skewed).floor(), (y + skewed).floor()
    dx, dy = x - i + UNSKEW * (i + j), y - j + UNSKEW * (i + j)  # from the corner of the cell
    i, j = i.long(), j.long()
    i, j = i - i.min(), j - j.min()
    rows, columns = int(i.max()) + 2, int(j.max()) + 2
    angles = 2 * math.pi * torch.rand(fields, rows * columns, generator=generator)
    lower = (dx > dy).long()  # which of the two triangles of the cell
    noise = torch.zeros(fields, height, width)
    for right, up in ((0, 0), (lower, 1 - lower), (1, 1)):
        a, b = dx - right + UNSKEW * (right + up), dy - up + UNSKEW * (right + up)
        angle = angles.gather(1, ((i + right) * columns + j + up).flatten(1)).view_as(noise)
        weight = (0.5 - a.square() - b.square()).clamp_min(0).pow(4)
        noise += weight * (angle.cos() * a + angle.sin() * b)
    return noise
