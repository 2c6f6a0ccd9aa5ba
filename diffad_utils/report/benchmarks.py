"""The report's page of benchmarks: the last results of `benchmarks/`, with the hardware and the date of each.

Reads only the JSON files that the benchmarks wrote; a report without them has no such page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from diffad_utils.io.paths import repository
from diffad_utils.study import write_atomically

PAGE = "benchmarks.html"


TEMPLATES = Path(__file__).resolve().parent / "templates"


def result_files(folder: str | Path | None = None) -> list[Path]:
    """The result files of a folder (``benchmarks/results`` if None), sorted."""
    return sorted((Path(folder) if folder is not None else repository() / "benchmarks" / "results").glob("*.json"))


def load_results(folder: str | Path | None = None) -> list[dict[str, Any]]:
    """Contents of every result file, by topic and device; [] without any.

    Each: topic, machine (date, device, cpu, cores, threads, load_average, python, packages) and tables (title, rows,
    note).
    """
    return [json.loads(path.read_text(encoding="utf-8")) for path in result_files(folder)]


def cell(value: Any) -> str:
    """A table cell: [median, low, high] as one string, numbers in four digits."""
    if isinstance(value, list):
        median, low, high = (f"{number:.3g}" for number in value)
        return f"{median} [{low}, {high}]"
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(root: str | Path, folder: str | Path | None = None) -> str | None:
    """Write ``benchmarks.html`` into a report's folder; returns its name, or None where no benchmark has left
    results."""
    results = load_results(folder)
    if not results:
        return None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    write_atomically(Path(root) / PAGE, environment.get_template("benchmarks.html").render(results=results, css=css))
    return PAGE
