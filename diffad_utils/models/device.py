"""The device that networks run on."""

from __future__ import annotations

import torch


def pick_device(device: str = "auto") -> torch.device:
    """``"auto"``: CUDA, then Apple's MPS, then the CPU; else the device named.

    ``ValueError`` if CUDA is asked for and absent, or another than the first GPU: accelerate and Triton work on the
    current one.
    """
    if device.startswith("cuda:") and device != "cuda:0":
        raise ValueError(
            f"device={device!r}: choose a GPU with CUDA_VISIBLE_DEVICES={device[5:]} in the environment and "
            f"device='cuda'"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch sees no CUDA device; use device='auto' or 'cpu'")
    return torch.device(device)
