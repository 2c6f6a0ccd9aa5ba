"""Checksums of what a run depends on: its notebook, the modules that it imports, its data."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
from pathlib import Path

from diffad_utils import study
from diffad_utils.execution.profiles import ProfileError
from diffad_utils.io.notebooks import read_cells

PACKAGE = Path(__file__).resolve().parents[1]


def notebook_source(notebook: Path) -> list[str]:
    """Sources of the notebook's code cells, without IPython's magics."""
    sources = [cell.source for cell in read_cells(notebook) if cell.cell_type == "code"]
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
    return _reachable(
        {file for text in notebook_source(notebook) for file in _imported_modules(text, notebook.name, None, package)},
        package,
    )


def _reachable(todo: set[Path], package: Path) -> list[Path]:
    """`todo` and the files of `package` that they import, directly or through others, sorted."""
    found: set[Path] = set()
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
    return _digest([json.dumps([cell.cell_type, cell.source]).encode() for cell in read_cells(notebook)])


@functools.lru_cache(maxsize=4096)
def _meaning(source: str, where: str) -> bytes:
    """A module as its syntax tree: comments, line breaks and quotes do not count."""
    return ast.dump(_tree(source, where)).encode()


def _contents(modules: list[Path], package: Path) -> list[bytes]:
    """Each module's path below the package and what it means."""
    return [
        part
        for file in modules
        for part in (
            file.relative_to(package).as_posix().encode(),
            _meaning(file.read_text(encoding="utf-8"), str(file)),
        )
    ]


def package_digest(room: str, package: Path = PACKAGE) -> str:
    """Checksum of a folder of the package, all its files, and of the modules that they import."""
    files = sorted(path for path in (package / room).rglob("*") if path.is_file() and path.suffix != ".pyc")
    modules = _reachable({path for path in files if path.suffix == ".py"}, package)
    others = [path for path in files if path.suffix != ".py"]
    return _digest(
        _contents(modules, package) + [part for path in others for part in (path.name.encode(), path.read_bytes())]
    )


def code_digest(notebook: Path, package: Path = PACKAGE) -> str:
    """Checksum of the package's modules that the notebook uses, of the shipped models, and of the published
    numbers if the notebook names them. By content, so a fresh checkout or a touched file changes nothing."""
    data = package.parent / "data" if package != PACKAGE else study.repository() / "data"
    parts = _contents(modules_of(notebook, package), package)
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
