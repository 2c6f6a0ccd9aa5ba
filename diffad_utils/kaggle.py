"""Kaggle: a data set with the package, and one kernel (Kaggle's word for a notebook) for each numbered notebook.

On one's own machine `build` writes the folders and `push` hands them to the official client, which alone knows the
credentials. In a Kaggle session the kernel's first cell installs the package from the data set and calls `begin`; after
the notebook's own cells, which are the first run of the profile's grid, `finish` computes the other runs in what is
left of the session. What an earlier version finished, or had in checkpoints, is picked up where its output is attached.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from diffad_utils import execution, study
from diffad_utils.execution import profiles
from diffad_utils.execution.notebook import RUNNING
from diffad_utils.io import paths
from diffad_utils.io.notebooks import read_cells
from diffad_utils.training import checkpoints

PREFIX = "diffad"
DATASET = "diffad-utils"
KAGGLE_DATASETS = {"mvtec_ad": "ipythonx/mvtec-ad"}
"""Public copies of data sets on Kaggle; others are attached with ``--dataset-source``."""

MACHINE = "NvidiaTeslaT4"  # two GPUs with 16 GB; Kaggle's other one, the P100, is retired
SESSION_HOURS = 8.5
"""Trainings stop here: Kaggle ends a session with a GPU after nine hours, and a version it ended keeps no output."""

NOT_NEEDED = {"jupyterlab", "nbval", "snakemake"}
"""Requirements of the package that a kernel can do without."""

INSTALL = """# Install the study's package from the attached data set, without a network
import glob, os, subprocess, sys
inputs = os.environ.get("DIFFAD_KAGGLE", "/kaggle") + "/input"
wheels = [file for place in ("*", "*/*/*") for file in glob.glob(f"{{inputs}}/{{place}}/diffad_utils-*.whl")]
assert wheels, "attach the data set {dataset} to this notebook (Add Input)"
more = glob.glob(os.path.dirname(wheels[-1]) + "/wheels/*.whl")
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheels[-1], *more], check=True)
from diffad_utils import kaggle
kaggle.begin("{notebook}", "{profile}")"""  # noqa: E501

REST = """# The other runs of the profile's grid, as far as the session's time goes; the next version goes on from there
kaggle.finish("{notebook}", "{profile}", globals())"""


REPORT = """# The report of everything that was attached: index.html among this version's output files
from diffad_utils import report
report.write(study.reports_folder() / "{profile}")"""


class KaggleError(RuntimeError):
    """Kaggle refused something, or a kernel failed there."""


# --- on one's own machine: build -------------------------------------------------------------------------------------


def build_wheel(target: Path) -> Path:
    """The package as a wheel in the folder `target`, the same bytes whenever and wherever it is built; no network.

    Raises
    ------
    FileNotFoundError
        the package is not used from a checkout.
    RuntimeError
        setuptools failed; the message has its output.
    """
    root = study.repository()
    if not (root / "pyproject.toml").is_file():
        raise FileNotFoundError(f"{root} is no checkout of the study: the wheel is built from its pyproject.toml")
    with tempfile.TemporaryDirectory(prefix="diffad-wheel-") as folder:
        source = Path(folder, "source")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            _copy(root / name, source / name)
        for file in sorted((root / "diffad_utils").rglob("*")):
            if file.is_file() and (file.suffix == ".py" or file.parent.name == "templates"):
                _copy(file, source / file.relative_to(root))
        code = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, folder],
            cwd=source,
            capture_output=True,
            text=True,
            umask=0o022,
            env=os.environ | {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0"},  # 1980, the first year of zip
        )
        if done.returncode != 0:
            raise RuntimeError(f"the wheel could not be built: {done.stderr[-2000:]}")
        wheel = next(Path(folder).glob("*.whl"))
        _copy(wheel, target / wheel.name)
        return target / wheel.name


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.read_bytes())
    target.chmod(0o644)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def build(
    owner: str,
    *,
    profile: str = "kaggle",
    notebooks: Iterable[str] = (),
    output: str | Path | None = None,
    dataset_sources: Iterable[str] = (),
    model_sources: Iterable[str] = (),
    wheels: str | Path | None = None,
    internet: bool = False,
    resume: bool = False,
) -> Path:
    """Write ``dataset/`` and one folder a notebook for Kaggle; the same input gives the same bytes.

    Parameters
    ----------
    owner : the Kaggle user name.
    profile : name or path of a profile; every notebook is built with the parameters of its first run there.
    notebooks : names of notebooks, or beginnings of them (``03``); default: all of the profile.
    output : folder, default ``dist/kaggle``; an earlier build in it is replaced.
    dataset_sources : further Kaggle data sets ``owner/slug`` to attach to every kernel.
    model_sources : Kaggle models ``owner/model/framework/variation/version`` to attach, such as Stable Diffusion v1.5.
    wheels : folder of wheels of packages that Kaggle's image lacks; they go into the data set and are installed.
    internet : let the kernels use the network, such as for weights from the Hugging Face hub.
    resume : attach each kernel's own last output, to go on where that version stopped.

    Raises
    ------
    ProfileError, ParameterError
        as `profiles.load_plan`.
    FileNotFoundError
        as `build_wheel`.
    ValueError
        a notebook that the profile does not have, an owner or source that Kaggle's client refuses, a title
        too long for Kaggle, or an `output` with other files in it.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", owner):
        raise ValueError(f"owner {owner!r} is not a Kaggle user name: letters, digits, - and _")
    plan = profiles.load_plan(profile)
    runs = {}
    for run in plan.runs:
        runs.setdefault(run.notebook.stem, run)
    chosen = _chosen(runs, notebooks)
    output = Path(output or study.repository() / "dist" / "kaggle")
    if output.exists() and any(output.iterdir()) and not (output / "dataset" / "dataset-metadata.json").is_file():
        raise ValueError(f"{output} has other files in it; give an empty folder as output")
    ids = {name: f"{owner}/{_slug(name, plan.profile)}" for name in runs}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".kaggle-") as folder:
        new = Path(folder, "new")
        _write_dataset(new / "dataset", owner, plan, profile, wheels)
        for name in chosen:
            # a joining notebook reads the others' outputs: of those that are built with it, or else of all
            together = [other for other in chosen if other != name] or [other for other in runs if other != name]
            kernels = [ids[other] for other in together if not runs[other].joins] if runs[name].joins else []
            sources = {run.parameters.get("dataset") for run in plan.runs if run.notebook.stem == name}
            metadata = {
                "id": ids[name],
                "title": _slug(name, plan.profile).replace("-", " "),
                "code_file": f"{name}.ipynb",
                "language": "python",
                "kernel_type": "notebook",
                "is_private": True,
                "enable_gpu": runs[name].gpus > 0,
                "enable_tpu": False,
                "enable_internet": internet,
                "machine_shape": MACHINE if runs[name].gpus else "",
                "dataset_sources": [f"{owner}/{DATASET}"]
                + [KAGGLE_DATASETS[key] for key in sorted(KAGGLE_DATASETS.keys() & sources)]
                + list(dataset_sources),
                "competition_sources": [],
                "kernel_sources": kernels + ([ids[name]] if resume else []),
                "model_sources": list(model_sources),
            }
            check_metadata(metadata)
            (new / name).mkdir()
            text = _kernel(runs[name], plan, f"{owner}/{DATASET}")
            (new / name / f"{name}.ipynb").write_text(text, encoding="utf-8")
            _write_json(new / name / "kernel-metadata.json", metadata)
        if output.exists():
            output.rename(Path(folder, "old"))
        new.rename(output)
    return output


