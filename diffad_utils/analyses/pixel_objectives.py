"""The pixel DDPM with a reconstruction term in its objective (claim C98), the slides' future work.

Used by notebook 02; entry points: `with_term`, `effect`, `row`, `chart`, `in_words`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from diffad_utils import plots
from diffad_utils.analyses import summaries
from diffad_utils.analyses.no_diffusion import control_table
from diffad_utils.analyses.summaries import Measured, compared
from diffad_utils.analyses.task import Task

PLAIN, CHANGED = "pixel DDPM", "pixel DDPM with a reconstruction term"
"""The two among what a notebook measured, by name."""
VARIANT = "with a reconstruction term minus the epsilon loss"
"""Of C98 in claims.csv."""


def with_term(plain: Measured, task: Task, weight: float = 1.0) -> Measured:
    """A `PixelDDPM` with the settings, seed and steps of ``plain``, trained anew with the term's ``weight``."""
    detector: Any = plain.detector  # a PixelDDPM
    return summaries.measure(replace(detector, reconstruction_weight=weight).fit(task.train), task)


def effect(task: Task, measured: Mapping[str, Measured]) -> tuple[float, float, float, int]:
    """C98: I-AUROC with the term minus without, its paired 95 % interval over images, and their number."""
    return *task.difference(measured[CHANGED].score, measured[PLAIN].score), len(task.keys)


def row(task: Task, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The difference for the run's record (`Task.control_row`)."""
    return task.control_row(measured[CHANGED].score, measured[PLAIN].score)


def chart(task: Task, measured: Mapping[str, Measured]) -> Figure:
    """The difference of the I-AUROC."""
    table = control_table({"with minus without the term": row(task, measured)}, task.name)
    return plots.means_chart(table, "difference of the I-AUROC", 0.0)


def in_words(task: Task, measured: Mapping[str, Measured]) -> str:
    """The difference, and what the term costs."""
    gap = effect(task, measured)
    return (
        f"The I-AUROC with the reconstruction term {compared(gap)} that without "
        f"({summaries.in_words(gap, digits=3, sign=True)}), over one training each. An image takes as long as before; "
        "a step of the training evaluates the network twice."
    )
