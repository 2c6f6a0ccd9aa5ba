"""The ``diffad`` command. Errors are one sentence on stderr and exit code 2; a failed run is exit code 1."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from diffad_utils import __version__, execution, kaggle, report, study
from diffad_utils.cli import inputs
from diffad_utils.io import store


def _find_notebook(name: str, folder: Path | None) -> Path:
    """The notebook called `name`, or the only one whose name starts with it (``07`` -> ``07_invad.ipynb``)."""
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    folder = folder or study.repository() / "notebooks"
    known = sorted(folder.glob("*.ipynb"))
    found = [path for path in known if path.stem == name] or [path for path in known if path.stem.startswith(name)]
    if len(found) != 1:
        names = ", ".join(path.stem for path in known) or f"none in {folder}"
        raise ValueError(f"{'no' if not found else 'more than one'} notebook matches {name!r}; there are: {names}")
    return found[0]


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"-p {text!r}: expected name=value, such as category=mono or epochs=5")
    try:
        return name, execution.read_yaml(value)
    except yaml.YAMLError:
        return name, value


def _tolerance(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0, such as 0.001")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _typed(given: dict, defaults: dict) -> dict:
    """Values as their parameter's type where the shell lost it: ``category=01`` is the text 01."""
    texts = {name for name, default in defaults.items() if isinstance(default, str)}
    return {name: value[1] if name in texts else value[0] for name, value in given.items()}


def _absolute(folder: str) -> str:
    """A folder as the user sees it from here; a kernel sees it from the notebook's folder. "" stays."""
    return str(Path(folder).expanduser().resolve()) if folder else folder


def run(options: argparse.Namespace) -> int:
    """Run one notebook headless with other parameters."""
    notebook = _find_notebook(options.notebook, options.notebooks)
    defaults = study.notebook_parameters(notebook)
    pairs = [(text, *_assignment(text)) for text in options.parameter]
    parameters = _typed({name: (value, text.partition("=")[2]) for text, name, value in pairs}, defaults)
    study.check_parameters(notebook.name, parameters, defaults)
    parameters |= {name: _absolute(parameters[name]) for name in ("data_root", "output_root") if name in parameters}
    together = study.with_category_names(defaults | parameters)
    execution.check_run(notebook, together)
    root = study.profile_folder(together)
    is_summary = study.method_of(notebook.stem) is None
    tail = [] if is_summary else [together["dataset"], together["category"], f"seed-{together['seed']}"]
    # papermill adds its cell only if there is something to put into it
    parameters = {"profile": together["profile"]} | parameters
    folder = execution.run_notebook(
        notebook,
        parameters,
        work=Path(root, execution.WORK, notebook.stem, *tail),
        threads=options.threads,
        minutes=options.minutes,
    )
    print(f"The run is in {folder}")
    return 0


def study_command(options: argparse.Namespace) -> int:
    """Run what is not up to date of a profile and write its report."""
    return execution.run_study(
        options.profile,
        report.write,
        jobs=options.jobs,
        only=tuple(options.only),
        take=options.take,
        cluster=options.cluster,
        notebooks=options.notebooks,
        profiles=options.profiles,
        output_root=options.output,
        state=options.state,
        arguments=tuple(shlex.split(options.snakemake)),
    )


