"""Synthetic defects on real images, for what needs anomalous images before any are known.

After DRAEM (Zavrtanik et al., ICCV 2021, eq. 2): a spot of smooth noise, filled from another picture and blended in.
What may be touched: nothing without new reference numbers, as probes and settings are fitted on what is drawn here.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor


def paste_defect(image: Tensor, source: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A normal image with a spot of another one pasted in: (image float32 [3, H, W], mask bool [H, W]).

    The spot is where smooth noise, pulled towards a random centre and stretched along a random direction, is largest:
    an irregular patch or a streak of 0.2 to 10 % of the image. Its content is ``source`` shifted and with its colours
    scaled by 0.5 to 1.5, blended with an opacity of 0.3 to 1 (DRAEM, eq. 2). image, source: float [3, H, W] in [0, 1].
    """
    height, width = image.shape[-2:]
    side = max(height, width)
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 2.5))
    y, x = np.mgrid[0:height, 0:width] / side
    x, y = x - rng.uniform(0.1, 0.9) * width / side, y - rng.uniform(0.1, 0.9) * height / side
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    noise = gaussian_filter(rng.standard_normal((height, width)), sigma=rng.uniform(0.01, 0.05) * side)
    field = 0.3 * noise / noise.std() - 10 * np.hypot(along / stretch**0.5, across * stretch**0.5)
    area = np.exp(rng.uniform(np.log(0.002), np.log(0.1)))
    mask = torch.from_numpy(field >= np.quantile(field, 1 - area))
    gain = torch.from_numpy(rng.uniform(0.5, 1.5, (3, 1, 1))).float()
    content = (torch.roll(source, tuple(rng.integers(0, (height, width)).tolist()), dims=(1, 2)) * gain).clamp(0, 1)
    opacity = float(rng.uniform(0.3, 1.0)) * mask.float()
    return (1 - opacity) * image + opacity * content, mask
