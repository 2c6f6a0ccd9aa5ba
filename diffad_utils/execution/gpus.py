"""One GPU a run: which there are, and which are taken."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from diffad_utils.execution.errors import RunFailed


def visible_gpus() -> list[str]:
    """Names of the CUDA devices this process may use: those of ``CUDA_VISIBLE_DEVICES``, else all that nvidia-smi
    lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(listed.stdout.count("GPU "))] if listed.returncode == 0 else []


_claimed: list[tuple[str, FileLock]] = []  # held until the process ends, which releases them


def claim_gpus(count: int) -> list[str]:
    """Wait for `count` GPUs that no other run has, reserve them for this process and show it no others.

    A machine without GPUs, and a batch system that gives each job its own, are left as they are.

    Raises
    ------
    RunFailed
        the machine has fewer.
    """
    devices = visible_gpus()
    if not devices or sys.platform == "win32" or "SLURM_JOB_ID" in os.environ:
        return devices
    if len(devices) < count:
        raise RunFailed(f"the run needs {count} GPUs, this machine has {len(devices)}")
    while len(_claimed) < count:
        for device in devices:
            lock = FileLock(Path(tempfile.gettempdir(), f"diffad-{os.getuid()}-gpu-{device}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _claimed.append((device, lock))
            if len(_claimed) == count:
                break
        else:  # too few are free: let go of those, so that two runs cannot wait for each other
            while _claimed:
                _claimed.pop()[1].release()
            time.sleep(1.0)
    mine = [device for device, _ in _claimed]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return mine
