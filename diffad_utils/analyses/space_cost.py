"""What the same diffusion costs in pixels and in latents (claim C97): time and floating-point operations an image.

Used by notebook 06; entry points: `measure`, `SpaceCost.table`, `SpaceCost.in_words`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffad_utils.analyses.d3ad_study import seconds_of
from diffad_utils.io import store
from diffad_utils.methods.d3ad import D3AD

PIXELS, LATENTS = "pixels", "latents"


class SpaceCost(NamedTuple):
    """seconds : of an image by space, [repetitions]. operations : floating-point operations of an image by space."""

    seconds: dict[str, np.ndarray]
    operations: dict[str, float]

    @property
    def ratios(self) -> np.ndarray:
        """Time in pixels over time in latents, [repetitions]."""
        return self.seconds[PIXELS] / self.seconds[LATENTS]

    def table(self) -> pd.DataFrame:
        """space, seconds an image (median), 10^9 operations an image."""
        return pd.DataFrame(
            {"space": name, "seconds an image": float(np.median(s)), "10^9 operations": self.operations[name] / 1e9}
            for name, s in self.seconds.items()
        )

    def in_words(self) -> str:
        times, operations = self.ratios, self.operations[PIXELS] / self.operations[LATENTS]
        return (
            f"In pixels an image takes {np.median(times):.1f} times as long as in latents ({times.min():.1f} to "
            f"{times.max():.1f} in {len(times)} repetitions) and {operations:.1f} times as many floating-point "
            "operations. The network has the same widths in both, and encoder and decoder are counted."
        )


def measure(detector: D3AD, images: Tensor, steps: Tensor, repetitions: int = 5) -> SpaceCost:
    """Reconstruct images [B, 3, H, W] from ``steps`` [B] in both spaces, in turns.

    detector : fitted, on latents, without noise. In pixels the UNet has its widths and attention on the same levels; it
    is not trained, which does not change what it costs.
    """
    both, x = {PIXELS: in_pixels(detector), LATENTS: detector}, detector._input(images)
    seconds: dict[str, list[float]] = {name: [] for name in both}
    operations = {}
    with store.paused():
        for name, one in both.items():
            with FlopCounterMode(display=False) as counter:  # also the first call, which allocates
                reconstruct(one, x, steps)
            operations[name] = counter.get_total_flops() / len(x)
        for _ in range(repetitions):
            for name, one in both.items():
                seconds[name].append(seconds_of(partial(reconstruct, one, x, steps)) / len(x))
    return SpaceCost({name: np.array(values) for name, values in seconds.items()}, operations)


def in_pixels(detector: D3AD) -> D3AD:
    """The same detector, not trained, in pixel space."""
    side, levels = detector._space.shape(detector.image_size)[1], range(len(detector.block_out_channels))
    attention = [detector.image_size >> i for i in levels if side >> i in detector.attention_resolutions]
    other: Any = dataclasses.replace(detector, space="pixel", attention_resolutions=attention)
    other._load_networks()
    other._build_unet()
    return other


@torch.inference_mode()
def reconstruct(detector: D3AD, x: Tensor, steps: Tensor) -> Tensor:
    """Images x [B, 3, image_size, image_size] in [0, 1] to the steps int64 [B] and back."""
    state = detector.encode(x).to(detector.torch_device)
    return detector.decode(detector._denoise(state, steps, state, detector.guidance_weight, None))
