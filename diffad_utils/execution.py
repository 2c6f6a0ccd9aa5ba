"""From a profile to executed notebooks: the plan of a study, one headless run, the whole workflow.

A profile (``workflow/profiles/<name>.yaml``) has one section a notebook::

    defaults:
      seed: [0]            # every notebook runs once for each seed
      minutes: 30          # time limit of one run
      parameters: {size: 256}
    07_invad:
      grid:
        - {dataset: elpv, category: mono}
        - {dataset: textures, category: [carpet, grid]}
      parameters: {epochs: 20}
    08_comparison: {}      # joins all runs: once, after all the others

`load_plan` expands it and checks every name and value before anything runs; ``workflow/Snakefile`` turns the
plan into jobs; `run_notebook` is one job.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from diffad_utils import study

PACKAGE = Path(__file__).resolve().parent
DEFAULT_MINUTES = 60
KERNEL_ATTEMPTS = 2
"""A run is tried again when its kernel dies or does not start; an exception in a cell would only repeat."""

HEARTBEAT_SECONDS = 30
WORK = ".workflow"
"""Folder in a profile's output with one folder a run: parameters.yaml, run.log, done or run.failed.ipynb."""


class ProfileError(ValueError):
    """A profile names an unknown notebook, key or parameter, or a value out of range."""


class RunFailed(RuntimeError):
    """A notebook run did not finish; its message says where and why."""


# --- plan ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """One papermill run.

    Attributes:
        name: ``07_invad/elpv/mono/seed-0``, also its folder below ``.workflow``.
        notebook: path of the notebook. parameters: what is injected. folder: where its results will be.
        threads: cores it may use. minutes: time limit. joins: reads the other runs, so runs after them.
    """

    name: str
    notebook: Path
    parameters: dict
    folder: Path
    threads: int
    minutes: int
    joins: bool

    @property
    def label(self) -> str:
        """``07_invad elpv/mono seed 0``, for people."""
        return label_of(self.notebook, self.parameters)


@dataclass(frozen=True)
class Plan:
    """All runs of a profile; `root` is the profile's output folder."""

    profile: str
    root: Path
    runs: tuple[PlannedRun, ...]

    def work(self, run: PlannedRun) -> Path:
        """The run's folder for parameters, log and stamp."""
        return self.root / WORK / run.name


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number (YAML 1.1 takes it for text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


YAML_LIMIT = 100_000
"""Values that a YAML text may stand for, anchors written out: nine lines of them can name a billion."""


def read_yaml(text: str):
    """YAML with plain types only; ``1e-4`` is a float.

    Raises:
        yaml.YAMLError: not YAML, another type than text, number, truth value, list and mapping, an anchor inside
            itself, or more than `YAML_LIMIT` values.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("its lists or mappings are nested too deeply") from error
    if _size(root, {}) > YAML_LIMIT:
        raise yaml.YAMLError(f"its anchors stand for more than {YAML_LIMIT} values")
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def _size(node, known: dict[int, float]) -> float:
    """Number of values of a YAML node with every anchor written out; infinite inside itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted: met again before that, it holds itself
        inner = [] if node is None or isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def label_of(notebook: Path, parameters: dict) -> str:
    if study.method_of(Path(notebook).stem) is None:
        return f"{Path(notebook).stem} ({parameters['profile']})"
    place = f"{parameters['dataset']}/{parameters['category']}"
    return f"{Path(notebook).stem} {place} seed {parameters['seed']}"


def _check_keys(where: str, section, known: tuple[str, ...]) -> dict:
    section = {} if section is None else section
    if not isinstance(section, dict):
        raise ProfileError(f"{where}: expected keys ({', '.join(known)}), got {section!r}")
    for key in section:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean `{close[0]}`?)" if close else ""
            raise ProfileError(f"{where}: unknown key `{key}`{hint}; known: {', '.join(known)}")
    return section


