"""What this machine gives a process: memory within its container, cores, GPUs and what torch was built for.

Reads the system's files and asks torch; changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
GROUPS_OF_PROCESS = Path("/proc/self/cgroup")

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "open_clip_torch",
    "timm",
    "anomalib",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "papermill",
    "elpv-dataset",
)
"""Packages whose versions the manifest lists."""


def memory_limit() -> int:
    """Bytes that this process may use: the least of the machine's memory and the limits of its control groups.

    A container, a SLURM job and Kaggle's sessions are limited by a control group (version 2: ``memory.max``; version 1:
    ``memory.limit_in_bytes``), of their own or of one above it; the machine's own size says nothing there.
    """
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup_values(("memory.max", "memory.limit_in_bytes"))])


def memory_free() -> int:
    """Bytes that are free for this process, within `memory_limit`; page cache counts as free."""
    import psutil

    used = _cgroup_values(("memory.current", "memory.usage_in_bytes"))
    inactive = _inactive_files()
    free = [psutil.virtual_memory().available]
    limit = memory_limit()
    if used and limit < psutil.virtual_memory().total:
        free.append(limit - max(used) + inactive)
    return max(0, min(free))


def require_memory(needed: int, what: str) -> None:
    """Raise ``MemoryError``, before any work, if ``what`` needs more bytes than are free."""
    free = memory_free()
    if needed > free:
        raise MemoryError(
            f"{what} needs {needed:,} bytes of memory, {free:,} are free: give fewer or smaller images, or another "
            "machine"
        )


def _own_groups() -> list[Path]:
    """Folders of this process's memory control groups, its own first, then those above it."""
    try:
        lines = GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = CGROUP if controllers == "" else CGROUP / "memory"
        if controllers == "" or "memory" in controllers.split(","):
            own = root / path.lstrip("/")
            # inside a container the path may be the host's, and the container's own group is the root
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _cgroup_values(names: Sequence[str]) -> list[int]:
    values = []
    for folder in _own_groups():
        for name in names:
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():  # "max": no limit
                values.append(int(text))
    return values


def _inactive_files() -> int:
    for folder in _own_groups():
        try:
            lines = (folder / "memory.stat").read_text().splitlines()
        except OSError:
            continue
        found = [line.split()[1] for line in lines if line.startswith(("inactive_file ", "total_inactive_file "))]
        if found:
            return int(found[-1])
    return 0


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listed_gpus() -> list[str]:
    """The identity (UUID) of each GPU that ``nvidia-smi -L`` lists, in its order; empty without a driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode:
        return []
    # "GPU 0: NVIDIA GeForce RTX 4070 Laptop GPU (UUID: GPU-...)": one line a device, whatever its name says
    return re.findall(r"^GPU \d+:.*\(UUID: ([^)]+)\)\s*$", listed.stdout, flags=re.MULTILINE)


def visible_gpus() -> list[str]:
    """Names of the CUDA devices this process may use: those of ``CUDA_VISIBLE_DEVICES``, else the numbers of all that
    the driver lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(i) for i in range(len(listed_gpus()))]


def gpu_identity(name: str, listed: list[str]) -> str:
    """The UUID of a device that ``CUDA_VISIBLE_DEVICES`` calls by number; another name stays as it is.

    The number counts what the driver lists to this process, so that two jobs of one node that each see "device 0"
    of their own get two identities. Where the driver lists nothing, the batch system's job stands in.
    """
    if name.isdecimal() and int(name) < len(listed):
        return listed[int(name)]
    return name if listed or "SLURM_JOB_ID" not in os.environ else f"{os.environ['SLURM_JOB_ID']}-{name}"


def has_kernels(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether a build of torch for `architectures` (``torch.cuda.get_arch_list()``) runs on a GPU of `capability`.

    Machine code ``sm_XY`` runs on the same generation X from Y on; intermediate code ``compute_XY`` is compiled by the
    driver for anything newer.

    >>> has_kernels(["sm_75", "sm_80", "sm_90"], (7, 5)), has_kernels(["sm_75", "sm_80"], (6, 0))
    (True, False)
    """
    for name in architectures:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")  # sm_90a: exactly that one, which the same name has
        if not digits.isdigit():
            continue
        major, minor = divmod(int(digits), 10)
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= tuple(capability):
            return True
    return False


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in `PACKAGES` that are installed, and of this package."""
    from diffad_utils import __version__

    found = {"python": platform.python_version(), "diffad_utils": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
