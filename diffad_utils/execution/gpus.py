"""One GPU a run: which there are, and which are taken."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from diffad_utils.execution.errors import RunFailed
from diffad_utils.io.machine import gpu_identity, listed_gpus, visible_gpus

_claimed: list[tuple[str, FileLock]] = []  # held until the process ends, which releases them


def claim_gpus(count: int) -> list[str]:
    """Wait for `count` GPUs that no other run has, reserve them for this process and show it no others.

    A machine without GPUs is left as it is. Inside an allocation of a batch system the devices that it gave are
    reserved in the same way: one allocation may hold several runs. Locks are by the device's identity.

    Raises
    ------
    RunFailed
        the machine has fewer.
    """
    devices = visible_gpus()
    if not devices or sys.platform == "win32":
        return devices
    if len(devices) < count:
        raise RunFailed(f"the run needs {count} GPUs, this machine has {len(devices)}")
    listed = listed_gpus()
    while len(_claimed) < count:
        for device in devices:
            name = gpu_identity(device, listed).replace("/", "-")
            lock = FileLock(Path(tempfile.gettempdir(), f"diffad-{os.getuid()}-gpu-{name}.lock"))
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
