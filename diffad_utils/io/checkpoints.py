"""Checkpoints of the running notebook: where its trainings go on after an interruption, here or in Kaggle's next
session.

`study.start` opens a folder for the run, every training without a folder of its own keeps a file there, numbered in the
order of the trainings, and `Run.record` removes the folder. Its name has a checksum of the parameters and of the
package's code, so that nothing is continued under other settings. Short trainings are not worth a file: they are
repeated.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import time
from pathlib import Path

FOLDER = ".checkpoints"
"""Below a profile's output, beside the run folders."""


SECONDS = 120.0
"""A training writes its checkpoint this often, and a shorter one writes none."""


DEADLINE = "DIFFAD_DEADLINE"
"""Environment variable: the time (seconds since 1970) at which trainings save and stop; a session's limit."""


_folder: Path | None = None


_count = 0


@functools.cache
def _code() -> str:
    package = Path(__file__).resolve().parents[1]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))).hexdigest()


def open_run(folder: Path, settings: str) -> None:
    """Trainings keep their checkpoints below `folder` from now on. `settings`: text of all that the run depends on."""
    global _folder, _count
    _folder = folder / hashlib.sha256((settings + _code()).encode()).hexdigest()[:16]
    _count = 0


def close_run() -> None:
    """The run is recorded: remove its checkpoints, those of earlier code and parameters too."""
    global _folder
    if _folder is not None:
        shutil.rmtree(_folder.parent, ignore_errors=True)
    _folder = None


def next_file() -> Path | None:
    """The file of the next training in this run; None outside of runs."""
    global _count
    _count += 1
    return None if _folder is None else _folder / f"training-{_count:02d}.pt"


def count() -> int:
    """Trainings of this run so far, finished or not."""
    return _count


def skip(trainings: int) -> None:
    """Number the next training as if so many had been run before it: their results came from the store."""
    global _count
    _count += trainings


def folder(name: str) -> Path:
    """A folder of this run for results that it keeps itself, such as a sweep's; gone once the run is recorded.

    Raises ``RuntimeError`` outside of runs.
    """
    if _folder is None:
        raise RuntimeError(f"no run is open to keep {name!r} for: call study.start first")
    return _folder / name


def time_is_up() -> bool:
    """Whether the session's limit, if it has one, is reached."""
    return time.time() > float(os.environ.get(DEADLINE) or "inf")


def pause(message: str) -> None:
    """End the notebook without an error, since outputs of a failed version may be lost: SystemExit with code 0."""
    print(f"PAUSED: {message}", flush=True)
    raise SystemExit(0)
