"""What a study costs: jobs times measured time, from the manifests of runs that there are.

    python workflow/cost.py reports/reference/smoke [--categories 15] [--seeds 3] [--workers 1 8 32]
        [--overhead 20] [--faster 1]

For each notebook the median wall time of its recorded runs stands for one job; MVTec AD has 15 categories. The time on
several workers (GPUs, or nodes of a cluster) is that of a schedule, longest jobs first, `overhead` seconds added to
each job where there is more than one worker (a SLURM job's start, measured at 13 to 23 s). Times hold for the device
they were measured on; `--faster 10` divides them, for one's own guess about another.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffad_utils import study


def from_nothing(manifest: dict) -> float:
    """Seconds of a run if the store had been empty: its wall time, and the time that what it took from there had taken
    when an earlier run computed it."""
    earlier = [entry for entry in manifest.get("from_store", []) if entry["written"] < manifest["started"]]
    return manifest["wall_s"] + sum(entry["seconds"] or 0 for entry in earlier)


def measured(folder: Path) -> dict[str, dict]:
    """Notebook -> seconds `from_nothing` (list, one a run) and devices and profiles (sets), from every complete run;
    methods beside others count once."""
    found: dict[str, dict] = {}
    for path in sorted(folder.rglob("manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not path.with_name("metrics.json").is_file() or manifest["method"] not in (
            study.method_of(manifest["notebook"]),
            None,
        ):
            continue
        entry = found.setdefault(manifest["notebook"], {"seconds": [], "devices": set(), "profiles": set()})
        entry["seconds"].append(from_nothing(manifest))
        entry["profiles"].add(manifest["parameters"]["profile"])
        entry["devices"].add(manifest["device_name"] if manifest["device"] != "cpu" else "CPU")
    return found


def makespan(jobs: list[float], workers: int) -> float:
    """Seconds until all jobs are done on `workers`, longest first, each on the worker that is free first."""
    ends = [0.0] * workers
    for seconds in sorted(jobs, reverse=True):
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return max(ends)


def estimate(folder: Path, categories: int, seeds: int, workers: list[int], overhead: float, faster: float) -> str:
    """The estimate as Markdown.

    Raises:
        FileNotFoundError: no complete run in the folder.
    """
    runs = measured(folder)
    if not runs:
        raise FileNotFoundError(f"{folder}: no complete run in it")
    lines = [
        "| notebook | measured on | runs | seconds a run (median, range) | jobs | hours in a row |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    jobs, summary = [], 0.0
    for name, entry in runs.items():
        seconds = [value / faster for value in entry["seconds"]]
        count = 1 if study.method_of(name) is None else categories * seeds
        middle = statistics.median(seconds)
        if study.method_of(name) is None:
            summary += middle
        else:
            jobs += [middle] * count
        spread = f"{middle:.0f} ({min(seconds):.0f} to {max(seconds):.0f})"
        lines.append(
            f"| {name} | {', '.join(sorted(entry['devices']))} | {len(seconds)} | {spread} | {count} | "
            f"{middle * count / 3600:.1f} |"
        )
    lines += ["", "| workers | hours until all is done | of it the last, summary notebook |", "| --- | --- | --- |"]
    for number in workers:
        each = [value + (overhead if number > 1 else 0.0) for value in jobs]
        lines.append(f"| {number} | {(makespan(each, number) + summary) / 3600:.1f} | {summary / 3600:.2f} |")
    lines += [
        "",
        f"{categories} categories, {seeds} seeds, {len(jobs)} jobs and the comparison, {overhead:g} s to start a job "
        f"beside others.",
    ]
    profiles = ", ".join(sorted({name for entry in runs.values() for name in entry["profiles"]}))
    lines.append(
        f"Work of one job: that of the profile {profiles}. For another profile, run one category of it and estimate "
        f"from that."
    )
    if faster != 1:
        lines.append(f"Assumed, not measured: {faster:g} times faster than the device named above.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a profile's results, such as reports/smoke")
    parser.add_argument("--categories", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--overhead", type=float, default=20.0)
    parser.add_argument("--faster", type=float, default=1.0)
    options = parser.parse_args(arguments)
    print(
        estimate(options.folder, options.categories, options.seeds, options.workers, options.overhead, options.faster)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
