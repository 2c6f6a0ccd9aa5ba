"""`Detector.fit` through the store: what was fitted once with the same settings, images and code is taken from there.

`through_store` wraps the ``fit`` of every detector (`Detector.__init_subclass__`). An entry holds what ``save`` writes
and, beside it, the other attributes that ``fit`` leaves and ``save`` does not keep, such as the training log and
held-out features. Its key is the checksum of class, settings, seed, arguments, training images with their keys and
labels, the modules that the class imports, versions of the libraries, device and threads. Pretrained weights are
checked when an entry is opened: fitted with others, it is computed anew.

Not kept: detectors that were fitted before, with settings that are not JSON values, or of a class without a file (one
written in a notebook).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffad_utils.data import ImageDataset
from diffad_utils.io import checkpoints, store
from diffad_utils.io.files import checksum, write_atomically
from diffad_utils.io.machine import versions
from diffad_utils.io.modules import fingerprint
from diffad_utils.models.device import generators_kept, pick_device, settled

FITTED = "fitted"


class NotKept(TypeError):
    """A value that has no form as tensors and JSON."""


def through_store(fit: Callable[..., Any]) -> Callable[..., Any]:
    """``fit(detector, train_dataset, ...)``, taken from the run's store where it was computed before.

    Either way the global random generators stay as they were, so that what follows draws the same numbers, tensors are
    contiguous, so that it computes the same bits, and ``fit_seconds_`` says how long the fit took when it was computed.
    """

    @functools.wraps(fit)
    def wrapper(detector: Any, train_dataset: Any, *arguments: Any, **named: Any) -> Any:
        if getattr(type(detector).fit, "__wrapped__", None) is not fit:  # super().fit(...) within another fit
            return fit(detector, train_dataset, *arguments, **named)
        with generators_kept():
            kept, start = store.active(), store.clock()
            bound = inspect.signature(fit).bind_partial(detector, train_dataset, *arguments, **named).arguments
            given = dict([*bound.items()][2:])
            folder = given.pop("checkpoint_folder", None)
            key = None if kept is None else key_of(detector, train_dataset, given)
            if key is not None and _take(kept, key, detector, train_dataset, folder):
                store.set_clock(start + detector.fit_seconds_)
                return detector
            before, trainings, began = dict(vars(detector)), checkpoints.count(), store.clock()
            fit(detector, train_dataset, *arguments, **named)
            detector.fit_seconds_ = store.clock() - began
            _settle(detector, before)
            if key is not None:
                trainings = checkpoints.count() - trainings
                note = {"what": detector.name, "seconds": detector.fit_seconds_, "trainings": trainings}
                kept.put(FITTED, key, lambda place: _write(detector, before, folder, place), **note)
            store.set_clock(start + detector.fit_seconds_)
        return detector

    return wrapper


def key_of(detector: Any, train_dataset: Any, arguments: Mapping[str, Any]) -> str | None:
    """The entry's name, SHA-256 as hexadecimal; None for what is not kept (see the module's text).

    arguments : of ``fit``, beside the data set; None, JSON values, or fitted detectors.
    """
    settings = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector) if field.init}
    cls: Any = type(detector)
    code = code_of(cls)
    if code is None or set(vars(detector)) != set(vars(cls(**settings))):
        return None
    device = pick_device(detector.device)
    try:
        json.dumps(dataclasses.asdict(detector))  # as `save` does
        description = {
            "class": f"{type(detector).__module__}:{type(detector).__qualname__}",
            "settings": _described({name: value for name, value in settings.items() if name != "device"}),
            "arguments": _described({name: value for name, value in arguments.items() if value is not None}),
            "code": code,
            "device": device.type,
            **surroundings(),
        }
    except TypeError:  # NotKept, too
        return None
    text = json.dumps(description, sort_keys=True) + digest_of_images(train_dataset)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_table(table: pd.DataFrame) -> str:
    """Checksum of a table's rows, in order, with names and types of its columns."""
    rows = pd.util.hash_pandas_object(table, index=True).to_numpy()
    return hashlib.sha256(rows.tobytes() + repr([*table.columns, *table.dtypes]).encode()).hexdigest()


