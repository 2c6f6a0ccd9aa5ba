"""Captioned pictures to train the small Stable Diffusion and CLIP on: the families of `textures`, in other materials.

A family is a drawing function of `data.textures.surfaces`. What the `textures` data set fixes once for each category
(colours, number of yarns or pins, size of the grain, ...) is drawn anew for every picture here (`material`), from other
random streams, so that no evaluation image is among the training pictures and its category is one material out of many.
Pictures come in pairs: a defect-free twin, and the same scene with a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from diffad_utils.data import textures
from diffad_utils.data.captions import caption
from diffad_utils.data.textures import defects, surfaces
from diffad_utils.data.textures.canvas import canvas, log_uniform

FAMILIES = tuple(textures.CATEGORIES)
#: States of a part: "good", then every defect.
STATES = ("good", *textures.DEFECTS)
#: What a caption may say of the state: one of `STATES`, "damaged" (any defect) or "" (nothing).
SAID = (*STATES, "damaged", "")


def _colour(rng: np.random.Generator, usual: Sequence[float]) -> tuple[float, ...]:
    """Another colour of the material: mostly near the usual one, sometimes with another hue, in [0.08, 0.92]."""
    colour = np.asarray(usual, float)
    if rng.random() < 0.4:
        colour = rng.permutation(colour)
    colour = colour * np.exp(rng.normal(0, 0.22)) + rng.normal(0, 0.05, 3)
    return tuple(np.clip(colour, 0.08, 0.92))


def material(family: str, rng: np.random.Generator) -> dict:
    """Keyword arguments for `surfaces.<family>`: one carpet, wood or connector out of many."""
    tint = partial(_colour, rng)
    if family == "carpet":
        return dict(yarns=log_uniform(rng, 11, 28), warp=tint((0.60, 0.55, 0.48)), weft=tint((0.45, 0.46, 0.50)))
    if family == "grid":
        radius = rng.uniform(0.11, 0.24)
        return dict(
            wires=log_uniform(rng, 6, 14),
            radius=(radius, radius + 0.03),
            steel=tint((0.62, 0.62, 0.60)),
            ground=tint((0.21, 0.20, 0.19)),
        )
    if family == "leather":
        return dict(cells=log_uniform(rng, 12, 34), hide=tint((0.50, 0.36, 0.27)), relief=rng.uniform(0.05, 0.16))
    if family == "tile":
        size = log_uniform(rng, 0.5, 1.25)
        chips = tuple(
            (max(int(cells * size), 6), tint(colour), level + rng.normal(0, 0.2))
            for cells, colour, level in surfaces.CHIPS
        )
        return dict(ground=tint((0.58, 0.56, 0.53)), chips=chips)
    if family == "wood":
        rings = log_uniform(rng, 4, 16)
        return dict(rings=(rings, 1.3 * rings), early=tint((0.74, 0.56, 0.38)), late=tint((0.52, 0.34, 0.20)))
    if family == "connector":
        return dict(
            columns=int(rng.integers(6, 11)),
            pin_size=(rng.uniform(0.15, 0.26), rng.uniform(0.4, 0.6)),
            table=tint((0.62, 0.63, 0.62)),
            body=tint((0.24, 0.26, 0.31)),
            metal=tint((0.82, 0.68, 0.38)),
            latch=tint((0.36, 0.44, 0.56)),
        )
    if family == "blister":
        return dict(
            rows=int(rng.integers(2, 5)),
            lean=rng.uniform(0, np.pi),
            foil=tint((0.60, 0.61, 0.63)),
            first=tint((0.66, 0.30, 0.26)),
            second=tint((0.76, 0.71, 0.58)),
        )
    width = rng.uniform(110, 200)  # brick and gravel: the training columns of a photograph, at many scales
    return dict(span=(width, 1.2 * width), tone=tint((1.04, 0.98, 0.94)))


def draw_pair(index: int, seed: int = 0, size: int = 128) -> tuple[np.ndarray, np.ndarray, str]:
    """Pair `index`, a function of (seed, index) alone: (twin, image, state).

    twin, image: uint8 [size, size, 3]; state: the image's defect. The families take turns (`index` modulo their
    number), and so do a family's defects. Drawn on 256 pixels and averaged down, as `textures` does; size: 256, 128 or
    64.
    """
    if size not in (64, 128, 256):
        raise ValueError(f"draw_pair: size must be 64, 128 or 256 (pictures are averaged down from 256), got {size}")
    family = FAMILIES[index % len(FAMILIES)]
    kinds = textures.CATEGORIES[family]
    state = kinds[index // len(FAMILIES) % len(kinds)]
    rng = textures.stream("captioned", seed, index)
    board = canvas(*textures.REFERENCE)
    surface = getattr(surfaces, family)(board, rng, "train", **material(family, rng))
    for _ in range(200):
        alpha, layer = getattr(defects, state)(board, rng, surface, surface.color)
        image = surface.color + alpha[..., None] * (layer - surface.color)
        if textures.suitable(surface.color, image):
            break
    else:
        raise RuntimeError(f"draw_pair: none of 200 draws of {state} on pair {index} of seed {seed} has a usable area")
    scenes = [textures.reduce(scene, textures.REFERENCE[0] // size) for scene in (surface.color, image)]
    twin, image = textures.camera(scenes, rng.random(5), rng)
    return twin.astype(np.uint8), image.astype(np.uint8), state


@dataclass(frozen=True)
class Pairs:
    """images: uint8 [N, 2, S, S, 3], the twin and the image with a defect; family: int64 [N], index into `FAMILIES`;
    state: int64 [N], index into `STATES` of the second image (the first one's is 0)."""

    images: np.ndarray
    family: np.ndarray
    state: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def draw_pairs(
    num_pairs: int, seed: int = 0, size: int = 128, *, workers: int = 1, folder: str | Path | None = None
) -> Pairs:
    """The first `num_pairs` pairs of a seed, drawn by `workers` processes; kept in `folder` if one is given."""
    file = Path(folder) / f"pairs-{seed}-{num_pairs}-{size}.safetensors" if folder is not None else None
    if file is not None and file.exists():
        return Pairs(**load_file(file))
    draw: Callable = partial(draw_pair, seed=seed, size=size)
    images, states = np.empty((num_pairs, 2, size, size, 3), np.uint8), np.empty(num_pairs, np.int64)
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(draw, range(num_pairs), chunksize=32) if workers > 1 else map(draw, range(num_pairs))
        for i, (twin, image, state) in enumerate(tqdm(drawn, total=num_pairs, desc="pairs", mininterval=5.0)):
            images[i], states[i] = (twin, image), STATES.index(state)
    pairs = Pairs(images, np.arange(num_pairs) % len(FAMILIES), states)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(vars(pairs), file)
    return pairs


def draw_said(states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the caption of each picture says: states [N] (indices into `STATES`) -> indices [N] into `SAID`.

    Seven of ten name the state; of the others with a defect two thirds say "damaged"; the rest say nothing of it.
    """
    u = rng.random(len(states))
    damaged = (states > 0) & (u >= 0.7) & (u < 0.9)
    return np.where(u < 0.7, states, np.where(damaged, SAID.index("damaged"), SAID.index("")))


def matches(family: Tensor, state: Tensor, said_family: Tensor, said: Tensor) -> Tensor:
    """Whether caption j is true of picture i: indices [N], [N] of pictures, [M], [M] of captions -> bool [N, M]."""
    same = state[:, None] == said
    damaged = (said == SAID.index("damaged")) & (state[:, None] > 0)
    return (family[:, None] == said_family) & (same | damaged | (said == SAID.index("")))


def captions_of(family: str, said: str) -> list[str]:
    """Captions for indices [N] into `FAMILIES` and `SAID`."""
    return [caption(FAMILIES[int(f)], SAID[int(s)]) for f, s in zip(family, said, strict=True)]


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1], the range of the VAE."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).float().div(127.5).sub(1)
