"""Which values a notebook's parameters may have: one rule a name. A new parameter of a notebook gets its line here."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type, or outside its allowed values."""


@dataclass(frozen=True)
class Rule:
    """Allowed values of one parameter; for a list the rule holds for each element.

    Parameters
    ----------
    choices : the allowed values, or None.
    low, high : closed bounds for numbers, or None. `above` is an open lower bound.
    pattern : regular expression that a string must match as a whole, or None.
    least : how many different values a list must have.
    """

    choices: tuple | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    pattern: str | None = None
    least: int = 0

    def allows(self, value: Any) -> bool:
        """Whether one scalar `value` obeys the rule."""
        if self.choices is not None:
            return value in self.choices
        if self.pattern is not None:
            return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(json.dumps(choice) for choice in self.choices)
        if self.pattern is not None:
            return f"a name that matches {self.pattern}"
        bounds = [
            f"at least {self.low:.10g}" if self.low is not None else "",
            f"above {self.above:.10g}" if self.above is not None else "",
            f"at most {self.high:.10g}" if self.high is not None else "",
        ]
        return " and ".join(bound for bound in bounds if bound) or "any finite number"


_COUNT = Rule(low=1)


_NAME = Rule(pattern=r"[\w][\w .+-]*")  # becomes a folder's name, so no separators and no leading dot


_FRACTION = Rule(low=0, high=1)


_PROMPT = Rule(pattern=r"\S(.*\S)?")


_DATASET = Rule(
    choices=("textures", "elpv", "mvtec_ad", "mvtec_ad_2", "visa", "btad", "mpdd", "mtd", "real_iad", "bmad", "folder")
)


_WEIGHTS = Rule(pattern=r"\S(.*\S)?")  # a name, a path or a hub id: `weights.resolve` knows them


