"""InvAD: anomaly detection by DDIM inversion of features, without reconstruction.

Source: Sakai et al., "InvAD: Inversion-based Reconstruction-Free Anomaly Detection with Diffusion Models" (CVPR 2026;
arXiv 2504.05662) and its public code (InversionAD). A denoiser learns the distribution of a pretrained backbone's
features on normal images. A test image's features are moved along the probability-flow ODE towards the Gaussian prior
in a few DDIM steps; where the final latent does not look Gaussian, the image is anomalous.

Where paper and public code differ, or ours from both:

- *Spacing* of the inversion steps: see `diffusion.inversion_timesteps`; both are options.
- *Image score*: both add NLL and value range of the latent. The public code scales the two with minimum and maximum
  over the whole test set (`score.min_max_over_test_set`); ours scales them with mean and standard deviation over
  held-out normal training images. It is whole in `score`.
- *Linear skip*: the denoiser predicts what the best linear guess of the noise leaves (``linear_skip=False`` for a plain
  network, as in the public code), which small networks and short training need (see `feature_dit`).
- *Feature scale*: the public code diffuses raw features. Ours standardises each channel with its mean and standard
  deviation over the training images (``standardise=False`` for theirs), since the prior has unit variance.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import (
    NoiseSchedule,
    NoisyBatch,
    add_noise,
    check_precision,
    ddim_invert,
    ddim_sample,
    epsilon_loss,
    image_noise,
    in_precision,
    inversion_timesteps,
    noisy_batch,
)
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.methods.invad.score import anomaly_map, image_score, score_parts
from diffad_utils.models.feature_cache import cached_features
from diffad_utils.training import BatchLoss, Training, TrainingLog
from diffad_utils.weights import Resolved

SCORES = ("nll+spread", "nll", "spread")


@dataclass(kw_only=True)
class InvAD(Training, Detector):
    """DDIM inversion of backbone features; see the module's text for the source.

    Parameters
    ----------
    backbone : name for `models.backbones.load_backbone`. The paper's is "efficientnet-b4" (strides 2, 4, 8, 16; 272
        channels at ``grid`` = 16 for ``image_size`` = 256).
    allow_mini : whether the shipped mini backbone may stand in where the real weights are not found.
    strides : feature levels that are resized to ``grid`` x ``grid`` cells and concatenated.
    width, depth, num_heads : size of the denoiser (the paper's: 2048, 16, 8).
    class_conditional : condition the denoiser on the category (multi-class setting); the category is read off the image
        keys. The paper's denoiser is unconditional.
    standardise : per-channel standardisation of the features with training statistics.
    linear_skip : give the denoiser the optimal linear predictor of the noise as a skip connection.
    The fields of `training.Training` are those of its training with DDPM's epsilon objective.
    num_steps, spacing : DDIM inversion steps and where they lie (`diffusion.inversion_timesteps`). On validation draws
        of the procedural textures (`benchmarks/invad_spacing.py`) they can hardly be told apart by I-AUROC; "reference"
        has the higher AUPRO and is the default.
    score : "nll+spread" (the paper's), "nll" or "spread", which is the value range.
    holdout_fraction : share of the training images held out for calibrating the score.
    inference_precision : of the denoiser's evaluations, "fp32", "bf16" or "fp16" (autocast; the state stays float32,
        and calibration and prediction use the same). What bf16 gains in time and how far it moves the latents is
        measured by `benchmarks.sampling`.

    Prediction: score = sum of the calibrated parts ``nll`` (nats) and ``spread`` (value range); anomaly_map = channel
    norm of the final latent, upsampled; no reconstruction; nfe = ``num_steps``.
    """

    name: ClassVar[str] = "invad"
    family: ClassVar[str] = "diffusion"
    published_as: ClassVar[str] = "InvAD"
    contract_settings: ClassVar[dict[str, Any]] = {
        "grid": 4,
        "width": 32,
        "depth": 1,
        "num_heads": 2,
        "train_steps": 150,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
    }

    backbone: str = "efficientnet-lite0"
    allow_mini: bool = False
    strides: Sequence[int] = (2, 4, 8, 16)
    grid: int = 16
    width: int = 192
    depth: int = 4
    num_heads: int = 4
    class_conditional: bool = False
    standardise: bool = True
    linear_skip: bool = True
    train_steps: int = 400
    train_batch_size: int = 16
    warmup_steps: int = 50
    ema_decay: float | None = 0.99
    num_steps: int = 3
    spacing: str = "reference"
    score: str = "nll+spread"
    holdout_fraction: float = 0.1
    inference_precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {SCORES}, got {self.score!r}")
        check_precision(self.inference_precision)
        self.schedule = NoiseSchedule.linear()
        inversion_timesteps(self.schedule, self.num_steps, self.spacing)  # refuses bad settings before any training

    # -- fit -----------------------------------------------------------------------------------------------------------

    def fit(self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None) -> Self:
        """Extract features once, train the denoiser on them, calibrate the score on held-out normals.

        With ``checkpoint_folder`` an interrupted training goes on where it was. Leaves ``training_log_`` (losses,
        seconds) and ``holdout_features_`` [n, C, grid, grid] behind.
        """
        check_train_dataset(train_dataset)
        self.categories_ = sorted(set(train_dataset.index["category"])) if self.class_conditional else []
        self._load_backbone()
        description = {
            "features": "invad",
            "backbone": self.backbone_.resolved.sha256,
            "strides": list(self.strides),
            "grid": self.grid,
            "image_size": self.image_size,
            "device": self.torch_device.type,
        }
        raw, keys = cached_features(lambda: batches(train_dataset, self.batch_size), self._raw_features, description)
        labels = self._class_labels(keys)
        fitted, held_out = scoring.holdout_split(len(raw), self.holdout_fraction, self.seed)
        self.feature_mean_, self.feature_std_ = self._channel_statistics(raw[fitted])
        features = (raw - self.feature_mean_) / self.feature_std_
        self._build_denoiser(features.shape[1])
        self.training_log_ = self._train_denoiser(
            features[fitted], None if labels is None else labels[fitted], checkpoint_folder
        )
        self.holdout_features_ = features[held_out]
        self._holdout_labels = None if labels is None else labels[held_out]
        self._calibrate()
        return self

    def _train_denoiser(
        self, features: Tensor, labels: Tensor | None, checkpoint_folder: str | Path | None
    ) -> TrainingLog:
        """DDPM's simplified objective (Ho et al. 2020, eq. 14) on standardised features [N, C, grid, grid]."""

        def draw(generator: torch.Generator) -> NoisyBatch:
            return noisy_batch(features, self.schedule, self.train_batch_size, generator, self.torch_device)

        def loss(model: torch.nn.Module, *batch: Tensor) -> Tensor:
            part = NoisyBatch(*batch)
            y = None if labels is None else labels[part.rows].to(self.torch_device)
            return epsilon_loss(lambda x, t: model(x, t, y), part)

        loss_fn = BatchLoss(self.train_batch_size, draw, loss)
        return self._optimise(self.denoiser_, loss_fn, "InvAD denoiser", checkpoint_folder)

    def with_settings(self, *, num_steps: int | None = None, spacing: str | None = None) -> InvAD:
        """The same network with other inversion steps, calibrated anew on the held-out normals of ``fit``.

        Raises ``RuntimeError`` for a detector that was loaded (the held-out features are not saved).
        """
        if not hasattr(self, "holdout_features_"):
            raise RuntimeError("with_settings needs the held-out features that fit leaves; a loaded detector has none")
        other = copy.copy(self)
        other.num_steps, other.spacing = num_steps or self.num_steps, spacing or self.spacing
        inversion_timesteps(other.schedule, other.num_steps, other.spacing)
        other._calibrate()
        return other

    def _calibrate(self) -> None:
        z = self.invert(self.holdout_features_, self._holdout_labels)
        self.calibration_ = scoring.Calibration.fit(score_parts(z))

    # -- predict -------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("calibration_")
        z = self.invert(self.features(images), self._class_labels(keys))
        return self.prediction_from_latents(z, images.shape[-2:])

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Standardised features of ``images`` [B, 3, H, W] in [0, 1]: float32 [B, C, grid, grid] on the CPU."""
        self._require_fitted("feature_mean_")
        return (self._raw_features(images) - self.feature_mean_) / self.feature_std_

    @torch.inference_mode()
    def invert(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Final latents of the inversion: features [N, C, grid, grid] (standardised), labels [N] -> [N, C, grid, grid],
        CPU."""
        latents = []
        for start in range(0, len(features), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            eps_fn = self._eps_fn(None if labels is None else labels[chunk])
            x0 = features[chunk].to(self.torch_device)
            latents.append(ddim_invert(eps_fn, x0, self.schedule, self.num_steps, self.spacing).float().cpu())
        return torch.cat(latents)

    def prediction_from_latents(self, z: Tensor, size: tuple[int, int]) -> Prediction:
        """Scores and maps of final latents ``z`` [N, C, grid, grid] for images of ``size`` (H, W)."""
        parts = score_parts(z)
        score = image_score(parts, self.calibration_, self.score.split("+"))
        return Prediction(score, anomaly_map(z, size), parts=parts, nfe=self.num_steps)

    @torch.inference_mode()
    def reconstruct(
        self, features: Tensor, keys: Sequence[str], noise_timestep: int, num_steps: int, labels: Tensor | None = None
    ) -> Tensor:
        """The rival use of the same denoiser: noise to ``noise_timestep``, then denoise in ``num_steps`` DDIM steps.

        features: standardised [N, C, grid, grid]; keys [N] seed the noise of each image. Returns the reconstructed
        features [N, C, grid, grid] on the CPU; network evaluations: ``num_steps``.
        """
        timesteps = torch.linspace(noise_timestep, 0, num_steps + 1).round().long()[:-1].tolist()
        outputs = []
        for start in range(0, len(features), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            x0 = features[chunk]
            noise = image_noise(x0.shape[1:], self.seed, keys[chunk])
            x_t = add_noise(x0, torch.full((len(x0),), noise_timestep), noise, self.schedule).to(self.torch_device)
            eps_fn = self._eps_fn(None if labels is None else labels[chunk])
            outputs.append(ddim_sample(eps_fn, x_t, self.schedule, timesteps).float().cpu())
        return torch.cat(outputs)

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _eps_fn(self, labels: Tensor | None):
        y = None if labels is None else labels.to(self.torch_device)

        def eps_fn(x: Tensor, t: Tensor) -> Tensor:
            return self.denoiser_(x, t, y)

        return eps_fn if self.inference_precision == "fp32" else in_precision(eps_fn, self.inference_precision)

    @torch.no_grad()
    def _raw_features(self, images: Tensor) -> Tensor:
        """Backbone features of every stride, resized to the grid and concatenated: [B, C, grid, grid] on the CPU."""
        self._load_backbone()
        levels = self.backbone_(self._input(images).to(self.torch_device))
        resized = [F.interpolate(f, size=(self.grid, self.grid), mode="bilinear", align_corners=False) for f in levels]
        return torch.cat(resized, dim=1).float().cpu()

    def _load_backbone(self) -> None:
        from diffad_utils.models.backbones import load_backbone  # timm: as long to import as all the rest

        if not hasattr(self, "backbone_"):
            self.backbone_ = load_backbone(self.backbone, allow_mini=self.allow_mini, strides=tuple(self.strides)).to(
                self.torch_device
            )

    def _channel_statistics(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        if not self.standardise:
            return torch.zeros(1, raw.shape[1], 1, 1), torch.ones(1, raw.shape[1], 1, 1)
        mean = raw.mean(dim=(0, 2, 3), keepdim=True)
        # A channel that never fires on normal images must not blow up on the first image where it does.
        std = raw.std(dim=(0, 2, 3), keepdim=True)
        return mean, std.clamp_min(0.01 * std.max().item() + 1e-12)

    def _build_denoiser(self, channels: int) -> None:
        from diffad_utils.methods.invad.feature_dit import FeatureDiT  # timm and diffusers

        skip = (1 - self.schedule.alphas_cumprod).sqrt() if self.linear_skip else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.denoiser_ = FeatureDiT(
                channels, self.grid, self.width, self.depth, self.num_heads, len(self.categories_), linear_skip=skip
            )
        self.denoiser_.to(self.torch_device).eval()

    def _class_labels(self, keys: Sequence[str] | None) -> Tensor | None:
        """Class of each image from its key "dataset/category/...", int64 [B]; None for an unconditional denoiser."""
        if not self.class_conditional:
            return None
        if keys is None:
            raise ValueError("a class-conditional detector needs the image keys, which name the category")
        names = [key.split("/")[1] for key in keys]
        unknown = sorted(set(names) - set(self.categories_))
        if unknown:
            raise ValueError(f"categories {unknown} were not among the training categories {self.categories_}")
        return torch.tensor([self.categories_.index(name) for name in names])

    def resolved_weights(self) -> dict[str, Resolved]:
        return {"backbone": self.backbone_.resolved}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser_.state_dict().items()}
        tensors |= {"feature_mean": self.feature_mean_, "feature_std": self.feature_std_}
        values = {
            "categories": self.categories_,
            "calibration": self.calibration_.to_dict(),
            "backbone_sha256": self.backbone_.resolved.sha256,
        }
        return tensors, values

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.categories_ = list(values["categories"])
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])
        self.feature_mean_, self.feature_std_ = tensors["feature_mean"], tensors["feature_std"]
        self._build_denoiser(self.feature_mean_.shape[1])
        self.denoiser_.load_state_dict(
            {k.removeprefix("denoiser."): v for k, v in tensors.items() if k.startswith("denoiser.")}
        )
        self._load_backbone()
        self._check_weights({"backbone": values["backbone_sha256"]})
