"""Files written whole or not at all, values as JSON, checksums. Knows nothing of the study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffad_utils.io.paths import repository


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write through a temporary file in the same folder and rename, so a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """For writers that want a path: the file that the block writes under the path given takes the name ``path`` when
    the block is through; where it fails, nothing is left of it and an earlier file stays."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _plain(value: Any, where: str) -> Any:
    """`value` as JSON types; floats rounded to ten significant digits; NaN and infinity are refused."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: leave out what could not be computed")
        return float(f"{value:.10g}")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"{where} is a {type(value).__name__}, expected numbers, text, lists or dictionaries")


def to_json(content: dict, where: str) -> str:
    """JSON text with sorted keys and rounded floats: equal content gives equal bytes.

    Raises
    ------
    ValueError
        a value is NaN, infinite or of another type; `where` and the key are named.
    """
    return json.dumps(_plain(content, where), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shorten(text: str) -> str:
    """`text` with the checkout's and the user's folder replaced, since run folders get published."""
    return text.replace(str(repository()), ".").replace(str(Path.home()), "~")