def _chosen(runs: dict, wanted: Iterable[str]) -> list[str]:
    chosen = set()
    for text in wanted:
        found = [name for name in runs if name == text] or [name for name in runs if name.startswith(text)]
        if len(found) != 1:
            raise ValueError(
                f"{'no' if not found else 'more than one'} notebook of the profile matches {text!r}: {', '.join(runs)}"
            )
        chosen.update(found)
    return [name for name in runs if name in chosen or not chosen]


def _slug(notebook: str, profile: str) -> str:
    """``diffad-07-invad``, with the profile's name behind unless it is `kaggle`; Kaggle derives it from the title."""
    text = re.sub(r"[^a-z0-9]+", "-", f"{PREFIX} {notebook} {'' if profile == 'kaggle' else profile}".lower()).strip(
        "-"
    )
    if len(text) > 50:
        raise ValueError(
            f"Kaggle's titles have at most 50 characters, {text!r} has {len(text)}; give the profile a shorter name"
        )
    return text


def check_metadata(metadata: dict) -> None:
    """Hold a kernel's sources against the formats that Kaggle's client asks for (``owner/slug`` and so on).

    Raises
    ------
    ValueError
        naming the source.
    """
    forms = {"dataset_sources": (2, 3), "kernel_sources": (2, 3), "model_sources": (5, 5)}
    for key, (least, most) in forms.items():
        for source in metadata[key]:
            parts = source.split("/")
            if not least <= len(parts) <= most or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
                shape = "owner/model/framework/variation/version" if key == "model_sources" else "owner/slug"
                raise ValueError(f"{key[:-1].replace('_', ' ')} {source!r} is not of the form {shape}")