RULES: dict[str, Rule] = {
    "profile": _NAME,
    "dataset": _DATASET,
    "category": _NAME,
    "categories": _NAME,
    "seed": Rule(low=0, high=2**31 - 1),
    "device": Rule(pattern=r"auto|cpu|mps|cuda(:\d+)?"),
    "size": Rule(low=16, high=2048),
    "image_size": Rule(low=16, high=2048),
    "grid": Rule(low=2, high=128),
    "batch_size": Rule(low=1, high=4096),
    "train_images": _COUNT,
    "test_images": Rule(low=0),
    "epochs": _COUNT,
    "train_steps": _COUNT,
    "steps": _COUNT,
    "num_steps": Rule(low=1, high=1000),
    "inversion_steps": Rule(low=1, high=1000),
    "step_counts": Rule(low=1, high=1000),
    "T": Rule(low=2, high=10000),
    "learning_rate": Rule(above=0, high=1),
    "weight_decay": _FRACTION,
    "ema_decay": _FRACTION,
    "grad_clip": Rule(above=0),
    "dropout": _FRACTION,
    "spacing": Rule(choices=("reference", "paper")),
    "spacings": Rule(choices=("reference", "paper")),
    "backbone": _WEIGHTS,  # `models.backbones.load_backbone` knows it, a path or a name of timm too
    "baselines": Rule(
        choices=(
            "patchcore",
            "padim",
            "fastflow",
            "stfpm",
            "reverse_distillation",
            "cfa",
            "winclip",
            "ganomaly",
            "draem",
        )
    ),
    "coreset_ratio": Rule(above=0, high=1),
    "coreset": Rule(choices=("random", "greedy")),
    "other_backbones": _WEIGHTS,
    "backbone_images": Rule(low=4),
    "invad_steps": _COUNT,
    "baseline_steps": _COUNT,
    "winclip_weights": _WEIGHTS,
    "width": _COUNT,
    "depth": Rule(low=1, high=128),
    "num_heads": Rule(low=1, high=128),
    "train_batch_size": Rule(low=1, high=4096),
    "noise_timesteps": Rule(low=1, high=999),
    "denoising_steps": Rule(low=1, high=1000),
    "denoising_step_counts": Rule(low=1, high=1000),
    "sweep_images": Rule(low=4),
    "survey_size": Rule(low=16, high=2048),
    "strides": Rule(choices=(2, 4, 8, 16, 32)),
    "holdout": Rule(above=0, high=0.5),
    "bootstrap": Rule(low=10, high=100000),
    "bootstrap_samples": Rule(low=10, high=100000),
    "level": Rule(above=0.5, high=0.999),
    "strength": Rule(above=0, high=1),
    "strengths": Rule(above=0, high=1),
    "guidance_scale": Rule(low=0, high=100),
    "guidance_scales": Rule(low=0, high=100, least=2),  # a spread over them is measured
    "num_inference_steps": Rule(low=1, high=1000),
    "round_trip_steps": Rule(low=1, high=1000),
    "sweep_seeds": Rule(low=0, high=2**31 - 1, least=2),
    "alpha": _FRACTION,
    "alphas": _FRACTION,
    "calibration_images": Rule(low=2),
    "strip_strengths": Rule(above=0, high=1),
    "pair_images": Rule(low=2),
    "prompt": Rule(pattern=r".*\S.*"),
    "negative_prompt": Rule(pattern=r".*"),
    "weights": _WEIGHTS,
    "clip": _WEIGHTS,
    "masked_images": Rule(low=2),
    "masked_strengths": Rule(above=0, high=1),
    "second_strength": Rule(above=0, high=1),
    "mask_quantile": Rule(above=0, high=0.9999),
    "search_trials": Rule(low=0, high=100000),
    "threads": Rule(low=1, high=1024),
    "space": Rule(choices=("pixel", "latent")),
    "block_out_channels": Rule(low=8, high=4096),
    "layers_per_block": Rule(low=1, high=16),
    "attention_levels": Rule(low=0, high=15),
    "dsm_steps": _COUNT,
    "T_d": Rule(low=0, high=1000),
    "stride": Rule(low=1, high=1000),
    "strip_timestep": Rule(low=1, high=1000),
    "strip_images": Rule(low=4),
    "toy_seed": Rule(low=0, high=2**31 - 1),
    "toy_steps": _COUNT,
    "training_seeds": Rule(low=1, high=20),
    "other_trainings": Rule(choices=("no skip connection", "one category")),
    "vae": _WEIGHTS,
    "vaes": _WEIGHTS,
    "pixel_ddpm_weights": _WEIGHTS,
    "pixel_ddpm_size": Rule(low=16, high=1024),
    "latent_unet_steps": _COUNT,
    "latent_unet_batch_size": Rule(low=1, high=4096),
    "autoencoder_steps": _COUNT,
    "decoder_steps": Rule(low=0),
    "objective_steps": Rule(low=0),
    "reconstruction_weight": Rule(low=0, high=1000),
    "inlier_share": _FRACTION,
    "space_repetitions": Rule(low=0, high=1000),
    "pixel_size": Rule(low=0, high=1024),
    "pixel_ddpm_steps": _COUNT,
    "objectives": Rule(choices=("pixel", "latent")),
    "spectral_weight": Rule(low=0, high=100),
    "noise_std": Rule(above=0, high=10),
    "noise_timestep": Rule(low=1, high=999),
    "latent_channels": Rule(low=1, high=256),
    "downsamplings": Rule(choices=(2, 4, 8, 16, 32)),
    "survey_images": Rule(low=2),
    "planted_images": Rule(low=2),
    "planted_areas": Rule(above=0, high=0.25),
    "planted_contrasts": Rule(above=0, high=0.5),
    "attention_resolutions": Rule(low=1, high=256),
    "max_train_timestep": Rule(low=2, high=1000),
    "t_max": Rule(low=10, high=999),
    "k": Rule(low=1, high=1000),
    "plan": Rule(choices=("sub-sequence", "code", "paper")),  # "paper": the first one's earlier name
    "guidance_weight": Rule(low=0, high=100),
    "guidance_weights": Rule(low=0, high=100),
    "adaptation_epochs": Rule(low=0, high=100),
    "adaptation_study": Rule(low=0, high=100),
    "adaptation_rate": Rule(above=0, high=1),
    "glad_steps": Rule(low=0),
    "masked_steps": Rule(low=10, high=999),
    "map_weight": _FRACTION,
    "map_weights": _FRACTION,
    "noise_fractions": _FRACTION,
    "high_steps": Rule(low=10, high=999),
    "ddad_size": Rule(low=32, high=2048),
    "ddad_steps": _COUNT,
    "ddad_learning_rate": Rule(above=0, high=1),
    "ddad_channels": Rule(low=8, high=4096),
    "ddad_weight": Rule(low=0, high=100),
    "ddad_weights": Rule(low=0, high=100),
    "removal_images": Rule(low=2),
    "img2img_weights": _WEIGHTS,
    "instance_prompt": _PROMPT,
    "lora_prompt": Rule(pattern=r"|\S(.*\S)?"),
    "base_prompt": _PROMPT,
    "class_prompt": _PROMPT,
    "rank": Rule(low=1, high=1024),
    "ranks": Rule(low=1, high=1024),
    "lora_alpha": Rule(low=0, high=4096),
    "lora_dropout": Rule(low=0, high=0.9),
    "target_modules": Rule(pattern=r"[\w.]+"),
    "prior_weight": Rule(low=0, high=100),
    "class_images": _COUNT,
    "gradient_accumulation_steps": Rule(low=1, high=1024),
    "inference_precision": Rule(choices=("auto", "fp32", "bf16", "fp16")),
    "mixed_precision": Rule(choices=("no", "fp16", "bf16")),
    "optimizer": Rule(choices=("adamw", "adamw8bit")),
    "holdout_fraction": Rule(above=0, high=0.5),
    "snapshot_steps": _COUNT,
    "study_images": Rule(low=4),
    "loss_timesteps": Rule(low=0, high=999),
    "other_dataset": _DATASET,
    "other_category": Rule(pattern=r"|[\w][\w .+-]*"),
}
"""Allowed values by parameter name, the same in every notebook. A name without a rule is checked for its type only."""
