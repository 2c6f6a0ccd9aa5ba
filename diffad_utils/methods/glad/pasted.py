"""GLAD's anomaly-oriented training: the noise that leads from an anomalous state back to the normal sample.

The state holds the anomalous sample, x_t = sqrt(alpha_bar_t) x_a + sqrt(1 - alpha_bar_t) eps. It is also the state of
the *normal* sample x_0 with another noise,

    eps' = eps + sqrt(alpha_bar_t) / sqrt(1 - alpha_bar_t) (x_a - x_0),

and eps' is what the network has to predict (public code: ``predict_eps`` in ``main.py``). Where nothing is pasted
eps' = eps, which is DDPM's objective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffad_utils.data.pasted_defects import paste_defect
from diffad_utils.diffusion import NoiseSchedule, NoisyBatch
from diffad_utils.diffusion.schedule import signal_and_noise

FADES = ("linear", "none")


def with_pasted(
    batch: NoisyBatch, difference: Tensor, schedule: NoiseSchedule, *, fade: str = "linear", deepest: int = 1000
) -> NoisyBatch:
    """A batch of normal samples with ``difference`` = x_a - x_0 [B, ...] put in, its target changed to eps'.

    fade : "linear" (public code) puts in t / ``deepest`` of the difference, "none" (the paper's loss) all of it.
    deepest : timesteps of training are drawn below it. Raises ``ValueError`` for another fade.

    Examples
    --------
    At alpha_bar = 0.64 a difference of 3 moves the state by 0.8 x 3, and the noise by 0.8 / 0.6 x 3. The clean sample
    that state and noise give stays 1: (0.8 + 2.4 - 0.6 x 4) / 0.8.

    >>> schedule = NoiseSchedule(torch.tensor([0.36]))
    >>> batch = NoisyBatch(torch.tensor([0]), torch.tensor([0.8]), torch.tensor([0]), torch.tensor([0.0]))
    >>> moved = with_pasted(batch, torch.tensor([3.0]), schedule, fade="none")
    >>> round(moved.x_t.item(), 4), round(moved.noise.item(), 4)
    (3.2, 4.0)
    """
    if fade not in FADES:
        raise ValueError(f"fade must be one of {FADES}, got {fade!r}")
    difference = difference.to(batch.x_t)
    if fade == "linear":
        share = (batch.t / deepest).to(difference)
        difference = share.reshape(-1, *[1] * (difference.ndim - 1)) * difference
    signal, noise = signal_and_noise(schedule.alphas_cumprod[batch.t.cpu()], difference)
    return batch._replace(x_t=batch.x_t + signal * difference, noise=batch.noise + signal / noise * difference)


def pasted_copies(images: Tensor, copies: int, seed: int) -> Tensor:
    """Normal images [N, 3, H, W] in [0, 1], N >= 2, with pasted defects: float32 [copies, N, 3, H, W] in [0, 1].

    What is pasted (`data.pasted_defects.paste_defect`) is a spot of smooth noise filled from another training image.
    It depends on seed, copy and position alone. It is not the generator of the test defects of ``textures``
    (`data.textures.defects`: scratches, cracks, stains and others, drawn on the surface), so nothing of a test set is
    learnt here. Raises ``ValueError`` for fewer than two images.
    """
    n = len(images)
    if n < 2:
        raise ValueError(f"a pasted defect is filled from another image: expected at least 2 images, got {n}")
    made: list[Tensor] = []
    for copy in range(copies):
        for i, image in enumerate(images):
            rng = np.random.default_rng([seed, copy, i])
            source = images[(i + int(rng.integers(1, n))) % n]
            made.append(paste_defect(image, source, rng)[0])
    return torch.stack(made).reshape(copies, *images.shape)


def drawn_differences(
    states: Tensor, pasted: Sequence[Tensor], rows: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """x_a - x_0 of rows [B] of states [N, ...]: with probability ``share`` of one of its copies in ``pasted`` (each
    [N, ...]), else 0. Drawn from ``generator``."""
    copy = torch.randint(len(pasted), rows.shape, generator=generator)
    chosen = torch.rand(rows.shape, generator=generator) < share
    anomalous = torch.stack([pasted[c][row] for c, row in zip(copy.tolist(), rows.tolist(), strict=True)])
    return (anomalous - states[rows]) * chosen.reshape(-1, *[1] * (states.ndim - 1))
