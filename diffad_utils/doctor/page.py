"""What this machine has, on one page, and what each notebook of a profile would lack: before anything is trained.

Runs from the package's wheel as well, before it and its requirements are installed: that is the first cell of every
Kaggle kernel. So it imports little, and says of what is missing what to do. ``diffad doctor`` is the same.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, NamedTuple

from diffad_utils.io import machine, paths
from diffad_utils.weights import needs

if TYPE_CHECKING:
    from diffad_utils.execution.profiles import PlannedRun

NOT_NEEDED = {"jupyterlab", "latex2mathml", "nbval", "snakemake"}
"""Requirements of the package that a single notebook can do without."""

FOR_DATA = {"elpv-dataset": "elpv"}
"""Requirements that carry a data set -> its name; needed where it is used."""


class Wheel(NamedTuple):
    """A wheel that will be installed: its version, and its requirements as it states them."""

    version: str
    requires: tuple[str, ...]


NO_WHEELS: Mapping[str, Wheel] = MappingProxyType({})


@dataclass
class Page:
    """Lines for people, and the problems among them."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def say(self, what: str, text: str, problem: str = "") -> None:
        mark = f"<-- {problem}" if problem else ""
        self.lines.append(f"{what:<20}{text}{'  ' if text else ''}{mark}".rstrip())
        if problem:
            self.problems.append(f"{what}: {problem}")


def gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GB"


def examine_machine(page: Page) -> None:
    """Python, torch against the GPUs, memory, cores, disk."""
    old = sys.version_info < (3, 11)
    page.say("Python", platform.python_version(), "3.11 or newer is needed" if old else "")
    try:
        import torch
    except (ImportError, OSError) as error:
        page.say("torch", "cannot be imported", f"{error}")
    else:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        page.say("torch", f"{torch.__version__} ({built})")
        if torch.cuda.is_available():
            for i in range(torch.cuda.device_count()):
                device = torch.cuda.get_device_properties(i)
                capability = (device.major, device.minor)
                runs = machine.has_kernels(torch.cuda.get_arch_list(), capability)
                page.say(
                    f"GPU {i}",
                    f"{device.name}, {gigabytes(device.total_memory)}, sm_{device.major}{device.minor}",
                    "" if runs else f"this torch has no kernels for it, only {', '.join(torch.cuda.get_arch_list())}",
                )
        else:
            page.say("GPU", "none" if not torch.version.cuda else "none that torch can use")
    limit = machine.memory_limit()
    page.say("memory", f"{gigabytes(limit)}, {gigabytes(machine.memory_free())} of it free; {machine.cores()} cores")
    folder = next(path for path in (paths.reports(), *paths.reports().parents) if path.exists())
    page.say("disk", f"{gigabytes(shutil.disk_usage(folder).free)} free in {folder}")


