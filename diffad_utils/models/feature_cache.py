"""Features of a data set's images, kept on disk by checksum, for those who fit the same backbone more than once.

Off unless ``$DIFFAD_CACHE`` names a folder. An entry's name is the checksum of everything that the features depend on:
the description (weights' checksum, sizes, layers), every image as loaded, and torch's version. Another image, order or
setting is another entry, so an entry is never stale; the folder may be emptied at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def cached_features(
    loader: Callable[[], Any], extract: Callable[[Tensor], Tensor], description: Mapping[str, Any]
) -> tuple[Tensor, list[str]]:
    """Features [N, ...] on the CPU and keys [N] of the images that ``loader()`` gives in batches (dicts with image and
    key).

    extract : images [B, 3, H, W] -> features [B, ...]. description : what else the features depend on, as JSON values.
    Without ``$DIFFAD_CACHE`` the images are loaded once; with it once for the checksum, and once more where there is no
    entry yet.
    """
    folder = os.environ.get("DIFFAD_CACHE")
    if not folder:
        return _extracted(loader, extract)
    path = Path(folder) / "features" / f"{_checksum(loader, description)}.safetensors"
    if path.is_file():
        return load_file(path)["features"], [key for batch in loader() for key in batch["key"]]
    features, keys = _extracted(loader, extract)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"features": features.contiguous()}, temporary)
    os.replace(temporary, path)  # two runs at once write the same bytes
    return features, keys


def _extracted(loader: Callable[[], Any], extract: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[str]]:
    features, keys = [], []
    for batch in loader():
        features.append(extract(batch["image"]).cpu())
        keys += batch["key"]
    return torch.cat(features), keys


def _checksum(loader: Callable[[], Any], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps({"torch": torch.__version__, **description}, sort_keys=True).encode())
    for batch in loader():
        for image in batch["image"]:
            digest.update(f"{image.dtype}{list(image.shape)}".encode())
            digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()