def status(options: argparse.Namespace) -> int:
    """Show a profile's grid: which runs are done, running, failed, changed or missing, with times."""
    import pandas as pd

    plan = execution.load_plan(
        options.profile, notebooks=options.notebooks, profiles=options.profiles, output_root=options.output
    )
    rows = execution.status(plan)
    print(pd.DataFrame(rows).to_string(index=False, justify="left", max_colwidth=100))
    counts = {
        name: sum(row["state"] == name for row in rows) for name in ("done", "running", "failed", "changed", "missing")
    }
    print(f"\n{len(rows)} runs: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count))
    return 0


def kaggle_build(options: argparse.Namespace) -> int:
    """Write dist/kaggle: a data set with the package and one kernel a notebook, ready for `diffad kaggle push`."""
    folder = kaggle.build(
        options.owner,
        profile=options.profile,
        notebooks=options.notebooks,
        output=options.output,
        wheels=options.wheels,
        dataset_sources=options.dataset_source,
        model_sources=options.model_source,
        internet=options.internet,
        resume=options.resume,
    )
    kernels = sorted(path.parent.name for path in folder.glob("*/kernel-metadata.json"))
    print(f"{folder} has the data set and {len(kernels)} kernel(s): {', '.join(kernels)}")
    needed = kaggle.weights_needed(folder)
    if needed and not options.internet:
        print("They need these weights; attach them (--model-source, --dataset-source), or use --internet:")
        print("\n".join(f"  {name}: {', '.join(notebooks)}" for name, notebooks in needed.items()))
    if unknown := kaggle.data_to_attach(folder):
        print("They read these data sets, and nothing that is attached is known to have them. Attach a Kaggle data set")
        print("for each, in a layout of data/README.md: --dataset-source OWNER/SLUG")
        print("\n".join(f"  {name}: {', '.join(notebooks)}" for name, notebooks in unknown.items()))
    print("A session ends after 12 hours, a week has 30 hours of GPU: see workflow/README.md for what they need.")
    return 0


def kaggle_push(options: argparse.Namespace) -> int:
    """Upload a build with Kaggle's own client, in order, and wait. Exit code 1 if a kernel failed."""
    states = kaggle.push(options.folder, parallel=options.parallel, poll=options.poll, wait=not options.no_wait)
    return 0 if set(states.values()) <= {"complete", "pushed"} else 1


def doctor(options: argparse.Namespace) -> int:
    """Show what this machine has and what each notebook of a profile would lack. Exit code 1 if anything is lacking."""
    from diffad_utils.doctor.page import examine

    page = examine(options.profile)
    print("\n".join(page.lines))
    return 1 if page.problems else 0


def _results(options: argparse.Namespace) -> Path:
    """The folder of a profile's results, by the profile's name or by its file."""
    given = options.profile
    name = Path(given).stem if Path(given).suffix in (".yaml", ".yml") else given
    if name != Path(name).name:
        raise ValueError(
            f"profile {given!r}: expected a name, such as smoke, or a YAML file; "
            "results that lie elsewhere: --output with the folder above them"
        )
    folder = (options.output or study.reports_folder()) / name
    names = execution.profile_names()
    if not folder.is_dir() and name == given and name not in names:
        raise ValueError(f"there is no profile {name!r} and no folder {folder}; profiles: {', '.join(names)}")
    return folder


def write_report(options: argparse.Namespace) -> int:
    """Write the pages of a profile from the runs that there are."""
    print(f"The report is at {report.write(_results(options))}")
    return 0


def write_site(options: argparse.Namespace) -> int:
    """Copy what of a profile's runs can be read or compared, with its pages, to pass on."""
    root = _results(options)
    front = report.write_site(root, options.to / root.name, options.pages)
    size = sum(path.stat().st_size for path in front.parent.rglob("*") if path.is_file())
    print(f"The site is at {front}, {size / 1e6:.1f} MB")
    if options.zip:
        print(f"As one file: {shutil.make_archive(str(front.parent), 'zip', front.parents[1], front.parent.name)}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Hold one folder of runs against another: metrics, verdicts, and why they differ. Exit code 1 if they disagree.

    They agree if every run that both have is within the tolerance in every metric, and no pooled verdict changed.
    Exit code 0: they agree; 1: they do not, or share no run; 2: a folder has no complete run.
    """
    from diffad_utils.analyses import agreement

    if options.ours.resolve() == options.reference.resolve():
        raise ValueError(f"A and B are the same folder, {options.ours}; give two, such as yours and the reference's")
    found = agreement.compare(options.ours, options.reference)
    if options.output:
        found.write(options.output, options.tolerance)
        print(f"agreement.md, agreement.csv and agreement-verdicts.csv are in {options.output}")
    print(found.runs.to_csv(index=False, float_format="%.6g") if options.csv else found.markdown(options.tolerance))
    return 0 if found.holds(options.tolerance) else 1


def reexecute(options: argparse.Namespace) -> int:
    """Run committed notebooks in place, with their parameters as they stand."""
    chosen = [_find_notebook(name, None) for name in options.notebook]
    execution.reexecute(chosen or sorted((study.repository() / "notebooks").glob("*.ipynb")), threads=options.threads)
    return 0


def store_command(options: argparse.Namespace) -> int:
    """List what a profile's runs have kept (fitted detectors, features, results), or remove it with --clear."""
    import pandas as pd

    found = store.open_at(_results(options) / store.FOLDER)
    if found is None:
        print(f"There is no store: {store.ROOT}=off")
        return 0
    if found.root.exists() and not found.root.is_dir():
        raise ValueError(f"the store {found.root} is a file; {store.ROOT} must name a folder, or be off")
    if not found.root.exists():
        print(f"Nothing is kept yet: there is no folder {found.root}")
        return 0
    if options.clear:
        print(f"{found.clear()} entries removed from {found.root}")
        return 0
    entries = found.entries()
    rows = [
        {
            "kind": entry.kind,
            "what": entry.note.get("what", ""),
            "entries": 1,
            "MB": entry.size / 1e6,
            "computed in s": entry.note.get("seconds", 0.0),
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
        }
        for entry in entries
    ]
    if rows:
        sums = {"entries": "sum", "MB": "sum", "computed in s": "sum", "last used": "max"}
        table = pd.DataFrame(rows).groupby(["kind", "what"], as_index=False).agg(sums)
        print(table.sort_values("last used").round(1).to_string(index=False))
    total = sum(entry.size for entry in entries)
    print(f"{len(entries)} entries, {total / 1e6:.1f} MB of at most {found.limit / 1e6:.0f} MB in {found.root}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffad", description="Diffusion models for industrial anomaly detection.")
    parser.add_argument("--version", action="version", version=f"diffad {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    profiles = ", ".join(execution.profile_names())

    def command(name: str, function: Callable, where: Any = commands) -> argparse.ArgumentParser:
        sub = where.add_parser(name, help=function.__doc__.split("\n")[0], description=function.__doc__)
        sub.set_defaults(function=function)
        return sub

    def may_be_fresh(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--fresh", action="store_true", help="compute all anew: take nothing from the store")

    sub = command("run", run)
    may_be_fresh(sub)
    sub.add_argument("notebook", help="its name or the beginning of it, such as 07")
    sub.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    sub.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads (default 1, as in the profiles: the same numbers; more are slower where other work takes the "
        "cores)",
    )
    sub.add_argument("--minutes", type=int, default=execution.DEFAULT_MINUTES, help="time limit (default %(default)s)")
    sub.add_argument("--notebooks", type=Path, help="folder of the notebooks (default: the repository's)")

    def planned(name: str, function: Callable) -> argparse.ArgumentParser:
        sub = command(name, function)
        sub.add_argument("profile", nargs="?", default="smoke", help=f"{profiles}, or a YAML file (default: smoke)")
        sub.add_argument("--notebooks", type=Path, help="folder of the notebooks (default: the repository's)")
        sub.add_argument("--profiles", type=Path, help="folder of the profiles (default: workflow/profiles)")
        sub.add_argument("--output", type=Path, help="folder of the results (default: reports)")
        return sub

    planned("status", status)
    sub = planned("study", study_command)
    may_be_fresh(sub)
    sub.add_argument("-j", "--jobs", type=int, default=2, help="cores to use (default 2)")
    sub.add_argument(
        "--only", nargs="+", default=[], metavar="RUN", help="names of runs, beginnings of them, or patterns"
    )
    sub.add_argument(
        "--take", type=Path, metavar="FOLDER", help="go on from a copy of the study, such as reports/reference/standard"
    )
    sub.add_argument(
        "--cluster", type=Path, metavar="FOLDER", help="Snakemake profile of a batch system: workflow/cluster/slurm"
    )
    sub.add_argument("--state", type=Path, help="folder for Snakemake's records (default: the repository)")
    sub.add_argument(
        "--snakemake", default="", metavar="ARGUMENTS", help="further arguments for Snakemake, as one text"
    )

    sub = command("doctor", doctor)
    sub.add_argument("--profile", default="", help=f"also what its notebooks would lack: {profiles}, or a YAML file")

    sub = command("store", store_command)
    sub.add_argument("profile", nargs="?", default="smoke", help="its name or its YAML file (default: smoke)")
    sub.add_argument("--output", type=Path, help="folder of the results (default: reports)")
    sub.add_argument("--clear", action="store_true", help="remove all entries")

    sub = command("report", write_report)
    sub.add_argument("profile", nargs="?", default="smoke", help="its name or its YAML file (default: smoke)")
    sub.add_argument("--output", type=Path, help="folder of the results (default: reports)")

    sub = command("site", write_site)
    sub.add_argument("profile", nargs="?", default="smoke", help="its name or its YAML file (default: smoke)")
    sub.add_argument("--output", type=Path, help="folder of the results (default: reports)")
    sub.add_argument(
        "--to", type=Path, default=Path("build/site"), metavar="FOLDER", help="where the profile's folder is written"
    )
    sub.add_argument("--pages", type=_count, metavar="N", help="executed notebooks that become pages (default: all)")
    sub.add_argument("--zip", action="store_true", help="also as one file beside that folder")

    sub = command("compare", compare)
    sub.add_argument("ours", type=Path, metavar="A", help="a profile's results, such as reports/smoke")
    sub.add_argument("reference", type=Path, metavar="B", help="others, such as reports/reference/smoke")
    sub.add_argument(
        "--tolerance", type=_tolerance, default=1e-3, help="relative difference of a metric (default 0.001)"
    )
    sub.add_argument("--csv", action="store_true", help="print the table as CSV instead of Markdown")
    sub.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="also write agreement.md, agreement.csv and agreement-verdicts.csv there",
    )

    sub = command("notebooks", reexecute)
    may_be_fresh(sub)
    sub.add_argument("notebook", nargs="*", help="names or beginnings of them (default: all)")
    sub.add_argument("--threads", type=int, default=1, help="CPU threads (default 1, as in the profiles)")

    kaggle_parser = commands.add_parser("kaggle", help="Build and push kernels for Kaggle.")
    kaggle_commands = kaggle_parser.add_subparsers(dest="kaggle_command", required=True)
    sub = command("build", kaggle_build, kaggle_commands)
    sub.add_argument("--owner", required=True, help="your Kaggle user name")
    sub.add_argument("--profile", default="kaggle", help="name or path of a profile (default kaggle)")
    sub.add_argument(
        "--notebooks", nargs="+", default=[], metavar="NAME", help="such as 03 06 (default: all of the profile)"
    )
    sub.add_argument("--output", type=Path, help="folder (default dist/kaggle)")
    sub.add_argument(
        "--dataset-source", action="append", default=[], metavar="OWNER/SLUG", help="data set to attach, too"
    )
    sub.add_argument("--model-source", action="append", default=[], metavar="OWNER/MODEL/FRAMEWORK/VARIATION/VERSION")
    sub.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="wheels of packages that Kaggle's image lacks (default: fetched)"
    )
    sub.add_argument("--internet", action="store_true", help="let the kernels use the network")
    sub.add_argument("--resume", action="store_true", help="attach each kernel's own last output, to go on from there")
    sub = command("push", kaggle_push, kaggle_commands)
    sub.add_argument("folder", nargs="?", type=Path, help="what build wrote (default dist/kaggle)")
    sub.add_argument("--parallel", type=int, default=2, help="kernels at once (default %(default)s)")
    sub.add_argument(
        "--poll", type=float, default=30.0, help="seconds between two looks at Kaggle (default %(default)g)"
    )
    sub.add_argument("--no-wait", action="store_true", help="push and return; the summary of the others is left out")

    data_parser = commands.add_parser("data", help="List, check or make data sets.")
    data_commands = data_parser.add_subparsers(dest="data_command", required=True)
    command("list", inputs.data_list, data_commands)
    sub = command("check", inputs.data_check, data_commands)
    sub.add_argument("dataset")
    sub.add_argument("--root", type=Path, help="its folder (default: searched for)")
    sub.add_argument("--category", help="look at this category only (default: all that are there)")
    sub.add_argument("--json", action="store_true", help="print the whole report as JSON, for scripts")
    sub = command("make", inputs.data_make, data_commands)
    sub.add_argument("what", choices=["textures"])
    sub.add_argument("--out", type=Path, default=Path("data/textures"), help="folder (default %(default)s)")

    weights_parser = commands.add_parser("weights", help="Show where pretrained weights are.")
    weights_commands = weights_parser.add_subparsers(dest="weights_command", required=True)
    command("list", inputs.weights_list, weights_commands)
    sub = command("where", inputs.weights_where, weights_commands)
    sub.add_argument("name", help="such as sd15, ViT-B-32/openai, resnet34, vae:taesd, a path, or a hub id")
    sub.add_argument("--no-mini", action="store_true", help="do not fall back on the shipped small model")
    sub.add_argument("--download", action="store_true", help="ask the hub too, which downloads what is not here")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``diffad``; returns the exit code."""
    options = _parser().parse_args(arguments)
    if getattr(options, "fresh", False):
        os.environ[store.FRESH] = "1"  # kernels and the workflow's processes inherit it
    for name in ("DIFFAD_DATA", "DIFFAD_WEIGHTS", "DIFFAD_REPORTS"):  # these, too, and from other folders
        if name in os.environ:
            parts = [os.environ[name]] if name == "DIFFAD_REPORTS" else os.environ[name].split(os.pathsep)
            os.environ[name] = os.pathsep.join(map(_absolute, parts))
    try:
        return options.function(options)
    except (ValueError, OSError) as error:  # what the package raises for bad input; anything else is a bug
        print(f"diffad: {error}", file=sys.stderr)
        return 2
    except (execution.RunFailed, kaggle.KaggleError) as error:
        print(f"diffad: {error}", file=sys.stderr)
        return 1