def missing_packages(
    bundled: Mapping[str, Wheel] = NO_WHEELS, datasets: Iterable[str] | None = None, extra: Iterable[str] = ()
) -> list[str]:
    """Requirements of the package, and theirs in turn, that are absent or too old here, each with who needs it.

    Args:
        bundled: what will be installed (`wheels_in`): it counts as being here, with the requirements of the wheel.
        datasets: data sets that are used; None: all. extra: further requirements, such as ``anomalib``.
    """
    from packaging.requirements import Requirement

    def needed(texts: Iterable[str], of: str, extras: Iterable[str] = ()) -> list:
        every = [Requirement(text) for text in texts]
        return [
            (one, of)
            for one in every
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        ]

    todo = needed(importlib.metadata.requires("diffad-utils") or [], "diffad-utils") + needed(extra, "this profile")
    seen, wrong = set(), []
    while todo:
        requirement, of = todo.pop(0)
        name, asked = canonical(requirement.name), f"{requirement.specifier} {sorted(requirement.extras)}"
        unused = name in FOR_DATA and datasets is not None and FOR_DATA[name] not in datasets
        if name in NOT_NEEDED or unused or (name, asked) in seen:
            continue
        seen.add((name, asked))
        try:
            version, requires = bundled.get(name) or (importlib.metadata.version(name), None)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name}{requirement.specifier} (not installed; needed by {of})")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{name}{requirement.specifier} (is {version}; needed by {of})")
        requires = importlib.metadata.requires(name) if requires is None else requires
        todo += needed(requires or [], name, requirement.extras)
    return wrong


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it: lower case, single dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_in(file: Path | None) -> dict[str, Wheel]:
    """The packages of a lock that will be installed from an index; it does not say what they require."""
    text = "" if file is None else file.read_text(encoding="utf-8")
    return {
        canonical(name): Wheel(version, ()) for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


def wheels_in(folder: Path | None) -> dict[str, Wheel]:
    """The wheels in a folder by their distributions' names, read off the files. What is no wheel counts as absent."""
    files = [] if folder is None else sorted(folder.glob("*.whl"))
    found = [one for file in files for one in importlib.metadata.distributions(path=[str(file)])]
    return {canonical(one.name): Wheel(one.version, tuple(one.requires or ())) for one in found}


def examine_weights(page: Page) -> None:
    """Every known name that is on this machine; the hub is not asked."""
    from diffad_utils import weights

    rows = [row for row in weights.survey(checksums=False) if row["found"] != "no"]
    page.lines.append("\nweights on this machine (the hub was not asked)")
    page.lines += [f"  {row['name']:<22}{row['found']:<10}{row['size']:>8} MB  {row['path']}" for row in rows]


def examine_data(page: Page) -> None:
    """Every data set that is on this machine."""
    from diffad_utils import data

    page.lines.append("\ndata sets on this machine")
    for row in data.describe().to_dict("records"):
        if row["where"] != "not found":
            page.lines.append(f"  {row['dataset']:<22}{row['where']}")


def lacking(
    run: PlannedRun, *, gpu: bool, bundled: Mapping[str, Wheel] = NO_WHEELS, internet: bool = False
) -> tuple[list[str], list[str]]:
    """What a planned run lacks on this machine, and what it will leave out, each as a phrase.

    Args:
        run: of a profile. gpu: whether there is one. bundled: as for `missing_packages`. internet: weights
        may be downloaded, so those of the hub do not count.
    """
    from diffad_utils import data, study, weights

    parameters = study.notebook_parameters(run.notebook) | run.parameters
    lacks, leaves_out = [], []
    for name, is_needed in needs.weights_of(parameters).items():
        packaged = weights.PACKAGED.get(name)
        if packaged and packaged.distribution in bundled:
            continue
        why = weights.missing(name, hub=internet)
        if why:
            broken = "" if "was not found" in why else f" ({why})"
            (lacks if is_needed else leaves_out).append(f"weights {name}{broken}")
    own = set(missing_packages(bundled, ()))  # said once for all notebooks
    lacks += [
        f"package {text}" for text in missing_packages(bundled, (), needs.packages_of(parameters)) if text not in own
    ]
    if needs.needs_gpu(parameters) and not gpu:
        lacks.append(f"a GPU, which {needs.needs_gpu(parameters)} needs")
    if not run.is_summary:
        lacks += _lacking_data(data, parameters)
    return lacks, leaves_out


def _lacking_data(data: ModuleType, parameters: dict) -> list[str]:
    task = f"{parameters['dataset']}/{parameters['category']}"
    try:
        index = data.load_index(parameters["dataset"], parameters.get("data_root") or None, parameters["category"])
    except FileNotFoundError:
        return [f"data {task}: not found; `diffad data list` shows where it is looked for"]
    except (OSError, ValueError) as error:
        return [f"data {task}: {_first_line(error)}"]
    lacks = []
    if few := needs.too_few_train_images(parameters, int((index["split"] == "train").sum())):
        lacks.append(f"data {task}: {few}")
    labels = set(index.loc[index["split"] == "test", "label"])
    return lacks + [
        f"{kind} test images of {task}" for kind, label in (("normal", 0), ("defective", 1)) if label not in labels
    ]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def examine_profile(
    page: Page, profile: str, notebook: str = "", bundled: Mapping[str, Wheel] = NO_WHEELS, internet: bool = False
) -> None:
    """What each notebook of a profile would lack: its first run, and categories that are not there."""
    from diffad_utils.execution import profiles

    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    plan = profiles.load_plan(profile)
    runs = [run for run in plan.runs if not notebook or run.notebook.stem == notebook]
    datasets = {run.parameters.get("dataset") for run in runs}
    page.lines.append(f"\nprofile {plan.profile}")
    packages = missing_packages(bundled, datasets)
    page.say(
        "  packages", "lacks " + ", ".join(packages) if packages else "all there", "install them" if packages else ""
    )
    by_notebook: dict[str, list] = {}
    for run in runs:
        by_notebook.setdefault(run.notebook.stem, []).append(run)
    for name, (run, *others) in by_notebook.items():
        lacks, leaves_out = lacking(run, gpu=gpu, bundled=bundled, internet=internet)
        lacks += _categories_not_there(others)
        page.say(f"  {name}", "" if lacks else "has all it needs", "lacks" if lacks else "")
        page.lines += [f"      {text}" for text in lacks]
        page.lines += [f"      goes without {text}" for text in leaves_out]
        if run.gpus and not gpu:
            page.lines.append("      is meant for a GPU, and there is none: expect hours for minutes")


def _categories_not_there(runs: Sequence[PlannedRun]) -> list[str]:
    """Categories of further runs that are not on this machine, in one phrase."""
    from diffad_utils import data

    absent = []
    for run in runs:
        try:
            there = data.categories(run.parameters["dataset"], run.parameters.get("data_root") or None)
        except (OSError, ValueError):  # the first run's line says so
            return []
        if run.parameters["category"] not in there:
            absent.append(f"{run.parameters['dataset']}/{run.parameters['category']}")
    return [f"data {', '.join(dict.fromkeys(absent))}"] if absent else []


def examine(
    profile: str = "",
    *,
    notebook: str = "",
    wheels: Path | None = None,
    requirements: Path | None = None,
    internet: bool = False,
) -> Page:
    """The whole page. `profile`: "" for the machine alone. `wheels`, `requirements`: folder and lock of what will be
    installed before the notebook runs. `internet`: weights may be downloaded."""
    page = Page()
    examine_machine(page)
    bundled = wheels_in(wheels) | locked_in(requirements)
    if not profile:
        wrong = missing_packages(bundled)
        page.say("packages", f"lacks {', '.join(wrong)}" if wrong else "all there", "install them" if wrong else "")
    if not notebook:
        examine_weights(page)
        examine_data(page)
    if profile:
        examine_profile(page, profile, notebook, bundled, internet)
    page.lines.append("")
    page.lines.append(f"{len(page.problems)} problem(s), marked <-- above" if page.problems else "All right.")
    return page


def main(arguments: list[str] | None = None) -> int:
    """Print the page; exit code 1 where something is lacking."""
    parser = argparse.ArgumentParser(prog="doctor", description=__doc__)
    parser.add_argument("--profile", default="")
    parser.add_argument("--notebook", default="")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that will be installed")
    parser.add_argument("--requirements", type=Path, help="lock of packages that will be installed from an index")
    parser.add_argument("--internet", action="store_true")
    options = parser.parse_args(arguments)
    page = examine(**vars(options))
    print("\n".join(page.lines))
    return 1 if page.problems else 0
