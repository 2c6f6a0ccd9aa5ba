"""Where pretrained weights come from: a name becomes a folder of safetensors files on this machine.

`resolve` looks, in this order, at an explicit path, `$DIFFAD_WEIGHTS`, `/kaggle/input`, the Hugging Face
cache, the hub, and, only where the caller allows it, at the small models of `data/mini`. Folders are
recognised by the names and shapes of the tensors in their files, not by what the folder is called.

Only safetensors files are ever taken: pickles (.bin, .pt, .pth, .ckpt) can run code when they are opened.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import get_session

from diffad_utils import places
from diffad_utils.weights.known import KNOWN, MINI_NAMES, MINIS, Form, Known, Part, find_known
from diffad_utils.weights.safetensors_files import check_folder, checksum, read_header, read_json, safetensors_files

MINI_ROOT = places.repository() / "data" / "mini"
KAGGLE_ROOT = places.KAGGLE / "input"
SEARCH_DEPTH = 6  # folders below /kaggle/input that are looked into: owner/model/framework/variant/version/part
LARGE = 2**30  # bytes; `survey` reads no more than this for a checksum


@dataclass(frozen=True)
class Resolved:
    """What `resolve` found.

    name: as asked for. path: folder (or single file, where a file was given). source: "path", "env", "kaggle",
    "hf-cache", "hub", "mini" (or "random" for networks without trained weights). sha256: over the safetensors
    files, see `checksum`. is_mini: True when it is a small model of `data/mini`. message: one line for people.
    """

    name: str
    path: Path
    source: str
    sha256: str
    is_mini: bool
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class _Place:
    """Where weights are, before their files were read through."""

    path: Path
    source: str
    message: str


@dataclass
class _Search:
    """What is being looked for, and a line for each place that did not have it."""

    name: str
    known: Known
    tried: list[str] = field(default_factory=list)


def resolve(
    name: str | os.PathLike,
    *,
    allow_mini: bool = False,
    hub: bool = True,
    kaggle_root: str | os.PathLike | None = None,
    hf_cache: str | os.PathLike | None = None,
) -> Resolved:
    """Find the weights called `name` and check that they are whole.

    Parameters
    ----------
    name: one of
        - `KNOWN`: "sd15", "clip-vit-b32", "resnet34", "wide_resnet50_2", "dino-vits8", "efficientnet-b4" and the
          autoencoders "vae:sd15", "vae:sdxl", "vae:sd3", "vae:flux", "vae:taesd" and so on;
        - a small model of this repository: "sd-mini", "clip-mini", "resnet-mini", "vae:sd-mini";
        - open_clip's "<architecture>/<tag>" ("ViT-B-32/openai" is "clip-vit-b32") or timm's "<architecture>[.<tag>]";
        - a path to a folder or a .safetensors file, or a hub id "owner/name";
        - "vae:<path or hub id>" for the autoencoder there (of a diffusers pipeline, or alone).
    allow_mini: take the small model of the same role when nothing else is found.
    hub: False: do not ask the hub.
    kaggle_root, hf_cache: other folders in the place of /kaggle/input and of the Hugging Face cache.

    Order: path, $DIFFAD_WEIGHTS (by folder name, then by tensors), kaggle_root, Hugging Face cache, hub (not with
    HF_HUB_OFFLINE=1, and not when it does not answer within seconds), data/mini.

    Raises
    ------
    FileNotFoundError: nothing was found; lists every place that was tried.
    ValueError: unknown name; only pickles where the weights should be; a safetensors file that is not whole.
    """
    text = os.fspath(name)
    place = _locate(text, allow_mini, hub, kaggle_root, hf_cache)
    check_folder(place.path)
    digest = checksum(place.path)
    message = f"{text}: {place.message} (sha256 {digest[:12]})"
    return Resolved(text, place.path, place.source, digest, place.source == "mini", message)


def survey(
    *, kaggle_root: str | os.PathLike | None = None, hf_cache: str | os.PathLike | None = None
) -> list[dict[str, str]]:
    """What every known name would be on this machine; the hub is not asked.

    One dict for each: name, role, found (source, or "no"), size in MB, sha256 (12 digits; "" for more than a
    gigabyte, which would take long to read) and path (where it is, or what is wrong, or where it could come from).
    """
    rows = []
    for name in (*KNOWN, *MINI_NAMES):
        role = KNOWN[name].role if name in KNOWN else MINI_NAMES[name]
        row = dict(name=name, role=role, found="no", size="", sha256="")
        try:
            place = _locate(name, False, False, kaggle_root, hf_cache)
            size = sum(file.stat().st_size for file in safetensors_files(place.path))
            digest = checksum(place.path)[:12] if size <= LARGE else ""
            rows.append(row | dict(found=place.source, size=f"{size / 1e6:.1f}", sha256=digest, path=str(place.path)))
        except FileNotFoundError:
            rows.append(row | dict(path=f"hub: {KNOWN[name].hub_ids[0]}" if name in KNOWN else "not trained yet"))
        except ValueError as error:
            rows.append(row | dict(path=str(error)))
    return rows


def _locate(text: str, allow_mini: bool, hub: bool, kaggle_root, hf_cache) -> _Place:
    """The first place that has the weights; raises as `resolve` does."""
    if text in MINI_NAMES:
        folder = MINI_ROOT / MINIS[MINI_NAMES[text]]
        if not folder.is_dir():
            raise FileNotFoundError(
                f"weights: the small model {folder} is not there; it comes with the repository, so run from a checkout "
                "of it, or train it again with notebooks/00_foundation.ipynb"
            )
        return _Place(folder, "mini", "the small model of this repository, as asked for")
    owner = text.removeprefix("vae:")
    if not owner:
        raise ValueError("weights: 'vae:' needs what it is the autoencoder of, such as 'vae:sd15'")
    if text not in KNOWN and owner not in KNOWN and Path(owner).expanduser().exists():
        path = Path(owner).expanduser().absolute()  # not resolved: the hub cache links to files without a suffix
        return _Place(_network(path, "vae" if owner != text else ""), "path", "taken from the path that was given")
    if _looks_like_path(owner):
        raise FileNotFoundError(f"weights: there is no file or folder {owner}")
    known = find_known(text)
    if known is None:
        raise ValueError(
            f"weights: unknown name {text!r}; known names are {', '.join([*KNOWN, *MINI_NAMES])}, names of open_clip "
            "(architecture/tag) and timm (architecture.tag), a path, a hub id owner/name, or vae:<path or hub id>"
        )
    search = _Search(text, known)
    found = (
        _from_environment(search)
        or _from_kaggle(search, Path(kaggle_root or KAGGLE_ROOT))
        or _from_hf_cache(search, hf_cache)
        or _from_hub(search, hf_cache, hub)
    )
    if found:
        return found
    if known.role and allow_mini:
        mini = MINIS[known.role]
        if (MINI_ROOT / mini).is_dir():
            return _Place(
                MINI_ROOT / mini,
                "mini",
                f"not on this machine, the small model data/mini/{mini} stands in for it; "
                f"its results are not those of {text}",
            )
        search.tried.append(f"small model {MINI_ROOT / mini}: not there")
    raise FileNotFoundError(_nothing_found(search))


def identify(path: str | os.PathLike) -> str | None:
    """The name in `KNOWN` whose weights lie at `path` (by tensor names and shapes), or None."""
    return next((name for name, known in KNOWN.items() if _take(Path(path), known.signature)), None)


def _take(path: Path, forms: tuple[Form, ...]) -> Path | None:
    """What of `path` is stored in one of `forms`: itself, one of several files in it, or None. Raises for files that
    are not whole."""
    for form in forms:
        if all(_has_part(path / part.subfolder, part) for part in form):
            files = [] if path.is_file() or len(form) > 1 else sorted(path.glob("*.safetensors"))
            if len(files) < 2:
                return path
            # one folder may hold several networks; then only the file that matches is taken
            return next((file for file in files if _has_part(file, form[0])), path)
    return None


def _has_part(path: Path, part: Part) -> bool:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.is_file() and file.suffix == ".safetensors":
            shapes.update(read_header(file))
    if not shapes or any(shapes.get(key) != shape for key, shape in part.tensors.items()):
        return False
    if not part.config:
        return True
    config = read_json((path if path.is_dir() else path.parent) / "config.json")
    return all(config.get(key) == value for key, value in part.config.items())


def _network(path: Path, role: str) -> Path:
    """An autoencoder's own folder where `path` is that of a pipeline; anything else as it is."""
    return path / "vae" if role == "vae" and (path / "vae").is_dir() else path


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~", ".\\", "..\\"))
        or text.endswith(".safetensors")
        or "\\" in text
        or text.count("/") > 1
    )


