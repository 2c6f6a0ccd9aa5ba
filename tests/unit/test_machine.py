"""The machine as a process sees it: memory within its container, GPUs counted once, each with its identity."""

import os
import sys

import psutil
import pytest

from diffad_utils.io import machine

TOTAL = psutil.virtual_memory().total
LAPTOP = "GPU 0: NVIDIA GeForce RTX 4070 Laptop GPU (UUID: GPU-1a2b)"


def control_groups(root, text, limits):
    """A file tree with ``/proc/self/cgroup`` and limits by path below ``/sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)
    for path, limit in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": 2**30}, 2**30),  # a container with its own namespace
        ("0::/\n", {"memory.max": "max"}, TOTAL),
        ("0::/a/b\n", {"a/memory.max": 2**31, "a/b/memory.max": "max"}, 2**31),  # the limit is above, as in SLURM
        ("0::/a/b\n", {"a/memory.max": 2**31, "a/b/memory.max": 2**29}, 2**29),
        ("4:memory:/docker/x\n1:cpu:/\n", {"memory/memory.limit_in_bytes": 2**28}, 2**28),  # version 1
        ("4:cpu,memory:/x\n", {"memory/x/memory.limit_in_bytes": 9223372036854771712}, TOTAL),
        ("4:cpu:/x\n", {"memory/memory.limit_in_bytes": 2**28}, TOTAL),
        ("0::/../outside\n", {"memory.max": 2**30}, 2**30),
    ],
)
def test_memory_is_the_containers(tmp_path, groups, limits, expected):
    control_groups(tmp_path, groups, limits)
    assert machine.memory_bytes(tmp_path) == expected


def test_memory_without_control_groups(tmp_path):
    assert machine.memory_bytes(tmp_path) == TOTAL
    assert 0 < machine.memory_bytes() <= TOTAL


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for nvidia-smi")
@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (LAPTOP, ["GPU-1a2b"]),
        (f"{LAPTOP}\n  MIG 1g.10gb     Device  0: (UUID: MIG-77)", ["GPU-1a2b"]),
        ("GPU 0: A GPU 1: B (UUID: GPU-x)\nGPU 1: A (UUID: GPU-y)", ["GPU-x", "GPU-y"]),
        ("", []),
    ],
)
def test_gpus_are_counted_once(tmp_path, monkeypatch, listed, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.listed_gpus() == expected
    assert machine.visible_gpus() == [str(i) for i in range(len(expected))]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert machine.visible_gpus() == ["0"]


def test_identity_of_a_device(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert machine.gpu_identity("1", ["GPU-x", "GPU-y"]) == "GPU-y"
    assert machine.gpu_identity("MIG-77", ["GPU-x"]) == "MIG-77"
    assert machine.gpu_identity("0", []) == "0"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert machine.gpu_identity("0", []) == "12-0"
    assert machine.gpu_identity("0", ["GPU-x"]) == "GPU-x"
