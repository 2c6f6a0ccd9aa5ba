"""A random share of a profile's runs once more, each from nothing: are the bytes of ``metrics.json`` the same?

    python -m benchmarks.reproducibility standard                       a tenth of the runs, one thread each
    python -m benchmarks.reproducibility standard --only 07_invad/elpv/mono/seed-0 --threads 2

Runs are drawn from all of the profile, without notebook 08. One that is finished in the given folder, by this code, is
computed again with an empty store, in a scratch folder; every ``metrics.json`` is held against the finished one byte by
byte, and metric by metric. ``results/reproducibility.csv`` has a row a run. Rows of the same code stay, so that the
benchmark goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks import harness
from diffad_utils import execution, study
from diffad_utils.analyses import agreement
from diffad_utils.io import store
from diffad_utils.study import write_atomically

RESULT = harness.RESULTS / "reproducibility.csv"
KEY = ["run", "threads", "code"]
COLUMNS = [*KEY, "files", "equal bytes", "largest relative difference", "metric", "seconds", "seconds before"]


def drawn(names: list[str], share: float, draw: int) -> list[str]:
    """A random share of the names, at least one, sorted: the same for the same seed ``draw``."""
    return sorted(random.Random(draw).sample(sorted(names), max(1, round(share * len(names)))))


def again(run: execution.PlannedRun, finished: Path, threads: int) -> dict:
    """Compute a run once more with an empty store, and hold it against the finished one; a row of the table."""
    with tempfile.TemporaryDirectory(prefix="diffad-again-") as scratch:
        os.environ[store.ROOT] = str(Path(scratch, "store"))
        began = time.monotonic()
        folder = execution.run_notebook(
            run.notebook,
            run.parameters | {"output_root": scratch},
            work=Path(scratch, "work"),
            threads=threads,
            minutes=4 * run.minutes,
        )
        seconds = time.monotonic() - began
        root = Path(scratch, run.parameters["profile"])
        files = sorted(root.rglob("metrics.json"))
        equal = [file.read_bytes() == (finished / file.relative_to(root)).read_bytes() for file in files]
        row = agreement.compare(root, finished).shared.sort_values("largest relative difference").iloc[-1]
        before = study.load_run(finished / folder.relative_to(root)).manifest["wall_s"]
    return {
        "files": len(files),
        "equal bytes": sum(equal),
        "largest relative difference": row["largest relative difference"],
        "metric": row["metric"],
        "seconds": round(seconds),
        "seconds before": round(before),
    }


def known() -> pd.DataFrame:
    """The rows that there are."""
    return pd.read_csv(RESULT, dtype={"code": str}) if RESULT.is_file() else pd.DataFrame(columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproducibility", description=__doc__.split("\n")[0])
    parser.add_argument("profile")
    parser.add_argument("--finished", type=Path, help="the profile's finished runs (default: of reports/reference)")
    parser.add_argument("--share", type=float, default=0.1, help="share of the runs (default 0.1)")
    parser.add_argument("--draw", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--only", help="this run alone")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run (default 1, as in the profiles)")
    options = parser.parse_args()
    finished = options.finished or study.reference_folder() / options.profile
    runs = {run.name: run for run in execution.load_plan(options.profile).runs if not run.is_summary}
    chosen = [options.only] if options.only else drawn([*runs], options.share, options.draw)
    copy = finished / execution.FINISHED  # of a folder that `diffad site` wrote
    made_by = json.loads(copy.read_text(encoding="utf-8")) if copy.is_file() else execution.finished(finished)
    for name in chosen:
        code = execution.fingerprint(runs[name]).strip()
        if made_by.get(name, "").strip() != code:
            print(f"{name}: not finished by this code in {finished}")
            continue
        rows = known()
        if ((rows["run"] == name) & (rows["threads"] == options.threads) & (rows["code"] == code)).any():
            continue
        row = {"run": name, "threads": options.threads, "code": code} | again(runs[name], finished, options.threads)
        kept = rows[(rows["run"] != name) | (rows["threads"] != options.threads)]
        table = pd.DataFrame([*kept.to_dict("records"), row], columns=COLUMNS).sort_values(KEY)
        write_atomically(RESULT, table.to_csv(index=False, float_format="%.3g"))
    print(known().drop(columns="code").to_markdown(index=False))


if __name__ == "__main__":
    main()