def _from_environment(search: _Search) -> _Place | None:
    value = os.environ.get("DIFFAD_WEIGHTS", "")
    if not value:
        search.tried.append("$DIFFAD_WEIGHTS: not set")
        return None
    # a colon is no part of a file's name on every system
    names = [name for name in dict.fromkeys((search.name, *search.known.folders)) if ":" not in name]
    for root in value.split(os.pathsep):
        base = Path(root).expanduser()
        if not base.is_dir():
            search.tried.append(f"$DIFFAD_WEIGHTS: {base} is not a folder")
            continue
        for candidate in (base / name for name in names):
            for place in (candidate, candidate.with_name(candidate.name + ".safetensors")):
                if place.exists():
                    return _Place(_named(place, search), "env", f"taken from {place} ($DIFFAD_WEIGHTS)")
        search.tried.append(f"$DIFFAD_WEIGHTS: {base} has none of {', '.join(names)}")
        if search.known.signature:
            found = _from_tree(search, base, "env")
            if found:
                return found
    return None


def _named(place: Path, search: _Search) -> Path:
    """What to take of a folder or file that has the right name and so is meant: what is wrong with it is an error."""
    place = _network(place, search.known.role)
    check_folder(place)
    taken = _take(place, search.known.forms) if search.known.forms else place
    if taken is None:
        expected = ", ".join(
            f"{part.subfolder + '/' if part.subfolder else ''}{key} {list(shape)}"
            for part in search.known.forms[0]
            for key, shape in part.tensors.items()
        )
        raise ValueError(
            f"weights: {place} is called {search.name}, but the tensors in its files are not those of "
            f"{search.name} (expected {expected}). Put the right files there or rename it"
        )
    return taken


