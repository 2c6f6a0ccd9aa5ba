"""From a plan to executed notebooks: one headless run, the whole workflow.

`profiles.load_plan` turns a profile into a plan and checks every name and value before anything runs;
``workflow/Snakefile`` turns the plan into jobs; `run_notebook` is one job.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from diffad_utils import study
from diffad_utils.execution import taken
from diffad_utils.execution.errors import RunFailed
from diffad_utils.execution.fingerprints import PACKAGE
from diffad_utils.execution.gpus import claim_gpus
from diffad_utils.execution.inputs import check_data, check_weights_here
from diffad_utils.execution.notebook import run_notebook, running
from diffad_utils.execution.profiles import (
    DEFAULT_MINUTES,
    WORK,
    PlannedRun,
    ProfileError,
    RunPlan,
    load_plan,
    read_yaml,
)
from diffad_utils.execution.progress import failures
from diffad_utils.io.machine import memory_limit, visible_gpus


def chosen_runs(plan: RunPlan, patterns: tuple[str, ...]) -> list[PlannedRun]:
    """The plan's runs whose name matches one of the patterns (``07_invad/*``) or begins with one (``07_invad``).

    Raises
    ------
    ProfileError
        a pattern that no run matches.
    """
    for pattern in patterns:
        if not any(_matches(run.name, pattern) for run in plan.runs):
            raise ProfileError(f"no run matches {pattern!r}; there are: {', '.join(run.name for run in plan.runs)}")
    return [run for run in plan.runs if not patterns or any(_matches(run.name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern)


def run_study(
    profile: str,
    write_report: Callable[[Path], object],
    *,
    jobs: int = 2,
    only: tuple[str, ...] = (),
    take: Path | None = None,
    cluster: Path | None = None,
    notebooks: Path | None = None,
    profiles: Path | None = None,
    output_root: Path | None = None,
    state: Path | None = None,
    arguments: tuple[str, ...] = (),
) -> int:
    """Run everything of a profile that is not up to date, then write its report.

    Parameters
    ----------
    profile, notebooks, profiles, output_root : as in `load_plan`.
    write_report : called with the profile's folder where the workflow itself does not come to its report: a run
        failed, or only some were asked for.
    jobs : cores to use; runs go side by side as far as cores, memory and GPUs allow.
    only : names of runs, beginnings of them, or patterns; the others are left as they are.
    take : folder of a copy of the study that `diffad site` wrote, such as ``reports/reference/standard``: runs that are
        finished there and that this code would make in the same way are copied and not run.
    cluster : folder of a Snakemake profile that sends the runs to a batch system (``workflow/cluster/slurm``);
        `jobs` is then what that profile says.
    state : folder for Snakemake's own records (default: the repository).
    arguments : further arguments for Snakemake.

    Returns
    -------
    0, or 1 if a run failed (the report is still written, from the runs that there are).

    Raises
    ------
    ProfileError, FileNotFoundError
        before anything runs: also where data of the chosen runs are lacking, or on this machine (not with ``cluster``)
        the weights of those that are not done. A summary runs what is missing of the others, so it asks for all.
    """
    plan = load_plan(profile, notebooks=notebooks, profiles=profiles, output_root=output_root)
    chosen = chosen_runs(plan, tuple(only))
    asked = plan.runs if any(run.is_summary for run in chosen) else chosen
    check_data(asked)
    gpus = [] if cluster else visible_gpus()
    for run in chosen if gpus else []:
        if run.gpus > len(gpus):
            raise ProfileError(f"{run.name} needs {run.gpus} GPUs, this machine has {len(gpus)}")
    index = plan.root / "index.html"
    plan.root.mkdir(parents=True, exist_ok=True)
    with _profile_locked(plan.root / WORK):
        _wait_for_orphans(plan)
        if take is not None:
            print(f"{len(taken.take(plan, take))} of {len(plan.runs)} runs were taken from {_pretty(take)}")
        if cluster is None:
            check_weights_here(plan, asked)
        before = index.stat().st_mtime_ns if index.is_file() else None
        targets = [str(plan.work(run) / "done") for run in chosen] if only else []
        resources = _cluster_arguments(cluster) if cluster else _local_arguments(jobs, gpus)
        folders = {"notebooks": notebooks, "profiles": profiles, "output_root": output_root}
        config = [
            f"profile={_absolute(profile)}",
            *(f"{name}={Path(value).resolve()}" for name, value in folders.items() if value),
        ]
        code = _snakemake([*targets, *resources, *arguments, "--config", *config], state, local=not cluster)
        failed = failures(plan.root)
        if (code != 0 or only) and (failed or only):
            with contextlib.suppress(FileNotFoundError):  # nothing to report on
                write_report(plan.root)
        if code != 0:
            _print_failures(failed, index, profile)
            return 1
    if not index.is_file():  # Snakemake was asked for something else, such as -n
        print(f"There is no report yet at {_pretty(index)}")
        return 0
    _print_agreement(plan.root)
    if before == index.stat().st_mtime_ns:
        print(f"nothing to do: {_pretty(index)} is up to date")
    else:
        print(f"\nThe report is at {_pretty(index)}")
    return 0


def _print_agreement(root: Path) -> None:
    """What the report wrote of how these runs agree with the reference, if there is one of this profile."""
    table = root / "agreement.md"
    if table.is_file():
        print(table.read_text(encoding="utf-8"))
    else:
        print(f"There is no reference of the profile {root.name} to hold these runs against.")


def _absolute(profile: str) -> str:
    """A profile's path as Snakemake needs it, which runs in another folder; a name stays."""
    return str(Path(profile).resolve()) if Path(profile).suffix in (".yaml", ".yml") else profile


