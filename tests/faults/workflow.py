"""The workflow under stress, with tiny notebooks: kernels started together, a grid that is killed with -9 again and
again.

    python tests/faults/workflow.py [kernels] [grid] [--rounds 30] [--together 8] [--kills 3] [--runs 12]

`kernels`: rounds of notebooks started at once; none may fail. `grid`: the runs on two cores, killed at random moments
and started again with the same command; every ``metrics.json`` has to be that of an undisturbed grid, and a run that
was done when the kill came must not be computed again. Exit code 0 if all is well. The test suite has a short version.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "helpers")]

from small_notebooks import JOIN, PARAMETERS, RECORD, START, WORK, write_notebook  # noqa: E402, RUF100

from diffad_utils import execution
from diffad_utils.execution import profiles  # noqa: E402, RUF100
from diffad_utils.execution.notebook import _execute, prepare_environment  # noqa: E402, RUF100

LOG = """from pathlib import Path
with open(Path(p.output_root) / "executions", "a") as file:
    file.write(f"{p.dataset}/{p.category}/{p.seed}\\n")"""

TRIVIAL = "import os\nfrom pathlib import Path\nPath(output_root, f'{os.getpid()}').touch()"


def _one(notebook: Path, folder: Path) -> None:
    _execute(notebook, folder / "out.ipynb", {"output_root": str(folder)}, folder.name, seconds=120)


def kernels(folder: Path, rounds: int, together: int) -> list[str]:
    """Problems of `rounds` times `together` notebooks started at once."""
    write_notebook(folder / "99_trivial.ipynb", [PARAMETERS, TRIVIAL])
    prepare_environment(1)
    context, problems, began = multiprocessing.get_context("fork"), [], time.time()
    for i in range(rounds):
        folders = [folder / f"round-{i}-{j}" for j in range(together)]
        for place in folders:
            place.mkdir()
        processes = [context.Process(target=_one, args=(folder / "99_trivial.ipynb", place)) for place in folders]
        for process in processes:
            process.start()
        for process, place in zip(processes, folders, strict=True):
            process.join()
            if process.exitcode != 0 or not [path for path in place.iterdir() if path.name.isdigit()]:
                problems.append(f"{place.name}: exit code {process.exitcode}")
        print(f"round {i + 1}: {len(problems)} failed so far, {time.time() - began:.0f} s", file=sys.stderr, flush=True)
    return problems


def make_grid(folder: Path, runs: int) -> None:
    for name in ("notebooks", "profiles"):
        (folder / name).mkdir(parents=True)
    cells = [PARAMETERS, START.format(name="07_invad"), LOG, WORK, RECORD]
    write_notebook(folder / "notebooks/07_invad.ipynb", cells)
    write_notebook(folder / "notebooks/08_comparison.ipynb", [PARAMETERS, START.format(name="08_comparison"), JOIN])
    section = {"grid": [{"dataset": "textures", "category": ["carpet", "grid"]}], "seed": list(range(runs // 2))}
    (folder / "profiles/grid.yaml").write_text(yaml.safe_dump({"07_invad": section, "08_comparison": None}))


def start(folder: Path, output: Path) -> subprocess.Popen:
    output.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "diffad_utils.cli",
        "study",
        "grid",
        "-j",
        "2",
        "--output",
        str(output),
        "--state",
        str(output),
    ]
    command += ["--notebooks", str(folder / "notebooks"), "--profiles", str(folder / "profiles")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with open(output / "study.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def done(folder: Path, output: Path) -> set[str]:
    plan = profiles.load_plan("grid", notebooks=folder / "notebooks", profiles=folder / "profiles", output_root=output)
    runs = [run for run in plan.runs if not run.is_summary and execution.state(plan, run) == "done"]
    return {f"{run.parameters['dataset']}/{run.parameters['category']}/{run.parameters['seed']}" for run in runs}


def results(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("metrics.json"))}


def executions(output: Path) -> list[str]:
    file = output / "executions"
    return file.read_text().split() if file.is_file() else []


def grid(folder: Path, runs: int, kills: int, rng: random.Random) -> list[str]:
    """Problems of a grid killed `kills` times, against an undisturbed one."""
    make_grid(folder, runs)
    began = time.time()
    if start(folder, folder / "undisturbed").wait() != 0:
        return [f"the undisturbed grid failed: {(folder / 'undisturbed/study.log').read_text()[-2000:]}"]
    seconds, problems, kept, output = time.time() - began, [], [], folder / "killed"
    for i in range(kills):
        process = start(folder, output)
        time.sleep(rng.uniform(0.15, 0.35) * seconds)
        if process.poll() is not None:
            problems.append(f"kill {i + 1} came too late")
            break
        os.killpg(process.pid, signal.SIGKILL)  # the runs' kernels are in groups of their own and become orphans
        process.wait()
        finished, before = done(folder, output), executions(output)
        print(f"kill {i + 1}: {len(finished)} of {runs} runs done, {len(before)} started", file=sys.stderr, flush=True)
        kept.append((finished, len(before)))
    if start(folder, output).wait() != 0:
        problems.append(f"it did not finish: {(output / 'study.log').read_text()[-2000:]}")
    started = executions(output)
    for finished, count in kept:
        problems += [f"{name} was done and ran again" for name in started[count:] if name in finished]
    if results(output) != results(folder / "undisturbed"):
        problems.append("metrics.json differ from the undisturbed grid's")
    print(f"{len(started)} starts for {runs} runs, undisturbed {seconds:.0f} s", file=sys.stderr)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["kernels", "grid"])
    for name, value in {"rounds": 30, "together": 8, "kills": 3, "runs": 12, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options, problems = parser.parse_args(), []
    with tempfile.TemporaryDirectory(prefix="diffad-stress-") as folder:
        if "kernels" in options.parts:
            (Path(folder) / "kernels").mkdir()
            problems += kernels(Path(folder) / "kernels", options.rounds, options.together)
        if "grid" in options.parts:
            problems += grid(Path(folder) / "grid", options.runs, options.kills, random.Random(options.seed))
    print("\n".join(problems) or "all is well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
