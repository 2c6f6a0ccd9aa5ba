"""How far into the noise: the choice of T_d on held-out normal images and copies of them with pasted defects.

The paper sets T_d by hand for each class. No test image is seen here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import metrics, scoring
from diffad_utils.methods.clip_detectors import paste_defect
from diffad_utils.methods.esm.equations import image_score

if TYPE_CHECKING:
    from diffad_utils.methods.esm.base import ScoreMatchingDetector


def validate(detector: ScoreMatchingDetector, noise_timesteps: Sequence[int]) -> pd.DataFrame:
    """How each T_d does on ``detector.held_out_`` against two copies of each image with pasted defects.

    Columns: noise_timestep, I-AUROC, P-AUROC (of the defective copies), selection (mean of both). Leaves the
    detector's ``noise_timestep_`` at the last of them.
    """
    images, keys = (values[: detector.validation_images] for values in detector.held_out_)
    pasted = [_paste(detector, i, copy) for copy in (1, 2) for i in range(len(images))]
    everything = torch.cat([images, torch.stack([image for image, _ in pasted])])
    masks, labels = torch.stack([mask for _, mask in pasted]), [0] * len(images) + [1] * len(pasted)
    names, rows = [*keys, *(f"{key}/{copy}" for copy in (1, 2) for key in keys)], []
    for timestep in noise_timesteps:
        detector.noise_timestep_ = timestep
        maps = detector.maps(*detector._sampled(everything, names))
        normal = {name: values[: len(images)].flatten() for name, values in maps.items()}
        combined = detector.combine(maps, calibration=scoring.Calibration.fit(normal))
        image = metrics.image_auroc(image_score(combined), labels)
        pixel = metrics.pixel_auroc(combined[len(images) :], masks)
        rows.append({"noise_timestep": timestep, "I-AUROC": image, "P-AUROC": pixel, "selection": (image + pixel) / 2})
    return pd.DataFrame(rows)


def _paste(detector: ScoreMatchingDetector, i: int, copy: int) -> tuple[Tensor, Tensor]:
    images, keys = detector.held_out_
    digest = hashlib.sha256(f"{detector.seed}:{copy}:{keys[i]}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    image, mask = paste_defect(images[i], images[int(rng.integers(len(images)))], rng)
    return image.clamp(0, 1), mask
