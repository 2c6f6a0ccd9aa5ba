"""What this machine gives a process: memory within its container, cores, GPUs and what torch was built for.

Reads the system's files and asks torch; changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
GROUPS_OF_PROCESS = Path("/proc/self/cgroup")


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
