"""Results of pure computations through the run's store: what the same code made of the same inputs is taken from there.

`kept` wraps a function or a detector's method. An entry's key is the checksum of the function's code with all modules
that it imports, of its arguments (tensors and images by their content, a fitted detector by its class, settings and
what it learned), of the versions of the libraries, device and threads. An entry holds the result as tensors and JSON
values (`stored.encode`), and the seconds that it took when it was computed; `store.clock` goes on by these.

A class whose objects are arguments, too, but none of these says what it depends on by a method ``depends_on``.

Not kept: what has no such form, what is computed faster than it is read, and calls with arguments that cannot be
described, such as a callback or a detector that is not fitted. These are computed each time.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from diffad_utils.data import ImageDataset
from diffad_utils.io import checkpoints, store
from diffad_utils.io.files import write_atomically
from diffad_utils.io.modules import fingerprint
from diffad_utils.methods.stored import (
    NotKept,
    code_of,
    decode,
    digest_of_images,
    digest_of_table,
    encode,
    surroundings,
)
from diffad_utils.models.device import generators_kept, settled

RESULTS = "results"

LEAST_SECONDS = 0.05
"""What takes less is not kept: the checksums of its inputs take about as long."""

BYTES_A_SECOND = 200 * 10**6
"""What is larger, for each second that it took, is not kept: reading and checking it would take as long."""

PLAIN = (type(None), bool, int, float, str)

F = TypeVar("F", bound=Callable[..., Any])


def kept(*, ignore: Sequence[str] = (), state: str | None = "_state") -> Callable[[F], F]:
    """A decorator for a pure function, or for a method of a detector: its result comes from the run's store.

    With a store or without, the global random generators stay as they were, and the tensors of a result are contiguous,
    so that what follows computes the same bits.

    Parameters
    ----------
    ignore : arguments that do not change the result, such as a folder for checkpoints.
    state : the detectors' method that gives what the result depends on besides settings and networks, as ``_state``
        does; None: nothing, as for what networks make of arguments.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            with generators_kept():
                entries, start = store.active(), store.clock()
                if entries is None:
                    return _settled(function(*arguments, **named))[0]
                bound = signature.bind(*arguments, **named)
                bound.apply_defaults()
                given = {name: value for name, value in bound.arguments.items() if name not in ignore}
                key = key_of(function, given, state)
                if key is not None and (found := _take(entries, key)):
                    (result, seconds) = found
                else:
                    began, trainings = store.clock(), checkpoints.count()
                    result, form = _settled(function(*arguments, **named))
                    seconds = store.clock() - began
                    if key is not None and form is not None and _worth_it(form[1], seconds):
                        note = {"what": function.__qualname__, "seconds": seconds}
                        note["trainings"] = checkpoints.count() - trainings
                        entries.put(RESULTS, key, functools.partial(_write, *form), **note)
                store.set_clock(start + seconds)
                return result

        return cast(F, wrapper)

    return decorate


def key_of(function: Callable[..., Any], arguments: Mapping[str, Any], state: str | None = "_state") -> str | None:
    """The entry's name, SHA-256 as hexadecimal; None where code or arguments cannot be described."""
    try:
        description = {
            "function": f"{function.__module__}:{function.__qualname__}",
            "code": _code(inspect.getfile(function)),
            "arguments": {name: _described(value, state) for name, value in arguments.items()},
            **surroundings(),
        }
    except (NotKept, OSError, ValueError):
        return None
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code(file: str) -> str:
    return fingerprint({Path(file).resolve()})


# ------------------------------------------------------------------------------------------- what goes into a key


