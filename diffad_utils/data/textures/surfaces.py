"""Defect-free surfaces and objects: one short function of a canvas and a random generator each.

A surface function returns a `Surface`: the reflectance [H, W, 3] (float32, roughly 0 to 1, before illumination and
sensor), and for objects a `redraw(faults)` that draws the same object with some parts missing or out of place.

The keyword arguments are what makes one material of a family: their defaults are the categories of `textures`, other
values are other carpets, woods or connectors (`diffad_utils.foundation.pictures` draws them at random).
What may be touched: new surfaces; the defaults of the old ones are fixed by the reference numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from .canvas import Canvas, cell_of, mix, smoothstep, worley

Colour = tuple[float, float, float]  # red, green, blue, of 0 to 1
Span = tuple[float, float]  # lowest and highest of a random draw, or two sides
Chips = Sequence[tuple[int, Colour, float]]

# A photograph is 512 pixels wide; the left columns are for training, the right ones for testing, with a gap between.
PHOTO_REGIONS = {"train": (0, 288), "test": (296, 512)}


@dataclass(frozen=True)
class Parts:
    """State of an object's n parts: shown [n] (bool), shift [n, 2] (cell units), turn [n] (rad)."""

    shown: np.ndarray
    shift: np.ndarray
    turn: np.ndarray


@dataclass
class Surface:
    color: np.ndarray
    parts: Parts | None = None
    redraw: Callable[[Parts], np.ndarray] | None = None


def _hue(rng: Generator, color: Colour, spread: float = 0.03) -> np.ndarray:
    """A category's colour with this image's batch variation, mostly of lightness."""
    return np.asarray(color, np.float32) * (1 + rng.normal(0, spread) + rng.normal(0, 0.4 * spread, 3)).astype(
        np.float32
    )


def _direction(rng: Generator) -> tuple[float, float]:
    angle = rng.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))


def carpet(
    canvas: Canvas,
    rng: Generator,
    split: str,
    *,
    yarns: int = 21,
    warp: Colour = (0.60, 0.55, 0.48),
    weft: Colour = (0.45, 0.46, 0.50),
) -> Surface:
    """Plain weave: warp and weft yarns pass over each other in a chequerboard; each yarn has its own tone."""
    u, v = canvas.frame(rng, turn=0.05, wobble=0.006, shift=0.1, zoom=0.07)
    u, v = u * yarns + 100, v * yarns + 100
    u = u + np.float32(0.1) * canvas.noise(rng, 20)
    v = v + np.float32(0.1) * canvas.noise(rng, 20)
    (iu, fu), (iv, fv) = cell_of(u), cell_of(v)
    fu, fv = np.sin(np.pi * fu), np.sin(np.pi * fv)
    warp_on_top = ((iu + iv) & 1).astype(bool)
    height = np.where(warp_on_top, fu * (0.5 + 0.5 * fv), fv * (0.5 + 0.5 * fu))
    tone = 1 + 0.1 * rng.standard_normal((2, 64)).astype(np.float32)
    tone = np.where(warp_on_top, tone[0].take(iu & 63), tone[1].take(iv & 63))
    fibre = 1 + 0.09 * np.where(warp_on_top, canvas.noise(rng, (40, 110)), canvas.noise(rng, (110, 40)))
    warp, weft = _hue(rng, warp), _hue(rng, weft)
    color = np.where(warp_on_top[..., None], warp, weft)
    return Surface(color * (tone * fibre * (0.42 + 0.75 * height))[..., None])


def grid(
    canvas: Canvas,
    rng: Generator,
    split: str,
    *,
    wires: int = 9,
    radius: Span = (0.15, 0.2),
    steel: Colour = (0.62, 0.62, 0.60),
    ground: Colour = (0.21, 0.20, 0.19),
) -> Surface:
    """Woven wire mesh over a dark, slightly dirty ground."""
    u, v = canvas.frame(rng, turn=0.05, wobble=0.006, shift=0.1, zoom=0.06)
    u, v = u * wires + 100, v * wires + 100
    (iu, fu), (iv, fv) = cell_of(u), cell_of(v)
    fu, fv = fu - 0.5, fv - 0.5
    radius = rng.uniform(*radius)
    over = ((iu + iv) & 1).astype(np.float32) * 2 - 1
    sheen = 1 + 0.07 * canvas.noise(rng, 12, 3)
    ground = _hue(rng, ground) * (1 + 0.15 * canvas.noise(rng, 10, 4))[..., None]
    steel = _hue(rng, steel)
    tone = 1 + 0.05 * rng.standard_normal((2, 64)).astype(np.float32)

    def wire(d, along, sign, tones):
        lift = 0.8 + 0.2 * sign * over * np.cos(np.pi * along)
        light = np.sqrt(np.clip(1 - 0.85 * np.square(d - 0.25), 0.03, 1)) * lift * sheen * tones
        return light, 1 - smoothstep(0.8, 1.15, np.abs(d)), 1 - 0.45 * (1 - smoothstep(0.6, 2.2, np.abs(d - 0.5)))

    vertical = wire(fu / radius, fv, 1, tone[0].take(iu & 63))
    horizontal = wire(fv / radius, fu, -1, tone[1].take(iv & 63))
    light, alpha, shade = (np.where(over > 0, b, a) for a, b in zip(vertical, horizontal))  # the lower wire
    color = mix(ground * (vertical[2] * horizontal[2])[..., None], steel * light[..., None], alpha * shade)
    light, alpha, shade = (np.where(over > 0, a, b) for a, b in zip(vertical, horizontal))  # the upper one
    return Surface(mix(color * shade[..., None], steel * light[..., None], alpha))


