"""Is a reconstruction repeatable, near the identity on normal images, and invertible? After the autoencoder.

Every question is asked of what diffusion adds: the autoencoder's own error is in none of the numbers.

Used by notebook 03; entry points: `redraw`, `over_settings`, `deviations`, `under_prompts`, `identity_measures`,
`round_trips`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils.analyses.img2img_claims import Effect, over_images
from diffad_utils.analyses.img2img_settings import amplification, reconstruction_std, round_trip
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset, captions
from diffad_utils.data.pasted_defects import paste_defect
from diffad_utils.kernels import knn
from diffad_utils.methods.base import Detector
from diffad_utils.methods.img2img import Img2Img, Img2ImgEngine
from diffad_utils.methods.img2img.engine import ddim_schedule
from diffad_utils.methods.kept import kept
from diffad_utils.metrics import bootstrap


def through(engine: Img2ImgEngine, images: Tensor) -> Tensor:
    """Dec(Enc(x)): images [B, 3, H, W] through the autoencoder alone."""
    return engine.decode(engine.encode(images).mean)


def redraw(detector: Img2Img, task: Task, prompt: str | None = None, **changes: Any) -> Tensor:
    """A task's images under another prompt, or with a setting of the detector changed, such as ``seed=1``."""
    prompts, (negative, *_) = detector.prompts(task.keys, len(task.keys))
    texts = prompts if prompt is None else [prompt] * len(prompts)
    return detector.engine_.reconstruct(task.images, task.keys, texts, replace(detector.setting, **changes), negative)


def over_settings(detector: Img2Img, task: Task, **values: Sequence[Any]) -> dict[str, Tensor]:
    """A task's images with each of ``values`` of a field of the setting in turn: field -> [K, B, 3, H, W]."""
    return {
        field: torch.stack([redraw(detector, task, **{field: value}) for value in each])
        for field, each in values.items()
    }


def deviations(
    detector: Img2Img, task: Task, varied: Mapping[str, Tensor], defect_sizes: Tensor | None
) -> dict[str, Tensor]:
    """Standard deviation of a pixel over reconstructions [K, B, 3, H, W] of a task's images, mean over an image: [B].

    In units of the mean of ``defect_sizes``, or of the autoencoder's error on each image where it is None.
    """
    unit = autoencoder_error(detector.engine_, task.images) if defect_sizes is None else defect_sizes.mean()
    return {name: reconstruction_std(x_hats).mean(dim=(1, 2)) / unit for name, x_hats in varied.items()}


def autoencoder_error(engine: Img2ImgEngine, images: Tensor) -> Tensor:
    """Mean absolute error of the autoencoder on images [B, 3, H, W]: [B], grey values."""
    return (through(engine, images) - images).abs().mean(dim=(1, 2, 3))


