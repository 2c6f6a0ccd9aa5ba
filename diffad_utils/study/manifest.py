"""What a run says about itself: versions, git revision, device, memory, checksums of data and weights."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffad_utils.io.paths import repository
from diffad_utils.study.rules import ParameterError


def describe_index(index: pd.DataFrame, content_limit: int = 512 * 2**20) -> dict:
    """Counts and checksums of a table of samples, for the manifest.

    Parameters
    ----------
    index : as from ``data.load_index``.
    content_limit : above this many bytes in image files only names, labels and sizes are hashed.

    Returns
    -------
    dict with dataset, categories, train, test, test_anomalous, sha256 (of names, labels and splits, the
    same wherever the data lies), and for image files bytes and, below the limit, content_sha256.
    Rendered data has no files: there the names fix the content together with the git revision.
    """
    names, content = hashlib.sha256(), hashlib.sha256()
    images = sorted(
        index[["category", "split", "defect", "label", "image"]].astype(str).itertuples(index=False),
        key=lambda row: (row.category, row.split, row.defect, Path(row.image).name),
    )
    paths = [Path(row.image) for row in images if os.path.isfile(row.image)]
    total = sum(path.stat().st_size for path in paths)
    for row in images:
        names.update("\t".join([*row[:4], Path(row.image).name]).encode() + b"\n")
    for path in paths if total <= content_limit else []:
        content.update(path.read_bytes())
    test = index[index["split"] == "test"]
    summary = {
        "dataset": str(index["dataset"].iloc[0]),
        "categories": sorted(index["category"].unique().tolist()),
        "train": int((index["split"] == "train").sum()),
        "test": len(test),
        "test_anomalous": int((test["label"] == 1).sum()),
        "sha256": names.hexdigest(),
    }
    if paths:
        summary["bytes"] = total
        if total <= content_limit:
            summary["content_sha256"] = content.hexdigest()
    return summary


def git_state(root: Path | None = None) -> dict:
    """Revision and whether tracked files differ from it (reports aside); both None without git or commits."""
    root = root or repository()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports") if revision else None
    return {"revision": revision, "dirty": None if status is None else bool(status)}


def resolve_device(device: str = "auto") -> str:
    """What `training.pick_device` makes of the parameter, as a string.

    Raises
    ------
    ParameterError
        a GPU is asked for and there is none, or no device has that name.
    """
    from diffad_utils.training import pick_device

    try:
        return str(pick_device(device))
    except (ValueError, RuntimeError) as error:  # torch's own for an unknown name
        raise ParameterError(f"parameter `device`: {error}") from error


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def processor_name() -> str:
    """The processor's model as the system names it, such as "AMD EPYC 7763 64-Core Processor"."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), flags=re.M)
        if models:
            return models[0].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> dict[str, int]:
    """Highest memory so far, in bytes: ``process`` (resident set) and, with CUDA in use, ``cuda``."""
    if sys.platform == "win32":
        import psutil

        peak = {"process": psutil.Process().memory_info().peak_wset}
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
        peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, and switch TF32 off: "fp32" means fp32 on every GPU.

    cuDNN would round inputs of convolutions to TF32's 10 bits by default.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    random.seed(seed)  # accelerate's set_seed is these three lines, after an import of seconds
    np.random.seed(seed)
    torch.manual_seed(seed)


NAMED_CATEGORIES = 3
"""Categories of one data set that a caption names one by one, at most."""


def provenance(parameters: dict, data: list[dict], weights: list[dict], instead: str | None = None) -> str:
    """``profile smoke · data elpv/mono · weights resnet-mini (shipped mini)``; of many categories their number.
    ``instead`` : of what is made of no image, such as "a Gaussian toy, no images"."""
    few = [entry for entry in data if len(entry["categories"]) <= NAMED_CATEGORIES]
    named = {(entry["dataset"], category) for entry in few for category in entry["categories"]}

    def shown_as(entry: dict) -> str:
        if entry in few:
            return f"{entry['dataset']}/{'+'.join(entry['categories'])}"
        own = {(entry["dataset"], category) for category in entry["categories"]}
        other = "other " if any(name == entry["dataset"] for name, _ in named) and not own & named else ""
        return f"{len(own)} {other}categories of {entry['dataset']}"

    tasks = [*dict.fromkeys(map(shown_as, data))]
    if not tasks and "dataset" in parameters:
        tasks = [f"{parameters['dataset']}/{parameters['category']}"]
    datasets = [entry["dataset"] for entry in data] or [task.partition("/")[0] for task in tasks]
    names = [f"{entry['name']} ({_kind(entry, datasets)})" for entry in weights]
    parts = [f"profile {parameters['profile']}"]
    shown = ", ".join(tasks) if instead is None else instead
    parts += [f"data {shown}"] if shown else []
    parts += [f"weights {', '.join(names)}" if names else "no pretrained weights"]
    return " · ".join(parts)


def _kind(entry: dict, datasets: list[str]) -> str:
    """Where weights come from; of a small model also whether one of the data sets had a part in its training."""
    if not entry["is_mini"]:
        return entry["source"]
    shaped = [name for name in datasets if f"images of {name} shaped its training task" in entry.get("message", "")]
    return ", ".join(["shipped mini", *(f"{name} shaped its training task" for name in dict.fromkeys(shaped))])


def count_weights(detector: Any) -> int:
    import torch

    modules = [detector] if isinstance(detector, torch.nn.Module) else list(vars(detector).values())
    if hasattr(detector, "networks"):
        modules = detector.networks()
    modules = [module for module in modules if isinstance(module, torch.nn.Module)]
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())
