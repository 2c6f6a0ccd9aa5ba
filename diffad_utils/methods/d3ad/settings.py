"""Settings that DDAD and D3AD share: fields, what they may be, and which of them need another training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from diffad_utils.diffusion import NOISES, NoiseSchedule, check_precision
from diffad_utils.methods.base import Detector
from diffad_utils.methods.d3ad import adaptation
from diffad_utils.methods.d3ad.conditioning import EARLIER_NAMES, PLANS
from diffad_utils.training import Training

OPTIONS = {
    "space": ("pixel", "latent"),
    "posterior": ("mean", "draw"),
    "plan": PLANS,
    "noise": NOISES,
    "normalisation": ("training", "batch"),
    "adaptation_loss": tuple(adaptation.LOSSES),
}


@dataclass(kw_only=True)
class ConditionedSettings(Training, Detector):
    """The fields that `DDAD` and `D3AD` share, checked.

    Parameters
    ----------
    space : "pixel" or "latent". vae : for "latent", a name for `models.stable_diffusion.load_vae`. posterior : the
        latent of an image is the "mean" of the autoencoder's posterior, or a "draw" from it (the public code of D3AD),
        one an image and seed. Training takes the mean.
    backbone : of the feature map, a name for `models.backbones.load_backbone`; strides : its blocks that are used. 8
        and 16 are blocks 2 and 3 of a ResNet.
    allow_mini : whether the shipped small models may stand in for both where the real weights are not found.
    block_out_channels, layers_per_block, attention_resolutions : of the UNet; widths are multiples of 8, attention is
        on the levels whose side in cells is in the last.
    beta_start, beta_end : linear schedule with T = 1000.
    max_train_timestep : training draws t below it; 1000 is DDPM's (and the papers'). The reconstruction only visits
        t up to its start, so a short training may spend itself there.
    weight_decay : with the fields of `training.Training`, of the training of the UNet with DDPM's epsilon objective
        (D3AD eq. 6).
    num_steps : DDIM steps. plan : "sub-sequence" (once "paper", still read) or "code", see `conditioning`.
    noise : "gaussian" or "simplex" (AnoDDPM's, `diffusion.simplex`), in training and wherever noise is added.
    noise_fraction : omega, how much noise the start is given (D3AD eq. 11): 1 in DDAD, 0 in D3AD.
    guidance_weight : DDAD's w, D3AD's eta: pull towards the image.
    stochasticity : DDIM's eta; noise in every step for values above 0.
    normalisation : of the maps before they are added, "training" or "batch" (the public codes'; an image's score then
        depends on what else is predicted with it).
    adaptation_epochs, adaptation_loss, distillation_weight, adaptation_rate : see `adaptation.adapt`.
    adaptation_strides : blocks that the loss of the adaptation sums over; None: those of the map, ``strides``. Eq. 10
        and both public codes sum over all blocks, such as (4, 8, 16). The deepest is that of ``strides``.
    adaptation_batch_statistics : batch normalisation in training mode while adapting, as in both public codes.
    holdout_fraction : share of the training images held out for the constants of the maps.
    inference_precision : of all networks outside training, the constants of the maps included, "fp32", "bf16" or "fp16"
        (autocast; the state stays float32).
    """

    family: ClassVar[str] = "diffusion"

    space: str = "pixel"
    vae: str = "sd-mini"
    posterior: str = "mean"
    backbone: str = "efficientnet-lite0"
    strides: Sequence[int] = (8, 16)
    allow_mini: bool = False
    block_out_channels: Sequence[int] = (16, 32, 64, 96)
    layers_per_block: int = 1
    attention_resolutions: Sequence[int] = (8,)
    beta_start: float = 1e-4
    beta_end: float = 0.02
    max_train_timestep: int = 1000
    weight_decay: float = 0.01
    num_steps: int = 10
    plan: str = "sub-sequence"
    noise: str = "gaussian"
    noise_fraction: float = 1.0
    guidance_weight: float = 0.0
    stochasticity: float = 0.0
    normalisation: str = "training"
    adaptation_epochs: int = 0
    adaptation_loss: str = "positions"
    distillation_weight: float = 0.0
    adaptation_rate: float = 1e-4
    adaptation_strides: Sequence[int] | None = None
    adaptation_batch_statistics: bool = False
    holdout_fraction: float = 0.1
    inference_precision: str = "fp32"

    RETRAINS: ClassVar[frozenset[str]] = frozenset(
        {"image_size", "seed", "device", "space", "vae", "backbone", "strides", "allow_mini", "holdout_fraction"}
        | {"block_out_channels", "layers_per_block", "attention_resolutions", "beta_start", "beta_end"}
        | {"max_train_timestep", "weight_decay", "noise", *(field.name for field in dataclasses.fields(Training))}
    )
    """Fields that `with_settings` cannot change, because they need another training."""

    def __post_init__(self) -> None:
        check_precision(self.inference_precision)
        self.plan = EARLIER_NAMES.get(self.plan, self.plan)
        self.adaptation_loss = EARLIER_NAMES.get(self.adaptation_loss, self.adaptation_loss)
        for name, known in OPTIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if not 0 <= self.noise_fraction <= 1 or self.guidance_weight < 0 or not 0 <= self.stochasticity <= 1:
            got = f"{self.noise_fraction}, {self.guidance_weight}, {self.stochasticity}"
            raise ValueError(f"expected noise_fraction and stochasticity in [0, 1] and guidance_weight >= 0, got {got}")
        if any(width < 8 or width % 8 for width in self.block_out_channels):
            raise ValueError(f"block_out_channels must be multiples of 8, got {list(self.block_out_channels)}")
        if self.adaptation_strides is not None and max(self.adaptation_strides) != max(self.strides):
            got = f"{list(self.adaptation_strides)} and {list(self.strides)}"
            raise ValueError(f"adaptation_strides must end with the deepest of strides, got {got}")
        self.schedule = NoiseSchedule.linear(1000, self.beta_start, self.beta_end)
        self.stage_seconds: Counter[str] = Counter()  # wall time of `predict` by stage since this was last cleared
