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
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from diffad_utils.doctor import needs
from diffad_utils.io import machine, paths

NOT_NEEDED = {"jupyterlab", "nbval", "snakemake"}
"""Requirements of the package that a single notebook can do without."""

FOR_DATA = {"elpv-dataset": "elpv"}
"""Requirements that carry a data set -> its name; needed where it is used."""


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
    bundled: Iterable[str] = (), datasets: Iterable[str] | None = None, extra: Iterable[str] = ()
) -> list[str]:
    """Requirements of the package, and theirs in turn, that are absent or too old here, each with who needs it.

    Args:
        bundled: names of distributions that will be installed (wheels beside the package).
        datasets: data sets that are used; None: all. extra: further requirements, such as ``anomalib``.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    bundled = {canonicalize_name(name) for name in bundled}
    todo = [(Requirement(text), "diffad-utils") for text in importlib.metadata.requires("diffad-utils") or []]
    todo += [(Requirement(text), "this profile") for text in extra]
    seen, wrong = set(), []
    while todo:
        requirement, of = todo.pop(0)
        name = canonicalize_name(requirement.name)
        unused = name in FOR_DATA and datasets is not None and FOR_DATA[name] not in datasets
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in NOT_NEEDED or unused or not applies or (name, str(requirement.specifier)) in seen:
            continue
        seen.add((name, str(requirement.specifier)))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in bundled:
                wrong.append(f"{name}{requirement.specifier} (not installed; needed by {of})")
            continue
        if name not in bundled and not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{name}{requirement.specifier} (is {version}; needed by {of})")
        todo += [(Requirement(text), name) for text in importlib.metadata.requires(name) or []]
    return wrong


def wheel_names(folder: Path | None) -> list[str]:
    """Distributions of the wheels in a folder."""
    return [] if folder is None else [file.name.partition("-")[0] for file in sorted(folder.glob("*.whl"))]


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


def lacking(run, *, gpu: bool, bundled: Iterable[str] = (), internet: bool = False) -> tuple[list[str], list[str]]:
    """What a planned run lacks on this machine, and what it will leave out, each as a phrase.

    Args:
        run: a `profiles.PlannedRun`. gpu: whether there is one. bundled: as for `missing_packages`. internet: weights
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
    lacks += [
        f"package {text}"
        for text in missing_packages(bundled, (), needs.packages_of(parameters))
        if "this profile" in text
    ]
    if needs.needs_gpu(parameters) and not gpu:
        lacks.append(f"a GPU, which {needs.needs_gpu(parameters)} needs")
    if not run.is_summary:
        lacks += _lacking_data(data, parameters)
    return lacks, leaves_out


def _lacking_data(data, parameters: dict) -> list[str]:
    task = f"{parameters['dataset']}/{parameters['category']}"
    try:
        index = data.load_index(parameters["dataset"], parameters.get("data_root") or None, parameters["category"])
    except FileNotFoundError:
        return [f"data {task}: not found; `diffad data list` shows where it is looked for"]
    except (OSError, ValueError) as error:
        return [f"data {task}: {_first_line(error)}"]
    lacks = []
    least, found = needs.least_train_images(parameters), int((index["split"] == "train").sum())
    if found < least:
        lacks.append(f"{least} training images of {task} (k nearest neighbours and the image itself), it has {found}")
    labels = set(index.loc[index["split"] == "test", "label"])
    return lacks + [
        f"{kind} test images of {task}" for kind, label in (("normal", 0), ("defective", 1)) if label not in labels
    ]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def examine_profile(
    page: Page, profile: str, notebook: str = "", bundled: Iterable[str] = (), internet: bool = False
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


def _categories_not_there(runs) -> list[str]:
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


def examine(profile: str = "", *, notebook: str = "", wheels: Path | None = None, internet: bool = False) -> Page:
    """The whole page. `profile`: "" for the machine alone."""
    page = Page()
    examine_machine(page)
    bundled = [re.sub(r"[-_.]+", "-", name).lower() for name in wheel_names(wheels)]
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
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--internet", action="store_true")
    options = parser.parse_args(arguments)
    page = examine(options.profile, notebook=options.notebook, wheels=options.wheels, internet=options.internet)
    print("\n".join(page.lines))
    return 1 if page.problems else 0
