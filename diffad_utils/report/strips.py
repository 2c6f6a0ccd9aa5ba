"""The report's sliders: a few test images at every setting that a run recorded (`analyses.strips`).

All settings are in the page, so a slider needs no server; without a script, and in print, they stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markupsafe

from diffad_utils.io.png import data_uri
from diffad_utils.report.environment import environment
from diffad_utils.study import write_atomically

PAGE = "strips.html"

Strip = dict[str, Any]
"""A record of `analyses.strips.Strip.record` with what the template needs (`load`)."""

LIMIT_BYTES = 4_500_000
"""Of the strips on one page; it leaves room for what else is on it."""

HEIGHT = 30.0
"""Of a curve's box, which is 100 wide."""


def load(folder: Path) -> list[Strip]:
    """The strips of a run's folder, by name; [] without any."""
    found = []
    for path in sorted((Path(folder) / "strips").glob("*.json")):
        strip = json.loads(path.read_text(encoding="utf-8"))
        over = "over " + " and ".join(axis["name"] for axis in strip["axes"])
        strip |= {"anchor": f"strip-{strip['name']}", "uri": data_uri(path.with_suffix(".jpg"))}
        found.append(strip | _layout(strip) | {"over": over, "title": over[0].upper() + over[1:]})
    return found


def _layout(strip: Strip) -> Strip:
    """Where each picture stands in the sheet, and the curves, for each setting and example."""
    columns, names, survival = len(strip["examples"]), strip["settings"], strip["survival"]
    rows, fastest = 1 + 2 * len(names), len(strip["axes"][1]["values"]) if len(strip["axes"]) > 1 else 1
    known = [value for row in survival or [] for value in row if value is not None]
    low, high = min([0.0, *known]), max([1.0, *known])

    def place(row: int, column: int) -> str:
        x, y = (100 * i / (n - 1) if n > 1 else 0 for i, n in ((column, columns), (row, rows)))
        return f"{x:.4g}% {y:.6g}%"

    def height(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    def curve(offset: int, column: int) -> list[tuple[float, float]]:
        """Survival over the first axis, the second at its value number ``offset``."""
        values = [row[column] for row in survival[offset::fastest]]
        step = 100 / max(len(values) - 1, 1)
        return [(i * step, height(value)) for i, value in enumerate(values)]

    def line(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)

    def example(k: int, column: int) -> Strip:
        named = ("image", 0), ("reconstruction", 1 + 2 * k), (strip["map_name"], 2 + 2 * k)
        shown = {"label": strip["examples"][column], "tiles": [(name, place(row, column)) for name, row in named]}
        if not survival or survival[k][column] is None:
            return shown | {"curve": ""}
        x, y = curve(k % fastest, column)[k // fastest]
        return shown | {
            "survival": f"{survival[k][column]:.2f}",
            "along": [f"{row[column]:.2f}" for row in survival[k % fastest :: fastest]],
            "curve": line(curve(k % fastest, column)),
            "others": [line(curve(j, column)) for j in range(fastest) if j != k % fastest],
            "here": f"M{x:.1f} {y:.1f}h0",
        }

    settings = [
        {"name": name, "examples": [example(k, column) for column in range(columns)]} for k, name in enumerate(names)
    ]
    bounds = " ".join(f"M0 {height(value):.1f}H100" for value in (0, 1))
    return {"size": f"{columns * 100}% {rows * 100}%", "settings": settings, "bounds": bounds}


def html(strip: Strip) -> markupsafe.Markup:
    """A strip as a section of a page that has ``strip.css`` and ``strip.js``."""
    return environment().get_template("strip.html").module.figure(strip)


def write(root: str | Path, runs: Sequence[tuple[dict, Path]]) -> str | None:
    """Write the page of all strips into a report's folder; returns its name, or None where no run has a strip.

    Strips beyond `LIMIT_BYTES` are links to the pages of their runs.

    Parameters
    ----------
    runs : for each run its description (title, page or None) and its folder.
    """
    shown, others, room = [], [], LIMIT_BYTES
    for number, (run, folder) in enumerate(runs):
        for strip in load(folder):
            titled = strip | {"title": f"{run['title']}: {strip['over']}"}
            text = html(titled | {"anchor": f"strip-{number}-{strip['name']}"})
            room -= len(text.encode())
            if room >= 0:
                shown.append((run["page"], text))
            elif run["page"]:
                others.append((run["page"], titled))
    if not shown:
        (Path(root) / PAGE).unlink(missing_ok=True)
        return None
    write_atomically(Path(root) / PAGE, environment().get_template("strips.html").render(shown=shown, others=others))
    return PAGE