def _write_dataset(folder: Path, owner: str, plan: profiles.Plan, profile: str, wheels) -> None:
    """The wheel, and what a checkout has beside the package: shipped models, published numbers, notebooks, the
    profile."""
    root = study.repository()
    build_wheel(folder)
    for part in ("data/mini", "data/published"):
        for file in sorted((root / part).rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                _copy(file, folder / file.relative_to(root))
    for notebook in sorted({run.notebook for run in plan.runs}):
        content = _without_outputs(json.loads(notebook.read_text(encoding="utf-8")))
        target = folder / "notebooks" / notebook.name
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    file = profiles.profile_file(str(profile), root / "workflow" / "profiles")[1]
    (folder / "workflow" / "profiles").mkdir(parents=True)
    resolved = profiles.read_profile(file, root / "workflow" / "profiles")
    (folder / "workflow" / "profiles" / f"{plan.profile}.yaml").write_text(
        profiles.yaml_text(resolved), encoding="utf-8"
    )
    for wheel in sorted(Path(wheels).glob("*.whl")) if wheels else []:
        _copy(wheel, folder / "wheels" / wheel.name)
    metadata = {"title": DATASET, "id": f"{owner}/{DATASET}", "licenses": [{"name": "MIT"}]}
    _write_json(folder / "dataset-metadata.json", metadata)


def _without_outputs(notebook: dict) -> dict:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def _kernel(run: profiles.PlannedRun, plan: profiles.Plan, dataset: str) -> str:
    """The notebook with the run's parameters injected, the installing cell in front and the rest of the grid behind."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = _without_outputs(load_notebook_node(str(run.notebook)))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = parameterize_notebook(notebook, run.parameters, report_mode=False)
    names = {"notebook": run.notebook.stem, "profile": plan.profile, "dataset": dataset}
    first, last = (nbformat.v4.new_code_cell(text.format(**names)) for text in (INSTALL, REPORT if run.joins else REST))
    notebook.cells = [first, *notebook.cells, last]
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"  # nbformat draws new ones at random
        cell.metadata.pop("papermill", None)
    notebook.metadata.pop("papermill", None)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def weights_needed(folder: str | Path) -> list[str]:
    """Names of pretrained weights among the injected parameters of a built kernel, so that one knows what to attach."""
    from diffad_utils.known_weights import KNOWN

    found = set()
    for path in Path(folder).glob("*/*.ipynb"):
        for cell in read_cells(path):
            if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
                found |= {name for name in KNOWN if re.search(rf"[\"']{re.escape(name)}[\"']", cell.source)}
    return sorted(found)


# --- on one's own machine: push --------------------------------------------------------------------------------------


def _client():
    """Kaggle's client, signed in the way it finds itself; nothing of it is looked at here."""
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError as error:
        raise KaggleError("Kaggle's client is not installed: pip install 'diffad-utils[kaggle]'") from error
    api = KaggleApi()
    try:
        api.authenticate()
    except SystemExit as error:
        raise KaggleError("Kaggle's client is not signed in: see https://www.kaggle.com/docs/api") from error
    return api


def push(
    folder: str | Path | None = None, *, parallel: int = 2, poll: float = 30.0, wait: bool = True
) -> dict[str, str]:
    """Upload a build: the data set first, then the kernels, each after those whose output it reads.

    Parameters
    ----------
    folder : what `build` wrote.
    parallel : kernels that run at once (Kaggle allows two with a GPU).
    poll : seconds between two looks at Kaggle.
    wait : until all are finished; without it, what reads other kernels'
        outputs is not pushed.

    Returns
    -------
    Kernel id -> ``complete``, ``error``, ..., or ``pushed`` without `wait`.

    Raises
    ------
    FileNotFoundError
        there is no build.
    KaggleError
        the client is missing or not signed in, or Kaggle refuses.
    """
    folder = Path(folder or study.repository() / "dist" / "kaggle")
    files = sorted(folder.glob("*/kernel-metadata.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no build; write one with `diffad kaggle build --owner NAME`")
    kernels = {
        (content := json.loads(file.read_text(encoding="utf-8")))["id"]: (file.parent, content) for file in files
    }
    reads = {name: (set(content["kernel_sources"]) & kernels.keys()) - {name} for name, (_, content) in kernels.items()}
    api = _client()
    _push_dataset(api, folder / "dataset", poll)
    waiting, running, finished = list(kernels), [], {}
    while waiting or running:
        ready = [name for name in waiting if reads[name] <= finished.keys()]
        for name in ready[: max(0, parallel - len(running))]:
            waiting.remove(name)
            _push_kernel(api, name, kernels[name][0])
            running.append(name)
        if not wait:
            finished |= dict.fromkeys(running, "pushed")
            running = []
            if not [name for name in waiting if not reads[name]]:
                return finished
            continue
        time.sleep(poll)
        for name in list(running):
            state = _kernel_state(api, name)
            if state not in ("queued", "running", "new_script"):
                print(f"{name}: {state}", flush=True)
                running.remove(name)
                finished[name] = state
    return finished


def _retried(call, *arguments):
    """A question to Kaggle, asked up to five times: a poll in nine hours may well fail once."""
    from requests.exceptions import RequestException

    for attempt in range(5):
        try:
            return call(*arguments)
        except RequestException as error:
            if attempt == 4:
                raise KaggleError(f"Kaggle does not answer: {type(error).__name__}") from None
            time.sleep(2.0**attempt)


def _push_dataset(api, folder: Path, poll: float) -> None:
    from requests.exceptions import HTTPError

    name = json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    try:
        api.dataset_status(name)
        known = True
    except HTTPError:  # what Kaggle says of a data set that is not there
        known = False
    if known:
        answer = api.dataset_create_version(str(folder), "diffad kaggle push", quiet=True, dir_mode="zip")
    else:
        answer = api.dataset_create_new(str(folder), public=False, quiet=True, dir_mode="zip")
    if answer.error:
        raise KaggleError(f"data set {name}: {answer.error}")
    print(f"{name}: {'new version' if known else 'created'}", flush=True)
    while (state := _retried(api.dataset_status, name)) != "ready":
        if state in ("failed", "deleted"):
            raise KaggleError(f"data set {name}: {state}")
        time.sleep(poll)


def _push_kernel(api, name: str, folder: Path) -> None:
    answer = api.kernels_push(str(folder))
    refused = {
        kind: getattr(answer, f"invalid_{kind}_sources")
        for kind in ("dataset", "kernel", "model")
        if getattr(answer, f"invalid_{kind}_sources")
    }
    if answer.error or refused:
        raise KaggleError(f"kernel {name}: {answer.error or f'Kaggle does not know these sources: {refused}'}")
    print(f"{name}: pushed, version {answer.version_number}", flush=True)


def _kernel_state(api, name: str) -> str:
    answer = _retried(api.kernels_status, name)
    if answer.failure_message:
        print(f"{name}: {answer.failure_message}", flush=True)
    return answer.status.name.lower()


# --- in a Kaggle session ---------------------------------------------------------------------------------------------


def begin(notebook: str, profile: str, hours: float = SESSION_HOURS) -> None:
    """Start of a kernel: check the packages, take over attached earlier results, note when trainings have to stop.

    Raises
    ------
    KaggleError
        packages are missing or too old, with what to do.
    """
    _check_packages()
    os.environ[checkpoints.DEADLINE] = str(time.time() + hours * 3600)
    copied = take_over(profile)
    print(
        f"{notebook}: {copied} earlier run(s) taken over from the attached outputs; results go to "
        f"{study.reports_folder()}"
    )


def _check_packages() -> None:
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("diffad-utils") or []:
        requirement = Requirement(text)
        if requirement.name in NOT_NEEDED or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(
                f"{requirement.name}{requirement.specifier} ({'not installed' if version is None else 'is ' + version})"
            )
    if wrong:
        raise KaggleError(
            f"this image lacks {', '.join(wrong)}. Get their wheels (`pip download --no-deps -d wheels NAME ...`), "
            f"build with "
            "`diffad kaggle build --wheels wheels`, push again"
        )


def take_over(profile: str) -> int:
    """Copy finished runs, stamps and checkpoints of attached outputs into this session's results; returns how many
    runs.

    What is there already stays.
    """
    root, count = study.reports_folder() / profile, 0
    for source in paths.attached(f"reports/{profile}"):
        for file in sorted(source.rglob("metrics.json")):
            folder = file.parent.relative_to(source)
            if not (root / folder).exists():
                shutil.copytree(file.parent, root / folder, copy_function=shutil.copyfile)
                count += 1
        for name in (profiles.WORK, checkpoints.FOLDER):
            for file in sorted((source / name).rglob("*")):
                target = root / file.relative_to(source)
                if file.is_file() and file.name != RUNNING and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
    return count


def finish(notebook: str, profile: str, namespace: dict | None = None) -> list[str]:
    """Compute the notebook's other runs of the profile's grid, one after the other, until the session's time is up.

    Parameters
    ----------
    notebook, profile : names.
    namespace : the calling notebook's ``globals()``; cleared, so that its models leave the GPU to the runs that follow.

    Returns
    -------
    Names of the runs that are still to do.
    """
    plan = profiles.load_plan(profile)
    runs = [run for run in plan.runs if run.notebook.stem == notebook]
    deadline = float(os.environ.get(checkpoints.DEADLINE) or "inf")
    _release(namespace)
    left = []
    for i, run in enumerate(runs):
        # the first run is what the notebook's own cells did
        if i == 0 or execution.state(plan, run) == "done":
            continue
        if time.time() > deadline:
            left.append(run.name)
            continue
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
            (work / "done").write_text(execution.stamp(run), encoding="utf-8")
        else:
            left.append(run.name)
    print(
        f"{len(runs) - len(left)} of {len(runs)} runs are there. "
        + (f"Still to do: {', '.join(left)}." if left else "")
    )
    if left:
        print("Attach this version's output as input (`diffad kaggle build --resume`, push again) to go on from here.")
    return left


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
