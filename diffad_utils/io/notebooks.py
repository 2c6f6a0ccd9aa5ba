"""Cells of a notebook file, whatever program wrote it. Knows nothing of the study."""

from __future__ import annotations

from pathlib import Path

import nbformat


def read_cells(notebook: str | Path) -> list[nbformat.NotebookNode]:
    """The notebook's cells in order, each with its source as one text, and with `metadata`.

    Raises
    ------
    FileNotFoundError
        no such file.
    ValueError
        the file is not a notebook.
    """
    path = Path(notebook)
    try:
        return nbformat.read(path, as_version=4).cells
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook ({type(error).__name__}: {error})") from error
