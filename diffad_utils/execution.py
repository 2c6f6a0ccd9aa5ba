"""From a plan to executed notebooks: one headless run, the whole workflow.

`profiles.load_plan` turns a profile into a plan and checks every name and value before anything runs;
``workflow/Snakefile`` turns the plan into jobs; `run_notebook` is one job.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import datetime
import fnmatch
import functools
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from diffad_utils import checkpoints, study
from diffad_utils.profiles import (  # noqa: F401 (also for those who look for them here)
    DEFAULT_MINUTES,
    WORK,
    Plan,
    PlannedRun,
    ProfileError,
    check_data,
    label_of,
    load_plan,
    profile_names,
    read_yaml,
    yaml_text,
)

PACKAGE = Path(__file__).resolve().parent
HEARTBEAT_SECONDS = 30
LARGE_NOTEBOOK = 1_400_000  # bytes; what is committed should load quickly on a web page


class RunFailed(RuntimeError):
    """A notebook run did not finish; its message says where and why, `traceback` has the cell's, if it was a cell."""

    def __init__(self, message: str, traceback: str = ""):
        super().__init__(message)
        self.traceback = traceback


# --- what a run depends on -------------------------------------------------------------------------------------------


def notebook_source(notebook: Path) -> list[str]:
    """Sources of the notebook's code cells, without IPython's magics."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return ["\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in text.split("\n")) for text in sources]


@functools.lru_cache(maxsize=4096)
def _tree(source: str, where: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ProfileError(f"{where}: not valid Python: {error}") from error


def _imported_modules(source: str, where: str, module: str | None, package: Path) -> set[Path]:
    """Files of `package` that `source` imports directly; `module` is its own dotted name, for relative imports."""
    tree = _tree(source, where)
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
    todo = {
        file for text in notebook_source(notebook) for file in _imported_modules(text, notebook.name, None, package)
    }
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


@functools.lru_cache(maxsize=4096)
def _meaning(source: str, where: str) -> bytes:
    """A module as its syntax tree: comments, line breaks and quotes do not count."""
    return ast.dump(_tree(source, where)).encode()


def code_digest(notebook: Path, package: Path = PACKAGE) -> str:
    """Checksum of the package's modules that the notebook uses, of the shipped models, and of the published
    numbers if the notebook names them. By content, so a fresh checkout or a touched file changes nothing."""
    data = package.parent / "data" if package != PACKAGE else study.repository() / "data"
    parts = [
        part
        for file in modules_of(notebook, package)
        for part in (file.name.encode(), _meaning(file.read_text(encoding="utf-8"), str(file)))
    ]
    files = sorted(path for path in data.glob("mini/*/*") if path.is_file())
    if "published" in Path(notebook).read_text(encoding="utf-8"):
        files += sorted(data.glob("published/*.csv"))
    return _digest(parts + [part for file in files for part in (file.name.encode(), file.read_bytes())])


@functools.lru_cache(maxsize=4096)
def data_digest(dataset: str, category: str, data_root: str) -> str:
    """Checksum of a category's files by name and size (reading gigabytes would take longer than many a run); ``-`` for
    rendered data, which the code decides, and for data that is not here."""
    from diffad_utils import data

    try:
        index = data.load_index(dataset, data_root or None, category)
    except (OSError, ValueError):  # check_data says what is wrong with it
        return "-"
    files = sorted(
        {str(path) for column in ("image", "mask") for path in index[column] if path and os.path.isfile(str(path))}
    )
    return _digest([f"{Path(file).name} {os.path.getsize(file)}".encode() for file in files]) if files else "-"


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
    """Prints which cell runs, and that it still runs; ends the process when the time is up or its parent gone.

    What it prints is in `file`, too, for `running`: rewritten at every cell and every half minute, removed at the end.
    """

    def __init__(self, label: str, headings: list[str], deadline: float, file: Path | None = None):
        self.label, self.headings, self.deadline, self.file = label, headings, deadline, file
        self.position, self.since = "starting the kernel", time.monotonic()
        self.began = self.since
        self.beat()
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        line = f"[{minutes:02d}:{seconds:02d}] {self.label}: {text}"
        print(line, flush=True)
        logging.getLogger("papermill").info(line)

    def beat(self) -> None:
        if self.file is not None:
            note = {"host": socket.gethostname(), "pid": os.getpid(), "position": self.position}
            note["seconds"] = round(time.monotonic() - self.began)
            study.write_atomically(self.file, study.to_json(note, self.file.name))

    def stop(self) -> None:
        self.stopped.set()
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def cell(self, cell, cell_index, **_) -> None:
        """Hook of nbclient, called before each cell; text needs no line of its own."""
        if cell["cell_type"] != "code":
            return
        heading = self.headings[cell_index] if cell_index < len(self.headings) else ""
        self.position = f"cell {cell_index + 1}/{len(self.headings)}" + (f" ({heading})" if heading else "")
        self.since = time.monotonic()
        self.beat()
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
                self.beat()
                self.say(f"still in {self.position}, {now - self.since:.0f} s")
            # nbclient's own limit covers running cells; this covers a kernel that never answers
            late = now > self.deadline + 30
            if late or (parent and not _alive(parent)):
                self.say("time limit reached, stopping" if late else "the workflow is gone, stopping")
                if self.file is not None:
                    self.file.unlink(missing_ok=True)
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


MALLOC = {"hugetlb": 1, "trim_threshold": 1 << 30, "mmap_threshold": 32 << 20, "top_pad": 64 << 20}


def _prepare_environment(threads: int) -> None:
    """Environment that the kernel inherits: as many threads as it was given, fixed hashing, no progress noise."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what PyTorch asks for to be deterministic on CUDA
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    # glibc: keep freed memory, in large pages, where it would be given back and faulted in again at every layer of a
    # network
    os.environ.setdefault("GLIBC_TUNABLES", ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items()))
    # tqdm.auto asks for ipywidgets, which an executed notebook cannot show
    os.environ["PYTHONWARNINGS"] = ",".join(
        filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:IProgress not found"])
    )
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