def _described(value: Any, state: str | None) -> Any:
    """An argument as JSON; raises `NotKept` for what could not be told from another."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value if type(value) in PLAIN else [type(value).__name__, str(value)]
    if isinstance(value, Tensor):
        return ["tensor", str(value.dtype), list(value.shape), value.device.type, _digest(value)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        array = np.ascontiguousarray(value)
        return ["array", str(value.dtype), list(value.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, pd.DataFrame):
        return ["table", digest_of_table(value)]
    if isinstance(value, ImageDataset):
        return ["images", digest_of_images(value)]
    if hasattr(value, "_state") and dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _described_detector(value, state)
    if isinstance(value, Mapping):
        return ["dict", [[_described(k, state), _described(item, state)] for k, item in value.items()]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name for field in dataclasses.fields(value)}
        if set(vars(value)) - fields:
            raise NotKept(f"a {type(value).__name__} has more than its fields")
        return [type(value).__qualname__, {name: _described(getattr(value, name), state) for name in sorted(fields)}]
    if inspect.ismethod(value):
        return [value.__func__.__qualname__, _described(value.__self__, state)]
    if isinstance(value, torch.nn.Module):
        return _described_network(value)
    if hasattr(value, "depends_on"):
        return [type(value).__qualname__, _described(value.depends_on(), state)]
    if isinstance(value, (list, tuple, range)):
        return [type(value).__name__, [_described(item, state) for item in value]]
    raise NotKept(f"a {type(value).__name__}")


def _described_detector(detector: Any, state: str | None) -> Any:
    cls: Any = type(detector)
    code = code_of(cls)
    if code is None:
        raise NotKept(f"{type(detector).__name__} has no file")
    try:
        tensors, values = ({}, detector._checksums()) if state is None else getattr(detector, state)()
    except (RuntimeError, AttributeError) as error:
        raise NotKept(f"{type(detector).__name__} is not fitted") from error
    settings = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector) if field.init}
    return [
        f"{type(detector).__module__}:{type(detector).__qualname__}",
        code,
        _described({name: item for name, item in settings.items() if name != "device"}, state),
        [detector.torch_device.type, _described(tensors, state), json.dumps(values, sort_keys=True)],
        {name: _digest_once(item) for name, item in vars(detector).items() if isinstance(item, Tensor)},
        {name: item for name, item in vars(detector).items() if type(item) in PLAIN[1:] and name != "fit_seconds_"},
        sorted(json.dumps(_described_network(network)) for network in detector.networks()),  # `load` has another order
    ]


def _described_network(network: torch.nn.Module) -> Any:
    """By its weights and buffers, pretrained ones too, as an adapter may have been put into them."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    compiled = any(module._compiled_call_impl is not None for module in network.modules())
    sums = {name: [str(t.dtype), list(t.shape), _digest_once(t)] for name, t in tensors.items()}
    return [type(network).__name__, network.training, compiled, sums]


_digests: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _digest_once(tensor: Tensor) -> str:
    """`_digest` of a tensor that a detector holds, computed anew only where it has changed since."""
    if tensor.is_inference():  # its changes are not counted
        return _digest(tensor)
    version, sha = _digests.get(tensor, (None, ""))
    if version != tensor._version:
        version, sha = tensor._version, _digest(tensor)
        _digests[tensor] = version, sha
    return sha


def _digest(tensor: Tensor) -> str:
    tensor = tensor.detach().cpu().contiguous()
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy()).hexdigest()


# ------------------------------------------------------------------------------------------ writing and opening


def _settled(result: Any) -> tuple[Any, tuple[Any, dict[str, Tensor]] | None]:
    """A result as it would come from the store, and its form there; as it is, and None, where it has none."""
    tensors: dict[str, Tensor] = {}
    try:
        form = encode(result, "result", tensors)
    except NotKept:
        return result, None
    tensors = {name: settled(tensor) for name, tensor in tensors.items()}
    return decode(form, tensors), (form, tensors)


def _worth_it(tensors: Mapping[str, Tensor], seconds: float) -> bool:
    return seconds >= LEAST_SECONDS and sum(t.nbytes for t in tensors.values()) <= BYTES_A_SECOND * seconds


def _write(form: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    write_atomically(folder / "result.json", json.dumps(form))
    try:
        save_file({name: tensor.cpu().clone() for name, tensor in tensors.items()}, folder / "result.safetensors")
    except SafetensorError as error:  # a full disk, say
        raise OSError(f"{folder / 'result.safetensors'} could not be written: {error}") from error


def _take(entries: store.Store, key: str) -> tuple[Any, float] | None:
    """The result and the seconds that it took; None if there is no entry that opens."""
    entry = entries.take(RESULTS, key)
    if entry is None:
        return None
    try:
        tensors = {name: settled(t) for name, t in load_file(entry.folder / "result.safetensors").items()}
        result = decode(json.loads((entry.folder / "result.json").read_text(encoding="utf-8")), tensors)
        seconds, trainings = float(entry.note["seconds"]), int(entry.note["trainings"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        warnings.warn(f"{entry.folder} does not open ({error}) and is computed anew", stacklevel=3)
        return None
    checkpoints.skip(trainings)
    store.note_taken(entry)
    return result, seconds
