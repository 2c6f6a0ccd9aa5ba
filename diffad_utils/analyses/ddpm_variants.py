"""The pixel DDPM with simplex noise in the place of Gaussian noise, and with inversion in that of reconstruction.

Used by notebook 02; entry points: `variants`, `DDPMVariants.figure`, `DDPMVariants.in_words`,
`DDPMVariants.record`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from diffad_utils import plots
from diffad_utils.analyses.latent_inversion import Inverted, inverted
from diffad_utils.analyses.no_diffusion import control_row, control_table
from diffad_utils.analyses.summaries import Measured, compared, in_words, measure
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.methods.pixel_ddpm import PixelDDPM, SimplexDDPM
from diffad_utils.methods.pixel_ddpm_inversion import PixelDDPMInversion
from diffad_utils.study.run import Run


class DDPMVariants(NamedTuple):
    """simplex : the same settings with simplex noise, trained anew; None without. inversion : with the network of
    ``gaussian``, the detector as it is. task : where they were measured."""

    gaussian: Measured
    simplex: Measured | None
    inversion: Inverted
    task: Task

    def gain(self) -> dict[str, Any]:
        """I-AUROC with Gaussian noise, and that with simplex noise minus it (`Task.control_row`)."""
        plain, simplex = self.gaussian.prediction, self.simplex.prediction
        return self.task.control_row(simplex.score, plain.score, anomaly_map=plain.anomaly_map)

    def figure(self) -> Figure:
        """Differences of the I-AUROC: of the noise, and of inversion to reconstruction and to no diffusion."""
        inversion = self.inversion.experiments(self.task)
        rows = {"simplex minus Gaussian noise": self.gain()} if self.simplex else {}
        rows |= {
            "inversion minus reconstruction": inversion["own_inference"],
            "inversion minus no diffusion": inversion["no_diffusion"],
        }
        return plots.means_chart(control_table(rows, self.task.name), "difference of the I-AUROC", 0.0)

    def in_words(self) -> str:
        said = self.inversion.in_words(self.task, "reconstruction")
        if not self.simplex:
            return said
        gap = self.task.difference(self.simplex.score, self.gaussian.score)
        return (
            f"The I-AUROC with simplex noise {compared(gap)} that with Gaussian noise "
            f"({in_words(gap, digits=3, sign=True)}); an image takes {self.simplex.ms_per_image:.0f} ms instead of "
            f"{self.gaussian.ms_per_image:.0f}, with {self.simplex.prediction.nfe:g} evaluations of the network each. "
            f"{said}"
        )

    def records(self, control: Tensor, what: str, baseline: TrivialBaseline) -> dict[str, dict[str, Any]]:
        """Arguments of ``run.record_method`` by method. control : scores [N] of the pixel DDPM's control, called
        ``what``."""
        found = {"pixel_ddpm_inversion": self.inversion.to_record(self.task, baseline)}
        if self.simplex:
            row = control_row(self.task, self.simplex.score, control, what)
            experiments = {"no_diffusion": row, "gaussian": self.gain()}
            found["pixel_ddpm_simplex"] = self.simplex.to_record(self.task, baseline) | {"experiments": experiments}
        return found

    def record(self, run: Run, control: Tensor, what: str, baseline: TrivialBaseline) -> None:
        """Record each of `records` as a method of a run."""
        for name, arguments in self.records(control, what, baseline).items():
            run.record_method(name, **arguments)


def variants(ddpm: Measured, task: Task, simplex: bool) -> DDPMVariants:
    """Of a fitted `PixelDDPM` that was measured on the task; with ``simplex`` it is trained once more."""
    detector: Any = ddpm.detector  # a PixelDDPM
    other = None
    if simplex:
        settings = {field.name: getattr(detector, field.name) for field in fields(PixelDDPM) if field.name != "noise"}
        other = measure(SimplexDDPM(**settings).fit(task.train), task)
    return DDPMVariants(ddpm, other, inverted(PixelDDPMInversion, detector, ddpm.prediction, task), task)
