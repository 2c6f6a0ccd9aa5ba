"""Processor time of whole notebooks: a rerun with the store against the run without it, or two checkouts alternately.

    python -m benchmarks.study 07 -p dataset=textures -p category=leather            without, first, rerun
    python -m benchmarks.study 07 -p dataset=textures --then bootstrap_samples=500    a rerun with one value changed
    python -m benchmarks.study 07 01 -p dataset=elpv -p category=mono --other ../old  this checkout against another

Every run is a process of its own with one thread, its results in a scratch folder. A round runs each candidate once, in
an order that turns; a ratio is taken within a round. ``metrics.json`` is compared byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness

HERE = Path(__file__).resolve().parents[1]


def processor_time(command: list[str], cwd: Path, environment: dict[str, str]) -> dict[str, float]:
    """Wall and processor seconds of a process and of all that it waited for; ``RuntimeError`` if it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{said.read().decode()[-2000:]}")
    return {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime}


def run(checkout: Path, notebook: str, parameters: list[str], reports: Path, **variables: str) -> dict:
    """One notebook of a checkout, run headless: seconds, checksum of ``metrics.json``, seconds taken from the store."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "DIFFAD_REPORTS": str(reports)} | variables
    given = [word for text in parameters for word in ("-p", text)]
    command = [sys.executable, "-m", "diffad_utils.cli", "run", notebook, *given, "--threads", "1"]
    began = time.time()
    seconds = processor_time(command, checkout, environment)
    written = [p for p in reports.rglob("metrics.json") if p.stat().st_mtime >= began - 1]
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(written)]
    manifests = [json.loads((path.parent / "manifest.json").read_text()) for path in written]
    saved = max((sum(entry["seconds"] for entry in m.get("from_store", [])) for m in manifests), default=0.0)
    return seconds | {"metrics": sums, "from_store_s": saved}


def rerun(notebook: str, options: argparse.Namespace) -> dict:
    """Without the store, a first run that fills it, and a rerun that takes from it."""
    rounds = []
    for number in range(options.repeats or 1):
        with tempfile.TemporaryDirectory(prefix="diffad-study-") as scratch:
            place = Path(scratch)

            def measured(store: str, place: Path = place) -> dict:
                return run(HERE, notebook, options.parameter, place / "reports", DIFFAD_STORE=store)

            turns = [("without the store", "off"), ("first run", str(place / "store")), ("rerun", str(place / "store"))]
            turns = turns if number % 2 == 0 else turns[1:] + turns[:1]
            rounds.append({name: measured(store) for name, store in turns})
    return _table(f"{notebook}, {' '.join(options.parameter)}: processor time with and without the store", rounds)


def changed(notebook: str, options: argparse.Namespace) -> dict:
    """A first run that fills the store, and a rerun with one parameter changed."""
    rounds = []
    for _ in range(options.repeats or 1):
        with tempfile.TemporaryDirectory(prefix="diffad-study-") as scratch:
            place = {"reports": Path(scratch, "reports"), "DIFFAD_STORE": str(Path(scratch, "store"))}
            first = run(HERE, notebook, options.parameter, **place)
            again = run(HERE, notebook, [*options.parameter, options.then], **place)
            rounds.append({"first run": first, f"rerun with {options.then}": again})
    return _table(f"{notebook}, {' '.join(options.parameter)}: processor time after one parameter changed", rounds)


def checkouts(notebook: str, options: argparse.Namespace) -> dict:
    """This checkout and another, alternately, each with a store of its own that is empty at first."""
    rounds, places = [], {"other checkout": options.other.resolve(), "this checkout": HERE}
    for number in range(options.repeats or 1):
        with tempfile.TemporaryDirectory(prefix="diffad-study-") as scratch:
            names = [*places][:: 1 if number % 2 == 0 else -1]
            done = {n: run(places[n], notebook, options.parameter, Path(scratch, n.split()[0])) for n in names}
            rounds.append({name: done[name] for name in places})
    return _table(f"{notebook}, {' '.join(options.parameter)}: processor time of two checkouts", rounds)


def _table(title: str, rounds: list[dict[str, dict]]) -> dict:
    rows, first = [], next(iter(rounds[0] if "without the store" not in rounds[0] else ["without the store"]))
    for name in sorted(rounds[0], key=lambda name: name != first):
        own = [done[name] for done in rounds]
        rows.append(
            {
                "name": name,
                "wall_s": harness.median_and_range([one["wall_s"] for one in own]),
                "cpu_s": harness.median_and_range([one["cpu_s"] for one in own]),
                "ratio": harness.median_and_range([done[name]["cpu_s"] / done[first]["cpu_s"] for done in rounds]),
                "taken from the store, s": harness.median_and_range([one["from_store_s"] for one in own]),
                "metrics.json equal": all(done[name]["metrics"] == done[first]["metrics"] for done in rounds),
                "rounds": len(rounds),
            }
        )
    return {"title": title, "rows": rows, "note": f"ratio: processor time over that of {first!r}"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.split("\n")[0])
    parser.add_argument("notebook", nargs="+", help="names or beginnings of them")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="compare this checkout with another one")
    parser.add_argument("--then", metavar="NAME=VALUE", help="a rerun with this parameter changed")
    parser.add_argument("--repeats", type=int, default=1, help="rounds (default 1: a notebook takes minutes)")
    parser.add_argument("--quick", action="store_true", help="print only")
    options = parser.parse_args()
    options.device = "cpu"
    measure = checkouts if options.other else changed if options.then else rerun
    tables = [measure(notebook, options) for notebook in options.notebook]
    topic = "study" if options.other else "rerun-changed" if options.then else "rerun"
    harness.write(topic, options, tables)


if __name__ == "__main__":
    main()