def leather(
    canvas: Canvas,
    rng: Generator,
    split: str,
    *,
    cells: int = 22,
    hide: Colour = (0.50, 0.36, 0.27),
    relief: float = 0.09,
) -> Surface:
    """Pebbled grain: cells divided by creases, lit from the side."""
    u, v = canvas.frame(rng, turn=0.6, wobble=0.02, shift=0.2, zoom=0.12)
    u = u * cells + 0.35 * canvas.noise(rng, 24) + 40
    v = v * cells + 0.35 * canvas.noise(rng, 24) + 40
    first, second = worley(rng, u, v, 64)
    height = smoothstep(0.0, 0.45, second - first) * (1 - 0.35 * first) + 0.07 * canvas.noise(rng, 48, 2)
    height = height * (0.75 + 0.12 * canvas.noise(rng, 4))
    slope_y, slope_x = np.gradient(height, 21 / canvas.shape[0], 21 / canvas.shape[1])
    to_light = _direction(rng)
    slope = to_light[0] * slope_x + to_light[1] * slope_y
    light = 0.82 + 0.22 * height + relief * np.tanh(slope) + 0.04 * canvas.noise(rng, 4, 3)
    return Surface(_hue(rng, hide, 0.05) * light[..., None])


# cells a side, colour and rarity of each kind of chip
CHIPS: Chips = (
    (24, (0.47, 0.46, 0.45), 0.7),
    (34, (0.69, 0.67, 0.63), 0.9),
    (44, (0.52, 0.43, 0.35), 1.25),
    (56, (0.30, 0.30, 0.31), 1.3),
    (84, (0.24, 0.24, 0.25), 1.5),
)


def tile(
    canvas: Canvas, rng: Generator, split: str, *, ground: Colour = (0.58, 0.56, 0.53), chips: Chips = CHIPS
) -> Surface:
    """Speckled stone tile: chips of several colours and sizes in a light ground."""
    color = _hue(rng, ground) * (1 + 0.03 * canvas.noise(rng, 6, 4))[..., None]
    for cells, chip, level in chips:
        level = level + rng.normal(0, 0.12)
        amount = smoothstep(level - 0.08, level + 0.22, canvas.noise(rng, cells, 2, 0.45))
        color = mix(color, _hue(rng, chip) * (1 + 0.05 * canvas.noise(rng, 60))[..., None], amount)
    return Surface(color)


def wood(
    canvas: Canvas,
    rng: Generator,
    split: str,
    *,
    rings: Span = (7, 11),
    early: Colour = (0.74, 0.56, 0.38),
    late: Colour = (0.52, 0.34, 0.20),
) -> Surface:
    """Plain-sawn board: drifting growth rings along y, fibres and pores."""
    x = canvas.x + rng.normal(0, 0.06) * (canvas.y - 0.5)
    drift = 0.05 * canvas.noise(rng, (2, 3)) + 0.012 * canvas.noise(rng, (3, 9))
    position = (x + drift) * rng.uniform(*rings) + 0.6 * canvas.noise(rng, (1, 2)) + rng.uniform(0, 1)
    ring = position - np.floor(position)
    if rng.random() < 0.5:
        ring = 1 - ring
    dark = smoothstep(0.15, 0.85, ring) * (1 - smoothstep(0.86, 1.0, ring))
    strength = 0.7 + 0.15 * canvas.noise(rng, (2, 8))
    fibre = 0.045 * canvas.noise(rng, (5, 120)) + 0.03 * canvas.noise(rng, (16, 60))
    pores = smoothstep(1.3, 2.3, canvas.noise(rng, (22, 128))) * (0.4 + 0.6 * dark)
    color = mix(_hue(rng, early) + np.zeros((*canvas.shape, 1), np.float32), _hue(rng, late), dark * strength)
    return Surface(color * (1 + fibre - 0.3 * pores)[..., None])


