"""The pixel DDPM with simplex noise in the place of Gaussian noise, with inversion in that of reconstruction, and
trained to reconstruct as well (claim C98).

Used by notebook 02; entry points: `variants`, `DDPMVariants.figure`, `DDPMVariants.in_words`,
`DDPMVariants.trained_to_reconstruct`.
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

OBJECTIVES = "with a reconstruction term minus the epsilon loss"
"""The variant of C98 in claims.csv."""


class DDPMVariants(NamedTuple):
    """simplex : the same settings with simplex noise, trained anew. inversion : with the network of ``gaussian``, the
    detector as it is. reconstruction : the same settings and steps with a reconstruction term in the objective, trained
    anew. task : where they were measured."""

    gaussian: Measured
    simplex: Measured
    inversion: Inverted
    reconstruction: Measured
    task: Task

    @property
    def trained_to_reconstruct(self) -> tuple[float, float, float, int]:
        """C98: I-AUROC with the reconstruction term minus without, its paired interval, and the number of images."""
        return *self.task.difference(self.reconstruction.score, self.gaussian.score), len(self.task.keys)

    def experiments(self) -> dict[str, dict]:
        """For the record of the pixel DDPM: its I-AUROC as it is, and that with simplex noise, or with a reconstruction
        term, minus it."""
        own = self.gaussian.prediction
        changed = {"simplex": self.simplex, "reconstruction_term": self.reconstruction}
        return {
            name: self.task.control_row(other.prediction.score, own.score, anomaly_map=own.anomaly_map)
            for name, other in changed.items()
        }

    def figure(self) -> Figure:
        """Differences of the I-AUROC: of the noise and the objective, and of inversion to reconstruction and to no
        diffusion."""
        inversion = self.inversion.experiments(self.task)
        own = self.experiments()
        rows = {
            "simplex minus Gaussian noise": own["simplex"],
            "with minus without the reconstruction term": own["reconstruction_term"],
            "inversion minus reconstruction": inversion["own_inference"],
            "inversion minus no diffusion": inversion["no_diffusion"],
        }
        return plots.means_chart(control_table(rows, self.task.name), "difference of the I-AUROC", 0.0)

    def in_words(self) -> str:
        gap = self.task.difference(self.simplex.score, self.gaussian.score)
        term = self.trained_to_reconstruct
        return (
            f"The I-AUROC with simplex noise {compared(gap)} that with Gaussian noise "
            f"({in_words(gap, digits=3, sign=True)}). With the reconstruction term it {compared(term)} that without "
            f"({in_words(term, digits=3, sign=True)}). {self.inversion.in_words(self.task, 'reconstruction')}"
        )


def variants(ddpm: Measured, task: Task) -> DDPMVariants:
    """Of a fitted `PixelDDPM` that was measured on the task; trains it twice more, with simplex noise and with a
    reconstruction term of weight 1."""
    detector: Any = ddpm.detector  # a PixelDDPM
    simplex = measure(replace(detector, noise="simplex").fit(task.train), task)
    inversion = inverted(PixelDDPMInversion, detector, ddpm.prediction, task)
    reconstruction = measure(replace(detector, reconstruction_weight=1.0).fit(task.train), task)
    return DDPMVariants(ddpm, simplex, inversion, reconstruction, task)
