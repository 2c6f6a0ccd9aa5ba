"""D3AD in two passes beside one: as a detector, and over T whether it removes the defect and keeps the rest.

Used by notebook 06 and `benchmarks.new_ground`; entry points: `two_passes`, `of_defects`, `D3ADTwoPasses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure

from diffad_utils.analyses import img2img_figures, img2img_words
from diffad_utils.analyses.conditioned_controls import AUTOENCODER, GATE
from diffad_utils.analyses.img2img_edits import defect_pairs
from diffad_utils.analyses.img2img_two_passes import TwoPassStudy, some_pairs, two_pass_study
from diffad_utils.analyses.summaries import Measured, compared, in_words, measure
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.d3ad.masked import D3ADMasked


class D3ADTwoPasses(NamedTuple):
    """measured : two passes on a task's test images. one_pass : D3AD's prediction of them. controls : those without
    diffusion, `conditioned_controls.d3ad_controls`. study : over T, None without defect-free counterparts. task : where
    they were measured."""

    measured: Measured
    one_pass: Prediction
    controls: Mapping[str, Prediction]
    study: TwoPassStudy | None
    task: Task

    def detection_in_words(self) -> str:
        """Area of the mask, accuracy against one pass, and cost."""
        masked: Any = self.measured.detector
        cells, labels = masked.find(self.task.images, self.task.keys).float(), self.task.labels
        normal, defective = (float(cells[labels == label].mean()) for label in (0, 1))
        gain = self.task.difference(self.measured.score, self.one_pass.score)
        return (
            f"The mask covers {normal:.0%} of the area of normal images and {defective:.0%} of that of defective ones. "
            f"The I-AUROC of two passes {compared(gain)} that of one ({in_words(gain, digits=3, sign=True)}). They "
            f"take {self.measured.prediction.nfe:.1f} network evaluations an image instead of {self.one_pass.nfe:.1f}, "
            f"and {self.measured.ms_per_image:.0f} ms."
        )

    def figure(self) -> Figure:
        """Removal, drift and survival over T; needs counterparts."""
        return img2img_figures.two_passes(self.study)

    def study_in_words(self) -> str:
        """What the second pass changes at the largest T, and the answer; needs counterparts."""
        return f"{img2img_words.trade(self.study)} {img2img_words.escape(self.study)}"

    def to_record(self, baseline: TrivialBaseline) -> dict[str, Any]:
        """Arguments of ``run.record_method("d3ad_masked", ...)``."""
        score, control = self.measured.score, self.controls[AUTOENCODER]
        experiments = {
            "no_diffusion": self.task.control_row(score, control.score, AUTOENCODER, control.anomaly_map),
            "no_diffusion_neighbours": self.task.control_row(score, self.controls[GATE].score, GATE),
            "one_pass": self.task.control_row(score, self.one_pass.score, anomaly_map=self.one_pass.anomaly_map),
        }
        experiments |= {"two_passes": self.study.record()} if self.study else {}
        return self.measured.to_record(self.task, baseline) | {"experiments": experiments}


def of_defects(masked: D3ADMasked, task: Task, steps: Sequence[int], count: int) -> TwoPassStudy | None:
    """One pass from noise at each of ``steps`` against two with the mask found and with the true mask, on at most
    ``count`` defects; None where the task has no defect-free counterparts."""
    if not task.has_counterparts:
        return None
    pairs = defect_pairs(lambda images: masked.decode(masked.encode(masked._input(images))), task)
    chosen = some_pairs(pairs, count)
    return two_pass_study(masked, chosen, {step: step for step in steps}, task.bootstrap_samples, "T")


def two_passes(
    detector: D3AD,
    prediction: Prediction,
    controls: Mapping[str, Prediction],
    task: Task,
    steps: Sequence[int],
    count: int = 16,
) -> D3ADTwoPasses:
    """Two passes with the networks of a fitted D3AD, whose ``prediction`` of the task is the one pass."""
    masked = D3ADMasked.of(detector)
    with torch.inference_mode():
        study = of_defects(masked, task, steps, count)
    found = measure(masked, task)
    known = {name: value for name, value in found.metrics.items() if math.isfinite(value)}
    # an image in which nothing was found comes back as it is: its PSNR, and so the mean, is not finite
    return D3ADTwoPasses(found._replace(metrics=known), prediction, controls, study, task)
