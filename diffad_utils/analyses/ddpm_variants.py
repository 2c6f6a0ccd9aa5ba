"""The pixel DDPM with simplex noise in the place of Gaussian noise, and with inversion in that of reconstruction.

Used by notebook 02; entry points: `variants`, `DDPMVariants.figure`, `DDPMVariants.in_words`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from diffad_utils import plots
from diffad_utils.analyses.latent_inversion import Inverted, inverted
from diffad_utils.analyses.no_diffusion import control_table
from diffad_utils.analyses.summaries import Measured, compared, in_words, measure
from diffad_utils.analyses.task import Task
from diffad_utils.methods.pixel_ddpm_inversion import PixelDDPMInversion


class DDPMVariants(NamedTuple):
    """simplex : the same settings with simplex noise, trained anew. inversion : with the network of ``gaussian``, the
    detector as it is. task : where they were measured."""

    gaussian: Measured
    simplex: Measured
    inversion: Inverted
    task: Task

    def experiments(self) -> dict[str, dict]:
        """For the record of the pixel DDPM: I-AUROC with Gaussian noise, and that with simplex noise minus it."""
        return {
            "simplex": self.task.control_row(
                self.simplex.prediction.score,
                self.gaussian.prediction.score,
                anomaly_map=self.gaussian.prediction.anomaly_map,
            )
        }

    def figure(self) -> Figure:
        """Differences of the I-AUROC: of the noise, and of inversion to reconstruction and to no diffusion."""
        inversion = self.inversion.experiments(self.task)
        rows = {
            "simplex minus Gaussian noise": self.experiments()["simplex"],
            "inversion minus reconstruction": inversion["own_inference"],
            "inversion minus no diffusion": inversion["no_diffusion"],
        }
        return plots.means_chart(control_table(rows, self.task.name), "difference of the I-AUROC", 0.0)

    def in_words(self) -> str:
        gap = self.task.difference(self.simplex.score, self.gaussian.score)
        return (
            f"The I-AUROC with simplex noise {compared(gap)} that with Gaussian noise "
            f"({in_words(gap, digits=3, sign=True)}). {self.inversion.in_words(self.task, 'reconstruction')}"
        )


def variants(ddpm: Measured, task: Task) -> DDPMVariants:
    """Of a fitted `PixelDDPM` that was measured on the task; trains it once more, with simplex noise."""
    detector: Any = ddpm.detector  # a PixelDDPM
    simplex = measure(replace(detector, noise="simplex").fit(task.train), task)
    inversion = inverted(PixelDDPMInversion, detector, ddpm.prediction, task)
    return DDPMVariants(ddpm, simplex, inversion, task)
