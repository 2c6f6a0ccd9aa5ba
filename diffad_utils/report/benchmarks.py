"""The report's pages of benchmarks: the last results of `benchmarks/`, with the hardware and the date of each.

Speed and memory are one page, "Where evaluation differs" (`benchmarks.evaluation`) is another. Reads only the JSON
files that the benchmarks wrote; a report without them has no such pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffad_utils.io.paths import repository
from diffad_utils.report.environment import environment
from diffad_utils.study import write_atomically

PAGE = "benchmarks.html"
EVALUATION = "where-evaluation-differs.html"
TEXTS = {
    PAGE: (
        "Benchmarks",
        "Measured side by side in one process, in alternating order, against what people use. Times are medians with "
        "the lowest and highest round in brackets; ratios are taken within a round. <b>wall_s</b> is wall time and "
        "<b>cpu_s</b> the processor time of the process: on a machine that others use at the same time (a load "
        "average above its number of cores), the second says more. Memory is the peak above the prepared input, in a "
        "process of its own.",
    ),
    EVALUATION: (
        "Where evaluation differs",
        "The same anomaly maps, masks and image scores, evaluated by the implementations that papers and tools use. A "
        "number of another paper can differ from ours by this alone, and so can the order of two methods. This study's "
        "metrics are exact: every distinct score is a threshold, equal scores count at once, regions touch by corners, "
        "and nothing depends on the batch.</p>"
        "<p>What is asked, and where it stands. <b>Ties</b>: maps as 8-bit pictures. <b>Soft masks</b>: masks resized, "
        "every grey pixel a defect. <b>Neighbours</b>: regions that touch by edges only, beside eight neighbours "
        "everywhere else. <b>Batch size</b>: torchmetrics in batches and all at once; anomalib in the batches of its "
        "own Engine. <b>Outliers</b>: one pixel far above all others. <b>Ranking</b>: the last column, pairs of "
        "methods of one task that change places.</p>"
        "<p>Sources. scikit-learn, torchmetrics, anomalib and ADEval are the released packages, in the versions below. "
        "compute_pro is written anew after the function that DDAD, SimpleNet and RD4AD share. The AUPRO of MVTec's "
        "official evaluation script is not a row of its own: the tests hold this study's to it. What DDAD and InvAD do "
        "to scores and maps before any metric (a map over its batch's maximum, scores scaled over the test set) "
        "is measured in notebook 08, among the conventions.",
    ),
}
"""Page -> its title and what it says first (HTML)."""


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
    """A table cell: [median, low, high] as one string, numbers in four digits, below a millionth as such."""
    if isinstance(value, list):
        median, low, high = (f"{number:.3g}" for number in value)
        return f"{median} [{low}, {high}]"
    if value is None:
        return "–"
    if isinstance(value, float) and 0 < abs(value) < 1e-6:  # rounding of float32
        return "< 1e-6" if value > 0 else "> -1e-6"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(root: str | Path, folder: str | Path | None = None) -> dict[str, str]:
    """Write the pages that have results into a report's folder; returns {name of the page: title}."""
    results = load_results(folder)
    templates = environment()
    templates.filters["cell"] = cell
    written = {}
    for page, (title, text) in TEXTS.items():
        shown = [result for result in results if (result["topic"] == "evaluation") == (page == EVALUATION)]
        if shown:
            html = templates.get_template("benchmarks.html").render(results=shown, title=title, text=text)
            write_atomically(Path(root) / page, html)
            written[page] = title
    return written
