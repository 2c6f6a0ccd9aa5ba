"""Cells of a notebook file, whatever program wrote it. Knows nothing of the study."""

from __future__ import annotations

import json
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
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        if "nbformat" not in content:  # cells alone, as a script may write them
            content |= {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}
            for cell in content["cells"]:
                cell.setdefault("metadata", {})
                cell["source"] = "".join(cell["source"])
            return nbformat.from_dict(content).cells
        return nbformat.reads(text, as_version=4).cells
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook ({type(error).__name__}: {error})") from error
