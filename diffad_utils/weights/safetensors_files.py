"""The files themselves: which of them a network is read from, their checksum, their header, whether they are whole.

Only reads. Nothing here knows a name of weights or a place where they are looked for: that may be changed without a
look at this file, and this one without a look at those, as long as a pickle is never opened.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PIPELINE = ("unet", "vae", "text_encoder")  # the parts of Stable Diffusion that have weights which are used here
#: What the loader of a role opens first, without the ending; a folder may hold other networks or precisions as well.
STEMS = {
    "clip": ("open_clip_model", "open_clip_pytorch_model"),
    "features": ("model",),
    "vae": ("diffusion_pytorch_model",),
}


def network_files(path: str | os.PathLike, role: str = "") -> list[Path]:
    """The files that a network of this `role` (of `known.Known`) is read from, sorted: `path` itself, or those of the
    folder that its loader opens.

    Not what else lies there: half precision beside full, the same pipeline as one file, a safety checker. Of a
    diffusers pipeline (``model_index.json``, or its parts' folders) the files of `PIPELINE`. Empty without any.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if is_pipeline(path):
        return [file for part in PIPELINE for file in network_files(path / part)]
    files = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    for stem in STEMS.get(role, ("diffusion_pytorch_model", "model")):
        for precision in ("", ".fp16"):
            pattern = re.compile(rf"{stem}{re.escape(precision)}(-\d+-of-\d+)?\.safetensors")
            usual = [file for file in files if pattern.fullmatch(file.name)]
            if usual:
                return [file for file in usual if file.stem == stem + precision] or usual
    return files or [file for folder in sorted(path.glob("*/")) if folder.is_dir() for file in network_files(folder)]


def is_pipeline(folder: Path) -> bool:
    """Whether `folder` is a diffusers pipeline with parts in folders of their own: it says so, or has them all."""
    there = [(folder / part).is_dir() for part in PIPELINE]
    return all(there) or (any(there) and (folder / "model_index.json").is_file())


def checksum(path: str | os.PathLike, files: Iterable[Path] | None = None) -> str:
    """SHA-256 (hex) over the safetensors files at `path` (folder or file): over `files`, or else every one below it.

    Over every file in order of its relative name: the name, a zero byte, and the SHA-256 digest of its bytes.
    A name enters relative to the folder, so the same folder elsewhere has the same checksum.
    """
    path = Path(path)
    total = hashlib.sha256()
    for file in sorted(safetensors_files(path) if files is None else files, key=lambda file: _name(file, path)):
        total.update(_name(file, path).encode() + b"\0" + bytes.fromhex(file_sha256(file)))
    return total.hexdigest()


def _name(file: Path, path: Path) -> str:
    return file.name if file == path else file.relative_to(path).as_posix()


def file_sha256(file: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes; a gigabyte is read once a process, not once a call."""
    file = Path(file).resolve()
    stat = file.stat()
    return _file_sha256(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_sha256(file: Path, size: int, modified: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def safetensors_files(path: str | os.PathLike) -> list[Path]:
    """Every safetensors file of a folder, sorted by relative name (or the file itself)."""
    path = Path(path)
    if path.is_file():
        return [path]
    return sorted((p for p in path.rglob("*.safetensors") if p.is_file()), key=lambda p: _name(p, path))


def read_header(file: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a safetensors file; reads the header only, and checks that the file is whole.

    Raises ValueError, naming the file, when it is no safetensors file or its length is not what the header says.
    """
    with _opened(file) as content:
        shapes = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    if not shapes:
        raise ValueError(f"weights: {file} holds no tensors")
    return shapes


def read_metadata(file: str | os.PathLike) -> dict[str, str]:
    """The metadata of a safetensors file. Raises as `read_header`."""
    with _opened(file) as content:
        return content.metadata() or {}


def _opened(file: str | os.PathLike) -> safe_open:
    """safetensors' own reader, which holds the header against the file's length; its errors as sentences."""
    file = Path(file)
    with open(file, "rb") as stream:
        if stream.read(8) == b"version ":
            raise ValueError(f"weights: {file} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError, ValueError) as error:  # OSError, ValueError: an empty file cannot be mapped
        size = file.stat().st_size
        raise ValueError(
            f"weights: {file} ({size} bytes) is not a whole safetensors file: it was cut off or is in another format "
            f"({error}). Download it again"
        ) from error


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


def check_files(path: Path, files: Sequence[Path]) -> None:
    """Raise unless the network at `path` has safetensors `files` (of `network_files`), all of them whole."""
    if path.is_file() and path.suffix != ".safetensors":
        if path.suffix.lower() in PICKLES:
            raise _refuse_pickles(path.parent, [path])
        raise ValueError(f"weights: {path} is not a .safetensors file; give one, or the folder that holds it")
    for folder in [path / part for part in PIPELINE if (path / part).is_dir()] if is_pipeline(path) else [path]:
        if not any(file.is_relative_to(folder) for file in files):
            pickles = _pickles(folder)
            if pickles:
                raise _refuse_pickles(folder, pickles)
            raise FileNotFoundError(f"weights: no .safetensors file in {folder}")
    for file in files:
        read_header(file)
