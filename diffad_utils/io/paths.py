"""Where the study's own files are: in a checkout, or, where the package came as a wheel, in Kaggle's inputs."""

from __future__ import annotations

import os
from pathlib import Path

KAGGLE = Path(os.environ.get("DIFFAD_KAGGLE") or "/kaggle")
"""Root of a Kaggle session's files: ``input`` (read-only) and ``working``. Another root is for a dry run elsewhere."""


MARK = "data/published/claims.csv"
"""A folder that has this file is a checkout's copy: ``data``, ``notebooks`` and ``workflow/profiles`` below it."""


def attached(pattern: str) -> list[Path]:
    """What matches `pattern` at the top of an attached input, sorted.

    A data set or a notebook's output is ``/kaggle/input/<slug>``; newer sessions put ``datasets/<owner>`` or
    ``notebooks/<owner>`` in front.
    """
    found = {path for place in ("*", "*/*/*") for path in (KAGGLE / "input").glob(f"{place}/{pattern}")}
    return sorted(found)


def on_kaggle() -> bool:
    """Whether this is a Kaggle session (or a copy of its file tree)."""
    return (KAGGLE / "input").is_dir() and (KAGGLE / "working").is_dir()


def repository() -> Path:
    """The checkout this package is used from; for an installed wheel the attached Kaggle data set, else the current
    folder."""
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return root
    found = attached(MARK) if on_kaggle() else []
    return found[-1].parents[2] if found else Path.cwd()


def reports() -> Path:
    """``$DIFFAD_REPORTS`` if set, else ``reports`` of Kaggle's working folder or of the checkout."""
    return Path(os.environ.get("DIFFAD_REPORTS") or (KAGGLE / "working" if on_kaggle() else repository()) / "reports")
