"""What a few test images become at every setting of a sweep, recorded for the report's sliders.

Used by notebooks 03 and 06. Entry points: `over_strengths`, `over_noise_and_steps`, `Strip.record`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from diffad_utils.analyses.detector_variants import Variants
from diffad_utils.analyses.img2img_stability import redraw, through
from diffad_utils.analyses.task import Task
from diffad_utils.io.files import to_json, write_atomically
from diffad_utils.io.png import sprite_sheet
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.img2img import Img2Img
from diffad_utils.metrics.counterfactual import absolute_error, defect_survival
from diffad_utils.study.run import Run

FOLDER = "strips"
"""Where a run keeps its strips: ``<name>.json``, and ``<name>.jpg`` with the pictures."""

TILE = 112
"""Side of a picture, pixels: a multiple of 16, so that no block of the JPEG has pixels of two pictures."""

MOST_BYTES = 200_000
"""Of the pictures of a strip; several strips share one page."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """N images of a task at every setting of one or two axes, K settings in all, the last axis fastest.

    axes : name -> values. x_hats : [K, N, 3, H, W] in [0, 1]. maps : [K, N, H, W], what the detector makes of them,
    called ``map_name``. survival : float64 [K, N], NaN for normal images; None where no counterparts are known.
    """

    task: Task
    axes: Mapping[str, Sequence[float]]
    x_hats: Tensor
    maps: Tensor
    map_name: str
    survival: Tensor | None

    def __post_init__(self) -> None:
        count, n = math.prod(len(values) for values in self.axes.values()), len(self.task.keys)
        if len(self.axes) not in (1, 2) or count == 0:
            raise ValueError(f"a strip has one or two axes with values, got {dict(self.axes)}")
        shapes = {"x_hats": self.x_hats, "maps": self.maps, "survival": self.survival}
        for name, values in shapes.items():
            if values is not None and tuple(values.shape[:2]) != (count, n):
                raise ValueError(
                    f"{name} has shape {list(values.shape)}, expected [{count}, {n}, ...] for {count} settings of "
                    f"{n} images"
                )

    @property
    def settings(self) -> list[str]:
        """Each setting in words, such as "T 80, omega 0.5"."""
        named = [[f"{name} {value:g}" for value in values] for name, values in self.axes.items()]
        return [", ".join(parts) for parts in itertools.product(*named)]

    def in_words(self) -> str:
        """Survival of the defects shown at the first and at the last setting."""
        if self.survival is None:
            return "These data have no defect-free counterparts, so the strip has no survival."
        first, last = (row[~row.isnan()].tolist() for row in (self.survival[0], self.survival[-1]))
        shown = f"{len(first)} defects shown" if len(first) > 1 else "defect shown"
        texts = [f"{min(row):.2f} to {max(row):.2f}" for row in (first, last)]
        return (
            f"In the strip, the survival of the {shown} is {texts[0]} at {self.settings[0]} and "
            f"{texts[1]} at {self.settings[-1]} (least to most). A few examples measure nothing: they show what the "
            "curves over all images are made of."
        )

    def record(self, run: Run, name: str, caption: str) -> Strip:
        """Write ``strips/<name>.json`` and ``strips/<name>.jpg`` into the run's folder; returns itself.

        The sheet has N columns: a row of images, then for each setting a row of reconstructions and a row of maps, all
        maps on one colour scale from 0 to their 99.8th percentile, ``limit`` in the record.

        Raises ``ValueError`` if ``name`` is not a plain name, ``caption`` is empty, or a value is infinite.
        """
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"strip name {name!r}: use letters, digits, _ and - only")
        if not caption.strip():
            raise ValueError(f"strip {name!r} needs a caption")
        limit = float(np.quantile(self.maps.float().numpy(), 0.998))
        rows = [self.task.images, *itertools.chain(*zip(self.x_hats, heat(self.maps, limit), strict=True))]
        shown = torch.nn.functional.interpolate(torch.cat(rows).float(), (TILE, TILE), mode="bilinear", antialias=True)
        survival = None if self.survival is None else self.survival.tolist()
        content = {
            "name": name,
            "caption": caption.strip(),
            "text": self.in_words(),
            "provenance": run.provenance,
            "axes": [{"name": axis, "values": [f"{v:g}" for v in values]} for axis, values in self.axes.items()],
            "settings": self.settings,
            "examples": self.task.kinds,
            "map_name": self.map_name,
            "limit": limit,
            "survival": survival and [[None if math.isnan(value) else value for value in row] for row in survival],
        }
        write_atomically(run.path(f"{FOLDER}/{name}.jpg"), sprite_sheet(shown, len(self.task.keys), MOST_BYTES))
        write_atomically(run.path(f"{FOLDER}/{name}.json"), to_json(content, f"{name}.json"))
        return self


def counterparts(task: Task) -> Task:
    """The defect-free counterparts of a task's images, under the same keys: what is random is the same for both."""
    return dataclasses.replace(task, batch=task.batch | {"image": task.batch["twin"]})


def over_strengths(detector: Img2Img, task: Task, x_hats: Sequence[Tensor], strengths: Sequence[float]) -> Strip:
    """img2img over strength: residuals |x - x_hat|, and the survival of what the autoencoder left (03, eq. 3).

    task : images to show, all anomalous. x_hats : their reconstructions, [N, 3, H, W] for each of ``strengths``.
    """
    survival = None
    if task.has_counterparts:
        clean, engine = counterparts(task), detector.engine_
        before = through(engine, task.images), through(engine, clean.images)
        pairs = [(x_hat, redraw(detector, clean, strength=s)) for s, x_hat in zip(strengths, x_hats, strict=True)]
        survival = torch.stack([defect_survival(*before, *pair) for pair in pairs])
    maps = torch.stack([absolute_error(task.images, x_hat) for x_hat in x_hats])
    return Strip(task, {"strength": strengths}, torch.stack([*x_hats]), maps, "residual", survival)


def over_noise_and_steps(detector: D3AD, task: Task, steps: Sequence[int], fractions: Sequence[float]) -> Strip:
    """D3AD from every fixed step T with every noise fraction omega: its anomaly maps, and the survival of defects.

    The maps of a setting are scaled by the held-out training images at that setting, as the method does.
    """
    variants, settings = (
        Variants(detector, task),
        [{"static_step": t, "noise_fraction": w} for t in steps for w in fractions],
    )
    found = [variants.predict(**setting) for setting in settings]
    x_hats, survival = torch.stack([each.reconstruction for each in found]), None
    if task.has_counterparts:
        survival = torch.full(x_hats.shape[:2], float("nan"), dtype=torch.float64)
        rows = torch.nonzero(task.labels == 1)[:, 0]
        hurt = task.take(rows)
        for k, (setting, x_hat) in enumerate(zip(settings, x_hats, strict=True)):
            clean_hat = variants.fitted(**setting).reconstruct(hurt.batch["twin"], hurt.keys)
            survival[k, rows] = defect_survival(hurt.images, hurt.batch["twin"], x_hat[rows], clean_hat)
    maps = torch.stack([each.anomaly_map for each in found])
    return Strip(task, {"T": steps, "omega": fractions}, x_hats, maps, "anomaly map", survival)


def heat(maps: Tensor, limit: float) -> Tensor:
    """Maps [..., H, W] in the colours of the study's residuals, black at 0 and brightest at ``limit``: [..., 3, H, W]
    in [0, 1]."""
    from matplotlib import colormaps

    colours = colormaps["inferno"]((maps / max(limit, 1e-12)).clamp(0, 1).float().numpy())[..., :3]
    return torch.from_numpy(colours).movedim(-1, -3)
