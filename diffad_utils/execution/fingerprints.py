"""Checksums of what a run depends on: its notebook, the modules that it imports, its data."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path

from diffad_utils import study
from diffad_utils.io.modules import PACKAGE, contents, digest, imported_modules, reachable
from diffad_utils.io.notebooks import read_cells


def notebook_source(notebook: Path) -> list[str]:
    """Sources of the notebook's code cells, without IPython's magics."""
    sources = [cell.source for cell in read_cells(notebook) if cell.cell_type == "code"]
    return ["\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in text.split("\n")) for text in sources]


def modules_of(notebook: Path, package: Path = PACKAGE) -> list[Path]:
    """Files of the package that the notebook imports, directly or through others, sorted.

    Read from the import statements (also those inside functions), without running anything.
    """
    return reachable(
        {file for text in notebook_source(notebook) for file in imported_modules(text, notebook.name, None, package)},
        package,
    )


def notebook_digest(notebook: Path) -> str:
    """Checksum of the notebook's cells without outputs: re-executing it in place changes nothing."""
    return digest([json.dumps([cell.cell_type, cell.source]).encode() for cell in read_cells(notebook)])


def package_digest(room: str, package: Path = PACKAGE) -> str:
    """Checksum of a folder of the package, all its files, and of the modules that they import."""
    files = sorted(path for path in (package / room).rglob("*") if path.is_file() and path.suffix != ".pyc")
    modules = reachable({path for path in files if path.suffix == ".py"}, package)
    others = [path for path in files if path.suffix != ".py"]
    return digest(
        contents(modules, package) + [part for path in others for part in (path.name.encode(), path.read_bytes())]
    )


def code_digest(notebook: Path, package: Path = PACKAGE) -> str:
    """Checksum of the package's modules that the notebook uses, of the shipped models, and of the published
    numbers if the notebook names them. By content, so a fresh checkout or a touched file changes nothing."""
    data = package.parent / "data" if package != PACKAGE else study.repository() / "data"
    parts = contents(modules_of(notebook, package), package)
    files = sorted(path for path in data.glob("mini/*/*") if path.is_file())
    if "published" in Path(notebook).read_text(encoding="utf-8"):
        files += sorted(data.glob("published/*.csv"))
    return digest(parts + [part for file in files for part in (file.name.encode(), file.read_bytes())])


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
    return digest([f"{Path(file).name} {os.path.getsize(file)}".encode() for file in files]) if files else "-"
