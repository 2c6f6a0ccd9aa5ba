"""A diffusion detector's network by inversion, beside its own inference and beside the same score without diffusion.

The method is `methods.inversion`, which names the source (claim C42).

Used by notebooks 02, 03, 05 and 06; entry points: `inverted`, `Inverted.to_record`,
`Inverted.scores`, `Inverted.in_words`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from diffad_utils.analyses.summaries import Measured, compared, measure
from diffad_utils.analyses.summaries import in_words as interval_in_words
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.inversion import Inversion

CONTROL = "InvAD's score of what is inverted, standardised, without any inversion"


class Inverted(NamedTuple):
    """measured : the inversion on a task's test images. no_diffusion : the same score of the states themselves.
    own : what the network's own inference says of the images, and evaluations of the network that it takes."""

    measured: Measured
    no_diffusion: Prediction
    own: Prediction

    @property
    def prediction(self) -> Prediction:
        return self.measured.prediction

    def scores(self, own: str) -> dict[str, Tensor]:
        """Scores [N] by name, for curves; own : the network's own inference in words."""
        named = {own: self.own, "inversion": self.prediction, "the same score without diffusion": self.no_diffusion}
        return {name: prediction.score for name, prediction in named.items()}

    def experiments(self, task: Task) -> dict[str, dict]:
        """The control ``no_diffusion`` and the network's ``own_inference``, as `Task.control_row` has them."""
        own, control = self.prediction.score, self.no_diffusion
        return {
            "no_diffusion": task.control_row(own, control.score, CONTROL, control.anomaly_map),
            "own_inference": task.control_row(own, self.own.score, anomaly_map=self.own.anomaly_map),
        }

    def to_record(self, task: Task, baseline: TrivialBaseline) -> dict[str, Any]:
        """Arguments of ``run.record_method``, with `experiments`."""
        return self.measured.to_record(task, baseline) | {"experiments": self.experiments(task)}

    def in_words(self, task: Task, own: str) -> str:
        """Three sentences on the I-AUROC; own : the network's own inference in words, "reconstruction"."""
        score, parts = self.prediction.score, []
        for what, other in ((own, self.own), ("the same score without diffusion", self.no_diffusion)):
            gain = task.difference(score, other.score)
            parts.append(f"{compared(gain)} that of {what} ({interval_in_words(gain, digits=3, sign=True)})")
        auroc = task.accuracy(score)["I-AUROC"]
        return (
            f"The I-AUROC of inversion, {auroc:.3f}, {parts[0]}. It {parts[1]}. Inversion takes "
            f"{self.prediction.nfe:g} evaluations of the network for an image, {own} {round(self.own.nfe, 1):g}. It "
            f"takes {self.measured.ms_per_image:.0f} ms an image."
        )


def inverted(cls: type[Inversion], network: Detector, own: Prediction, task: Task, **settings: Any) -> Inverted:
    """The inversion ``cls`` with a fitted ``network`` on the task's images, and its controls.

    own : the prediction of the task's images by the network's own inference. settings : ``inversion_steps``,
    ``spacing``, ``holdout_fraction``, as for `Inversion.of`.
    """
    detector = cls.of(network, task.train, **settings)
    measured = measure(detector, task)
    detector.check_batch_independence(task.batch, measured.prediction)
    return Inverted(measured, detector.with_settings(inversion_steps=0).predict(task.images, task.keys), own)