def connector(
    canvas: Canvas,
    rng: Generator,
    split: str,
    *,
    columns: int = 8,
    pin_size: Span = (0.2, 0.5),
    table: Colour = (0.62, 0.63, 0.62),
    body: Colour = (0.24, 0.26, 0.31),
    metal: Colour = (0.82, 0.68, 0.38),
    latch: Colour = (0.36, 0.44, 0.56),
) -> Surface:
    """Two rows of `columns` metal pins and a latch in a housing, on a table. Parts: the pins, then the latch."""
    pitch, last = 0.72 / columns, 2 * columns
    u, v = canvas.frame(rng, turn=0.04, wobble=0.0015, shift=0.03, zoom=0.03)
    grain = canvas.noise(rng, 90) * 0.5 + canvas.noise(rng, 30, 2) * 0.5
    table = _hue(rng, table) * (1 + 0.03 * canvas.noise(rng, 5, 3) + 0.02 * grain)[..., None]
    body = _hue(rng, body, 0.05) * (1 + 0.06 * grain)[..., None]
    metal, plastic = _hue(rng, metal), _hue(rng, latch, 0.05)
    scuff = 1 + 0.08 * canvas.noise(rng, 40, 2)

    def box(cu, cv, half_u, half_v, edge=0.012):
        outside = np.maximum(np.abs(u - cu) - half_u, np.abs(v - cv) - half_v)
        return 1 - smoothstep(-edge / 2, edge / 2, outside)

    base = mix(table, table * 0.55, 0.8 * smoothstep(0, 1, box(0.015, 0.02, 0.43, 0.35, 0.07)))
    base = mix(base, body, box(0, 0, 0.42, 0.34))
    base = mix(base, body * 1.3, box(0, 0, 0.42, 0.34) - box(0, 0, 0.405, 0.325))
    base = mix(base, body * 0.55, box(0, 0.085, 0.38, 0.195))
    column = np.clip(np.floor((u + 0.36) / pitch), 0, columns - 1)
    row = (v > 0.085).astype(np.float32)
    pin = (row * columns + column).astype(np.intp)
    cell_u = (u + 0.36) / pitch - column - 0.5
    cell_v = (v - (0.085 + (row - 0.5) * 0.18)) / 0.09
    hole = 1 - smoothstep(0.0, 0.12, np.maximum(np.abs(cell_u) - 0.3, np.abs(cell_v) - 0.66))
    base = mix(base, body * 0.28, hole)

    def draw(parts: Parts) -> np.ndarray:
        shift = parts.shift.astype(np.float32)
        lu, lv = cell_u - shift[:, 0].take(pin), cell_v - shift[:, 1].take(pin)
        c, s = np.cos(parts.turn).astype(np.float32).take(pin), np.sin(parts.turn).astype(np.float32).take(pin)
        lu, lv = c * lu + s * lv, c * lv - s * lu
        inside = np.maximum(np.abs(lu) - pin_size[0], np.abs(lv) - pin_size[1])
        alpha = (1 - smoothstep(-0.02, 0.1, inside)) * parts.shown.astype(np.float32).take(pin)
        light = (0.62 + 0.5 * np.exp(-np.square((lu + 0.06) / 0.11)) - 0.2 * smoothstep(0.25, 0.5, np.abs(lv))) * scuff
        color = mix(base, metal * light[..., None], alpha)
        du, dv = (float(d) * 0.09 for d in shift[last])
        if parts.shown[last]:
            lid = box(du, -0.225 + dv, 0.17, 0.07)
            color = mix(color, color * 0.5, 0.7 * box(du + 0.008, -0.215 + dv, 0.172, 0.072, 0.03))
            ribs = 0.9 + 0.14 * np.sin((u - du) * 125) * box(du, -0.225 + dv, 0.15, 0.05)
            return mix(color, plastic * (ribs * scuff)[..., None], lid)
        return mix(color, body * 0.5, box(0, -0.225, 0.15, 0.05))

    count = 2 * columns + 1
    parts = Parts(np.ones(count, bool), rng.normal(0, 0.02, (count, 2)), rng.normal(0, 0.03, count))
    return Surface(draw(parts), parts, draw)


