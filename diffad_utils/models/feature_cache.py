"""Features of a data set's images, kept in the run's store, for those who fit the same backbone more than once.

An entry's name is the checksum of everything that the features depend on: the description (weights' checksum, sizes,
layers), every image as loaded, threads, and torch's version. Another image, order or setting is another entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffad_utils.io import store
from diffad_utils.models.device import settled

FEATURES = "features"


def cached_features(
    loader: Callable[[], Any], extract: Callable[[Tensor], Tensor], description: Mapping[str, Any]
) -> tuple[Tensor, list[str]]:
    """Features [N, ...] on the CPU and keys [N] of the images that ``loader()`` gives in batches (dicts with image and
    key).

    The features are contiguous, from the store or not, so that what follows computes the same bits.

    extract : images [B, 3, H, W] -> features [B, ...]. description : what else the features depend on, as JSON values.
    Without a store (`io.store.active`) the images are loaded once; with one once for the checksum, and once more where
    there is no entry yet.
    """
    kept, start = store.active(), store.clock()
    if kept is None:
        return _extracted(loader, extract)
    key = _checksum(loader, description)
    entry = kept.take(FEATURES, key)
    if entry is not None:
        store.note_taken(entry)
        features = settled(load_file(entry.folder / "features.safetensors")["features"])
        keys = [k for batch in loader() for k in batch["key"]]
        store.set_clock(start + entry.note["seconds"])
        return features, keys
    began = store.clock()
    features, keys = _extracted(loader, extract)
    seconds = store.clock() - began
    note = {"what": description.get("features", ""), "seconds": seconds}
    kept.put(FEATURES, key, lambda folder: _write(features, folder / "features.safetensors"), **note)
    store.set_clock(start + seconds)
    return features, keys


def cached_latents(space: Any, images: Tensor) -> Tensor:
    """``space.encode(images)`` of training images [B, 3, H, W]; a `LatentSpace`'s through the store."""
    resolved = getattr(getattr(space, "vae", None), "resolved", None)
    if resolved is None:  # pixels, or an autoencoder that is no file
        return space.encode(images)
    kernels = [p for p in space.vae.parameters() if p.ndim == 4]
    description = {
        "features": "latents",
        "weights": resolved.sha256,
        "precision": space.precision,
        "channels_last": all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels),
        "device": space.vae.device.type,
    }
    return cached_features(lambda: [{"image": images, "key": []}], space.encode, description)[0]


def _write(features: Tensor, path: Path) -> None:
    try:
        save_file({"features": features}, path)
    except SafetensorError as error:  # a full disk, say
        raise OSError(f"{path} could not be written: {error}") from error


def _extracted(loader: Callable[[], Any], extract: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[str]]:
    features, keys = [], []
    for batch in loader():
        features.append(extract(batch["image"]).cpu())
        keys += batch["key"]
    return settled(torch.cat(features)), keys


def _checksum(loader: Callable[[], Any], description: Mapping[str, Any]) -> str:
    fixed = {"torch": torch.__version__, "threads": torch.get_num_threads(), **description}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
    for batch in loader():
        for image in batch["image"]:
            digest.update(f"{image.dtype}{list(image.shape)}".encode())
            digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()