def under_prompts(detector: Img2Img, task: Task, category: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A task's images under the detector's prompt, its contrary, another family's name, and without guidance.

    Returns
    -------
    The reconstructions by prompt, and their mean absolute change against the first in units of the autoencoder's error.
    """
    noun = captions.noun(category).partition(" ")[2]
    (prompt, *_), _ = detector.prompts(task.keys, len(task.keys))
    other = "a flawless wire mesh" if category != "grid" else "a flawless leather hide"
    redrawn = {text: redraw(detector, task, text) for text in (prompt, f"a damaged {noun}", other)}
    redrawn["no guidance"] = redraw(detector, task, guidance_scale=1.0)
    error, (first, *others) = autoencoder_error(detector.engine_, task.images).mean(), redrawn
    change = {name: float((redrawn[name] - redrawn[first]).abs().mean() / error) for name in others}
    return redrawn, change


BESIDE = (
    "log2 1.25 minus |mean log2 of the distance of x_hat to Dec(Enc(x)) over that to the nearest normal training "
    "image, after the autoencoder|"
)
CLEAN = "log2 1.25 minus log2 of the distance to normal training images by CLIP, x_hat over Dec(Enc(x))"
"""The two measures of C13, "another clean example": as far from x as another example is, and as clean. The former has a
part each way: not farther, not nearer."""


class Identity(NamedTuple):
    """How far reconstructions of normal images are from the identity, [N] each, after the autoencoder.

    error : log2 of the squared error of x_hat over that of Dec(Enc(x)), both against x.
    distance : log2 of |x_hat - Dec(Enc(x))| over the distance of Dec(Enc(x)) to the nearest normal training image
        that went through the autoencoder as well.
    lipschitz : growth of a pasted defect d, |x_hat(x + d) - x_hat(x)| over |Dec(Enc(x + d)) - Dec(Enc(x))|, L2 norms;
        a lower estimate of the local Lipschitz constant.
    strangeness : log2 of the distance of x_hat to the nearest normal training image in CLIP's features over that of
        Dec(Enc(x)): at 0 it is as clean an example as the image itself.
    """

    error: Tensor
    distance: Tensor
    lipschitz: Tensor
    strangeness: Tensor

    def table(self, n: int = 1000) -> pd.DataFrame:
        """log2 of the four, means with intervals: log2, low, high by measure."""
        named = {
            "error over the autoencoder's": self.error,
            "distance over that to the nearest normal image": self.distance,
            "growth of a pasted defect": self.lipschitz.log2(),
            "distance to normal images by CLIP, over the autoencoder's": self.strangeness,
        }
        rows = {name: [*map(float, bootstrap.mean_interval(values, n))] for name, values in named.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["log2", "low", "high"]).rename_axis("measure")

    def evidence(self) -> dict[tuple[str, str], Effect]:
        """What it says about C12 and C13."""
        error = "log2 of the squared error on normal images over that of the autoencoder alone"
        growth = "local Lipschitz constant under pasted defects minus 1, after the autoencoder"
        return {
            ("C12", error): over_images(self.error),
            ("C12", growth): over_images(self.lipschitz - 1),
            ("C13", f"{BESIDE}, not farther"): over_images(math.log2(1.25) - self.distance),
            ("C13", f"{BESIDE}, not nearer"): over_images(math.log2(1.25) + self.distance),
            ("C13", CLEAN): over_images(math.log2(1.25) - self.strangeness),
        }


def identity_measures(detector: Img2Img, normality: Detector, normal: Task, x_hat: Tensor, seed: int = 0) -> Identity:
    """Of a task's normal images and their reconstructions [N, 3, H, W]; ``normality`` : a fitted `ClipKNN`."""
    x, after = normal.images, through(detector.engine_, normal.images)
    error = (x_hat - x).square().mean(dim=(1, 2, 3)) / (after - x).square().mean(dim=(1, 2, 3))
    to_neighbour = (neighbours(normal.train, x, detector.engine_) - after).abs().mean(dim=(1, 2, 3))
    distance = (x_hat - after).abs().mean(dim=(1, 2, 3)) / to_neighbour
    changed = with_pasted_defects(x, seed)
    grown = amplification(x_hat, detector.reconstruct(changed, normal.keys), after, through(detector.engine_, changed))
    far, near = (normality.predict(images, normal.keys).score.clamp_min(1e-6) for images in (x_hat, after))
    return Identity(error.log2(), distance.log2(), grown, (far / near).log2())


def neighbours(train: ImageDataset, images: Tensor, engine: Img2ImgEngine) -> Tensor:
    """For each image the nearest training image by mean absolute difference, after the autoencoder."""
    stacked = torch.stack([train[i]["image"] for i in range(len(train))])
    _, nearest = knn(images.flatten(1), stacked.flatten(1), 1, p=1)
    return through(engine, stacked[nearest[:, 0]])


def with_pasted_defects(images: Tensor, seed: int = 0) -> Tensor:
    """Normal images [N, 3, H, W], N >= 2, each with a synthetic defect (`paste_defect`) whose content is the next
    image's."""
    pasted = [
        paste_defect(image, images[(i + 1) % len(images)], np.random.default_rng([seed, i]))[0]
        for i, image in enumerate(images)
    ]
    return torch.stack(pasted).float().clamp(0, 1)


@kept()
def round_trips(
    detector: Img2Img, task: Task, step_counts: Sequence[int], guidance_scales: Sequence[float], guided_images: int = 8
) -> tuple[pd.DataFrame, dict[tuple[float, int], Tensor]]:
    """DDIM inversion and sampling along the same steps, by number of steps and guidance scale (1: none).

    drift : mean |Dec(back) - Dec(z)| in units of the autoencoder's error |Dec(z) - x|, image by image: 0 for an exact
    inverse. With guidance, where DDIM is not meant to invert, only the first ``guided_images`` are taken.

    Returns
    -------
    A table guidance, steps, drift, low, high, n, and the drifts [n] by (guidance scale, steps).
    """
    engine, drifts, rows = detector.engine_, {}, []
    (prompt, *_), (negative, *_) = detector.prompts(task.keys, len(task.keys))
    text = engine.embed(prompt, negative)
    for scale in dict.fromkeys(guidance_scales):
        images = task.images if scale <= 1 else task.images[:guided_images]
        z = engine.encode(images).mean
        start = engine.decode(z)
        error = (start - images).abs().mean(dim=(1, 2, 3))
        for steps in step_counts:
            eps_fn = engine.eps_fn([text] * len(images), [scale] * len(images))
            _, back = round_trip(eps_fn, z, ddim_schedule(engine.scheduler, steps, steps))
            drift = (engine.decode(back) - start).abs().mean(dim=(1, 2, 3)) / error
            drifts[scale, steps] = drift
            mean = bootstrap.mean_interval(drift)
            name = "none" if scale <= 1 else f"{scale:g}"
            ends = [float(value) for value in mean]
            rows.append([name, steps, *ends, len(images)])
    return pd.DataFrame(rows, columns=["guidance", "steps", "drift", "low", "high", "n"]), drifts
