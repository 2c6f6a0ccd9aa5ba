"""The GPUs of a machine as a process sees them: counted once, each with its identity."""

import os
import sys

import pytest

from diffad_utils.io import machine

LAPTOP = "GPU 0: NVIDIA GeForce RTX 4070 Laptop GPU (UUID: GPU-1a2b)"


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