def _count(where: str, key: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProfileError(f"{where}: `{key}` is {value!r}, expected a whole number of at least 1")
    return value


def _places(where: str, section: dict, joins: bool) -> list[dict]:
    """The dataset/category pairs of a section; a joining notebook has the one empty pair."""
    grid = section.get("grid")
    if joins:
        if grid is not None:
            raise ProfileError(f"{where}: this notebook joins all runs and takes no `grid`")
        return [{}]
    if not isinstance(grid, list) or not grid:
        raise ProfileError(f"{where}: `grid` must list {{dataset: ..., category: ...}} entries")
    places = []
    for i, entry in enumerate(grid):
        entry = _check_keys(f"{where}: grid[{i}]", entry, ("dataset", "category"))
        if set(entry) != {"dataset", "category"}:
            raise ProfileError(f"{where}: grid[{i}] needs both dataset and category, got {entry}")
        categories = entry["category"] if isinstance(entry["category"], list) else [entry["category"]]
        places += [{"dataset": entry["dataset"], "category": category} for category in categories]
    return places


def profile_names(profiles: Path | None = None) -> list[str]:
    """Names of the profiles in a folder (default: the repository's)."""
    return sorted(path.stem for path in (profiles or study.repository() / "workflow" / "profiles").glob("*.yaml"))


def load_plan(
    profile: str,
    *,
    notebooks: str | Path | None = None,
    profiles: str | Path | None = None,
    output_root: str | Path | None = None,
) -> Plan:
    """Expand a profile into runs, checking everything that can be checked without data.

    Args:
        profile: name of a YAML file in `profiles`.
        notebooks, profiles, output_root: folders; defaults ``notebooks``, ``workflow/profiles`` and
            ``reports`` of the repository.

    Raises:
        ProfileError: unknown profile, notebook, key or parameter; value of the wrong type or out of range;
            the same run twice.
    """
    repository = study.repository()
    profiles = Path(profiles or repository / "workflow" / "profiles")
    notebooks = Path(notebooks or repository / "notebooks")
    file = profiles / f"{profile}.yaml"
    if not file.is_file():
        raise ProfileError(f"no profile {profile!r}; there are: {', '.join(profile_names(profiles)) or 'none'}")
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ProfileError(f"{file.name} is not valid YAML: {error}") from error
    known = sorted(path.stem for path in notebooks.glob("*.ipynb"))
    content = _check_keys(file.name, content, ("defaults", *known))
    defaults = _check_keys(f"{file.name}: defaults", content.pop("defaults", {}), _SECTION_KEYS[1:])
    runs = []
    for name in sorted(content):
        runs += _section_runs(file.name, profile, notebooks / f"{name}.ipynb", content[name], defaults, output_root)
    runs.sort(key=lambda run: run.joins)  # stable: joining notebooks last, the others in their order
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ProfileError(f"{file.name}: listed twice: {', '.join(twice)}")
    root = Path(output_root or study.reports_folder()) / profile
    return Plan(profile, root, tuple(runs))


_SECTION_KEYS = ("grid", "seed", "parameters", "minutes", "threads")


def _section_runs(file: str, profile: str, notebook: Path, section, defaults: dict, output_root) -> list[PlannedRun]:
    where = f"{file}: {notebook.stem}"
    section = _check_keys(where, section, _SECTION_KEYS)
    joins = study.method_of(notebook.stem) is None
    try:
        own = study.notebook_parameters(notebook)
    except study.ParameterError as error:
        raise ProfileError(str(error)) from error
    common = {"profile": profile} | ({"output_root": str(Path(output_root).resolve())} if output_root else {})
    # a default applies to the notebooks that have the parameter; a section's own must be known
    shared = {name: value for name, value in (defaults.get("parameters") or {}).items() if name in own}
    seeds = section.get("seed", defaults.get("seed", [0]))
    seeds = seeds if isinstance(seeds, list) else [seeds]
    threads = _count(where, "threads", section.get("threads", defaults.get("threads", 1)))
    minutes = _count(where, "minutes", section.get("minutes", defaults.get("minutes", DEFAULT_MINUTES)))
    runs = []
    for place in _places(where, section, joins):
        for seed in seeds[:1] if joins else seeds:
            parameters = shared | (section.get("parameters") or {}) | common | place | {"seed": seed}
            try:
                study.check_parameters(where, parameters, own)
            except study.ParameterError as error:
                raise ProfileError(str(error)) from error
            name = "/".join([notebook.stem, *map(str, place.values())] + ([] if joins else [f"seed-{seed}"]))
            folder = study.run_folder(notebook.stem, parameters)
            runs.append(PlannedRun(name, notebook, parameters, folder, threads, minutes, joins))
    return runs


def check_data(plan: Plan) -> None:
    """Check that every data set of the plan is there and has the categories asked for.

    Raises:
        ProfileError, FileNotFoundError: with the known categories, or where a data set was looked for.
    """
    from diffad_utils import data

    known: dict[tuple, list[str]] = {}
    for run in (run for run in plan.runs if not run.joins):
        place = (run.parameters["dataset"], run.parameters.get("data_root") or None)
        if place not in known:
            known[place] = list(data.categories(place[0], place[1]))
        if run.parameters["category"] not in known[place]:
            raise ProfileError(
                f"{run.name}: {place[0]} has no category {run.parameters['category']!r};"
                f" known: {', '.join(known[place])}"
            )


def yaml_text(parameters: dict) -> str:
    """The parameters as the YAML that papermill reads."""
    return yaml.safe_dump(parameters, sort_keys=True, allow_unicode=True)


# --- what a run depends on -------------------------------------------------------------------------------------------


def notebook_source(notebook: Path) -> list[str]:
    """Sources of the notebook's code cells, without IPython's magics."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return ["\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in text.split("\n")) for text in sources]


def _imported_modules(source: str, where: str, module: str | None, package: Path) -> set[Path]:
    """Files of `package` that `source` imports directly; `module` is its own dotted name, for relative imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ProfileError(f"{where}: not valid Python: {error}") from error
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level and module:
                base = ".".join(filter(None, [*module.split(".")[: -node.level or None], node.module]))
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    files = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != package.name:
            continue
        for end in range(1, len(parts) + 1):  # importing a.b.c runs a and a.b too
            path = package.joinpath(*parts[1:end])
            files |= {file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()}
    return files


def modules_of(notebook: Path, package: Path = PACKAGE) -> list[Path]:
    """Files of the package that the notebook imports, directly or through others, sorted.

    Read from the import statements (also those inside functions), without running anything.
    """
    found: set[Path] = set()
    todo = {file for text in notebook_source(notebook) for file in _imported_modules(text, notebook.name, None, package)}
    while todo:
        file = todo.pop()
        found.add(file)
        parts = file.relative_to(package.parent).with_suffix("").parts
        # for the file of a package, one dot is the package itself: its dotted name keeps the last part
        todo |= _imported_modules(file.read_text(encoding="utf-8"), str(file), ".".join(parts), package) - found
    return sorted(found)


def _digest(parts: list[bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    return sha.hexdigest()[:16]


def notebook_digest(notebook: Path) -> str:
    """Checksum of the notebook's cells without outputs: re-executing it in place changes nothing."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    return _digest([json.dumps([cell["cell_type"], "".join(cell["source"])]).encode() for cell in cells])


def code_digest(notebook: Path, package: Path = PACKAGE) -> str:
    """Checksum of the package's modules that the notebook uses, of the shipped models, and of the published
    numbers if the notebook names them. By content, so a fresh checkout or a touched file changes nothing."""
    data = package.parent / "data"
    files = modules_of(notebook, package) + sorted(path for path in data.glob("mini/*/*") if path.is_file())
    if "published" in Path(notebook).read_text(encoding="utf-8"):
        files += sorted(data.glob("published/*.csv"))
    return _digest([part for file in files for part in (file.name.encode(), file.read_bytes())])


# --- one run ---------------------------------------------------------------------------------------------------------


def _headings(cells: list) -> list[str]:
    """For each cell the last Markdown heading above it."""
    headings, current = [], ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+\s+(.+?)\s*$", "".join(cell["source"]), flags=re.MULTILINE)
            current = found[-1] if found else current
        headings.append(current)
    return headings


class _Progress:
    """Prints which cell runs, and that it still runs; ends the process when the time is up or its parent gone."""

    def __init__(self, label: str, headings: list[str], deadline: float):
        self.label, self.headings, self.deadline = label, headings, deadline
        self.position, self.since = "starting the kernel", time.monotonic()
        self.began = self.since
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        line = f"[{minutes:02d}:{seconds:02d}] {self.label}: {text}"
        print(line, flush=True)
        logging.getLogger("papermill").info(line)

    def cell(self, cell, cell_index, **_) -> None:
        """Hook of nbclient, called before each cell; text needs no line of its own."""
        if cell["cell_type"] != "code":
            return
        heading = self.headings[cell_index] if cell_index < len(self.headings) else ""
        self.position = f"cell {cell_index + 1}/{len(self.headings)}" + (f" ({heading})" if heading else "")
        self.since = time.monotonic()
        self.say(self.position)

    def left(self, cell=None) -> float:
        """Seconds until the run's time limit (at least one: nbclient takes 0 for no limit)."""
        return max(1.0, self.deadline - time.monotonic())

    def _watch(self) -> None:
        parent = int(os.environ.get("DIFFAD_PARENT_PID", "0"))
        heartbeat = time.monotonic()
        while not self.stopped.wait(2.0):
            now = time.monotonic()
            if now - max(heartbeat, self.since) > HEARTBEAT_SECONDS:
                heartbeat = now
                self.say(f"still in {self.position}, {now - self.since:.0f} s")
            # nbclient's own limit covers running cells; this covers a kernel that never answers
            late = now > self.deadline + 30
            if late or (parent and not _alive(parent)):
                self.say("time limit reached, stopping" if late else "the workflow is gone, stopping")
                _stop_children()
                os._exit(124)


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


def _stop_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _kernel_manager_class():
    """Kernel manager for kernels that start side by side.

    TCP ports of kernels started together collide now and then (nteract/papermill issue 511): one dies, or
    hangs for ever. Sockets in a folder of their own cannot. The kernel is this very Python, whatever kernel
    called python3 the user has installed.
    """
    from jupyter_client.manager import AsyncKernelManager

    class OwnFolderKernelManager(AsyncKernelManager):
        def __init__(self, **traits):
            folder = Path(tempfile.mkdtemp(prefix="diffad-"))  # short: a socket's path has at most 100 or so letters
            traits |= {"connection_file": str(folder / "k.json")}
            if sys.platform != "win32":
                traits |= {"transport": "ipc", "ip": str(folder / "k")}
            super().__init__(**traits)
            self.own_folder = folder

        def format_kernel_cmd(self, extra_arguments=None):
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", os.path.realpath(self.connection_file)]
            return command + list(extra_arguments or [])

        async def _async_cleanup_resources(self, restart: bool = False) -> None:
            await super()._async_cleanup_resources(restart=restart)
            if not restart:
                shutil.rmtree(self.own_folder, ignore_errors=True)

        cleanup_resources = _async_cleanup_resources

    return OwnFolderKernelManager


def _prepare_environment(threads: int) -> None:
    """Environment that the kernel inherits: as many threads as it was given, fixed hashing, no progress noise."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what PyTorch asks for to be deterministic on CUDA
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    # tqdm.auto asks for ipywidgets, which an executed notebook cannot show
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:IProgress not found"]))
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


def run_notebook(notebook: str | Path, parameters: dict, *, work: Path, threads: int = 1, minutes: int = 60) -> Path:
    """Run a notebook headless and put the executed copy, ``run.ipynb``, into its run folder.

    Args:
        notebook: path of the notebook.
        parameters: what papermill injects; checked first.
        work: folder for ``run.log`` and, if it fails, ``run.failed.ipynb`` and ``failed.json``.
        threads: CPU threads of the kernel. minutes: time limit.

    Returns:
        The run's folder, as made by the notebook's ``run.record(...)``.

    Raises:
        study.ParameterError: before anything runs.
        RunFailed: a cell failed, the kernel died twice, the time was up, or the notebook recorded nothing.
    """
    notebook, work = Path(notebook).resolve(), Path(work).resolve()
    own = study.notebook_parameters(notebook)
    study.check_parameters(notebook.name, parameters, own)
    folder = study.run_folder(notebook.stem, own | parameters)
    work.mkdir(parents=True, exist_ok=True)
    failed = work / "run.failed.ipynb"
    for stale in (failed, work / "failed.json"):
        stale.unlink(missing_ok=True)
    _prepare_environment(threads)
    handler = _log_to(work / "run.log")
    label, began = label_of(notebook, own | parameters), time.time()
    try:
        _execute(notebook, failed, parameters, label, minutes * 60)
        result = folder / "metrics.json"
        if not result.is_file() or result.stat().st_mtime < began - 2:  # 2 s: coarse clocks of some file systems
            raise RunFailed("the notebook ran to its end but recorded nothing: it must call run.record(...)")
    except RunFailed as error:
        note = {"label": label, "error": str(error), "log": "run.log", "notebook": failed.name}
        study.write_atomically(work / "failed.json", study.to_json(note, "failed.json"))
        raise
    finally:
        handler.close()
        logging.getLogger("papermill").removeHandler(handler)
    study.write_atomically(folder / "run.ipynb", _published(failed, notebook))
    failed.unlink()
    return folder


def _execute(notebook: Path, output: Path, parameters: dict, label: str, seconds: float) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    headings = _headings(cells)
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    headings.insert(tagged[0] + 1, headings[tagged[0]])  # the cell that papermill adds
    deadline = time.monotonic() + seconds
    for attempt in range(1, KERNEL_ATTEMPTS + 1):
        progress = _Progress(label, headings, deadline)
        try:
            papermill.execute_notebook(
                notebook, output, parameters, kernel_name="python3", language="python", cwd=notebook.parent,
                progress_bar=False, log_output=True, start_timeout=120,
                kernel_manager_class=_kernel_manager_class(), on_cell_start=progress.cell, timeout_func=progress.left,
            )  # fmt: skip
            progress.say("done")
            return
        except papermill.PapermillExecutionError as error:
            message = f"cell {error.cell_index + 1}/{len(headings)}: {error.ename}: {error.evalue}"
            progress.say(f"FAILED in {message}")
            raise RunFailed(message) from error
        except CellTimeoutError as error:
            message = f"stopped in {progress.position}: the time limit of {seconds / 60:g} min was reached"
            progress.say(f"FAILED, {message}")
            raise RunFailed(message) from error
        except (DeadKernelError, RuntimeError) as error:
            # nbclient raises RuntimeError for a kernel that does not start ("Kernel didn't respond in ... seconds")
            progress.say(f"the kernel died in {progress.position} (attempt {attempt} of {KERNEL_ATTEMPTS}): {error}")
            if attempt == KERNEL_ATTEMPTS:
                raise RunFailed(f"the kernel died in {progress.position}, twice (out of memory?)") from error
        finally:
            progress.stopped.set()


def _published(executed: Path, notebook: Path) -> str:
    """The executed notebook as text, without the places and times of this machine."""
    content = json.loads(executed.read_text(encoding="utf-8"))
    note = content["metadata"].get("papermill", {})
    content["metadata"]["papermill"] = {"input": notebook.name, "duration_s": note.get("duration")}
    for cell in content["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return text.replace(str(study.repository()), ".").replace(str(Path.home()), "~")


def reexecute(notebooks: list[Path], *, threads: int = 2, minutes: int = DEFAULT_MINUTES) -> None:
    """Run committed notebooks in place, with their parameters as they stand, and save them with outputs.

    Their run folders go to a temporary copy of the smoke profile's, so ``reports`` stays as the workflow
    left it, and the comparison still finds all runs.

    Raises:
        RunFailed: a cell failed; that notebook's file stays as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    with tempfile.TemporaryDirectory(prefix="diffad-reports-") as scratch:
        finished = study.reports_folder() / "smoke"
        if finished.is_dir():
            shutil.copytree(finished, Path(scratch) / "smoke", ignore=shutil.ignore_patterns(WORK))
        _prepare_environment(threads)
        os.environ["DIFFAD_REPORTS"] = scratch
        for path in sorted(map(Path, notebooks)):
            content = nbformat.read(path, as_version=4)
            progress = _Progress(path.stem, _headings(content.cells), time.monotonic() + minutes * 60)
            client = NotebookClient(
                content, kernel_name="python3", kernel_manager_class=_kernel_manager_class(), record_timing=False,
                resources={"metadata": {"path": str(path.resolve().parent)}},
                on_cell_start=progress.cell, timeout_func=progress.left,
            )  # fmt: skip
            try:
                client.execute()
            except (CellExecutionError, CellTimeoutError) as error:
                raise RunFailed(f"{path.name}, {progress.position}: {error}") from error
            finally:
                progress.stopped.set()
            study.write_atomically(path, nbformat.writes(content) + "\n")
            progress.say("saved")


# --- the whole workflow ----------------------------------------------------------------------------------------------


def is_current(plan: Plan, run: PlannedRun) -> bool:
    """Whether the run's folder and those of the other methods it recorded are complete, made with the plan's parameters."""
    if not all((run.folder / name).is_file() for name in ("metrics.json", "manifest.json", "run.ipynb")):
        return False
    manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    others = [study.run_folder(run.notebook.stem, run.parameters, method) for method in manifest.get("other_methods", [])]
    if not all((folder / "metrics.json").is_file() for folder in others):
        return False
    made = manifest["parameters"]
    places = ("output_root", "data_root")
    planned = {name: value for name, value in run.parameters.items() if name not in places}
    return json.loads(study.to_json(planned, "parameters")) == {name: made.get(name) for name in planned}


def drop_stale_stamps(plan: Plan) -> None:
    """Remove the stamp of every run whose folder is gone, incomplete or made with other parameters."""
    for run in plan.runs:
        if not is_current(plan, run):
            (plan.work(run) / "done").unlink(missing_ok=True)


def failures(root: Path) -> list[dict]:
    """What failed in the last run of a profile: dicts label, error, log, notebook (paths)."""
    found = []
    for path in sorted((Path(root) / WORK).rglob("failed.json")):
        note = json.loads(path.read_text(encoding="utf-8"))
        found.append(note | {"log": str(path.parent / note["log"]), "notebook": str(path.parent / note["notebook"])})
    return found


def run_study(
    profile: str,
    *,
    jobs: int = 2,
    notebooks: Path | None = None,
    profiles: Path | None = None,
    output_root: Path | None = None,
    state: Path | None = None,
    arguments: tuple[str, ...] = (),
) -> int:
    """Run everything of a profile that is not up to date, then write its report.

    Args:
        profile, notebooks, profiles, output_root: as in `load_plan`.
        jobs: cores to use; runs go side by side.
        state: folder for Snakemake's own records (default: the repository).
        arguments: further arguments for Snakemake.

    Returns:
        0, or 1 if a run failed (the report is still written, from the runs that there are).

    Raises:
        ProfileError, FileNotFoundError: before anything runs.
    """
    plan = load_plan(profile, notebooks=notebooks, profiles=profiles, output_root=output_root)
    check_data(plan)
    index = plan.root / "index.html"
    plan.root.mkdir(parents=True, exist_ok=True)
    with _only_one(plan.root / WORK):
        before = index.stat().st_mtime_ns if index.is_file() else None
        code = _snakemake(profile, jobs, notebooks, profiles, output_root, state, arguments)
        failed = failures(plan.root)
        if code != 0:
            if failed:
                from diffad_utils import report

                report.write(plan.root)
            _print_failures(failed, index, plan.root / WORK)
            return 1
    if before == index.stat().st_mtime_ns:
        print(f"nothing to do: {_pretty(index)} is up to date")
    else:
        print(f"\nThe report is at {_pretty(index)}")
    return 0


def _snakemake(profile, jobs, notebooks, profiles, output_root, state, arguments) -> int:
    repository = study.repository()
    folders = {"notebooks": notebooks, "profiles": profiles, "output_root": output_root}
    config = [f"{name}={Path(folder).resolve()}" for name, folder in folders.items() if folder]
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow" / "Snakefile"),
        "--directory", str(state or repository), "--cores", str(jobs), "--keep-going", "--rerun-incomplete",
        "--nolock", "--rerun-triggers", "mtime", "params", "input", "--quiet", "all",
        "--config", f"profile={profile}", *config, *arguments,
    ]  # fmt: skip
    environment = os.environ | {
        "DIFFAD_PARENT_PID": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # Snakemake has had the signal too; wait until it has stopped its jobs


class _only_one:
    """Lock of a profile's output; it goes with the process, so a killed run leaves nothing to unlock."""

    def __init__(self, folder: Path):
        self.path = folder / "lock"

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "w")
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.file.close()
                raise ProfileError(f"another run is writing {_pretty(self.path.parent.parent)}; wait for it") from None

    def __exit__(self, *_):
        self.file.close()


def _pretty(path: Path) -> str:
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _print_failures(failed: list[dict], index: Path, work: Path) -> None:
    print(f"\n{len(failed)} run(s) FAILED:" if failed else "\nThe workflow stopped (see the messages above).")
    for note in failed:
        print(f"  {note['label']}\n    {note['error']}")
        print(f"    notebook {_pretty(note['notebook'])}\n    log      {_pretty(note['log'])}")
    if failed and index.is_file():
        print(f"The report of what did finish is at {_pretty(index)}. Run the same command again to go on.")


def main(arguments: list[str] | None = None) -> int:
    """One job of the workflow: run a notebook with the parameters of a YAML file."""
    parser = argparse.ArgumentParser(prog="python -m diffad_utils.execution", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("parameters", type=Path, help="YAML file; its folder takes the log")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=int, default=DEFAULT_MINUTES)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so the kernel is shut down on the way out
    parameters = read_yaml(options.parameters.read_text(encoding="utf-8"))
    try:
        run_notebook(
            options.notebook, parameters, work=options.parameters.parent, threads=options.threads,
            minutes=options.minutes,
        )  # fmt: skip
    except (study.ParameterError, RunFailed, FileNotFoundError) as error:
        print(f"{options.notebook.stem}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
