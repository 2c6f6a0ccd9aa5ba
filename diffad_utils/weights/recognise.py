"""What lies in a folder: networks by the names and shapes of their tensors, and their training by what else tells it.

Tensors say the architecture. Which training it is, OpenAI's or LAION's, Stable Diffusion 1.5 or 1.4, is said only by a
known checksum, by the name of the folder or file, or by config.json; where nothing says it, that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from diffad_utils.weights.known import KNOWN, Form, Known, Part
from diffad_utils.weights.safetensors_files import file_sha256, network_files, read_header, read_json


def identify(path: str | Path) -> str | None:
    """The name in `KNOWN` whose networks lie at `path` (by tensor names and shapes), or None."""
    return next((name for name, known in KNOWN.items() if take(Path(path), known.signature)), None)


def take(path: Path, forms: tuple[Form, ...]) -> Path | None:
    """The first of `candidates`, or None."""
    return next(candidates(path, forms), None)


def candidates(path: Path, forms: tuple[Form, ...]) -> Iterator[Path]:
    """What of `path` is stored in one of `forms`: itself, or those of several files in it that match alone. Raises for
    files that are not whole."""
    for form in forms:
        if not all(_has_part(path / part.subfolder, part) for part in form):
            continue
        files = [] if path.is_file() or len(form) > 1 else sorted(path.glob("*.safetensors"))
        alone = [file for file in files if _has_part(file, form[0])] if len(files) > 1 else []
        yield from alone or [path]


def _has_part(path: Path, part: Part) -> bool:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.is_file() and file.suffix == ".safetensors":
            shapes.update(read_header(file))
    if not shapes or any(shapes.get(key) != shape for key, shape in part.tensors.items()):
        # one folder may hold this network and a larger one; then one of the files has to match alone
        return len(files) > 1 and any(_has_part(file, part) for file in files)
    if any(name in shapes for name in part.absent):
        return len(files) > 1 and any(_has_part(file, part) for file in files)
    if not part.config:
        return True
    config = read_json((path if path.is_dir() else path.parent) / "config.json")
    return all(config.get(key) == value for key, value in part.config.items())


def describe_forms(known: Known) -> str:
    """The tensors that weights called `known` must have, for a message."""
    return ", ".join(
        f"{part.subfolder + '/' if part.subfolder else ''}{key} {list(shape)}"
        for part in known.forms[0]
        for key, shape in part.tensors.items()
    )


# --- which training --------------------------------------------------------------------------------------------------


def training_evidence(path: Path, root: Path, known: Known, *, read: bool = True) -> str:
    """What says that the networks at `path`, found below `root`, are the published ones of `known`: "its name", "its
    config.json", "its checksum", or "" where nothing does. read: False: do not read files through for checksums."""
    names = path.relative_to(root).with_suffix("") if path.is_file() else path.relative_to(root)
    if is_called(names, known.folders):
        return "its name"
    if _timm_id(path) and _timm_id(path) in _timm_ids(known):
        return "its config.json"
    if read and known.sha256 and any(file_sha256(file) in known.sha256 for file in network_files(path, known.role)):
        return "its checksum"
    return ""


def other_training(path: Path, root: Path, known: Known) -> str:
    """What says that the networks at `path`, found below `root`, are not those of `known` in spite of their shapes; ""
    where nothing does."""
    names = path.relative_to(root).with_suffix("") if path.is_file() else path.relative_to(root)
    named = next((word for word in known.others for part in names.parts if is_called(Path(part), (word,))), "")
    if named and not is_called(names, known.folders):
        return f"its name says {named}"
    folder = path if path.is_dir() else path.parent
    of_timm = _timm_id(path)
    if known.role == "features" and of_timm:
        architectures = {name.partition(".")[0] for name in _timm_ids(known)}
        wanted = _timm_ids(known) if len(known.hub_ids) == 1 and "." in of_timm else architectures
        if of_timm not in wanted and of_timm.partition(".")[0] not in wanted:
            return f"its config.json says {of_timm}"
    if known.open_clip and (folder / "open_clip_config.json").is_file():
        config = read_json(folder / "open_clip_config.json").get("model_cfg", {})
        wrong = [
            f"{key} {config.get(key, False)}" for key, value in known.open_clip.items() if config.get(key) != value
        ]
        if wrong:
            return f"its open_clip_config.json says {wrong[0]}, expected {known.open_clip}"
    return ""


def _timm_ids(known: Known) -> set[str]:
    """timm's "<architecture>.<tag>" of a known name's repositories on the hub."""
    return {hub_id.partition("/")[2] for hub_id in known.hub_ids}


def _timm_id(path: Path) -> str:
    """timm's "<architecture>[.<tag>]" from the config.json beside weights; "" without one."""
    config = read_json((path if path.is_dir() else path.parent) / "config.json")
    saved = config.get("pretrained_cfg")
    tag = saved.get("tag") if isinstance(saved, dict) else None
    return f"{config.get('architecture', '')}{f'.{tag}' if tag else ''}"


def is_called(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a path has one of the names in it as whole words; Kaggle writes names in lower case with hyphens."""
    words = f"-{_slug(str(path))}-"
    return any(f"-{_slug(name)}-" in words for name in names)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
