"""Bundles for Kaggle: a data set with the package, and one kernel (Kaggle's word for a notebook) a numbered notebook.

A kernel's first cell asks `doctor` whether the session has what the notebook needs, before anything is installed; the
second installs the package and the wheels that the image lacks; then come the notebook's own cells, which are the first
run of the profile's grid, and last a cell that computes the other runs (`session.finish`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from diffad_utils import study
from diffad_utils.execution import profiles
from diffad_utils.io.notebooks import read_cells
from diffad_utils.kaggle import wheels as wheels_of_image
from diffad_utils.kaggle.client import PUSHED, pushed_before
from diffad_utils.weights import needs

PREFIX = "diffad"
DATASET = "diffad-utils"
KAGGLE_DATASETS = {"mvtec_ad": "ipythonx/mvtec-ad"}
"""Public copies of data sets on Kaggle; others are attached with ``--dataset-source``."""

CARRIED = {"textures", "elpv"}
"""Data sets that need no attaching: rendered, or in a wheel."""

MACHINE = "NvidiaTeslaT4"  # two GPUs with 16 GB; Kaggle's other one, the P100, is retired

FIND = """import glob, os, subprocess, sys
inputs = os.environ.get("DIFFAD_KAGGLE", "/kaggle") + "/input"
found = [file for place in ("*", "*/*/*") for file in glob.glob(f"{{inputs}}/{{place}}/diffad_utils-*.whl")]
assert found, "attach the data set {dataset} to this notebook (Add Input)"
"""

DOCTOR = (
    """# Does this session have what the notebook needs? Nothing is installed or trained before that is known
"""
    + FIND
    + """doctor = [sys.executable, "-m", "diffad_utils.doctor", "--profile", "{profile}", "--notebook", "{notebook}"]