def _local_arguments(jobs: int, gpus: list[str]) -> list[str]:
    memory = int(memory_limit() * 0.9 / 2**20)
    limits = [f"mem_mb={memory}"] + ([f"gpu={len(gpus)}"] if gpus else [])
    return ["--cores", str(jobs), "--resources", *limits]


def _cluster_arguments(cluster: Path) -> list[str]:
    folder = Path(cluster).resolve()
    if not (folder / "config.yaml").is_file():
        raise ProfileError(f"{folder} is not a Snakemake profile: it has no config.yaml")
    return ["--profile", str(folder)]


def _wait_for_orphans(plan: RunPlan) -> None:
    """Runs of a start that was killed end themselves within seconds; on a cluster they may go on."""
    for _ in range(10):
        still = [(run, who) for run in plan.runs if (who := running(plan.work(run))) is not None]
        if not still:
            return
        time.sleep(1.0)
    names = ", ".join(f"{run.name} (process {who['pid']} on {who['host']})" for run, who in still)
    raise ProfileError(f"an earlier start is still at {names}; wait for it, or end it (on SLURM: squeue, scancel)")


def _snakemake(arguments: list[str], state: Path | None, local: bool) -> int:
    repository = study.repository()
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *arguments,
        "--snakefile",
        str(repository / "workflow" / "Snakefile"),
        "--directory",
        str(state or repository),
        "--keep-going",
        "--retries",
        "1",
        "--ignore-incomplete",
        "--nolock",
        "--rerun-triggers",
        "mtime",
        "params",
        "input",
        "--quiet",
        "all",
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    }
    if local:  # runs end themselves when this process is gone
        environment["DIFFAD_PARENT_PID"] = str(os.getpid())
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # Snakemake has had the signal too; wait until it has stopped its jobs


@contextlib.contextmanager
def _profile_locked(folder: Path) -> Iterator[None]:
    """Lock of a profile's output; it goes with the process, so a killed run leaves nothing to unlock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ProfileError(f"another run is writing {_pretty(folder.parent)}; wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _pretty(path: Path) -> str:
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _print_failures(failed: list[dict], index: Path, profile: str) -> None:
    print(f"\n{len(failed)} run(s) FAILED:" if failed else "\nThe workflow stopped (see the messages above).")
    for note in failed:
        print(f"  {note['label']}\n    {note['error']}")
        print(f"    notebook {_pretty(note['notebook'])}\n    log      {_pretty(note['log'])}")
        print(f"    again    diffad study {shlex.quote(profile)} --only {shlex.quote(note['run'])}")
    if failed and index.is_file():
        print(f"The report of what did finish is at {_pretty(index)}. Run the same command again to go on.")


def main(arguments: list[str] | None = None) -> int:
    """One job of the workflow: run a notebook with the parameters of a YAML file."""
    parser = argparse.ArgumentParser(prog="python -m diffad_utils.execution", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("parameters", type=Path, help="YAML file; its folder takes the log")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=int, default=DEFAULT_MINUTES)
    parser.add_argument(
        "--gpus", type=int, default=0, help="GPUs to reserve, where the machine has any (default 0: it sees none)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so the kernel is shut down on the way out
    parameters = read_yaml(options.parameters.read_text(encoding="utf-8"))
    try:
        claim_gpus(options.gpus)
        run_notebook(
            options.notebook,
            parameters,
            work=options.parameters.parent,
            threads=options.threads,
            minutes=options.minutes,
        )
    except (study.ParameterError, RunFailed, FileNotFoundError) as error:
        print(f"{options.notebook.stem}: {error}", file=sys.stderr)
        return 1
    return 0
