"""The committed notebooks, executed in place."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from diffad_utils import study
from diffad_utils.execution.errors import RunFailed
from diffad_utils.execution.notebook import Progress, headings, kernel_manager_class, prepare_environment
from diffad_utils.execution.profiles import DEFAULT_MINUTES
from diffad_utils.execution.saving import drop_progress_bars, fit_pictures
from diffad_utils.io import store


def reexecute(notebooks: list[Path], *, threads: int = 2, minutes: int = DEFAULT_MINUTES) -> None:
    """Run committed notebooks in place, with their parameters as they stand, and save them with outputs.

    Their run folders are temporary, so ``reports`` stays as the workflow left it. The comparison, whose profile is
    another than theirs, finds no run there and reads the committed ones.

    Raises
    ------
    RunFailed
        a cell failed; that notebook's file stays as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    with tempfile.TemporaryDirectory(prefix="diffad-reports-") as scratch:
        own = study.reports_folder() / "smoke"
        os.environ.setdefault(store.ROOT, str((own if own.is_dir() else Path(scratch)) / store.FOLDER))
        prepare_environment(threads)
        os.environ["DIFFAD_REPORTS"] = scratch
        for path in sorted(map(Path, notebooks)):
            content = nbformat.read(path, as_version=4)
            progress = Progress(path.stem, headings(content.cells), time.monotonic() + minutes * 60)
            client = NotebookClient(
                content,
                kernel_name="python3",
                kernel_manager_class=kernel_manager_class(),
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
                drop_progress_bars(cell)
            fit_pictures(content)
            study.write_atomically(path, nbformat.writes(content) + "\n")
            progress.say("saved")
