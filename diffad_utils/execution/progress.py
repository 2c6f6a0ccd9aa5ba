"""Which runs of a plan are done, changed, failed, running or missing."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from diffad_utils import study
from diffad_utils.execution.fingerprints import code_digest, data_digest, notebook_digest
from diffad_utils.execution.notebook import running
from diffad_utils.execution.profiles import WORK, PlannedRun, RunPlan, yaml_text

TAKEN = "taken.txt"
"""Note in the folder of a run that was copied from a site, without its executed notebook (`taken`)."""


def belonging(run: PlannedRun) -> list[Path]:
    """What a finished run left: its folder, those of the other methods that it recorded, and the file that it shares
    with the notebook's other runs."""
    manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    others = [
        study.run_folder(run.notebook.stem, run.parameters, method) for method in manifest.get("other_methods", [])
    ]
    shared = manifest.get("data_independent")
    return [run.folder, *others, *([(run.folder / shared).resolve()] if shared else [])]


def made_as_planned(run: PlannedRun) -> bool:
    """Whether what belongs to the run is complete, made with the plan's parameters."""
    if not all((run.folder / name).is_file() for name in ("metrics.json", "manifest.json")):
        return False
    if not all(path.is_file() or (path / "metrics.json").is_file() for path in belonging(run)):
        return False
    made = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))["parameters"]
    folders = ("output_root", "data_root")
    planned = {name: value for name, value in run.parameters.items() if name not in folders}
    return json.loads(study.to_json(planned, "parameters")) == {name: made.get(name) for name in planned}


def is_current(run: PlannedRun) -> bool:
    """`made_as_planned`, and its executed notebook is here, unless the run was taken from a copy."""
    return any((run.folder / name).is_file() for name in ("run.ipynb", TAKEN)) and made_as_planned(run)


def fingerprint(run: PlannedRun) -> str:
    """Checksums of the notebook's cells, of the code it uses, and of its data: what a finished run depended on."""
    where = [run.parameters.get(name) or "" for name in ("dataset", "category", "data_root")]
    of_data = "-" if run.is_summary else data_digest(*where)
    return f"{notebook_digest(run.notebook)} {code_digest(run.notebook)} {of_data}\n"


def state(plan: RunPlan, run: PlannedRun) -> str:
    """``done``, ``running``, ``failed``, ``changed`` (made by other code or parameters) or ``missing``."""
    work = plan.work(run)
    if running(work) is not None:
        return "running"
    if (work / "failed.json").is_file():
        return "failed"
    if not is_current(run):
        return "changed" if (run.folder / "metrics.json").is_file() else "missing"
    done = work / "done"
    return "done" if done.is_file() and done.read_text(encoding="utf-8") == fingerprint(run) else "changed"


def last_seconds(run: PlannedRun) -> float:
    """Wall time in seconds that the run's folder, or else the reference's, tells of; 0 without either.

    Longest first, no core idles at the end.
    """
    own = run.folder / "manifest.json"
    reference = study.run_folder(run.notebook.stem, run.parameters | {"output_root": str(study.reference_folder())})
    for manifest in (own, reference / "manifest.json"):
        if manifest.is_file():
            return json.loads(manifest.read_text(encoding="utf-8"))["wall_s"]
    return 0.0


def status(plan: RunPlan) -> list[dict]:
    """One dict a run, in the plan's order: run, state, when (recorded, UTC), time (of the run, or so far), note."""
    rows = []
    for run in plan.runs:
        row = {"run": run.name, "state": state(plan, run), "when": "", "time": "", "note": ""}
        if row["state"] == "running":
            at = running(plan.work(run)) or {"position": "", "seconds": 0, "host": ""}
            row |= {"time": _duration(at["seconds"]), "note": f"{at['position']} on {at['host']}"}
        elif row["state"] == "failed":
            row["note"] = json.loads((plan.work(run) / "failed.json").read_text(encoding="utf-8"))["error"].split("\n")[
                0
            ]
        elif row["state"] != "missing":
            manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
            row |= {"when": manifest["started"][:16].replace("T", " "), "time": _duration(manifest["wall_s"])}
        rows.append(row)
    return rows


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def drop_stale_fingerprints(plan: RunPlan) -> None:
    """Remove the fingerprint of every run not done with this code and these parameters, and outdated parameter files.

    What is done is read from the files themselves, not from Snakemake's records, which a kill may leave behind.
    """
    for run in plan.runs:
        work = plan.work(run)
        done, parameters = work / "done", work / "parameters.yaml"
        if done.is_file() and not (is_current(run) and done.read_text(encoding="utf-8") == fingerprint(run)):
            done.unlink()
        if parameters.is_file() and parameters.read_text(encoding="utf-8") != yaml_text(run.parameters):
            parameters.unlink()


def failures(root: Path) -> list[dict]:
    """What failed in the last run of a profile: dicts run, label, error, traceback, log, notebook (paths)."""
    found = []
    for path in sorted((Path(root) / WORK).rglob("failed.json")):
        files = {"log": str(path.with_name("run.log")), "notebook": str(path.with_name("run.failed.ipynb"))}
        name = path.parent.relative_to(Path(root) / WORK).as_posix()
        found.append(json.loads(path.read_text(encoding="utf-8")) | files | {"run": name})
    return found