def _log_to(path: Path, append: bool) -> logging.Handler:
    handler = logging.FileHandler(
        path, mode="a" if append else "w", encoding="utf-8"
    )  # a second attempt keeps the first's
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


RUNNING = "running.json"


def running(work: Path) -> dict | None:
    """Who is at the run of this work folder: dict host, pid, position, seconds; None if nobody is (any more)."""
    try:
        age = time.time() - (work / RUNNING).stat().st_mtime
        note = json.loads((work / RUNNING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    here = note["host"] == socket.gethostname()
    return note if age < 4 * HEARTBEAT_SECONDS and (not here or _alive(note["pid"])) else None


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
        RunFailed: a cell failed, the kernel died, the time was up, the notebook recorded nothing, or another process
            is at this very run.
    """
    notebook, work = Path(notebook).resolve(), Path(work).resolve()
    own = study.notebook_parameters(notebook)
    study.check_parameters(notebook.name, parameters, own)
    folder = study.run_folder(notebook.stem, own | parameters)
    work.mkdir(parents=True, exist_ok=True)
    other = running(work)
    if other is not None:
        raise RunFailed(f"process {other['pid']} on {other['host']} is at this run already: wait for it or end it")
    failed = work / "run.failed.ipynb"
    again = (work / "failed.json").is_file()
    for stale in (failed, failed.with_suffix(".html"), work / "failed.json"):
        stale.unlink(missing_ok=True)
    _prepare_environment(threads)
    handler = _log_to(work / "run.log", append=again)
    label, began = label_of(notebook, own | parameters), time.time()
    try:
        _execute(notebook, failed, parameters, label, minutes * 60, work / RUNNING)
        result = folder / "metrics.json"
        if not result.is_file() or result.stat().st_mtime < began - 2:  # 2 s: coarse clocks of some file systems
            paused = (
                "it paused, since the session's time is up"
                if checkpoints.time_is_up()
                else "it must call run.record(...)"
            )
            raise RunFailed(f"the notebook ran to its end but recorded nothing: {paused}")
    except RunFailed as error:
        note = {"label": label, "error": str(error), "traceback": study.shorten(error.traceback)}
        study.write_atomically(work / "failed.json", study.to_json(note, "failed.json"))
        raise
    finally:
        handler.close()
        logging.getLogger("papermill").removeHandler(handler)
    study.write_atomically(folder / "run.ipynb", _published(failed, notebook))
    failed.unlink()
    return folder


def _execute(
    notebook: Path, output: Path, parameters: dict, label: str, seconds: float, beat: Path | None = None
) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    headings = _headings(cells)
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    headings.insert(tagged[0] + 1, headings[tagged[0]])  # the cell that papermill adds
    progress = _Progress(label, headings, time.monotonic() + seconds, beat)
    message, traceback = "", ""
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=False,
            log_output=True,
            start_timeout=120,
            kernel_manager_class=_kernel_manager_class(),
            on_cell_start=progress.cell,
            timeout_func=progress.left,
        )
        progress.say("done")
    except papermill.PapermillExecutionError as error:
        message = f"cell {error.cell_index + 1}/{len(headings)}: {error.ename}: {error.evalue}"
        traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    except CellTimeoutError:
        message = f"stopped in {progress.position}: the time limit of {seconds / 60:g} min was reached"
    except (DeadKernelError, RuntimeError) as error:
        # nbclient raises RuntimeError for a kernel that does not start ("Kernel didn't respond in ... seconds")
        message = f"the kernel died in {progress.position} (out of memory?): {error}"
    finally:
        progress.stop()
    if message:
        progress.say(f"FAILED: {message}")
        raise RunFailed(message, traceback)


def _published(executed: Path, notebook: Path) -> str:
    """The executed notebook as text, without the places and times of this machine."""
    content = json.loads(executed.read_text(encoding="utf-8"))
    note = content["metadata"].get("papermill", {})
    content["metadata"]["papermill"] = {"input": notebook.name, "duration_s": note.get("duration")}
    for cell in content["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        _drop_progress_bars(cell)
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return text.replace(str(study.repository()), ".").replace(str(Path.home()), "~")


def _drop_progress_bars(cell: dict) -> None:
    """Take out what progress bars drew over and over, which a saved notebook shows line below line."""
    if "outputs" in cell:
        cell["outputs"] = [
            output
            for output in cell["outputs"]
            if output.get("name") != "stderr" or "\r" not in "".join(output["text"])
        ]


def _reduce_colours(cells: list[dict]) -> None:
    """Every PNG among the outputs as `report.small_png` makes it: a third of its size."""
    from diffad_utils.report import small_png

    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            content = small_png(base64.b64decode(output["data"]["image/png"]))
            output["data"]["image/png"] = base64.b64encode(content).decode("ascii")


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
                content,
                kernel_name="python3",
                kernel_manager_class=_kernel_manager_class(),
                record_timing=False,
                resources={"metadata": {"path": str(path.resolve().parent)}},
                on_cell_start=progress.cell,
                timeout_func=progress.left,
            )
            try:
                client.execute()
            except (CellExecutionError, CellTimeoutError) as error:
                raise RunFailed(f"{path.name}, {progress.position}: {error}") from error
            finally:
                progress.stop()
            for cell in content.cells:
                _drop_progress_bars(cell)
            if len(nbformat.writes(content)) > LARGE_NOTEBOOK:
                _reduce_colours(content.cells)
            study.write_atomically(path, nbformat.writes(content) + "\n")
            progress.say("saved")


# --- the whole workflow ----------------------------------------------------------------------------------------------


def is_current(plan: Plan, run: PlannedRun) -> bool:
    """Whether the run's folder and those of the other methods it recorded are complete, made with the plan's
    parameters."""
    if not all((run.folder / name).is_file() for name in ("metrics.json", "manifest.json", "run.ipynb")):
        return False
    manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    others = [
        study.run_folder(run.notebook.stem, run.parameters, method) for method in manifest.get("other_methods", [])
    ]
    if not all((folder / "metrics.json").is_file() for folder in others):
        return False
    made = manifest["parameters"]
    places = ("output_root", "data_root")
    planned = {name: value for name, value in run.parameters.items() if name not in places}
    return json.loads(study.to_json(planned, "parameters")) == {name: made.get(name) for name in planned}


def stamp(run: PlannedRun) -> str:
    """What the stamp of a finished run says: checksums of the notebook's cells, of the code it uses, and of its
    data."""
    place = [run.parameters.get(name) or "" for name in ("dataset", "category", "data_root")]
    return f"{notebook_digest(run.notebook)} {code_digest(run.notebook)} {'-' if run.joins else data_digest(*place)}\n"


def state(plan: Plan, run: PlannedRun) -> str:
    """``done``, ``running``, ``failed``, ``changed`` (made by other code or parameters) or ``missing``."""
    work = plan.work(run)
    if running(work) is not None:
        return "running"
    if (work / "failed.json").is_file():
        return "failed"
    if not is_current(plan, run):
        return "changed" if (run.folder / "metrics.json").is_file() else "missing"
    done = work / "done"
    return "done" if done.is_file() and done.read_text(encoding="utf-8") == stamp(run) else "changed"


def last_seconds(run: PlannedRun) -> float:
    """Wall time in seconds that the run's folder tells of, 0 if there is none. Longest first, no core idles at the
    end."""
    manifest = run.folder / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["wall_s"] if manifest.is_file() else 0.0


def status(plan: Plan) -> list[dict]:
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


def drop_stale_stamps(plan: Plan) -> None:
    """Remove the stamp of every run that is not done with this code and these parameters, and outdated parameter files.

    What is done is read from the files themselves, not from Snakemake's records, which a kill may leave behind.
    """
    for run in plan.runs:
        work = plan.work(run)
        done, parameters = work / "done", work / "parameters.yaml"
        if done.is_file() and not (is_current(plan, run) and done.read_text(encoding="utf-8") == stamp(run)):
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


# --- GPUs ------------------------------------------------------------------------------------------------------------


def visible_gpus() -> list[str]:
    """Names of the CUDA devices this process may use: those of ``CUDA_VISIBLE_DEVICES``, else all that nvidia-smi
    lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(listed.stdout.count("GPU "))] if listed.returncode == 0 else []


_claimed = []  # open files: a lock goes with its process


def claim_gpus(count: int) -> list[str]:
    """Wait for `count` GPUs that no other run has, reserve them for this process and show it no others.

    A machine without GPUs, and a batch system that gives each job its own, are left as they are.

    Raises:
        RunFailed: the machine has fewer.
    """
    devices = visible_gpus()
    if not devices or sys.platform == "win32" or "SLURM_JOB_ID" in os.environ:
        return devices
    if len(devices) < count:
        raise RunFailed(f"the run needs {count} GPUs, this machine has {len(devices)}")
    import fcntl

    while len(_claimed) < count:
        for device in devices:
            file = open(Path(tempfile.gettempdir(), f"diffad-{os.getuid()}-gpu-{device}.lock"), "w")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            _claimed.append((device, file))
            if len(_claimed) == count:
                break
        else:  # too few are free: let go of those, so that two runs cannot wait for each other
            while _claimed:
                _claimed.pop()[1].close()
            time.sleep(1.0)
    mine = [device for device, _ in _claimed]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return mine


# --- all runs --------------------------------------------------------------------------------------------------------


def chosen_runs(plan: Plan, patterns: tuple[str, ...]) -> list[PlannedRun]:
    """The plan's runs whose name matches one of the patterns (``07_invad/*``) or begins with one (``07_invad``).

    Raises:
        ProfileError: a pattern that no run matches.
    """
    for pattern in patterns:
        if not any(_matches(run.name, pattern) for run in plan.runs):
            raise ProfileError(f"no run matches {pattern!r}; there are: {', '.join(run.name for run in plan.runs)}")
    return [run for run in plan.runs if not patterns or any(_matches(run.name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern)


def run_study(
    profile: str,
    *,
    jobs: int = 2,
    only: tuple[str, ...] = (),
    cluster: Path | None = None,
    notebooks: Path | None = None,
    profiles: Path | None = None,
    output_root: Path | None = None,
    state: Path | None = None,
    arguments: tuple[str, ...] = (),
) -> int:
    """Run everything of a profile that is not up to date, then write its report.

    Args:
        profile, notebooks, profiles, output_root: as in `load_plan`.
        jobs: cores to use; runs go side by side as far as cores, memory and GPUs allow.
        only: names of runs, beginnings of them, or patterns; the others are left as they are.
        cluster: folder of a Snakemake profile that sends the runs to a batch system (``workflow/cluster/slurm``);
            `jobs` is then what that profile says.
        state: folder for Snakemake's own records (default: the repository).
        arguments: further arguments for Snakemake.

    Returns:
        0, or 1 if a run failed (the report is still written, from the runs that there are).

    Raises:
        ProfileError, FileNotFoundError: before anything runs.
    """
    plan = load_plan(profile, notebooks=notebooks, profiles=profiles, output_root=output_root)
    chosen = chosen_runs(plan, tuple(only))
    check_data(plan)
    gpus = [] if cluster else visible_gpus()
    for run in chosen if gpus else []:
        if run.gpus > len(gpus):
            raise ProfileError(f"{run.name} needs {run.gpus} GPUs, this machine has {len(gpus)}")
    index = plan.root / "index.html"
    plan.root.mkdir(parents=True, exist_ok=True)
    with _only_one(plan.root / WORK):
        _wait_for_orphans(plan)
        before = index.stat().st_mtime_ns if index.is_file() else None
        targets = [str(plan.work(run) / "done") for run in chosen] if only else []
        resources = _cluster_arguments(cluster) if cluster else _local_arguments(jobs, gpus)
        folders = {"notebooks": notebooks, "profiles": profiles, "output_root": output_root}
        config = [
            f"profile={_absolute(profile)}",
            *(f"{name}={Path(value).resolve()}" for name, value in folders.items() if value),
        ]
        code = _snakemake([*targets, *resources, *arguments, "--config", *config], state, local=not cluster)
        failed = failures(plan.root)
        if (code != 0 or only) and (failed or only):
            from diffad_utils import report

            with contextlib.suppress(FileNotFoundError):  # nothing to report on
                report.write(plan.root)
        if code != 0:
            _print_failures(failed, index, profile)
            return 1
    if before == index.stat().st_mtime_ns:
        print(f"nothing to do: {_pretty(index)} is up to date")
    else:
        print(f"\nThe report is at {_pretty(index)}")
    return 0


def _absolute(profile: str) -> str:
    """A profile's path as Snakemake needs it, which runs in another folder; a name stays."""
    return str(Path(profile).resolve()) if Path(profile).suffix in (".yaml", ".yml") else profile


def _local_arguments(jobs: int, gpus: list[str]) -> list[str]:
    import psutil

    memory = int(psutil.virtual_memory().total * 0.9 / 2**20)
    limits = [f"mem_mb={memory}"] + ([f"gpu={len(gpus)}"] if gpus else [])
    return ["--cores", str(jobs), "--resources", *limits]


def _cluster_arguments(cluster: Path) -> list[str]:
    folder = Path(cluster).resolve()
    if not (folder / "config.yaml").is_file():
        raise ProfileError(f"{folder} is not a Snakemake profile: it has no config.yaml")
    return ["--profile", str(folder)]


def _wait_for_orphans(plan: Plan) -> None:
    """Runs of a start that was killed end themselves within seconds; on a cluster they may go on."""
    for _ in range(10):
        still = [(run, who) for run in plan.runs if (who := running(plan.work(run))) is not None]
        if not still:
            return
        time.sleep(1.0)
    names = ", ".join(f"{run.name} (process {who['pid']} on {who['host']})" for run, who in still)
    raise ProfileError(f"an earlier start is still at {names}; wait for it, or end it (on SLURM: squeue, scancel)")


def _snakemake(arguments: list[str], state: Path | None, local: bool) -> int:
    repository = study.repository()
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *arguments,
        "--snakefile",
        str(repository / "workflow" / "Snakefile"),
        "--directory",
        str(state or repository),
        "--keep-going",
        "--retries",
        "1",
        "--ignore-incomplete",
        "--nolock",
        "--rerun-triggers",
        "mtime",
        "params",
        "input",
        "--quiet",
        "all",
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    }
    if local:  # runs end themselves when this process is gone
        environment["DIFFAD_PARENT_PID"] = str(os.getpid())
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


def _print_failures(failed: list[dict], index: Path, profile: str) -> None:
    print(f"\n{len(failed)} run(s) FAILED:" if failed else "\nThe workflow stopped (see the messages above).")
    for note in failed:
        print(f"  {note['label']}\n    {note['error']}")
        print(f"    notebook {_pretty(note['notebook'])}\n    log      {_pretty(note['log'])}")
        print(f"    again    diffad study {shlex.quote(profile)} --only {shlex.quote(note['run'])}")
    if failed and index.is_file():
        print(f"The report of what did finish is at {_pretty(index)}. Run the same command again to go on.")


def main(arguments: list[str] | None = None) -> int:
    """One job of the workflow: run a notebook with the parameters of a YAML file."""
    parser = argparse.ArgumentParser(prog="python -m diffad_utils.execution", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("parameters", type=Path, help="YAML file; its folder takes the log")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=int, default=DEFAULT_MINUTES)
    parser.add_argument(
        "--gpus", type=int, default=0, help="GPUs to reserve, where the machine has any (default 0: it sees none)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so the kernel is shut down on the way out
    parameters = read_yaml(options.parameters.read_text(encoding="utf-8"))
    try:
        claim_gpus(options.gpus)
        run_notebook(
            options.notebook,
            parameters,
            work=options.parameters.parent,
            threads=options.threads,
            minutes=options.minutes,
        )
    except (study.ParameterError, RunFailed, FileNotFoundError) as error:
        print(f"{options.notebook.stem}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
