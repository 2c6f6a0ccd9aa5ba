"""Going on from a study's committed copy: what is finished there and still fits this code is not run again.

`diffad site` notes in `FINISHED` what each finished run depended on; ``diffad study --take`` copies those that this
checkout would run in the same way, and runs the others. Entry points: `finished`, `take`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from diffad_utils import study
from diffad_utils.execution.profiles import WORK, PlannedRun, ProfileError, RunPlan, yaml_text
from diffad_utils.execution.progress import TAKEN, belonging, fingerprint, made_as_planned, state

FINISHED = "finished.json"
"""Name of a run -> its fingerprint (`progress.fingerprint`), in a folder that `diffad site` wrote."""


def finished(root: Path) -> dict[str, str]:
    """The fingerprints of the finished runs in a profile's folder, by name."""
    work = Path(root) / WORK
    return {
        done.parent.relative_to(work).as_posix(): done.read_text(encoding="utf-8")
        for done in sorted(work.rglob("done"))
    }


def take(plan: RunPlan, copy: Path) -> list[str]:
    """Copy the runs of a plan that are not done here but in a copy of the study, by the same code, cells, data and
    parameters; the names of those that were taken.

    Parameters
    ----------
    copy : the folder of the profile that `diffad site` wrote, such as ``reports/reference/standard``.

    Raises
    ------
    ProfileError
        `copy` is no such folder of this profile.
    """
    copy = Path(copy).resolve()
    if not (copy / FINISHED).is_file() or copy.name != plan.profile:
        raise ProfileError(
            f"{copy} is no copy of {plan.profile} to go on from: give a folder {plan.profile} with a {FINISHED}, which "
            "`diffad site` writes"
        )
    there = json.loads((copy / FINISHED).read_text(encoding="utf-8"))
    taken = []
    for run in plan.runs:
        if run.name not in there or run.is_summary or state(plan, run) == "done" or there[run.name] != fingerprint(run):
            continue
        parameters = run.parameters | {"output_root": str(copy.parent)}
        original = dataclasses.replace(run, folder=copy / run.folder.relative_to(plan.root), parameters=parameters)
        if made_as_planned(original) and there[run.name].startswith(_made_by(original)):
            origin = f"Copied by `diffad study --take`; made by cells and code {there[run.name]}"
            for path in belonging(original):
                _copy(path, plan.root / path.relative_to(copy), origin)
            work = plan.work(run)
            study.write_atomically(work / "parameters.yaml", yaml_text(run.parameters))
            study.write_atomically(work / "done", there[run.name])
            taken.append(run.name)
    return taken


def _made_by(run: PlannedRun) -> str:
    """Checksums of cells and code in the run's manifest, which outlive a note of a run that was replaced since."""
    return json.loads((run.folder / "manifest.json").read_text(encoding="utf-8")).get("fingerprint") or "-"


def _copy(source: Path, target: Path, origin: str) -> None:
    """A file, or a folder in the place of an older one, with the note `TAKEN` that says where it is from."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copy2(source, target)
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    study.write_atomically(target / TAKEN, origin)
