"""Other diffusion detectors with ESM's objective in the place of their own (claim C94).

The paper says that ESM could be applied to nearly all existing diffusion models. So the networks of D3AD and of the
pixel DDPM are trained by eq. 10 with a second network for the variance, and used as these detectors use them: their
inference takes the noise alone. All steps are by eq. 10; notebook 05 shows what a warm-up changes.

Used by notebook 05; entry point: `compare`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffad_utils.analyses.score_claims import Effect
from diffad_utils.analyses.score_claims import compared as against
from diffad_utils.analyses.small_networks import D3AD_NETWORK
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import signed
from diffad_utils.diffusion import NoiseSchedule, NoisyBatch, noisy_batch
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.esm.dual_stream import DualStream
from diffad_utils.methods.esm.equations import esm_loss
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.training import BatchLoss, TrainingLog

OWN, BY_EQ_10 = "its own", "ESM's (eq. 10)"


EXPLAINED = (
    "The networks of two other detectors are trained by (10), with a second network of the same kind for the variance: "
    "that of D3AD (notebook 06) and that of the pixel DDPM (notebook 02). Each then detects in its own way, which "
    'takes the predicted noise alone. "No worse" allows a loss of 0.02 in I-AUROC.\n\n'
    "**What to look for.** Does the bar of ESM's objective lie clearly below that of the detector's own? A detector "
    "that is not above the trivial baseline with either objective says nothing, and the claim is not judged by it."
)
"""What a reader must know before the figure."""


class TwoStreams(DualStream):
    """Stream 1 is the network of another detector, stream 2 a copy of it that begins at sigma_t^2 = 1 - alpha_bar_t."""

    def __init__(self, network: UNet2DModel, schedule: NoiseSchedule) -> None:
        nn.Module.__init__(self)
        self.channels = network.config.out_channels
        self.mean_stream, self.variance_stream = network, copy.deepcopy(network)
        for parameter in self.variance_stream.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("noise_level", (1 - schedule.alphas_cumprod).float(), persistent=False)


def train_by_eq_10(
    detector: Any,
    x0: Tensor,
    schedule: NoiseSchedule,
    checkpoint_folder: str | Path | None = None,
    max_timestep: int | None = None,
    **changed: Any,
) -> TrainingLog:
    """Train ``detector.unet_`` in place on x0 [n, C, h, w], in [-1, 1] or latents, with as many steps as its own
    objective has; ``changed`` are other arguments of `training.train`."""
    streams = TwoStreams(detector.unet_, schedule).to(detector.torch_device)

    def draw(generator: torch.Generator) -> NoisyBatch:
        drawn = detector.train_batch_size, generator, detector.torch_device
        return noisy_batch(x0, schedule, *drawn, max_timestep)

    def loss(model: TwoStreams, *batch: Tensor) -> Tensor:
        drawn = NoisyBatch(*batch)
        eps, log_variance = model.predict(drawn.x_t, drawn.t)
        return esm_loss(eps, drawn.noise, log_variance, schedule.alphas_cumprod[drawn.t.cpu()])

    loss_fn = BatchLoss(detector.train_batch_size, draw, loss)
    return detector._optimise(streams, loss_fn, f"{detector.name}, eq. 10", checkpoint_folder, **changed)


@dataclass(kw_only=True)
class D3ADByEq10(D3AD):
    """D3AD, its network trained by eq. 10."""

    def _train_unet(self, states: Tensor, checkpoint_folder: str | Path | None) -> TrainingLog:
        return train_by_eq_10(
            self, states, self.schedule, checkpoint_folder, self.max_train_timestep, weight_decay=self.weight_decay
        )


@dataclass(kw_only=True)
class PixelDDPMByEq10(PixelDDPM):
    """The pixel DDPM, its network trained by eq. 10."""

    def _train(self, x0: Tensor, checkpoint_folder: str | Path | None) -> TrainingLog:
        return train_by_eq_10(self, x0, self.schedule_, checkpoint_folder)


PAIRS = {"D3AD": (D3AD, D3ADByEq10), "pixel DDPM": (PixelDDPM, PixelDDPMByEq10)}
"""Detector -> with its own objective, and with ESM's."""


class Objectives(NamedTuple):
    """table : method, objective, I-AUROC, low, high. effects : C94, I-AUROC by eq. 10 minus by the own objective.

    not_judged : methods that with neither objective are above the trivial baseline: of those the loss says nothing.
    """

    table: pd.DataFrame
    effects: dict[str, Effect]
    not_judged: list[str]

    def judged(self) -> dict[str, Effect]:
        """By key of `score_claims.MEASURES`."""
        return {f"C94 {name}": effect for name, effect in self.effects.items() if name not in self.not_judged}

    def in_words(self) -> str:
        """A sentence a method."""
        said = [
            f"{name}: the I-AUROC by eq. 10 is {against(effect)} that by its own objective "
            f"({signed(effect)})"
            + (", and neither is above the trivial baseline, so the claim is not judged by it." if left_out else ".")
            for name, effect in self.effects.items()
            for left_out in [name in self.not_judged]
        ]
        return " ".join(said)


def compare(task: Task, settings: Mapping[str, Mapping[str, Any]], trivial: TrivialBaseline) -> Objectives:
    """Train each detector of ``settings`` (key of `PAIRS` -> its fields) by both objectives, with the same seed and
    number of steps, and predict the task's images."""
    rows, effects, not_judged = [], {}, []
    baseline = trivial.prediction.parts[trivial.statistic]
    for name, own in settings.items():
        scores = [cls(**own).fit(task.train).predict(task.images, task.keys).score for cls in PAIRS[name]]
        for objective, score in zip((OWN, BY_EQ_10), scores, strict=True):
            rows.append({"method": name, "objective": objective, **task.accuracy(score)})
        effects[name] = Effect(*task.difference(scores[1], scores[0]), len(task.labels))
        if all(task.difference(score, baseline)[1] <= 0 for score in scores):
            not_judged.append(name)
    return Objectives(pd.DataFrame(rows), effects, not_judged)


def settings(parameters: Mapping[str, Any], device: str) -> dict[str, dict[str, Any]]:
    """Settings for `compare` from the parameters of notebook 05: D3AD as notebook 06 has it and the pixel DDPM as
    notebook 02 has it, each with ``objective_steps``."""
    shared = {"train_steps": parameters["objective_steps"], "seed": parameters["seed"], "device": device}
    latent = {name: parameters[name] for name in ("vae", "backbone", "image_size")} | {"allow_mini": True}
    return {"D3AD": shared | latent | D3AD_NETWORK, "pixel DDPM": shared | {"num_steps": 5}}
