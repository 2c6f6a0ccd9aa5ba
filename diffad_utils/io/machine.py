"""What this machine lets a process have: memory within its container, CUDA devices with their identities."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psutil

NO_LIMIT = 2**60
"""Version 1 of control groups says "no limit" by a number about this large."""


def memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may use: the machine's, or the least limit of its control groups (containers, SLURM).

    root : where ``proc`` and ``sys`` are. Both versions of control groups are read, from the process's own group up.
    """
    limits = [psutil.virtual_memory().total]
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return limits[0]
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inner = Path(path.lstrip("/"))
        for folder in (mount / inner, *(mount / parent for parent in inner.parents), mount):
            try:
                text = (folder / name).read_text().strip()
            except OSError:  # a group that this container does not see
                continue
            if text.isdecimal() and int(text) < NO_LIMIT:
                limits.append(int(text))
    return min(limits)


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
