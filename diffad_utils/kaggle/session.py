"""In a Kaggle session: earlier results are taken over, and the rest of the profile's grid is computed.

What an earlier version finished, or had in checkpoints, is picked up where its output is attached.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from diffad_utils import execution, study
from diffad_utils.execution import profiles
from diffad_utils.execution.notebook import RUNNING
from diffad_utils.io import checkpoints, paths
from diffad_utils.study import data_independent

SESSION_HOURS = 11.5
"""Trainings stop here: Kaggle ends a session with a GPU after twelve hours, and a version it ended keeps no output."""


def begin(notebook: str, profile: str, hours: float = SESSION_HOURS) -> None:
    """Start of a kernel: take over attached earlier results, note when trainings have to stop.

    The session itself was checked before the package was installed (`diffad_utils.doctor`).
    """
    os.environ[checkpoints.DEADLINE] = str(time.time() + hours * 3600)
    copied = take_over(profile)
    print(
        f"{notebook}: {copied} earlier run(s) taken over from the attached outputs; results go to "
        f"{study.reports_folder()}"
    )


def take_over(profile: str) -> int:
    """Copy finished runs, what they share, fingerprints and checkpoints of attached outputs into the session's results.

    Returns how many runs.

    What is there already stays.
    """
    root, count = study.reports_folder() / profile, 0
    for source in paths.attached(f"reports/{profile}"):
        for file in sorted(source.rglob("metrics.json")):
            folder = file.parent.relative_to(source)
            if not (root / folder).exists():
                shutil.copytree(file.parent, root / folder, copy_function=shutil.copyfile)
                count += 1
        for name in (profiles.WORK, checkpoints.FOLDER, data_independent.FOLDER):
            for file in sorted((source / name).rglob("*")):
                target = root / file.relative_to(source)
                if file.is_file() and file.name != RUNNING and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
    return count


def finish(notebook: str, profile: str, namespace: dict | None = None) -> list[str]:
    """Compute the notebook's other runs of the profile's grid, one after the other, until the session's time is up.

    Args:
        notebook, profile: names.
        namespace: the calling notebook's ``globals()``; cleared, so that its models leave the GPU to the runs that
            follow.

    Returns:
        Names of the runs that are still to do.
    """
    plan = profiles.load_plan(profile)
    runs = [run for run in plan.runs if run.notebook.stem == notebook]
    deadline = float(os.environ.get(checkpoints.DEADLINE) or "inf")
    _release(namespace)
    # the first run is what the notebook's own cells did
    todo = [run for run in runs[1:] if execution.state(plan, run) != "done"]
    at_once = max(1, len(execution.visible_gpus())) if all(run.gpus == 1 for run in todo) else 1
    with ThreadPoolExecutor(at_once) as pool:  # a run a GPU: each reserves its own (`execution.claim_gpus`)
        done = list(pool.map(lambda run: _compute(plan, run, deadline), todo))
    left = [run.name for run, finished in zip(todo, done) if not finished]
    print(
        f"{len(runs) - len(left)} of {len(runs)} runs are there. "
        + (f"Still to do: {', '.join(left)}." if left else "")
    )
    if left:
        print("Attach this version's output as input (`diffad kaggle build --resume`, push again) to go on from here.")
    return left


def _compute(plan: profiles.RunPlan, run: profiles.PlannedRun, deadline: float) -> bool:
    """One run in a process of its own, its log into this notebook; whether it is done. Nothing after the deadline."""
    if time.time() > deadline:
        return False
    work = plan.work(run)
    work.mkdir(parents=True, exist_ok=True)
    (work / "parameters.yaml").write_text(profiles.yaml_text(run.parameters), encoding="utf-8")
    minutes = max(1, int(min(run.minutes, (deadline - time.time()) / 60 + 15)))
    command = [sys.executable, "-m", "diffad_utils.execution", run.notebook, work / "parameters.yaml"]
    command += ["--threads", run.threads, "--minutes", minutes, "--gpus", run.gpus]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=study.reports_folder().parent,
    )
    for line in process.stdout:  # what a subprocess prints does not reach the notebook by itself
        print(line, end="", flush=True)
    if process.wait() == 0:
        (work / "done").write_text(execution.fingerprint(run), encoding="utf-8")
    return process.returncode == 0


def _release(namespace: dict | None) -> None:
    import gc

    for name in [
        name
        for name in namespace or {}
        if not name.startswith("_") and name not in ("In", "Out", "get_ipython", "exit", "quit")
    ]:
        del namespace[name]
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