_images: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def digest_of_images(dataset: Any) -> str:
    """Checksum of a data set's samples as loaded and of their table without paths; computed once, as a data set does
    not change.

    Images of ``textures`` are drawn by the package: table, size and code say what they are, so none is drawn for this.
    """
    if dataset in _images:
        return _images[dataset]
    sha = hashlib.sha256()
    rows: Sequence[int] = range(len(dataset))
    if isinstance(dataset, ImageDataset):
        drawn = dataset.index["dataset"] == "textures"
        tables = dataset.index.drop(columns=["image", "mask", "twin"], errors="ignore"), dataset.index[drawn]
        code = fingerprint({Path(inspect.getfile(ImageDataset)).resolve()})
        sha.update(f"{code} {dataset.size} {[digest_of_table(table) for table in tables]}".encode())
        rows = np.flatnonzero(~drawn).tolist()
    for i in rows:
        for name, value in sorted(dataset[i].items()):
            if isinstance(value, Tensor):
                sha.update(f"{name} {value.dtype} {list(value.shape)}".encode())
                sha.update(value.contiguous().numpy().tobytes())
            else:
                sha.update(f"{name} {value}".encode())
    _images[dataset] = sha.hexdigest()
    return _images[dataset]


def surroundings() -> dict[str, Any]:
    """What a computation depends on besides its code and its inputs, as JSON values."""
    return {
        "versions": versions(),
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
    }


@functools.cache
def code_of(cls: type) -> str | None:
    """Fingerprint of the modules of a class and of its parents; None if one of them has no file."""
    try:
        files = {Path(inspect.getfile(c)).resolve() for c in cls.__mro__ if c is not object and c.__module__ != "abc"}
        return fingerprint(files)
    except (TypeError, OSError, ValueError):  # written in a notebook, or not in Python
        return None