def _from_kaggle(search: _Search, root: Path) -> _Place | None:
    if not root.is_dir():
        search.tried.append(f"{root}: not there")
        return None
    return _from_tree(search, root, "kaggle")


def _from_tree(search: _Search, root: Path, source: str) -> _Place | None:
    """Look at what the files below `root` hold: on Kaggle folder names are the uploader's choice. Only where tensors
    cannot tell, as between two trainings of one architecture, the name of the folder has to."""
    known, broken = search.known, []
    how = "its tensors" if known.signature else "its name"
    for folder in _folders(root):
        try:
            if known.signature:
                path = _take(folder, known.signature)
            elif _is_called(folder.relative_to(root), known.folders):
                path = _complete(folder, known)
            else:
                continue
        except ValueError as error:  # somebody else's broken file is no reason to stop looking
            broken.append(str(error))
            continue
        if path:
            path = _network(path, known.role)
            return _Place(path, source, f"recognised by {how} in {path}")
    missing = "safetensors files hold its tensors" if known.signature else f"path names {known.folders[-1]}"
    search.tried.append(f"{root}: no folder whose {missing}" + "".join(f"; {line}" for line in broken))
    return None


def _is_called(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a path has one of the names in it as whole words; Kaggle writes names in lower case with hyphens."""
    words = f"-{_slug(str(path))}-"
    return any(f"-{_slug(name)}-" in words for name in names)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _complete(folder: Path, known: Known) -> Path | None:
    """What to take of a folder that is said to hold `known`, or None if it is not all there."""
    folder = _network(folder, known.role)
    if known.forms:
        return _take(folder, known.forms)
    has_files = any(folder.glob("*.safetensors")) or (folder / "model_index.json").is_file()
    return folder if has_files else None


def _folders(root: Path) -> list[Path]:
    """`root` and its subfolders, at most SEARCH_DEPTH deep, the higher ones first and each level sorted."""
    found = []
    for folder, children, _ in os.walk(root, followlinks=True):  # fast with the many files of image data sets
        found.append(Path(folder))
        if len(found[-1].parts) - len(root.parts) == SEARCH_DEPTH:
            children.clear()
    return sorted(found, key=lambda folder: (len(folder.parts), folder))


def _from_hf_cache(search: _Search, cache: str | os.PathLike | None) -> _Place | None:
    place = Path(cache or constants.HF_HUB_CACHE)
    for hub_id in search.known.hub_ids:
        try:
            folder = Path(
                snapshot_download(
                    hub_id, cache_dir=cache, local_files_only=True, allow_patterns=list(search.known.files)
                )
            )
        except (LocalEntryNotFoundError, FileNotFoundError):
            search.tried.append(f"Hugging Face cache {place}: no {hub_id}")
            continue
        path = _complete(folder, search.known)
        if path:
            return _Place(path, "hf-cache", f"{hub_id} from the Hugging Face cache")
        lack = "not complete" if safetensors_files(folder) else "no safetensors file in it"
        search.tried.append(f"Hugging Face cache {folder}: {lack}")
    return None


def _from_hub(search: _Search, cache: str | os.PathLike | None, ask: bool) -> _Place | None:
    if not ask:
        search.tried.append("hub: not asked, as the caller wished")
        return None
    if constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        search.tried.append("hub: not asked, HF_HUB_OFFLINE is set")
        return None
    if not hub_reachable(constants.ENDPOINT):
        search.tried.append(f"hub: {constants.ENDPOINT} does not answer")
        return None
    for hub_id in search.known.hub_ids:
        try:
            folder = Path(snapshot_download(hub_id, cache_dir=cache, allow_patterns=list(search.known.files)))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            search.tried.append(f"hub: {hub_id}: {str(error).strip().splitlines()[0]}")
            continue
        path = _complete(folder, search.known)
        if path:
            return _Place(path, "hub", f"{hub_id} downloaded from the hub")
        search.tried.append(f"hub: {hub_id}: it has no safetensors files with the expected tensors")
    return None


@functools.lru_cache(maxsize=8)
def hub_reachable(endpoint: str, timeout: float = 4.0) -> bool:
    """Whether the hub answers at all within `timeout` seconds (asked once a process).

    In a thread with a deadline, because resolving a host name has no time limit of its own and can hang for
    minutes on a machine without a network.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=timeout)
            answered.set()
        except Exception:
            return

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(timeout)


def _nothing_found(search: _Search) -> str:
    lines = "\n".join(f"  - {line}" for line in search.tried)
    role = search.known.role
    mini = f", or allow the small model data/mini/{MINIS[role]} in its place (allow_mini)" if role else ""
    return (
        f"weights: {search.name} was not found. Tried:\n{lines}\n"
        f"Put its safetensors files into $DIFFAD_WEIGHTS/{search.known.folders[0]}, attach them on Kaggle, or run once "
        f"with the network on (hub: {search.known.hub_ids[0]}){mini}."
    )