def blister(
    canvas: Canvas,
    rng: Generator,
    split: str,
    *,
    rows: int = 3,
    lean: float = np.pi * 0.25,
    foil: Colour = (0.60, 0.61, 0.63),
    first: Colour = (0.66, 0.30, 0.26),
    second: Colour = (0.76, 0.71, 0.58),
) -> Surface:
    """Blister pack: rows x rows capsules of two colours, turned by `lean`, under domes on foil. Parts: capsules."""
    u, v = canvas.frame(rng, turn=0.03, wobble=0.003, shift=0.02, zoom=0.03)
    cu, cv = u / (0.93 / rows) + rows / 2, v / (0.93 / rows) + rows / 2
    iu, iv = np.clip(np.floor(cu), 0, rows - 1), np.clip(np.floor(cv), 0, rows - 1)
    cell = (iv * rows + iu).astype(np.intp)
    cu, cv = cu - iu - 0.5, cv - iv - 0.5
    emboss = np.sin(u * 190) * np.sin(v * 190)
    gloss = 1 + 0.05 * emboss + 0.05 * canvas.noise(rng, 7, 4)
    base = _hue(rng, foil) * gloss[..., None]
    dome = np.hypot(cu, cv)
    lx, ly = _direction(rng)
    rim = np.exp(-np.square((dome - 0.43) / 0.03)) * (cu * lx + cv * ly) / 0.43
    base = mix(base, base * 0.78, 1 - smoothstep(0.40, 0.44, dome)) * (1 + 0.45 * rim)[..., None]
    first, second = _hue(rng, first, 0.05), _hue(rng, second, 0.04)
    powder = 1 + 0.03 * canvas.noise(rng, 80) + 0.03 * canvas.noise(rng, 12, 2)
    glare = np.exp(-(np.square(cu + 0.14 * lx) + np.square(cv + 0.14 * ly)) / 0.006)

    def draw(parts: Parts) -> np.ndarray:
        shift, turn = parts.shift.astype(np.float32), parts.turn.astype(np.float32)
        lu, lv = cu - shift[:, 0].take(cell), cv - shift[:, 1].take(cell)
        c, s = np.cos(turn).take(cell), np.sin(turn).take(cell)
        lu, lv = c * lu + s * lv, c * lv - s * lu
        shown = parts.shown.astype(np.float32).take(cell)

        def capsule(a, b):
            return np.hypot(np.maximum(np.abs(a) - 0.15, 0), b) / 0.19

        across = capsule(lu, lv)
        shadow = 1 - smoothstep(0.8, 1.5, capsule(lu - 0.03, lv - 0.03))
        color = mix(base, base * 0.45, 0.7 * shadow * shown)
        skin = mix(first + 0 * color, second, smoothstep(-0.015, 0.015, lu + 0.02))
        light = (0.55 + 0.5 * np.sqrt(np.clip(1 - across * across, 0, 1))) * powder
        color = mix(color, skin * light[..., None], (1 - smoothstep(0.93, 1.03, across)) * shown)
        return mix(color, np.float32([0.95, 0.95, 0.96]), 0.4 * glare)

    count = rows * rows
    parts = Parts(np.ones(count, bool), rng.normal(0, 0.012, (count, 2)), rng.normal(0.0, 0.09, count) + lean)
    return Surface(draw(parts), parts, draw)


@lru_cache(maxsize=8)
def _photograph(name: str) -> np.ndarray:
    """Grey values [512, 512] in [0, 1] of a photograph inside the installed scikit-image package (nothing is
    fetched)."""
    path = files("skimage") / "data" / f"{name}.png"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: scikit-image ships this photograph inside its package, but it is not there; "
            "reinstall scikit-image (0.24 or later)"
        )
    with path.open("rb") as stream:
        pixels = np.asarray(Image.open(stream).convert("L"), np.float32) / 255
    return pixels


def _photo(name: str, default_span: tuple[float, float], default_tone: Colour) -> Callable[..., Surface]:
    def draw(
        canvas: Canvas, rng: Generator, split: str, *, span: Span = default_span, tone: Colour = default_tone
    ) -> Surface:
        pixels = _photograph(name)
        low, high = PHOTO_REGIONS[split]
        width = rng.uniform(*span)
        u, v = canvas.frame(rng, turn=0.03, wobble=0.006)
        flip_u, flip_v = (int(f) for f in rng.choice([-1, 1], 2))
        reach = width * 0.54
        columns = np.clip(rng.uniform(low + reach, high - reach) + flip_u * width * u, low, high - 1)
        rows = np.clip(rng.uniform(reach, 512 - reach) + flip_v * width * v, 0, 511)
        grey = ndimage.map_coordinates(pixels, [rows, columns], order=1, output=np.float32)
        grey = grey * (1 + 0.05 * canvas.noise(rng, 5, 2))
        return Surface(grey[..., None] * _hue(rng, tone))

    draw.__doc__ = f"A crop of scikit-image's CC0 photograph '{name}', from the columns PHOTO_REGIONS[split]."
    return draw


brick = _photo("brick", (150, 190), (1.08, 0.98, 0.92))
gravel = _photo("gravel", (130, 180), (1.0, 0.99, 0.96))
