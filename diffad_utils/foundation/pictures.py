"""The procedural pictures that the shipped backbone is trained on, and the irregularities it learns to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Picture:
    """image: float32 [H, W, 3] in [0, 1]. family: index into `FAMILIES`. period: typical size of its structure in
    pixels. angle: direction in radians, modulo pi, or None for patterns without one."""

    image: np.ndarray
    family: int
    period: float
    angle: float | None


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth random field [size, size], zero mean, unit standard deviation, about `cells` bumps a side."""
    coarse = rng.standard_normal((cells + 3, cells + 3))
    steps = np.linspace(1, cells + 1, size)
    field = ndimage.map_coordinates(coarse, np.meshgrid(steps, steps, indexing="ij"), order=3, mode="nearest")
    return (field - field.mean()) / (field.std() + 1e-6)


def power_noise(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Random field [size, size] with amplitude spectrum 1 / f^exponent, zero mean, unit standard deviation."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / radius**exponent
    field = np.fft.irfft2(spectrum, s=(size, size))
    return field / (field.std() + 1e-6)


def unit(field: np.ndarray) -> np.ndarray:
    """Stretch to [0, 1], the extreme percent at either end clipped."""
    low, high = np.percentile(field, (1, 99))
    return np.clip((field - low) / (high - low + 1e-6), 0, 1)


def _coordinates(rng: np.random.Generator, size: int, period: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (u, v) in periods, turned by `angle` and bent a little: the grid that regular patterns live on."""
    y, x = np.mgrid[:size, :size] / period
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    bend = rng.choice([0.0, 0.05, 0.15, 0.4])
    u = u + bend * smooth_noise(rng, size, 3) + rng.random()
    v = v + bend * smooth_noise(rng, size, 3) + rng.random()
    return u, v


def _grain(rng, size, period, angle):
    return unit(power_noise(rng, size, rng.uniform(0.3, 2.2)))


def _leaves(rng, size, period, angle):
    """Dead leaves: discs that hide one another, radii from a power law (Lee, Mumford, Huang, 2001)."""
    image = np.full((size, size), rng.random())
    radii = np.sort(np.minimum(0.25 * period * rng.pareto(2.0, 260) + 0.2 * period, size / 3))[::-1]
    for radius in radii:
        cy, cx = rng.uniform(0, size, 2)
        y0, y1 = max(int(cy - radius), 0), min(int(cy + radius) + 2, size)
        x0, x1 = max(int(cx - radius), 0), min(int(cx + radius) + 2, size)
        y, x = np.ogrid[y0:y1, x0:x1]
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        image[y0:y1, x0:x1][inside] = rng.random()
    return image


def _plaid(rng, size, period, angle):
    """Two crossing waves, the over and under of a weave when their product is negative."""
    u, v = _coordinates(rng, size, period, angle)
    ratio, mix = rng.choice([0.5, 1.0, 1.0, 2.0]), rng.uniform(0, 1)
    a, b = np.sin(2 * np.pi * u), np.sin(2 * np.pi * ratio * v)
    return unit(mix * a * b + (1 - mix) * np.maximum(a, b))


def _cells(rng, size, period, angle):
    """Voronoi cells of jittered points: distance to the border between the nearest two, or one level a cell."""
    u, v = _coordinates(rng, size, period, angle)
    jitter, levels = rng.uniform(0.2, 0.9), rng.random((64, 64))
    offsets = jitter * (rng.random((64, 64, 2)) - 0.5)
    iu, iv = np.floor(u).astype(int), np.floor(v).astype(int)
    first = np.full(u.shape, np.inf)
    second, level = first.copy(), np.zeros(u.shape)
    for du in (-1, 0, 1):
        for dv in (-1, 0, 1):
            cu, cv = (iu + du) % 64, (iv + dv) % 64
            distance = np.hypot(iu + du + 0.5 + offsets[cu, cv, 0] - u, iv + dv + 0.5 + offsets[cu, cv, 1] - v)
            closer = distance < first
            second = np.where(closer, first, np.minimum(second, distance))
            level = np.where(closer, levels[cu, cv], level)
            first = np.minimum(first, distance)
    border = np.clip((second - first) / rng.uniform(0.1, 0.6), 0, 1)
    return border * (0.6 + 0.4 * level) if rng.random() < 0.6 else 0.85 * level + 0.15 * border


def _stripes(rng, size, period, angle):
    u, _ = _coordinates(rng, size, period, angle)
    levels = rng.random(256) if rng.random() < 0.4 else np.ones(256)
    duty, softness = rng.uniform(0.2, 0.8), rng.uniform(0.03, 0.3)
    wave = np.abs((u % 1.0) - 0.5) * 2
    return np.clip((wave - duty) / softness + 0.5, 0, 1) * levels[np.floor(u).astype(int) % 256]


def _lattice(rng, size, period, angle):
    """Rectangles with joints, every other row shifted or not."""
    u, v = _coordinates(rng, size, period, angle)
    u = u / rng.choice([1.0, 1.5, 2.0])
    u = u + rng.choice([0.0, 0.5, 0.33]) * (np.floor(v).astype(int) % 2)
    levels = 1 - rng.uniform(0, 0.5) * rng.random((64, 64))
    joint, softness = rng.uniform(0.05, 0.25), rng.uniform(0.02, 0.12)
    inside = np.minimum(0.5 - np.abs(u % 1 - 0.5), 0.5 - np.abs(v % 1 - 0.5))
    level = levels[np.floor(u).astype(int) % 64, np.floor(v).astype(int) % 64]
    return np.clip((inside - joint) / softness + 0.5, 0, 1) * level


def _blobs(rng, size, period, angle):
    """Band-passed noise, cut more or less hard: spots and labyrinths."""
    noise = rng.standard_normal((size, size))
    band = ndimage.gaussian_filter(noise, period / 5) - ndimage.gaussian_filter(noise, period / 2.5)
    band = band / band.std() + rng.uniform(-0.7, 0.7)
    return 1 / (1 + np.exp(-band * rng.choice([1.0, 3.0, 10.0])))


def _shapes(rng, size, period, angle):
    """A few big simple parts on a plain ground: ellipses, boxes and rings."""
    image = np.full((size, size), rng.random())
    y, x = np.mgrid[:size, :size]
    for _ in range(rng.integers(2, 9)):
        cy, cx = rng.uniform(0, size, 2)
        turn = rng.uniform(0, np.pi)
        a, b = rng.uniform(0.5, 2.0, 2) * period
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / a
        v = (-(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)) / b
        kind = rng.integers(3)
        distance = np.maximum(np.abs(u), np.abs(v)) if kind == 1 else np.hypot(u, v)
        inside = np.abs(distance - 0.8) < 0.2 if kind == 2 else distance < 1
        image = np.where(inside, rng.random(), image)
    return ndimage.gaussian_filter(image, rng.uniform(0.3, 1.2))


def _fibres(rng, size, period, angle):
    """Many short strokes around one direction."""
    image, spread = np.zeros((size, size)), rng.uniform(0.05, 0.6)
    for _ in range(int(4 * size / period * 12)):
        turn, length = angle + np.pi / 2 + spread * rng.standard_normal(), period * rng.uniform(1, 4)
        steps = np.linspace(-length / 2, length / 2, max(int(length * 1.5), 2))
        ys = (rng.uniform(0, size) + steps * np.sin(turn)).astype(int) % size
        xs = (rng.uniform(0, size) + steps * np.cos(turn)).astype(int) % size
        image[ys, xs] = rng.random() * 0.8 + 0.2
    return unit(ndimage.gaussian_filter(image, rng.uniform(0.5, 1.2)))


def _plain(rng, size, period, angle):
    """Smooth shading with hardly any structure: bare metal, paint."""
    field = smooth_noise(rng, size, int(rng.integers(1, 4))) + rng.uniform(0, 0.3) * power_noise(rng, size, 0.6)
    return 0.5 + 0.12 * field


def _dots(rng, size, period, angle):
    """Spots at the knots of a square or shifted grid, slightly displaced."""
    u, v = _coordinates(rng, size, period, angle)
    u = u + rng.choice([0.0, 0.5]) * (np.floor(v).astype(int) % 2)
    jitter = rng.choice([0.0, 0.1, 0.3]) * (rng.random((64, 64, 2)) - 0.5)
    iu, iv = np.floor(u).astype(int) % 64, np.floor(v).astype(int) % 64
    distance = np.hypot(u % 1 - 0.5 - jitter[iu, iv, 0], v % 1 - 0.5 - jitter[iu, iv, 1])
    return np.clip((rng.uniform(0.15, 0.4) - distance) / rng.uniform(0.03, 0.15) + 0.5, 0, 1)


def _contours(rng, size, period, angle):
    """Level lines of a smooth field, drawn out along one direction."""
    u, _v = _coordinates(rng, size, period, angle)
    field = 0.6 * smooth_noise(rng, size, max(2, int(size / period / 2)))
    phase = 2 * np.pi * (field + 0.5 * u)
    return unit(np.sin(phase) + 0.3 * np.sin(3.1 * phase + rng.uniform(0, 6)))


# name -> (renderer, whether it has one direction)
_RENDERERS: dict[str, tuple[Callable, bool]] = {
    "grain": (_grain, False),
    "leaves": (_leaves, False),
    "plaid": (_plaid, False),
    "cells": (_cells, False),
    "stripes": (_stripes, True),
    "lattice": (_lattice, False),
    "blobs": (_blobs, False),
    "shapes": (_shapes, False),
    "fibres": (_fibres, True),
    "plain": (_plain, False),
    "dots": (_dots, False),
    "contours": (_contours, True),
}


FAMILIES = tuple(_RENDERERS)


def picture(rng: np.random.Generator, size: int = 176, family: int | None = None) -> Picture:
    """One random picture [size, size, 3]: a pattern, colours (grey in half of the cases), light, blur and grain."""
    family = int(rng.integers(len(FAMILIES))) if family is None else family
    render, directed = _RENDERERS[FAMILIES[family]]
    period = float(np.exp(rng.uniform(np.log(5), np.log(48))))
    angle = float(rng.uniform(0, np.pi))
    pattern = render(rng, size, period, angle)
    if rng.random() < 0.3:  # a second, faint pattern on top: real surfaces rarely have one scale only
        other = _RENDERERS[FAMILIES[rng.integers(len(FAMILIES))]][0]
        pattern = pattern + rng.uniform(0.1, 0.3) * (other(rng, size, rng.uniform(4, 24), angle) - 0.5)
    image = _colour(rng, pattern) * (1 + rng.choice([0, 0.1, 0.25]) * smooth_noise(rng, size, 2))[..., None]
    if rng.random() < 0.4:
        image = ndimage.gaussian_filter(image, (*(rng.uniform(0.4, 1.2),) * 2, 0))
    image = image + rng.choice([0.0, 0.01, 0.02, 0.05]) * rng.standard_normal((size, size, 1))
    return Picture(np.clip(image, 0, 1).astype(np.float32), family, period, angle if directed else None)


def _colour(rng: np.random.Generator, pattern: np.ndarray) -> np.ndarray:
    """Pattern [H, W] -> [H, W, 3] between a dark and a light colour with a random contrast."""
    contrast, centre = rng.uniform(0.15, 0.9), rng.uniform(0.25, 0.75)
    ends = np.array([[-0.5], [0.5]]) * contrast * rng.choice([-1, 1]) + centre
    ends = np.repeat(ends, 3, axis=1)
    if rng.random() < 0.5:
        ends = ends + 0.18 * rng.standard_normal((2, 3))
    return ends[0] + (ends[1] - ends[0]) * pattern[..., None]


def irregularity(
    image: np.ndarray, other: np.ndarray, rng: np.random.Generator, kind: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Spoil one place of a picture.

    image, other: float32 [H, W, 3] in [0, 1]; `other` is a different picture to take foreign material from.
    kind: one of `IRREGULARITIES`, or None for any of them. Returns (image [H, W, 3], mask bool [H, W]): the mask holds
    the pixels that changed by more than 0.03, and may be empty.
    """
    kind = kind or IRREGULARITIES[rng.integers(len(IRREGULARITIES))]
    size = image.shape[0]
    alpha = _line(rng, size) if kind in ("scratch", "branching") else _patch(rng, size)
    spoiled = _SPOILERS[kind](image, other, rng)
    strength = rng.uniform(0.4, 1.0) if kind in ("foreign", "scratch", "branching") else 1.0
    result = image + strength * alpha[..., None] * (spoiled - image)
    result = np.clip(result, 0, 1).astype(np.float32)
    return result, np.abs(result - image).mean(axis=2) > 0.03


def _patch(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft mask [size, size] of one ragged or plain spot, from about 0.1 % to 15 % of the picture."""
    radius = size * np.exp(rng.uniform(np.log(0.02), np.log(0.22)))
    cy, cx = rng.uniform(0.08 * size, 0.92 * size, 2)
    turn = rng.uniform(0, np.pi)
    stretch = np.exp(rng.uniform(-0.8, 0.8))
    y, x = np.mgrid[:size, :size]
    u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) * stretch
    v = (-(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)) / stretch
    distance = np.maximum(np.abs(u), np.abs(v)) if rng.random() < 0.25 else np.hypot(u, v)
    ragged = rng.choice([0.0, 0.15, 0.4]) * smooth_noise(rng, size, max(3, int(size / (radius + 2))))
    return np.clip((radius * (1 + ragged) - distance) / rng.uniform(0.7, 4.0) + 0.5, 0, 1)


def _line(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft mask [size, size] of a thin line that wanders, sometimes with a branch."""
    mask = np.zeros((size, size))
    start, heading = rng.uniform(0.1 * size, 0.9 * size, 2), rng.uniform(0, 2 * np.pi)
    wander, length = rng.choice([0.0, 0.03, 0.15]), int(size * rng.uniform(0.15, 0.9))
    for _ in range(rng.integers(1, 3)):
        turns = heading + np.cumsum(wander * rng.standard_normal(length * 2))
        path = start + 0.5 * np.cumsum(np.stack([np.sin(turns), np.cos(turns)], axis=1), axis=0)
        path = path[((path >= 0) & (path < size - 1)).all(axis=1)].astype(int)
        mask[path[:, 0], path[:, 1]] = 1
        heading, length = heading + rng.choice([-1, 1]) * rng.uniform(0.3, 1.0), length // 2 + 1
        start = path[len(path) // 2] if len(path) else start
    width = rng.uniform(0.4, 1.6)
    blurred = ndimage.gaussian_filter(mask, width)
    return np.clip(blurred / (blurred.max() + 1e-6) * 1.3, 0, 1)


def _foreign(image, other, rng):
    return other


def _displaced(image, other, rng):
    """The same surface taken from elsewhere, turned: right colours, broken structure."""
    moved = np.roll(image, tuple(rng.integers(8, image.shape[0] - 8, 2)), axis=(0, 1))
    return np.rot90(moved, rng.integers(4)) if rng.random() < 0.7 else moved[::-1]


def _shifted_level(image, other, rng):
    return image + rng.choice([-1, 1]) * rng.uniform(0.08, 0.4) * (1 + 0.5 * (rng.random(3) - 0.5))


def _flat(image, other, rng):
    """Structure gone: blurred, or filled with one colour near the local one."""
    if rng.random() < 0.5:
        return ndimage.gaussian_filter(image, (*(rng.uniform(2, 6),) * 2, 0))
    return np.broadcast_to(np.clip(image.mean(axis=(0, 1)) + 0.15 * rng.standard_normal(3), 0, 1), image.shape)


def _rough(image, other, rng):
    return image + rng.uniform(0.08, 0.3) * power_noise(rng, image.shape[0], rng.uniform(0, 1.2))[..., None]


def _mark(image, other, rng):
    """Lighter or darker than what lies around, for lines."""
    level = rng.uniform(0, 0.25) if image.mean() > rng.uniform(0.3, 0.7) else rng.uniform(0.75, 1.0)
    return np.full_like(image, level)


def _bent(image, other, rng):
    """The structure bends out of its way."""
    size, amount = image.shape[0], rng.uniform(3, 9)
    y, x = np.mgrid[:size, :size].astype(float)
    y, x = y + amount * smooth_noise(rng, size, 6), x + amount * smooth_noise(rng, size, 6)
    return np.stack([ndimage.map_coordinates(image[..., c], (y, x), order=1, mode="reflect") for c in range(3)], -1)


_SPOILERS: dict[str, Callable] = {
    "foreign": _foreign,
    "displaced": _displaced,
    "level": _shifted_level,
    "flat": _flat,
    "rough": _rough,
    "bent": _bent,
    "scratch": _mark,
    "branching": _mark,
}


IRREGULARITIES = tuple(_SPOILERS)
