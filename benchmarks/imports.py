"""What importing one method costs, in two checkouts side by side.

    .venv/bin/python -m benchmarks.imports <before> <after>

A checkout is a folder with `diffad_utils` in it. Every round starts a fresh interpreter for each, in an order that
turns from round to round, and takes the processor time (user and system) of that process, so that other work on the
machine hardly counts. Written are the seconds of both and their ratio, as median [lowest, highest round]; the ratio
is taken within a round. The same interpreter runs both, so both use its packages.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import harness

STATEMENT = "from diffad_utils.methods.invad import InvAD"
CODE = """
{statement}
import pathlib, resource, diffad_utils
used = resource.getrusage(resource.RUSAGE_SELF)
print(pathlib.Path(diffad_utils.__file__).parents[1], used.ru_utime + used.ru_stime, sep="\\n")
"""


def seconds(checkout: Path, statement: str) -> float:
    """Processor time of an interpreter that runs ``statement`` with the package of ``checkout``.

    Raises ``RuntimeError`` if another package was imported than that of the checkout.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE.format(statement=statement)]
    found = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    imported, used = found.stdout.splitlines()[-2:]
    if Path(imported) != checkout:
        raise RuntimeError(f"expected diffad_utils of {checkout}, but {imported} was imported: is PYTHONPATH ignored?")
    return float(used)


def revision(checkout: Path) -> str:
    """Its commit, abbreviated."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--statement", default=STATEMENT, help=f"what is imported (default: {STATEMENT!r})")
    parser.add_argument("--quick", action="store_true", help="print only")
    options = parser.parse_args()
    options.device = "cpu"
    checkouts = {"before": options.before.resolve(), "after": options.after.resolve()}
    for checkout in checkouts.values():
        seconds(checkout, options.statement)  # byte code is compiled and files are read once before anything counts
    rounds = []
    for i in range(options.repeats):
        order = list(checkouts) if i % 2 == 0 else list(reversed(checkouts))
        rounds.append({name: seconds(checkouts[name], options.statement) for name in order})
    rows = [
        {
            "name": f"{name}, {revision(checkout)}",
            "cpu_s": harness.median_and_range([found[name] for found in rounds]),
            "ratio": harness.median_and_range([found[name] / found["before"] for found in rounds]),
            "rounds": len(rounds),
        }
        for name, checkout in checkouts.items()
    ]
    note = "processor time of a fresh interpreter; ratio: over that of the checkout before, within a round"
    harness.write("imports", options, [{"title": options.statement, "rows": rows, "note": note}])


if __name__ == "__main__":
    main()
