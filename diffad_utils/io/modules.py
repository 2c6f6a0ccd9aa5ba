"""Checksums of the package's modules: what a piece of code means, with everything that it imports.

Read from the import statements, without running anything. Knows nothing of the study.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


@functools.lru_cache(maxsize=4096)
def _tree(source: str, where: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{where}: not valid Python: {error}") from error


def imported_modules(source: str, where: str, module: str | None, package: Path) -> set[Path]:
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


def reachable(todo: set[Path], package: Path) -> list[Path]:
    """`todo` and the files of `package` that they import, directly or through others, sorted."""
    found: set[Path] = set()
    while todo:
        file = todo.pop()
        found.add(file)
        parts = file.relative_to(package.parent).with_suffix("").parts
        # for the file of a package, one dot is the package itself: its dotted name keeps the last part
        todo |= imported_modules(file.read_text(encoding="utf-8"), str(file), ".".join(parts), package) - found
    return sorted(found)


def digest(parts: list[bytes]) -> str:
    """SHA-256 of parts of any length, its first 16 digits."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    return sha.hexdigest()[:16]


@functools.lru_cache(maxsize=4096)
def _meaning(source: str, where: str) -> bytes:
    """A module as its syntax tree: comments, line breaks and quotes do not count."""
    return ast.dump(_tree(source, where)).encode()


def contents(modules: list[Path], package: Path) -> list[bytes]:
    """Each module's path below the package and what it means."""
    return [
        part
        for file in modules
        for part in (
            file.relative_to(package).as_posix().encode(),
            _meaning(file.read_text(encoding="utf-8"), str(file)),
        )
    ]


def fingerprint(files: set[Path], package: Path = PACKAGE) -> str:
    """Checksum of what Python files mean, with all modules of `package` that they import, directly or through others.

    A file may lie outside of the package, such as a detector of one's own; of its imports only the package's count.
    """
    outside = sorted(file for file in files if not file.is_relative_to(package))
    texts = [(file.read_text(encoding="utf-8"), str(file)) for file in outside]
    imported = {module for text, where in texts for module in imported_modules(text, where, None, package)}
    modules = reachable(imported | (files - set(outside)), package)
    return digest([*(_meaning(*text) for text in texts), *contents(modules, package)])
