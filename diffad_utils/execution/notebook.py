"""One notebook, run headless with its progress on the terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from diffad_utils import study
from diffad_utils.execution.errors import RunFailed
from diffad_utils.execution.fingerprints import PACKAGE, code_digest, notebook_digest
from diffad_utils.execution.profiles import label_of
from diffad_utils.execution.saving import published_form
from diffad_utils.io import checkpoints
from diffad_utils.io.machine import visible_gpus
from diffad_utils.io.notebooks import read_cells
from diffad_utils.study.run import FINGERPRINT

HEARTBEAT_SECONDS = 30


def headings(cells: list) -> list[str]:
    """For each cell the last Markdown heading above it."""
    headings, current = [], ""
    for cell in cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+\s+(.+?)\s*$", cell.source, flags=re.MULTILINE)
            current = found[-1] if found else current
        headings.append(current)
    return headings


def first_not_run(cells: list) -> int | None:
    """Number, from 1, of the first cell with code that has no execution count; None if all ran.

    papermill returns normally where a cell calls ``sys.exit()``, and leaves out what stands below.
    """
    for number, cell in enumerate(cells, 1):
        if cell.cell_type == "code" and cell.source.strip() and cell.get("execution_count") is None:
            return number
    return None


class Progress:
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

    def cell(self, cell: Any, cell_index: int, **_: Any) -> None:
        """Hook of nbclient, called before each cell; text needs no line of its own."""
        if cell["cell_type"] != "code":
            return
        heading = self.headings[cell_index] if cell_index < len(self.headings) else ""
        self.position = f"cell {cell_index + 1}/{len(self.headings)}" + (f" ({heading})" if heading else "")
        self.since = time.monotonic()
        self.beat()
        self.say(self.position)

    def left(self, cell: Any = None) -> float:
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


ON_A_GPU = "import torch; torch.use_deterministic_algorithms(True, warn_only=True)"
"""What a kernel that sees a GPU runs first. On an H200, trainings without it ended in other last digits each time
(benchmarks/results/gpu.md). Torch warns where it has no deterministic kernel."""


def kernel_manager_class() -> type:
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
            first = [f"--IPKernelApp.exec_lines={ON_A_GPU}"] if visible_gpus() else []
            return command + first + list(extra_arguments or [])

        async def _async_cleanup_resources(self, restart: bool = False) -> None:
            await super()._async_cleanup_resources(restart=restart)
            if not restart:
                shutil.rmtree(self.own_folder, ignore_errors=True)

        cleanup_resources = _async_cleanup_resources

    return OwnFolderKernelManager


MALLOC = {"hugetlb": 1, "trim_threshold": 1 << 30, "mmap_threshold": 32 << 20, "top_pad": 64 << 20}


def prepare_environment(threads: int) -> None:
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

    Parameters
    ----------
    notebook : path of the notebook.
    parameters : what papermill injects; checked first.
    work : folder for ``run.log`` and, if it fails, ``run.failed.ipynb`` and ``failed.json``.
    threads : CPU threads of the kernel.
    minutes : time limit.

    Returns
    -------
    The run's folder, as made by the notebook's ``run.record(...)``.

    Raises
    ------
    study.ParameterError
        before anything runs.
    RunFailed
        a cell failed, the kernel died, the time was up, the notebook ended early or recorded nothing, or another
        process is at this very run.
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
    prepare_environment(threads)
    os.environ[FINGERPRINT] = f"{notebook_digest(notebook)} {code_digest(notebook)}"
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
        stopped = first_not_run(read_cells(failed))
        if stopped is not None:
            raise RunFailed(
                f"cell {stopped} and those below were not run: something above ended the notebook early (sys.exit?)"
            )
    except RunFailed as error:
        note = {"label": label, "error": str(error), "traceback": study.shorten(error.traceback)}
        study.write_atomically(work / "failed.json", study.to_json(note, "failed.json"))
        raise
    finally:
        handler.close()
        logging.getLogger("papermill").removeHandler(handler)
    study.write_atomically(folder / "run.ipynb", published_form(failed, notebook))
    failed.unlink()
    return folder


def _execute(
    notebook: Path, output: Path, parameters: dict, label: str, seconds: float, beat: Path | None = None
) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    cells = read_cells(notebook)
    titles = headings(cells)
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    titles.insert(tagged[0] + 1, titles[tagged[0]])  # the cell that papermill adds
    progress = Progress(label, titles, time.monotonic() + seconds, beat)
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
            kernel_manager_class=kernel_manager_class(),
            on_cell_start=progress.cell,
            timeout_func=progress.left,
        )
        progress.say("done")
    except papermill.PapermillExecutionError as error:
        message = f"cell {error.cell_index + 1}/{len(titles)}: {error.ename}: {error.evalue}"
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
