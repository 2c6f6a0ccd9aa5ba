"""Pretraining of the shipped feature backbone, data/mini/resnet, on procedural pictures only.

Three things are here, in the order in which `notebooks/00_foundation.ipynb` uses them:

- pictures: twelve families of random patterns (`picture`) and local irregularities in them (`irregularity`). They
  share no code and no parameters with the `textures` data set, whose categories stay unseen.
- training: one timm network with several small heads. Locally it marks the irregularities at strides 4, 8 and 16
  with one linear layer each, so that what is out of place is linearly visible in the features; globally it names the
  family, regresses scale and direction, and tells two crops of one picture from crops of the others.
- comparison: nearest-neighbour feature banks (`patch_bank_scores`, `global_bank_scores`), the simplest detectors that
  stand on nothing but the features, to hold the trained network against the same network with random weights.

Sources of the ideas: pasted irregularities as a training signal, CutPaste (Li et al., CVPR 2021) and DRAEM (Zavrtanik
et al., ICCV 2021); features from procedural pictures, Baradad et al. ("Learning to see by looking at noise", NeurIPS
2021); the contrastive term, SimCLR (Chen et al., ICML 2020); the patch bank, PatchCore (Roth et al., CVPR 2022).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffad_utils.models.backbones import IMAGENET_MEAN, IMAGENET_STD

STRIDES = (2, 4, 8, 16)
ARCHITECTURE = "resnet10t"
# 24 + 32 + 56 + 160 = 272 channels: the widths of EfficientNet-B4 at the same strides, so that InvAD's denoiser has
# the same shape on either
MODEL_ARGS = dict(
    layers=[2, 2, 2, 1], channels=[32, 56, 160, 160], stem_width=12, stem_type="deep_tiered", avg_down=True
)

# ---------------------------------------------------------------------------------------------------- pictures


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


def _coordinates(rng, size, period, angle) -> tuple[np.ndarray, np.ndarray]:
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
        cy, cx, turn = *rng.uniform(0, size, 2), rng.uniform(0, np.pi)
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


# ------------------------------------------------------------------------------------------- irregularities


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


def _patch(rng, size) -> np.ndarray:
    """Soft mask [size, size] of one ragged or plain spot, from about 0.1 % to 15 % of the picture."""
    radius = size * np.exp(rng.uniform(np.log(0.02), np.log(0.22)))
    cy, cx, turn = *rng.uniform(0.08 * size, 0.92 * size, 2), rng.uniform(0, np.pi)
    stretch = np.exp(rng.uniform(-0.8, 0.8))
    y, x = np.mgrid[:size, :size]
    u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) * stretch
    v = (-(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)) / stretch
    distance = np.maximum(np.abs(u), np.abs(v)) if rng.random() < 0.25 else np.hypot(u, v)
    ragged = rng.choice([0.0, 0.15, 0.4]) * smooth_noise(rng, size, max(3, int(size / (radius + 2))))
    return np.clip((radius * (1 + ragged) - distance) / rng.uniform(0.7, 4.0) + 0.5, 0, 1)


def _line(rng, size) -> np.ndarray:
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


# ------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Pool:
    """Pictures made in advance. images: uint8 [N, S, S, 3]; family: int64 [N]; targets: float32 [N, 3], the scaled log
    period and the direction as (cos 2a, sin 2a); directed: float32 [N], 1 where there is a direction."""

    images: np.ndarray
    family: np.ndarray
    targets: np.ndarray
    directed: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def make_pool(num_pictures: int, size: int = 176, seed: int = 0, progress: bool = True) -> Pool:
    """`num_pictures` pictures, the families in turn; picture i is a function of (seed, i, size) alone."""
    pictures = [
        picture(np.random.default_rng([seed, i]), size, i % len(FAMILIES))
        for i in tqdm(range(num_pictures), desc="pictures", mininterval=5.0, disable=not progress)
    ]
    angles = np.array([p.angle if p.angle is not None else 0.0 for p in pictures])
    scale = np.log([p.period for p in pictures]) - 2.7  # about -1.1 to 1.2
    return Pool(
        np.stack([(255 * p.image).round().astype(np.uint8) for p in pictures]),
        np.array([p.family for p in pictures]),
        np.stack([scale, np.cos(2 * angles), np.sin(2 * angles)], axis=1).astype(np.float32),
        np.array([p.angle is not None for p in pictures], dtype=np.float32),
    )


def draw_batch(pool: Pool, generator: torch.Generator, num_pictures: int, crop: int) -> dict[str, Tensor]:
    """Two crops of each of `num_pictures` pictures, both spoiled (differently) in every other picture.

    Returns images float32 [2B, 3, crop, crop] (first all first crops), mask float32 [2B, crop, crop], and for the
    pictures family int64 [B], targets [B, 3], directed [B], spoiled bool [B]. Crops are not turned,
    since the direction is asked for; their exposure and light change from crop to crop, a nuisance in any inspection.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    chosen = rng.choice(len(pool), num_pictures, replace=False)
    images = np.empty((2, num_pictures, crop, crop, 3), np.float32)
    masks = np.zeros((2, num_pictures, crop, crop), np.float32)
    for row, index in enumerate(chosen):
        for view in range(2):
            cut = _crop(pool.images[index], crop, rng)
            if row % 2 == 0:
                cut, masks[view, row] = irregularity(cut, _crop(pool.images[rng.integers(len(pool))], crop, rng), rng)
            images[view, row] = _exposure(cut, rng)
    return {
        "images": torch.from_numpy(images.reshape(-1, crop, crop, 3)).permute(0, 3, 1, 2).contiguous(),
        "mask": torch.from_numpy(masks.reshape(-1, crop, crop)),
        "family": torch.from_numpy(pool.family[chosen]),
        "targets": torch.from_numpy(pool.targets[chosen]),
        "directed": torch.from_numpy(pool.directed[chosen]),
        "spoiled": torch.arange(num_pictures) % 2 == 0,
    }


