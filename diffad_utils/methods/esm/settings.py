"""Settings that SGM, ESM and ESM-sigma share: fields, what they may be, which of them matter after training only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffad_utils.diffusion import NoiseSchedule, check_precision
from diffad_utils.methods.base import Detector
from diffad_utils.methods.reconstruction import SMOOTHING
from diffad_utils.training import Training

SPACES, COMBINATIONS = ("pixel", "latent"), ("calibrated", "plain sum")


SAMPLING = (
    *("noise_timestep", "noise_timesteps", "stride", "mean", "variance_min", "dt"),
    *("weights", "combination", "smoothing", "inference_precision"),
)
"""Fields that matter after training only; `ScoreMatchingDetector.with_settings` may change them."""


UNET = ("block_out_channels", "layers_per_block", "attention_levels")


TRAINING = tuple(field.name for field in dataclasses.fields(Training) if field.name != "train_steps")
"""Fields that both trainings share; each has a number of steps of its own."""


@dataclass(kw_only=True)
class ScoreMatchingSettings(Training, Detector):
    """The fields of the three detectors, checked; `base` says what the paper leaves open.

    Parameters
    ----------
    image_size : a multiple of 2 for each level of the UNet but the first (in latents: times the autoencoder's
        downsampling).
    space : "pixel", images in [-1, 1] as in the paper, or "latent", the latents of ``vae`` (the paper's discussion). In
        latents S_U, S_KL and S_RE are taken there, and S_Cos of the decoded reconstruction against the decoded input,
        so that what the autoencoder loses is not counted.
    vae, backbone, allow_mini : names for `load_vae` and `load_layers`, and whether the small models may stand in.
    block_out_channels, layers_per_block, attention_levels : the UNet, `models.unet.small_unet`.
    dsm_steps : optimiser steps of denoising score matching, the warm-up of stream 1; 0 for none.
    train_steps : steps after it, with the method's own loss; a learning rate schedule of their own. Both trainings
        have the fields of `training.Training`.
    noise_timestep : T_d in 1 .. T, or None: the one of ``noise_timesteps`` with the highest mean of I-AUROC and P-AUROC
        on up to ``validation_images`` held-out normal images and two copies of each with pasted defects
        (`paste_defect`).
    stride : timesteps a step of the samplers (paper: 1).
    weights : of the maps in eq. 14, of ``DETECTORS``; those not named have weight 0. None: 1 for all.
    combination : "calibrated" or "plain sum" (the paper's).
    smoothing : standard deviation of the map's smoothing as a share of the side; 0 for none.
    holdout_fraction : share of the training images held out for calibration and the choice of T_d.
    calibration_images : use at most this many of them; None for all.
    inference_precision : of all networks outside training, calibration included, "fp32", "bf16" or "fp16" (autocast;
        the state stays float32).
    """

    family: ClassVar[str] = "diffusion"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": 32,
        "block_out_channels": (8, 16),
        "dsm_steps": 6,
        "train_steps": 6,
        "train_batch_size": 2,
        "noise_timestep": 20,
        "stride": 5,
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}
    DETECTORS: ClassVar[tuple[str, ...]] = ("cos", "re")
    STREAMS: ClassVar[int]

    image_size: int = 64
    space: str = "pixel"
    vae: str = "sd-mini"
    backbone: str = "efficientnet-lite0"
    allow_mini: bool = False
    block_out_channels: Sequence[int] = (16, 32, 64)
    layers_per_block: int = 1
    attention_levels: Sequence[int] = ()
    dsm_steps: int = 200
    noise_timestep: int | None = None
    noise_timesteps: Sequence[int] = (20, 50, 100)
    validation_images: int = 16
    stride: int = 1
    weights: Mapping[str, float] | None = None
    combination: str = "calibrated"
    smoothing: float = SMOOTHING
    holdout_fraction: float = 0.1
    calibration_images: int | None = None
    inference_precision: str = "fp32"

    def __post_init__(self) -> None:
        check_precision(self.inference_precision)
        for name, known in (("space", SPACES), ("combination", COMBINATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        unknown = set(self.weights or {}) - set(self.DETECTORS)
        if unknown or (self.weights is not None and not any(self.weights.values())):
            raise ValueError(
                f"weights must name some of {self.DETECTORS} for {self.name!r}, not all 0, got {dict(self.weights)}"
            )
        if self.dsm_steps < 0 or self.train_steps < 1 or not 0 <= self.smoothing <= 0.2 or self.validation_images < 2:
            raise ValueError(
                "expected dsm_steps >= 0, train_steps >= 1, smoothing in [0, 0.2] and validation_images >= 2, got "
                f"{self.dsm_steps}, {self.train_steps}, {self.smoothing} and {self.validation_images}"
            )
        self.schedule_ = NoiseSchedule.linear()
        if self.noise_timestep is None and not self.noise_timesteps:
            raise ValueError("give noise_timestep, or noise_timesteps to choose it from")
        for timestep in [self.noise_timestep] if self.noise_timestep is not None else self.noise_timesteps:
            self._check_steps(timestep)

    def _check_steps(self, noise_timestep: int) -> None:
        """Raise ``ValueError`` for steps that the method cannot take, before any training."""
        if not 1 <= noise_timestep <= self.schedule_.T or self.stride < 1:
            raise ValueError(
                f"expected T_d in 1 .. {self.schedule_.T} and stride >= 1, got {noise_timestep} and {self.stride}"
            )