doctor += {bundled}
answer = subprocess.run(doctor, env=os.environ | {{"PYTHONPATH": found[-1]}}, capture_output=True, text=True)
print(answer.stdout + answer.stderr)
if answer.returncode:
    raise RuntimeError("This session lacks what the list above names; nothing was computed.")"""
)

INSTALL = """# Install the study's package, and what the image lacks, {where}
source = os.path.dirname(found[-1])
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
subprocess.run([*pip, "--no-index", found[-1]], check=True)
{more}
from diffad_utils import kaggle
kaggle.begin("{notebook}", "{profile}")"""

BUNDLED = """["--wheels", os.path.dirname(found[-1]) + "/wheels"]"""
BUNDLED_FROM_INDEX = """["--internet", "--requirements", os.path.dirname(found[-1]) + "/requirements.txt"]"""

MORE = """more = glob.glob(source + "/wheels/*.whl")
if more:
    subprocess.run([*pip, "--no-index", *more], check=True)"""

MORE_FROM_INDEX = """subprocess.run([*pip, "--require-hashes", "-r", source + "/requirements.txt"], check=True)"""

REST = """# The other runs of the profile's grid, as far as the session's time goes; the next version goes on from there
kaggle.finish("{notebook}", "{profile}", globals())"""

REPORT = """# The report of everything that was attached: index.html among this version's output files
from diffad_utils import report
report.write(study.reports_folder() / "{profile}")"""


def build_wheel(target: Path) -> Path:
    """The package as a wheel in the folder `target`, the same bytes whenever and wherever it is built; no network.

    Raises:
        FileNotFoundError: the package is not used from a checkout.
        RuntimeError: setuptools failed; the message has its output.
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

    Args:
        owner: the Kaggle user name.
        profile: name or path of a profile; every notebook is built with the parameters of its first run there.
        notebooks: names of notebooks, or beginnings of them (``03``); default: all of the profile.
        output: folder, default ``dist/kaggle``; an earlier build in it is replaced.
        dataset_sources: further Kaggle data sets ``owner/slug`` to attach to every kernel.
        model_sources: Kaggle models ``owner/model/framework/variation/version`` to attach, such as Stable Diffusion
            v1.5.
        wheels: folder with the wheels of packages that Kaggle's image lacks; default: they are fetched from the
            package index, as `requirements.kaggle.lock` has them. They go into the data set and are installed.
        internet: let the kernels use the network, for these packages and for weights from the Hugging Face hub.
        resume: attach each kernel's own last output, to go on where that version stopped. The next push runs these
            kernels also where nothing else changed.

    Raises:
        ProfileError, ParameterError: as `profiles.load_plan`. FileNotFoundError: as `build_wheel`; no folder `wheels`.
        ValueError: a notebook that the profile does not have, an owner or source that Kaggle's client refuses, a title
            too long for Kaggle, an `output` with other files in it, or `wheels` that lack one.
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
    if wheels is not None:
        wheels_of_image.check_given(Path(wheels), wheels_of_image.lacking(plan))
    ids = {name: f"{owner}/{_slug(name, plan.profile)}" for name in runs}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".kaggle-") as folder:
        new = Path(folder, "new")
        _write_dataset(new / "dataset", owner, plan, profile, wheels, internet)
        for name in chosen:
            # a summary notebook reads the others' outputs: of those that are built with it, or else of all
            together = [other for other in chosen if other != name] or [other for other in runs if other != name]
            kernels = [ids[other] for other in together if not runs[other].is_summary] if runs[name].is_summary else []
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
            text = _kernel(runs[name], plan, f"{owner}/{DATASET}", internet)
            (new / name / f"{name}.ipynb").write_text(text, encoding="utf-8")
            _write_json(new / name / "kernel-metadata.json", metadata)
        again = {ids[name] for name in chosen} if resume else set()
        pushed = {name: built for name, built in pushed_before(output).items() if name not in again}
        if pushed:
            _write_json(new / PUSHED, pushed)
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

    Raises:
        ValueError: naming the source.
    """
    forms = {"dataset_sources": (2, 3), "kernel_sources": (2, 3), "model_sources": (5, 5)}
    for key, (least, most) in forms.items():
        for source in metadata[key]:
            parts = source.split("/")
            if not least <= len(parts) <= most or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
                shape = "owner/model/framework/variation/version" if key == "model_sources" else "owner/slug"
                raise ValueError(f"{key[:-1].replace('_', ' ')} {source!r} is not of the form {shape}")


def _write_dataset(
    folder: Path, owner: str, plan: profiles.RunPlan, profile: str, wheels: str | Path | None, internet: bool
) -> None:
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
    lacking = wheels_of_image.lacking(plan)
    if internet:
        text = wheels_of_image.locked(lacking)
        (folder / "requirements.txt").write_text(text, encoding="utf-8")
    else:
        source = wheels_of_image.fetch(lacking) if wheels is None else Path(wheels)
        for wheel in sorted(source.glob("*.whl")):
            _copy(wheel, folder / "wheels" / wheel.name)
    metadata = {"title": DATASET, "id": f"{owner}/{DATASET}", "licenses": [{"name": "MIT"}]}
    _write_json(folder / "dataset-metadata.json", metadata)


def _without_outputs(notebook: dict) -> dict:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def _kernel(run: profiles.PlannedRun, plan: profiles.RunPlan, dataset: str, internet: bool) -> str:
    """The notebook with the run's parameters injected, the checking and installing cells in front and the rest of the
    grid behind."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = _without_outputs(load_notebook_node(str(run.notebook)))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = parameterize_notebook(notebook, run.parameters, report_mode=False)
    names = {
        "notebook": run.notebook.stem,
        "profile": plan.profile,
        "dataset": dataset,
        "bundled": BUNDLED_FROM_INDEX if internet else BUNDLED,
        "where": "from the package index" if internet else "from the attached data set, without a network",
        "more": MORE_FROM_INDEX if internet else MORE,
    }
    texts = (DOCTOR, INSTALL, REPORT if run.is_summary else REST)
    *first, last = (nbformat.v4.new_code_cell(text.format(**names)) for text in texts)
    notebook.cells = [*first, *notebook.cells, last]
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"  # nbformat draws new ones at random
        cell.metadata.pop("papermill", None)
    notebook.metadata.pop("papermill", None)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def weights_needed(folder: str | Path) -> dict[str, list[str]]:
    """Pretrained weights that the built kernels need -> the notebooks that do, so that one knows what to attach.

    Weights that come in a package's wheel (see `weights.PACKAGED`) are in the data set already.
    """
    from diffad_utils import weights

    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).glob("*/*.ipynb")):
        sources = [
            cell.source
            for tag in ("parameters", "injected-parameters")
            for cell in read_cells(path)
            if tag in cell.metadata.get("tags", [])
        ]
        parameters = {name: value for text in sources for name, value in study.default_parameters(text).items()}
        for weight in needs.weights_of(parameters):
            if weight not in weights.PACKAGED:
                found.setdefault(weight, []).append(path.stem)
    return dict(sorted(found.items()))


def data_to_attach(folder: str | Path) -> dict[str, list[str]]:
    """Data sets that the built kernels' runs read and that nothing attached is known to have -> the notebooks that do.

    Attached are `KAGGLE_DATASETS` where they are used, and what ``--dataset-source`` added; of the latter those count
    whose slug has the data set's name in it (``owner/visa-anomaly``), since what is inside is not known here.
    """
    folder = Path(folder)
    (profile,) = (folder / "dataset" / "workflow" / "profiles").glob("*.yaml")
    plan = profiles.load_plan(profile.stem, profiles=profile.parent, notebooks=folder / "dataset" / "notebooks")
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/kernel-metadata.json")):
        sources = json.loads(file.read_text(encoding="utf-8"))["dataset_sources"]
        slugs = [_letters(source.split("/")[1]) for source in sources]
        runs = [run for run in plan.runs if run.notebook.stem == file.parent.name and not run.is_summary]
        read = {run.parameters.get(name) for run in runs for name in ("dataset", "other_dataset")} - {None, ""}
        for dataset in sorted(read - CARRIED):
            public = KAGGLE_DATASETS.get(dataset) in sources
            if not public and not any(_letters(dataset) in slug for slug in slugs):
                found.setdefault(dataset, []).append(file.parent.name)
    return dict(sorted(found.items()))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
