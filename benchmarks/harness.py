"""What every benchmark shares: interleaved timing, peak memory in processes of their own, growth, a table and a JSON
file.

One round runs every candidate once, in an order that turns from round to round, so that whatever else the machine does
meets all of them. A ratio is taken within a round; its median and range over the rounds are reported. On a shared
machine the processor time of this process says more than the wall time; both are kept, and on a CPU ratios are of
processor times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "torchmetrics",
    "anomalib",
    "ADEval",
    "faiss-cpu",
    "diffusers",
    "triton",
)


def arguments(topic: str, description: str, **switches: str) -> argparse.Namespace:
    """The options that every topic has, and switches (name: help) of its own; sets torch's threads."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{topic}", description=description.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that everything runs; nothing is written"
    )
    parser.add_argument("--repeats", type=int, help="rounds")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch, on a CPU (default 1: the cores may be shared)"
    )
    parser.add_argument("--memory-of", nargs=2, metavar=("CANDIDATE", "SIZE"), help=argparse.SUPPRESS)
    for name, text in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # fp32 means fp32: convolutions on a GPU would use TF32
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    return options


def machine(device: str) -> dict[str, Any]:
    """Hardware, software and date of a run."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "packages": versions,
    }


def _timed(function: Callable[[], Any], on_gpu: bool) -> tuple[float, float, Any]:
    if on_gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    device: str = "cpu",
    once: Sequence[str] = (),
    reference: str | None = None,
) -> tuple[list[dict], dict[str, Any]]:
    """Time every candidate in ``repeats`` rounds, those in ``once`` in the first only.

    Returns rows (name, wall_s and cpu_s as [median, low, high], ratio: time over that of ``reference``, the first
    candidate if None, as [median, low, high] of the rounds) and what each candidate returned.
    """
    on_gpu, names = device.startswith("cuda"), list(candidates)
    reference = reference or names[0]
    for name in names:
        if name not in once:
            candidates[name]()  # caches, thread pools, first allocations
    rounds, values = [], {}
    for round_number in range(repeats):
        times = {}
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            if round_number and name in once:
                continue
            times[name] = _timed(candidates[name], on_gpu)
            values[name] = times[name][2]
        rounds.append(times)
    rows = []
    for name in names:
        own = [times for times in rounds if name in times]
        which = 0 if on_gpu else 1
        rows.append(
            {
                "name": name,
                "wall_s": median_and_range([times[name][0] for times in own]),
                "cpu_s": median_and_range([times[name][1] for times in own]),
                "ratio": median_and_range([times[name][which] / max(times[reference][which], 1e-9) for times in own]),
                "rounds": len(own),
            }
        )
    return rows, values


def median_and_range(values: Sequence[float]) -> list[float]:
    """[median, lowest, highest], four significant digits."""
    return [float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values))]


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent b of value = a size^b, by least squares on logarithms."""
    return round(float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)[0]), 2)


# --- Memory -----------------------------------------------------------------------------------------------------------


def _status(key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def memory_in_use(device: str) -> int:
    """Bytes of this process, or on a GPU of torch's tensors."""
    return torch.cuda.memory_allocated() if device.startswith("cuda") else _status("VmRSS")


def measure_memory(function: Callable[[], Any], device: str, without_input: int = 0) -> None:
    """Run in a process of its own (`peak_memory`): prints how far memory rose above what was there, bytes. Linux, or a
    GPU.

    ``without_input`` is `memory_in_use` before the input was made; ``with_input`` is the peak above that.
    """
    before = memory_in_use(device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        function()
        rise, total = torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        function()
        rise, total = _status("VmHWM") - before, _status("VmHWM")
    print(json.dumps({"rise": max(rise, 0), "total": total, "with_input": max(total - without_input, 0)}))


def peak_memory(topic: str, candidate: str, size: str, options: argparse.Namespace) -> dict[str, int]:
    """``rise`` above the prepared input, ``with_input`` above what there was before it, and ``total`` of the process,
    bytes, for one candidate at one size."""
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{topic}",
        "--device",
        options.device,
        "--threads",
        str(options.threads),
    ]
    done = subprocess.run([*command, "--memory-of", candidate, size], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{candidate} at {size} failed in its own process:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# --- Output -----------------------------------------------------------------------------------------------------------


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of one table; lists of three are shown as median [low, high]."""

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        return f"{value:.5g}" if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *[[shown(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for line in cells:
        print(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True
        )


def write(topic: str, options: argparse.Namespace, tables: Sequence[Mapping[str, Any]]) -> None:
    """Print and keep ``tables``: each has title, note and rows. ``--quick`` runs are printed only."""
    for one in tables:
        table(one["title"], one["rows"])
        if one.get("note"):
            print("  " + one["note"])
    if options.quick:
        return
    RESULTS.mkdir(exist_ok=True)
    kind = "cuda" if options.device.startswith("cuda") else "cpu"
    path = RESULTS / f"{topic}-{kind}.json"
    result = {"topic": topic, "machine": machine(options.device), "tables": list(tables)}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def megabytes(count: int) -> float:
    return round(count / 2**20, 1)