def _exposure(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another exposure of a crop [H, W, 3]: contrast, brightness, gamma, and light that falls off to one side."""
    ramp = np.linspace(-1, 1, image.shape[0], dtype=np.float32)
    light = rng.normal(0, 0.08) * ramp[:, None, None] + rng.normal(0, 0.08) * ramp[None, :, None]
    changed = (image - 0.5) * rng.uniform(0.6, 1.3) + 0.5 + rng.uniform(-0.15, 0.15)
    return np.clip(changed * (1 + light), 0, 1) ** rng.uniform(0.8, 1.25)


def _crop(image: np.ndarray, crop: int, rng: np.random.Generator) -> np.ndarray:
    y, x = rng.integers(0, image.shape[0] - crop + 1), rng.integers(0, image.shape[1] - crop + 1)
    return image[y : y + crop, x : x + crop].astype(np.float32) / 255


class FoundationModel(nn.Module):
    """The backbone with the heads that train it; only `net` is shipped."""

    def __init__(self):
        super().__init__()
        self.net = timm.create_model(
            ARCHITECTURE, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3), **MODEL_ARGS
        )
        channels = self.net.feature_info.channels()
        pooled = 2 * sum(channels)
        self.marks = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in channels[1:])
        self.norm = nn.BatchNorm1d(pooled)
        self.family = nn.Linear(pooled, len(FAMILIES))
        self.targets = nn.Linear(pooled, 3)
        self.projection = nn.Sequential(nn.Linear(pooled, 128), nn.ReLU(), nn.Linear(128, 64))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """images [B, 3, H, W] in [0, 1] -> marks (logits [B, H/s, W/s] at strides 4, 8, 16), family logits [B, 12],
        targets [B, 3] (the pool's), projection [B, 64]."""
        features = self.net((images - self.mean) / self.std)
        pooled = self.norm(pool_features(features))
        return {
            "marks": [head(f).squeeze(1) for head, f in zip(self.marks, features[1:], strict=True)],
            "family": self.family(pooled),
            "targets": self.targets(pooled),
            "projection": F.normalize(self.projection(pooled), dim=1),
        }


def pool_features(features: list[Tensor]) -> Tensor:
    """Mean and standard deviation over the places of each map: list of [B, C_i, H_i, W_i] -> [B, 2 sum C_i]."""
    means = [f.mean(dim=(2, 3)) for f in features]
    deviations = [(f.var(dim=(2, 3), correction=0) + 1e-5).sqrt() for f in features]
    return torch.cat(means + deviations, dim=1)


def loss_terms(model: FoundationModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of the training loss on a batch of `draw_batch`, each a scalar; their sum is what is minimised.

    marks: binary cross-entropy, irregular places weighted 4 to 1, mean over the three strides; a place's target is
    the share of its pixels that changed, cut at 1 after being multiplied by 4 (a thin line fills little of a place).
    family: cross-entropy. targets: mean squared error, the direction only where there is one.
    contrast: InfoNCE at temperature 0.2 between the two crops of a picture, over pictures with both crops sound.
    """
    out = model(batch["images"])
    marks = torch.stack([marks_loss(logits, batch["mask"]) for logits in out["marks"]]).mean()
    family = F.cross_entropy(out["family"], batch["family"].repeat(2))
    directed = batch["directed"].repeat(2)[:, None]
    weight = torch.cat([torch.ones_like(directed), directed, directed], dim=1)
    targets = (weight * (out["targets"] - batch["targets"].repeat(2, 1)) ** 2).sum() / weight.sum()
    first, second = out["projection"].chunk(2)
    sound = ~batch["spoiled"]
    similarity = first[sound] @ second[sound].T / 0.2
    same = torch.arange(len(similarity), device=similarity.device)
    contrast = (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2
    return {"marks": 4 * marks, "family": 0.5 * family, "targets": targets, "contrast": 0.2 * contrast}


def marks_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of marks: logits [B, h, w], mask float [B, H, W] of 0 and 1. See `loss_terms`."""
    share = F.adaptive_avg_pool2d(mask[:, None], logits.shape[-2:]).squeeze(1)
    target = (4 * share).clamp(max=1)
    return F.binary_cross_entropy_with_logits(logits, target, weight=1 + 3 * target)


@dataclass
class History:
    """terms: one dict of loss terms a step. validation: one dict of `validate` each time it was asked for, with its
    step. seconds: wall time of the training alone."""

    terms: list[dict[str, float]]
    validation: list[dict[str, float]]
    seconds: float


def train_foundation(
    pool: Pool,
    held_out: Pool,
    *,
    num_steps: int,
    lr: float = 2e-3,
    num_pictures: int = 32,
    crop: int = 96,
    seed: int = 0,
    validate_every: int = 250,
    device: str | torch.device = "cpu",
) -> tuple[FoundationModel, History]:
    """Train a new `FoundationModel` from its seed; the last step's weights are the result.

    pool, held_out: pictures to train on and to watch the loss on (from different seeds). num_steps: optimiser steps
    of two crops of `crop` pixels from each of `num_pictures` pictures. lr: peak of warm-up and cosine (AdamW, weight
    decay 0.02). Nothing is selected by the validation numbers; they show whether it learns the task or the pool.
    """
    from diffad_utils import training  # here, so that the pictures and the comparison need no accelerate

    torch.manual_seed(seed)
    model = FoundationModel().to(device, memory_format=torch.channels_last)
    history = History([], [], 0.0)

    def loss_fn(current: nn.Module, generator: torch.Generator) -> Tensor:
        if validate_every and len(history.terms) % validate_every == 0:
            history.validation.append({"step": len(history.terms), **validate(model, held_out, crop=crop)})
        batch = _to(draw_batch(pool, generator, num_pictures, crop), device)
        terms = loss_terms(current, batch)
        history.terms.append({name: term.item() for name, term in terms.items()})
        return sum(terms.values())

    log = training.train(
        model,
        loss_fn,
        num_steps=num_steps,
        lr=lr,
        seed=seed,
        weight_decay=0.02,
        warmup_steps=min(100, num_steps // 10),
        max_grad_norm=3.0,
        description="resnet-mini",
    )
    history.validation.append({"step": num_steps, **validate(model, held_out, crop=crop)})
    history.seconds = log.seconds
    return model, history


def obtain_foundation(
    folder: str | Path, pool: Pool, held_out: Pool, *, device: str | torch.device = "cpu", **settings
) -> tuple[FoundationModel, History]:
    """The network with its heads from `folder`, trained by `train_foundation(..., **settings)` and kept there unless it
    is there already. Raises ValueError where the folder holds one of other settings."""
    weights, record = Path(folder, "with_heads.safetensors"), Path(folder, "history.json")
    if not record.is_file():
        model, history = train_foundation(pool, held_out, device=device, **settings)
        record.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, weights)
        record.write_text(json.dumps({"settings": settings, **asdict(history)}) + "\n", encoding="utf-8")
    kept = json.loads(record.read_text(encoding="utf-8"))
    if kept.pop("settings") != settings:
        raise ValueError(f"{folder} holds a network of other settings than {settings}; remove the folder to train anew")
    model = FoundationModel()
    model.load_state_dict(load_file(weights))
    return model.to(device, memory_format=torch.channels_last).eval(), History(**kept)


def _to(batch: dict[str, Tensor], device) -> dict[str, Tensor]:
    batch = {name: value.to(device) for name, value in batch.items()}
    batch["images"] = batch["images"].contiguous(memory_format=torch.channels_last)
    return batch


@torch.no_grad()
def validate(model: FoundationModel, held_out: Pool, *, crop: int = 96, num_batches: int = 4) -> dict[str, float]:
    """Loss terms, family accuracy and pixel AUROC of the marks at each stride, on fixed batches of unseen pictures.

    The model is in evaluation mode here and in the mode it was in afterwards.
    """
    from diffad_utils.metrics import pixel_auroc

    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    results: list[dict[str, float]] = []
    for number in range(num_batches):
        generator = torch.Generator().manual_seed(10_000 + number)
        batch = _to(draw_batch(held_out, generator, min(32, len(held_out)), crop), device)
        out = model(batch["images"])
        row = {name: term.item() for name, term in loss_terms(model, batch).items()}
        row["loss"] = sum(row.values())
        row["family_accuracy"] = (out["family"].argmax(1) == batch["family"].repeat(2)).float().mean().item()
        for stride, logits in zip(STRIDES[1:], out["marks"], strict=True):
            maps = F.interpolate(logits[:, None], (crop, crop), mode="bilinear").squeeze(1)
            row[f"mark_auroc_{stride}"] = pixel_auroc(maps.cpu().numpy(), batch["mask"].bool().cpu().numpy())
        results.append(row)
    model.train(was_training)
    return {name: float(np.mean([row[name] for row in results])) for name in results[0]}


def save_backbone(model: FoundationModel, folder: str | Path) -> Path:
    """Write `net` as a timm folder: model.safetensors and config.json. Returns the folder.

    `timm.create_model("local-dir:<folder>", pretrained=True, features_only=True, out_indices=(0, 1, 2, 3))` opens it,
    and so does `models.backbones.load_backbone`. The stage after stride 16 and the classifier are not in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(FAMILIES),
        "num_features": MODEL_ARGS["channels"][-1],
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "procedural",
            "input_size": [3, 128, 128],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": len(FAMILIES),
            "pool_size": [4, 4],
            "first_conv": "conv1.0",
            "classifier": "fc",
            "license": "mit",
        },
    }
    temporary = folder / "model.safetensors.tmp"
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    temporary.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


# ----------------------------------------------------------------------------------------------- comparison


@torch.no_grad()
def extract(backbone: nn.Module, images: Tensor, batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """Features for the two banks: images [B, 3, H, W] in [0, 1] -> (patches [B, P, D], pooled [B, G]).

    patches: strides 4, 8 and 16, each averaged over 3 x 3 places (PatchCore's local neighbourhood), resized to the
    stride-8 grid and joined; P = H / 8 * W / 8. pooled: `pool_features` of all strides.
    """
    patches, pooled = [], []
    for chunk in images.split(batch_size):
        features = backbone(chunk)
        pooled.append(pool_features(features))
        grid = features[2].shape[-2:]
        local = [F.avg_pool2d(f, 3, stride=1, padding=1, count_include_pad=False) for f in features[1:]]
        joined = torch.cat([F.interpolate(f, grid, mode="bilinear", align_corners=False) for f in local], dim=1)
        patches.append(joined.flatten(2).transpose(1, 2))
    return torch.cat(patches), torch.cat(pooled)


def patch_bank_scores(
    train: Tensor, test: Tensor, *, bank_size: int = 2000, top: float = 0.02, scaled: bool = False, seed: int = 0
) -> Tensor:
    """Image scores [N] from patches: train [M, P, D] normal images, test [N, P, D].

    The bank is a random `bank_size` of the normal training patches. Score: mean over the `top` share of an image's
    patches of the Euclidean distance to the nearest one in the bank. The features enter as they are (PatchCore), or
    with `scaled` each channel divided by its standard deviation over the normal training patches.
    """
    from diffad_utils.kernels import knn

    flat = train.flatten(0, 1)
    scale = flat.std(0) + 1e-6 if scaled else torch.ones(flat.shape[1])
    chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:bank_size]
    distances, _ = knn(test.flatten(0, 1) / scale, flat[chosen] / scale, 1)
    return distances.view(test.shape[:2]).topk(max(1, round(top * test.shape[1])), dim=1).values.mean(1)


def global_bank_scores(train: Tensor, test: Tensor, *, k: int = 5) -> Tensor:
    """Image scores [N] from pooled features: train [M, G] normal images, test [N, G]: mean distance to the
    k nearest training images, each channel scaled by its mean and standard deviation over the training images."""
    from diffad_utils.kernels import knn

    mean, std = train.mean(0), train.std(0) + 1e-6
    return knn((test - mean) / std, (train - mean) / std, k)[0].mean(1)


def bank_scores(backbone: nn.Module, train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Both banks' scores: images [M, 3, H, W] and [N, 3, H, W] in [0, 1] -> {"patches": [N], "whole image": [N]}."""
    train_patches, train_pooled = extract(backbone, train)
    test_patches, test_pooled = extract(backbone, test)
    return {
        "patches": patch_bank_scores(train_patches, test_patches),
        "whole image": global_bank_scores(train_pooled, test_pooled),
    }


def procedural_test(seed: int, num_train: int = 40, num_test: int = 40, crop: int = 96, size: int = 320):
    """One small anomaly-detection problem a family, all from pictures that training never saw.

    Yields (family name, train [num_train, 3, crop, crop], test [num_test, ...], labels [num_test]): crops of the
    upper half of one big picture to learn from, crops of its lower half to judge, every other one spoiled.
    """
    for number, name in enumerate(FAMILIES):
        rng = np.random.default_rng([seed, 77, number])
        image = (255 * picture(rng, size, number).image).astype(np.uint8)
        upper, lower = image[: size // 2], image[size // 2 :]
        other = picture(rng, crop).image
        train = np.stack([_crop(upper, crop, rng) for _ in range(num_train)])
        test = np.stack([_crop(lower, crop, rng) for _ in range(num_test)])
        for index in range(0, num_test, 2):
            mask = np.zeros(1, bool)
            while not mask.any():
                spoiled, mask = irregularity(test[index], other, rng)
            test[index] = spoiled
        labels = (np.arange(num_test) % 2 == 0).astype(int)
        yield name, *(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (train, test)), labels


MODEL_CARD = """# resnet-mini

A small feature backbone: timm `{architecture}` with channels 24, 32, 56, 160 at strides 2, 4, 8, 16
({parameters:,} parameters, float32). It stands in for EfficientNet-B4 and ResNet-34 where their weights are not at
hand, so that everything runs anywhere. Results obtained with it are not those of the networks it stands in for.

    from diffad_utils.models.backbones import load_backbone
    features = load_backbone("resnet-mini")(images)  # images [B, 3, H, W] in [0, 1]

## Training

- Data: {num_pictures} procedural pictures of {picture_size} pixels in {num_families} families (`diffad_utils/foundation/backbone.py`), nothing
  photographed, nothing from the `textures` data set or any other that it is judged on.
- Task: mark artificial irregularities at strides 4, 8 and 16; name the family; regress scale and direction; tell
  crops of one picture from crops of others under changing exposure.
- Steps: {steps}, each on {crops} crops of {crop} pixels; AdamW, peak rate {learning_rate}, warm-up and cosine.
- Time: {minutes:.0f} minutes. Device: {device}. Seed: {seed}. torch {torch}, timm {timm}.
- The last step's weights, not selected by any score. Made by `notebooks/00_foundation.ipynb`.
- The task was revised once, after a short first trial that regressed brightness and changed the exposure little:
  it marked unseen irregularities badly, and gained little on real images, solar cells (ELPV) among them.
- SHA-256 of model.safetensors: {sha256}

## On pictures that it was not trained on

Family named rightly: {family_accuracy:.0%} of crops (one in {num_families} by chance). Pixel AUROC of the marked irregularities:
{mark_auroc}.

## As a nearest-neighbour feature bank, against the same network with random weights

I-AUROC on real images and on patterns; trained with a 95 % bootstrap interval over images, random as the mean over
{random_seeds} seeds with the lowest and the highest.

{table}

## Known limits

- It has seen no photograph and no object: it knows textures and local irregularities, not what things are.
- It was trained on small crops ({crop} pixels); structure much larger than that is outside its experience.
- {limits}
- Training on another processor or with another number of threads gives slightly different weights.

Licence: MIT, as the rest of the repository.
"""  # noqa: E501


def model_card(folder: str | Path, facts: dict, comparison, limits: str) -> Path:
    """Write README.md beside the model. facts: the fields of `MODEL_CARD`; comparison: data frame with the columns
    set, bank, trained, low, high, random, random_low, random_high; limits: one sentence on where it is no better."""
    rows = ["| data | bank | trained | random |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {r.set} | {r.bank} | {r.trained:.3f} ({r.low:.3f} to {r.high:.3f}) | "
        f"{r.random:.3f} ({r.random_low:.3f} to {r.random_high:.3f}) |"
        for r in comparison.itertuples()
    ]
    file = Path(folder) / "README.md"
    file.write_text(MODEL_CARD.format(**facts, table="\n".join(rows), limits=limits), encoding="utf-8")
    return file


def file_sha256(file: str | Path) -> str:
    """SHA-256 (hex) of one file, as `sha256sum` prints it."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def no_better(comparison) -> str:
    """One sentence for the card: the rows in which a random network lies within or above the trained one's interval."""
    rows = [f"{r.set} ({r.bank})" for r in comparison.itertuples() if r.low <= r.random_high]
    if not rows:
        return "In every row above it is clearly better than every random network; that is no promise for other data."
    return f"Not clearly better than the best random network (interval over images) on: {', '.join(rows)}."


def compare(trained: nn.Module, untrained: list[nn.Module], train: Tensor, test: Tensor, labels, *, seed: int = 0):
    """I-AUROC of both banks on one data set: list of one dict a bank, with the columns of `model_card`'s comparison
    (without "set"). The interval is a bootstrap over the test images; random_low and random_high are over networks."""
    from diffad_utils.metrics import bootstrap_interval, image_auroc

    scores = {bank: s.numpy() for bank, s in bank_scores(trained, train, test).items()}
    others = [
        {bank: image_auroc(s.numpy(), labels) for bank, s in bank_scores(net, train, test).items()} for net in untrained
    ]
    rows = []
    for bank, values in scores.items():
        low, high = bootstrap_interval(image_auroc, values, labels, seed=seed)
        random = [row[bank] for row in others]
        rows.append(
            {
                "bank": bank,
                "trained": image_auroc(values, labels),
                "low": low,
                "high": high,
                "random": float(np.mean(random)),
                "random_low": min(random),
                "random_high": max(random),
            }
        )
    return rows


def judge_on(
    dataset: str, category: str, *, size: int = 128, train_images: int = 150, test_images: int = 150, seed: int = 0
):
    """Images to compare on: (train [M, 3, size, size], test [N, 3, size, size], labels [N]), at most `train_images`
    normal training images and `test_images` of each class of the test split, chosen by the seed."""
    from diffad_utils import data

    index = data.load_index(dataset, category=category, seed=seed)
    test = index[index.split == "test"]
    chosen = [index[index.split == "train"], test[test.label == 0], test[test.label == 1]]
    limits = (train_images, test_images, test_images)
    parts = [part.sample(min(limit, len(part)), random_state=seed) for part, limit in zip(chosen, limits, strict=True)]
    stacked = [data.load_batch(data.ImageDataset(part.reset_index(drop=True), size=size))["image"] for part in parts]
    labels = np.repeat([0, 1], [len(stacked[1]), len(stacked[2])])
    return stacked[0], torch.cat(stacked[1:]), labels
