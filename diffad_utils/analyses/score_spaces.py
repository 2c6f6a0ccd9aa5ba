"""Does an encoder help ESM? The same detector on pixels and on latents, and how Gaussian the two are.

The paper (section 5) says that ESM takes images for Gaussian, and that an image encoder would cure this (claim C95).

Used by notebook 05; entry point: `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kstest
from torch import Tensor

from diffad_utils import data
from diffad_utils.analyses.score_claims import Effect
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import signed
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm import ESM
from diffad_utils.metrics.bootstrap import bootstrap_counts, bootstrap_percentiles, bootstrap_statistic

EXPLAINED = (
    "How far is each element of $X_0$ from a Gaussian, over the training images? The measure is the Kolmogorov-Smirnov "
    "distance, the largest gap of two distribution functions: 0 is Gaussian. And does ESM detect better on latents, "
    "with the same number of steps? Look at whether the two panels agree."
)
"""What a reader must know before the figure."""
RESAMPLES = 200
"""Of the training images; a distance takes a sort of all their elements."""
MOST = 400_000
"""Elements of a resample whose distribution is looked at, evenly spaced."""


class Spaces(NamedTuple):
    """table : space ("latents", "pixels, 64 px"), measure ("distance to a Gaussian", "I-AUROC"), value, low, high.

    effect : C95, I-AUROC on latents minus on pixels. noise_timestep : T_d that was chosen for pixels.
    """

    table: pd.DataFrame
    effect: Effect
    noise_timestep: int

    def in_words(self) -> str:
        """Both measures as sentences."""
        near, detects = (part for _, part in self.table.groupby("measure", sort=False))
        latents, pixels = near.iloc[0], near.iloc[1]
        closer = "closer to" if latents["high"] < pixels["low"] else "not shown to be closer to"
        values, (effect, low, high, *_) = detects["value"].tolist(), self.effect
        return (
            f"Latents are {closer} a Gaussian than pixels: distance {latents['value']:.3f} against "
            f"{pixels['value']:.3f}. ESM has I-AUROC {values[0]:.3f} on latents and {values[1]:.3f} on pixels "
            f"(T_d = {self.noise_timestep}), a difference of "
            f"{signed((effect, low, high))}. This is one training each."
        )


def compare(task: Task, latent: ESM, found: Prediction, size: int, shared: Mapping[str, Any]) -> Spaces:
    """Train ESM on pixels, with the settings ``shared`` otherwise, and hold it against one on latents.

    Parameters
    ----------
    latent : the fitted detector on latents, ``found`` its prediction of the task's images.
    size : side of the images that are diffused as pixels; the UNet has the same widths, so a smaller side than the
        latents' images keeps the cost down. T_d is chosen on held-out normal images, as for latents.
    """
    settings = {**shared, "space": "pixel", "image_size": size}
    pixel: Any = ESM(**settings, noise_timestep=None).fit(task.train)
    other = pixel.predict(task.images, task.keys)
    images, rows = data.load_batch(task.train)["image"], []
    for name, detector, prediction in (("latents", latent, found), (f"pixels, {size} px", pixel, other)):
        distance = distance_to_gaussian(detector.encode(detector._input(images)), task.seed)
        accuracy = task.accuracy(prediction.score)
        rows.append((name, "distance to a Gaussian", *distance))
        rows.append((name, "I-AUROC", accuracy["I-AUROC"], accuracy["low"], accuracy["high"]))
    table = pd.DataFrame(rows, columns=["space", "measure", "value", "low", "high"])
    effect = Effect(*task.difference(found.score, other.score), len(task.labels))
    return Spaces(table, effect, int(pixel.noise_timestep_))


def distance_to_gaussian(x: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Kolmogorov-Smirnov distance of the elements of X_0 [N, ...] to a standard normal, each element standardised over
    the N images; with a 95 % interval over images. 0 is Gaussian in every element, up to the finite N."""
    values = x.flatten(1).double().numpy()
    values = values[:, :: max(1, values.size // MOST)]

    def distance(images: Sequence[int]) -> float:
        drawn = values[images]
        std = drawn.std(axis=0)
        kept = std > 1e-9  # an element that never changes has no distribution
        standardised = (drawn[:, kept] - drawn[:, kept].mean(axis=0)) / std[kept]
        return float(kstest(standardised.ravel(), "norm").statistic)

    counts = bootstrap_counts(np.zeros(len(values)), RESAMPLES, seed)
    return bootstrap_percentiles(bootstrap_statistic(distance, counts))
