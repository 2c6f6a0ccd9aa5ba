"""Resolution-independent drawing: coordinates, smooth noise and cells on a pixel grid.

Every quantity is defined over the unit square and only *sampled* on a grid, and the amount of randomness drawn never
depends on the grid, so the same random stream draws the same scene at any size.
What may be touched: new noises. A changed one changes every reference number.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy import sparse


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """Cubic ramp from 0 (value <= low) to 1 (value >= high), float32."""
    t = np.clip((value - low) / (high - low), 0, 1).astype(np.float32)
    return t * t * (3 - 2 * t)


def mix(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blend a layer ([H, W, 3], or a colour [3]) over an image [H, W, 3] with an opacity alpha [H, W]."""
    return below + alpha[..., None] * (above - below)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@lru_cache(maxsize=256)
def _spline_basis(pixels: int, cells: int) -> sparse.csr_array:
    """Cubic B-spline weights [pixels, cells + 3] at the pixel centres, scaled so that white noise keeps unit
    variance."""
    position = (np.arange(pixels) + 0.5) / pixels * cells
    cell = np.minimum(position.astype(int), cells - 1)
    power = (_cubic(np.linspace(0, 1, 65)) ** 2).sum(1).mean()
    weights = (_cubic(position - cell) / np.sqrt(power)).astype(np.float32)
    columns = cell[:, None] + np.arange(4)
    return sparse.csr_array((weights.ravel(), columns.ravel(), 4 * np.arange(pixels + 1)), (pixels, cells + 3))


def _cubic(f: np.ndarray) -> np.ndarray:
    """The four cubic B-spline weights [N, 4] at offsets f [N] within a cell."""
    return np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], 1) / 6


class Canvas:
    """A grid of height x width pixels over the unit square; `x`, `y` [H, W] are the pixel centres in (0, 1)."""

    def __init__(self, height: int, width: int):
        self.shape = height, width
        rows = ((np.arange(height) + 0.5) / height).astype(np.float32)
        columns = ((np.arange(width) + 0.5) / width).astype(np.float32)
        self.y, self.x = (np.ascontiguousarray(a) for a in np.broadcast_arrays(rows[:, None], columns[None]))

    def noise(
        self, rng: Generator, cells: int | tuple[int, int], octaves: int = 1, persistence: float = 0.6
    ) -> np.ndarray:
        """Smooth Gaussian noise [H, W] of zero mean and unit variance; `cells` (or (rows, columns)) sets its grain."""
        rows, columns = (cells, cells) if np.isscalar(cells) else cells
        total, power = 0.0, 0.0
        for octave in range(octaves):
            r, c = rows * 2**octave, columns * 2**octave
            lattice = rng.standard_normal((r + 3, c + 3), dtype=np.float32)
            weight = persistence**octave
            # Sparse products, not BLAS: four taps a pixel, one thread, the same rounding wherever it runs.
            across = _spline_basis(self.shape[1], c) @ np.ascontiguousarray(lattice.T)
            total = total + np.float32(weight) * (_spline_basis(self.shape[0], r) @ np.ascontiguousarray(across.T))
            power += weight**2
        return total / np.float32(np.sqrt(power))

    def frame(
        self, rng: Generator, turn: float = 0.0, wobble: float = 0.0, shift: float = 0.0, zoom: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (u, v) [H, W] around the centre, turned by ~turn rad, moved by ~shift and bent by ~wobble."""
        angle, scale = rng.normal(0, turn), np.exp(rng.normal(0, zoom))
        dx, dy = rng.uniform(-shift, shift, 2).astype(np.float32)
        x, y = self.x - (dx + 0.5), self.y - (dy + 0.5)
        c, s = np.float32(np.cos(angle) * scale), np.float32(np.sin(angle) * scale)
        u, v = c * x + s * y, c * y - s * x
        if wobble:
            u = u + np.float32(wobble) * self.noise(rng, 3)
            v = v + np.float32(wobble) * self.noise(rng, 3)
        return u, v


@lru_cache(maxsize=8)
def canvas(height: int, width: int) -> Canvas:
    return Canvas(height, width)


def cell_of(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer part (intp) and fractional part (float32) of a coordinate array."""
    whole = np.floor(u)
    return whole.astype(np.intp), u - whole


def worley(rng: Generator, u: np.ndarray, v: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances [H, W] to the nearest and second nearest of jittered grid points, in cell units (u, v in cells)."""
    points = rng.uniform(0, 1, (2, cells, cells)).astype(np.float32)
    (iu, fu), (iv, fv) = cell_of(u), cell_of(v)
    first = np.full(u.shape, 9, np.float32)
    second = first.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = ((iv + dy) % cells) * cells + (iu + dx) % cells
            distance = np.square(points[0].take(at) + (dx - fu)) + np.square(points[1].take(at) + (dy - fv))
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return np.sqrt(first), np.sqrt(second)
