"""The files themselves: which belong to a set of weights, their checksum, their header, whether they are whole.

Only reads. Nothing here knows a name of weights or a place where they are looked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def checksum(path: str | os.PathLike) -> str:
    """SHA-256 (hex) over the safetensors files at `path` (folder or file).

    Over every file in order of its relative name: the name, a zero byte, and the SHA-256 digest of its bytes.
    A name enters relative to the folder, so the same folder elsewhere has the same checksum.
    """
    path = Path(path)
    total = hashlib.sha256()
    for file in safetensors_files(path):
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        stat = file.stat()
        total.update(name.encode() + b"\0" + _file_digest(file.resolve(), stat.st_size, stat.st_mtime_ns))
    return total.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_digest(file: Path, size: int, modified: int) -> bytes:
    # size and time are there for the cache: a gigabyte is read once a process, not once a call
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def safetensors_files(path: str | os.PathLike) -> list[Path]:
    """The safetensors files of a folder, sorted by relative name (or the file itself)."""
    path = Path(path)
    if path.is_file():
        return [path]
    return sorted((p for p in path.rglob("*.safetensors") if p.is_file()), key=lambda p: p.relative_to(path).as_posix())


def read_header(file: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a safetensors file; reads the header only, and checks that the file is whole.

    The format: 8 bytes little-endian length n, n bytes of JSON, then the tensors; `data_offsets` in the JSON say
    where each one ends, so a file that was cut off is known without reading it.

    Raises ValueError, naming the file, when it is no safetensors file or its length is not what the header says.
    """
    file = Path(file)
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise ValueError(f"weights: {file} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
        length = int.from_bytes(start, "little") if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ValueError(
                f"weights: {file} ({size} bytes) is not a whole safetensors file: it should start with the length of "
                "its header; it was cut off or is in another format. Download it again"
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"weights: {file} is not a safetensors file: its header cannot be read ({error})") from error
    if not shapes:
        raise ValueError(f"weights: {file} holds no tensors")
    if 8 + length + end != size:
        raise ValueError(
            f"weights: {file} is not whole: {size} bytes, but its header describes {8 + length + end}. Download it "
            "again"
        )
    return shapes


def read_json(file: Path) -> dict:
    """The content of a JSON file, {} without one. Raises ValueError, naming the file, when it is no JSON object."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"weights: {file} is not JSON ({error}). Download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"weights: {file} should hold a JSON object, got {type(content).__name__}. Download it again")
    return content


def _pickles(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICKLES and p.is_file())


def _refuse_pickles(folder: Path, pickles: list[Path]) -> ValueError:
    return ValueError(
        f"weights: {folder} holds no safetensors file for a needed network, only {pickles[0].name}"
        f"{f' and {len(pickles) - 1} more' if len(pickles) > 1 else ''}. Pickles can run code when opened and are "
        "never loaded here; convert it on a machine you trust (safetensors.torch.save_file) or get the safetensors file"
    )


def check_folder(folder: Path) -> None:
    """Raise unless `folder` (or file) has safetensors files, all of them whole."""
    if folder.is_file() and folder.suffix != ".safetensors":
        if folder.suffix.lower() in PICKLES:
            raise _refuse_pickles(folder.parent, [folder])
        raise ValueError(f"weights: {folder} is not a .safetensors file; give one, or the folder that holds it")
    files = safetensors_files(folder)
    if not files:
        pickles = _pickles(folder)
        if pickles:
            raise _refuse_pickles(folder, pickles)
        raise FileNotFoundError(f"weights: no .safetensors file in {folder}")
    for file in files:
        read_header(file)
    if (folder / "model_index.json").is_file():
        for part in ("unet", "vae", "text_encoder"):
            if (folder / part).is_dir() and not list((folder / part).glob("*.safetensors")):
                pickles = _pickles(folder / part)
                raise (
                    _refuse_pickles(folder / part, pickles)
                    if pickles
                    else FileNotFoundError(f"weights: no .safetensors file in {folder / part}")
                )
