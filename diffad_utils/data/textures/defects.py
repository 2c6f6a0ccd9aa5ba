"""Defects: one short function each, (canvas, rng, surface, color) -> (alpha [H, W], layer [H, W, 3]).

The defective image is color * (1 - alpha) + layer * alpha. Layers start from the surface's own colours, so that texture
and shading go on inside the defect; alphas are soft, so that no edge gives it away. Brighter, darker and
mean-preserving variants are equally likely. What may be touched: new defects; a changed one changes reference numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from .canvas import Canvas, log_uniform, smoothstep
from .surfaces import Surface

Blend = tuple[np.ndarray, np.ndarray]  # alpha, layer


def _tint(rng: Generator, strength: float, polarity: int) -> np.ndarray:
    """A colour change [3] of largest component `strength`; polarity 0 keeps the mean over channels.

    Hues vary mostly between warm and cool, a little between green and magenta, as rust, oil, dust and glue do.
    """
    hue = rng.normal(0, 1) * np.array([1.0, 0.0, -1.0]) + rng.normal(0, 0.25) * np.array([0.5, -1.0, 0.5])
    hue /= np.abs(hue).max()
    if polarity == 0:
        return (min(strength, 0.16) * hue).astype(np.float32)  # a stronger change of hue alone looks painted on
    change = polarity + 0.2 * hue
    return (strength * change / np.abs(change).max()).astype(np.float32)


def _polarity(rng: Generator) -> int:
    """Darker (-1), mean-preserving (0) or brighter (1), equally likely."""
    return int(rng.integers(-1, 2))


def _position(rng: Generator, margin: float = 0.14) -> np.ndarray:
    return rng.uniform(margin, 1 - margin, 2).astype(np.float32)


def _blob(canvas: Canvas, rng: Generator, area: float, softness: float, roughness: float = 0.18) -> Blend:
    """Irregular spot of about `area` (fraction of the image): alpha [H, W] and relative radius [H, W] (1 = outline)."""
    radius = float(np.sqrt(area / np.pi))
    cx, cy = _position(rng, min(0.14 + radius / 2, 0.45))
    angle, aspect = rng.uniform(0, np.pi), float(np.exp(rng.normal(0, 0.25)))
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = canvas.x - cx, canvas.y - cy
    u, v = (c * x + s * y) / aspect, (c * y - s * x) * aspect
    distance = np.hypot(u, v) / np.float32(radius)
    distance = distance + roughness * canvas.noise(rng, int(np.clip(1.2 / radius, 3, 30)), 3)
    return 1 - smoothstep(1 - softness, 1 + softness, distance), distance


def _stroke(
    canvas: Canvas,
    rng: Generator,
    length: float,
    bend: float,
    jag: float = 0.0,
    start: np.ndarray | None = None,
    angle: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A wandering line: signed distance across [H, W] and position along [H, W] (0 to 1 on the line), unit-square
    units."""
    cx, cy = _position(rng, 0.25) if start is None else start
    angle = rng.uniform(0, np.pi) if angle is None else angle
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = canvas.x - cx, canvas.y - cy
    along = (c * x + s * y) / np.float32(length) + (0.5 if start is None else 0.0)
    t = np.linspace(0, 1, 257)
    curve = sum(rng.normal(0, bend / k) * np.sin(np.pi * k * t + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    if jag:
        curve = curve + jag * np.interp(t, np.linspace(0, 1, 22), np.cumsum(rng.normal(0, 0.3, 22)))
    curve = (curve - curve[0 if start is not None else 128]) * length
    slope = np.gradient(curve, length / 256)
    at = np.clip(along * 256, 0, 256).astype(np.intp)
    across = (c * y - s * x - curve.astype(np.float32).take(at)) / np.sqrt(1 + slope**2).astype(np.float32).take(at)
    return across, along


def _ends(along: np.ndarray, softness: float = 0.12) -> np.ndarray:
    return smoothstep(0, softness, along) * (1 - smoothstep(1 - softness, 1, along))


def scratch(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """A thin groove, brighter, darker, or with one lit and one shaded side."""
    width = log_uniform(rng, 0.004, 0.012)
    across, along = _stroke(canvas, rng, rng.uniform(0.2, 0.75), 0.06)
    polarity, strength = _polarity(rng), log_uniform(rng, 0.10, 0.4)
    pressure = 0.75 + 0.2 * np.clip(canvas.noise(rng, 14), -2, 1.2)
    alpha = np.exp(-np.square(across / width)) * _ends(along) * pressure
    side = np.tanh(across / (0.3 * width)) if polarity == 0 else np.float32(polarity)
    return alpha, color + np.broadcast_to(side * np.float32(strength), canvas.shape)[..., None]


def crack(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """A jagged, branching fissure: dark core, often with a light lip."""
    width, length = log_uniform(rng, 0.004, 0.009), rng.uniform(0.3, 0.8)
    start = _position(rng, 0.2)
    angle = np.arctan2(0.5 - start[1], 0.5 - start[0]) + rng.normal(0, 0.5)
    alpha, lip = np.zeros(canvas.shape, np.float32), np.zeros(canvas.shape, np.float32)
    for k in range(rng.integers(1, 4)):
        turn, reach = 0.0, length
        if k:  # a branch
            turn, reach = int(rng.choice([-1, 1])) * rng.uniform(0.3, 0.8), length * rng.uniform(0.3, 0.6)
        across, along = _stroke(canvas, rng, reach, 0.04, 0.12, start, angle + turn)
        narrow = width * (1.1 - 0.7 * np.clip(along, 0, 1))
        ends = smoothstep(0, 0.03, along) * (1 - smoothstep(0.85, 1, along))
        alpha = np.maximum(alpha, np.exp(-np.square(across / narrow)) * ends)
        lip = np.maximum(lip, np.exp(-np.square(across / narrow - 2)) * ends)
    depth, light = log_uniform(rng, 0.12, 0.4), rng.uniform(0, 1) * 0.3
    layer = np.where((alpha >= lip)[..., None], color * (1 - 1.6 * depth), color + light * (1.1 - color))
    return np.maximum(alpha, lip), layer


def hole(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """The surface is gone in a spot: backing shows, shaded by one edge and lit at the other."""
    alpha, distance = _blob(canvas, rng, log_uniform(rng, 0.002, 0.04), 0.12)
    polarity, strength = _polarity(rng), log_uniform(rng, 0.12, 0.4)
    mean = color.mean((0, 1))
    inner = 1 + 0.06 * canvas.noise(rng, 60)
    gy, gx = np.gradient(distance)
    angle = rng.uniform(0, 2 * np.pi)
    lit = (gx * canvas.shape[1] * float(np.cos(angle)) + gy * canvas.shape[0] * float(np.sin(angle))) * 0.15
    side = np.tanh(lit)
    level = (mean + _tint(rng, strength, polarity)) * inner[..., None]
    return alpha, level + (0.5 * strength * side * smoothstep(0.2, 1, distance))[..., None]


def stain(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """A dried liquid: a translucent spot with a stronger rim."""
    alpha, distance = _blob(canvas, rng, log_uniform(rng, 0.006, 0.18), 0.1, 0.12)
    rim = 0.65 + 0.35 * np.exp(-np.square((distance - 0.88) / 0.1)) + 0.08 * canvas.noise(rng, 12)
    return alpha * rim, color + _tint(rng, log_uniform(rng, 0.07, 0.3), _polarity(rng))


def color_shift(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """A large, very soft patch in another shade."""
    alpha, _ = _blob(canvas, rng, log_uniform(rng, 0.02, 0.16), 0.4, 0.2)
    return alpha, color * (1 + _tint(rng, log_uniform(rng, 0.15, 0.6), _polarity(rng)))


def thread(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """A curled fibre lying on the surface, with the shading of a cylinder and a soft shadow."""
    width = log_uniform(rng, 0.006, 0.011)
    across, along = _stroke(canvas, rng, rng.uniform(0.25, 0.6), 0.28)
    d = across / width
    polarity, strength = _polarity(rng), log_uniform(rng, 0.12, 0.4)
    body = 1 - smoothstep(0.7, 1.2, np.abs(d))
    shadow = 0.6 * np.exp(-np.square(d - 1.6))
    fibre = color.mean((0, 1)) + _tint(rng, strength, polarity) + (0.35 * strength * np.clip(-d, -1, 1))[..., None]
    layer = np.where((body > shadow)[..., None], fibre, color * 0.6)
    return np.maximum(body, shadow) * _ends(along, 0.04), layer


def contamination(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """Crumbs of foreign matter, clustered."""
    cluster, _ = _blob(canvas, rng, log_uniform(rng, 0.01, 0.1), 0.4)
    cells = int(rng.integers(14, 34))
    field = canvas.noise(rng, cells, 2, 0.4) + 2.2 * (cluster - 1)
    level = rng.uniform(0.5, 1.1)
    alpha = smoothstep(level - 0.1, level + 0.25, field)
    crumb = color.mean((0, 1)) + _tint(rng, log_uniform(rng, 0.12, 0.4), _polarity(rng))
    gy, gx = np.gradient(field)
    relief = np.tanh((gx + gy) * canvas.shape[0] / cells * 0.6)
    return alpha, crumb * (1 + 0.2 * relief + 0.05 * canvas.noise(rng, 90))[..., None]


def worn(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """Rubbed off: the texture is smoothed away, a little polished or dulled."""
    alpha, _ = _blob(canvas, rng, log_uniform(rng, 0.01, 0.14), 0.3, 0.25)
    rows, columns = ndimage.find_objects((alpha > 0).astype(np.uint8))[0]
    smooth, window = color.copy(), [int(0.035 * side) | 1 for side in canvas.shape] + [1]
    for _ in range(2):
        smooth[rows, columns] = ndimage.uniform_filter(smooth[rows, columns], window, mode="nearest")
    return alpha, smooth + _tint(rng, log_uniform(rng, 0.05, 0.2), int(rng.choice([-1, 1])))


def distortion(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """The pattern is pulled aside locally (a bent wire, a caught yarn, a wavy grain): same material, wrong place."""
    alpha, distance = _blob(canvas, rng, log_uniform(rng, 0.01, 0.09), 0.25)
    angle, amount = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.045)
    pull = amount * (1 - smoothstep(0.0, 1.3, distance))
    rows, columns = np.nonzero(alpha > 0)
    at = [
        rows + canvas.shape[0] * np.sin(angle) * pull[rows, columns],
        columns + canvas.shape[1] * np.cos(angle) * pull[rows, columns],
    ]
    layer = color.copy()
    for channel in range(3):
        layer[rows, columns, channel] = ndimage.map_coordinates(color[..., channel], at, order=1, mode="nearest")
    return alpha, layer


def missing_part(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """One to a few parts of the object are not there."""
    parts = surface.parts
    count = len(parts.shown)
    shown = parts.shown.copy()
    shown[rng.choice(count, rng.integers(1, 1 + count // 2), replace=False)] = False
    return np.ones(canvas.shape, np.float32), surface.redraw(replace(parts, shown=shown))


def misplaced_part(canvas: Canvas, rng: Generator, surface: Surface, color: np.ndarray) -> Blend:
    """A part sits askew or beside its place."""
    parts = surface.parts
    shift, turn = parts.shift.copy(), parts.turn.copy()
    chosen = rng.choice(len(turn), rng.integers(1, 4), replace=False)
    shift[chosen] += rng.uniform(0.08, 0.16, (len(chosen), 2)) * rng.choice([-1, 1], (len(chosen), 2))
    turn[chosen] += rng.uniform(0.3, 1.4, len(chosen)) * rng.choice([-1, 1], len(chosen))
    return np.ones(canvas.shape, np.float32), surface.redraw(replace(parts, shift=shift, turn=turn))