def _described(value: Any) -> Any:
    """A setting or an argument as JSON: a path with the checksums of what is there, a detector as what it learned."""
    if isinstance(value, (str, Path)):
        path = Path(value)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        return [str(value), *(checksum(file) for file in files)] if value and files else str(value)
    if isinstance(value, Mapping):
        return {str(name): _described(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    if dataclasses.is_dataclass(value) and hasattr(value, "_state"):
        tensors: dict[str, Tensor] = {}
        learned = {name: item for name, item in vars(value).items() if name != "device"}
        plain = {name: text for name, item in learned.items() if (text := _plain_or_none(item, name, tensors))}
        raw = {name: t.detach().cpu().contiguous().flatten().view(torch.uint8) for name, t in tensors.items()}
        sums = {name: hashlib.sha256(part.numpy()).hexdigest() for name, part in raw.items()}
        return [type(value).__qualname__, plain, sums]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise NotKept(f"a {type(value).__name__}")


def _plain_or_none(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    try:
        return encode(value, name, tensors)
    except NotKept:
        return None


# ----------------------------------------------------------------------------------------- writing and opening


def _left(detector: Any, before: Mapping[str, Any]) -> list[str]:
    """The attributes that ``fit`` left or changed; before : those before it."""
    return [n for n, value in vars(detector).items() if n not in before or before[n] is not value]


def _settle(detector: Any, before: Mapping[str, Any]) -> None:
    """Lay the tensors that ``fit`` left out as an entry would give them back, so that both compute the same bits."""
    for name in _left(detector, before):
        tensors: dict[str, Tensor] = {}
        with contextlib.suppress(NotKept):
            form = encode(getattr(detector, name), name, tensors)
            if tensors:
                vars(detector)[name] = decode(form, {n: settled(tensor) for n, tensor in tensors.items()})


def _write(detector: Any, before: Mapping[str, Any], checkpoint_folder: str | Path | None, place: Path) -> None:
    """Put a fitted detector into the folder of an entry; before : its attributes before ``fit``."""
    detector.save(place / "detector")
    saved = {id(tensor) for tensor in detector._state()[0].values()}
    names = _left(detector, before)
    tensors: dict[str, Tensor] = {}
    values = {}
    for name in names:
        if id(getattr(detector, name)) not in saved:
            with contextlib.suppress(NotKept):  # a network, say, which the detector's own file has
                values[name] = encode(getattr(detector, name), name, tensors)
    write_atomically(place / "left.json", json.dumps({"names": sorted(names), "values": values}))
    try:
        save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, place / "left.safetensors")
    except SafetensorError as error:  # a full disk, say
        raise OSError(f"{place / 'left.safetensors'} could not be written: {error}") from error
    if checkpoint_folder is not None and Path(checkpoint_folder).is_dir():
        shutil.copytree(checkpoint_folder, place / "checkpoint_folder")


def _take(kept: store.Store, key: str, detector: Any, train_dataset: Any, checkpoint_folder: Any) -> bool:
    """Make ``detector`` what ``fit`` would, from its entry; whether there was one that fits."""
    entry = kept.take(FITTED, key)
    if entry is None:
        return False
    fields = {field.name for field in dataclasses.fields(detector)}
    filled = copy.copy(detector)
    try:
        loaded = type(detector).load(entry.folder / "detector", device=detector.device)
        left = json.loads((entry.folder / "left.json").read_text(encoding="utf-8"))
        tensors = load_file(entry.folder / "left.safetensors")
        vars(filled).update({name: value for name, value in vars(loaded).items() if name not in fields})
        # what `load` brings back stays: of an object it has more than its fields
        wanted = [n for n in left["values"] if n not in vars(loaded) or n in vars(detector)]
        vars(filled).update({name: decode(left["values"][name], tensors) for name in wanted})
        _settle(filled, vars(detector))
        filled._remember(train_dataset)
        lost = set(left["names"]) - set(vars(filled))
        if lost:
            raise ValueError(f"{', '.join(sorted(lost))} cannot be kept in files")
        if checkpoint_folder is not None and (entry.folder / "checkpoint_folder").is_dir():
            shutil.copytree(entry.folder / "checkpoint_folder", checkpoint_folder, dirs_exist_ok=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        warnings.warn(f"{detector.name} is fitted anew: {entry.folder} does not open ({error})", stacklevel=4)
        return False
    vars(detector).update(vars(filled))
    checkpoints.skip(entry.note["trainings"])
    store.note_taken(entry)
    return True


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go into ``tensors``, under ``name`` and what follows it. `decode` reads it.

    Plain values, lists, tuples, dicts, tensors, arrays, dataclasses and named tuples, pandas tables
    with numbered rows. Raises `NotKept` for anything else.
    """
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, Tensor):
        name = name if name not in tensors else f"{name} {len(tensors)}"  # "a.b" may be two things
        tensors[name] = value
        return {"tensor": name, "device": value.device.type}
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "biuf":
            raise NotKept(f"{name} is an array of {value.dtype}")
        tensor = encode(torch.from_numpy(np.array(value)), name, tensors)
        return {"array": tensor["tensor"], "scalar": isinstance(value, np.generic)}
    if isinstance(value, pd.DataFrame) and isinstance(value.index, pd.RangeIndex):
        columns = {str(column): value[column].tolist() for column in value.columns}
        return {"table": encode(columns, name, tensors), "dtypes": [str(dtype) for dtype in value.dtypes]}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        parts = value._asdict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "_state"):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if set(vars(value)) != set(parts):
            raise NotKept(f"{name} has more than its fields")
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    elif isinstance(value, dict):
        pairs = [(encode(key, name, tensors), encode(item, f"{name}.{key}", tensors)) for key, item in value.items()]
        return {"pairs": pairs}
    elif type(value) in (list, tuple):
        return {type(value).__name__: [encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]}
    else:
        raise NotKept(f"{name} is a {type(value).__name__}")
    where = f"{type(value).__module__}:{type(value).__qualname__}"
    return {"class": where, "fields": {key: encode(item, f"{name}.{key}", tensors) for key, item in parts.items()}}


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given; tensors by name as it left them."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].to(value["device"])
    if "array" in value:
        array = tensors[value["array"]].numpy()
        return array[()] if value["scalar"] else array
    if "table" in value:
        columns = decode(value["table"], tensors)
        return pd.DataFrame(columns).astype(dict(zip(columns, value["dtypes"], strict=True)))
    if "class" in value:
        module, _, name = value["class"].partition(":")
        cls = getattr(importlib.import_module(module), name)
        return cls(**{key: decode(item, tensors) for key, item in value["fields"].items()})
    if "pairs" in value:
        return {decode(key, tensors): decode(item, tensors) for key, item in value["pairs"]}
    if "dict" in value:
        return {key: decode(item, tensors) for key, item in value["dict"].items()}
    ((kind, items),) = value.items()
    return {"list": list, "tuple": tuple}[kind](decode(item, tensors) for item in items)
