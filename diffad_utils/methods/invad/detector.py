"""InvAD: anomaly detection by DDIM inversion of features, without reconstruction.

Source: Sakai et al., "InvAD: Inversion-based Reconstruction-Free Anomaly Detection with Diffusion Models" (CVPR 2026;
arXiv 2504.05662) and its public code (InversionAD). A denoiser learns the distribution of a pretrained backbone's
features on normal images. A test image's features are moved along the probability-flow ODE towards the Gaussian prior
in a few DDIM steps; where the final latent does not look Gaussian, the image is anomalous.

The paper's setting is *unified*: one denoiser for all categories of a data set, which is not told the category of an
image. So is ours where ``fit`` gets the training images of several categories; ``category`` names the one whose
held-out images calibrate the score. With the images of one category it is the one-category variant.

Where paper and public code differ, or ours from both:

- *Spacing* of the inversion steps: see `diffusion.inversion_timesteps`; both are options.
- *Image score*: both add NLL and value range of the latent. The public code scales the two with minimum and maximum
  over the whole test set (`score.min_max_over_test_set`); ours scales them with mean and standard deviation over
  held-out normal training images. It is whole in `score`.
- *Linear skip*: the denoiser predicts what the best linear guess of the noise leaves (``linear_skip=False`` for a plain
  network, as in the public code), which small networks and short training need (see `feature_dit`).
- *Length of training*: the public code counts epochs (300) on eight processes of 8 images, of all categories together;
  ours counts optimiser steps of ``train_batch_size`` images. The weight average of 0.999 is theirs, for some 17 000
  steps; ours is 0.99, for hundreds.
- *Size*: DiT of depth 16 and width 2048 on EfficientNet-B4; ours is 2 and 192 on EfficientNet-Lite0 by default.
- *Feature scale*: the public code diffuses raw features. Ours standardises each channel with its mean and standard
  deviation over the training images (``standardise=False`` for theirs), since the prior has unit variance.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
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
from diffad_utils.io.files import written_whole
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.methods.invad.score import anomaly_map, image_score, score_parts
from diffad_utils.methods.kept import kept
from diffad_utils.models.feature_cache import cached_features
from diffad_utils.training import BatchLoss, Training
from diffad_utils.weights import Resolved

SCORES = ("nll+spread", "nll", "spread")
RETRAINED = {"seed", "width", "depth", "num_heads", "linear_skip"} | {field.name for field in fields(Training)}
"""Fields that `InvAD.retrain` may change: those that leave the features as they are."""


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
    category : the category whose held-out training images calibrate the score, where ``fit`` gets several; "" takes
        those of all. An image's category is read off its key.
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
    published_setting: ClassVar[str] = "multi-class"
    former_settings: ClassVar[dict[str, Any]] = {"class_conditional": False}  # the paper's denoiser is unconditional
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
    depth: int = 2
    num_heads: int = 4
    category: str = ""
    standardise: bool = True
    linear_skip: bool = True
    train_steps: int = 800
    train_batch_size: int = 8
    learning_rate: float = 2e-3
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

    def fit(
        self,
        train_dataset: ImageDataset,
        checkpoint_folder: str | Path | None = None,
        snapshot_steps: Sequence[int] = (),
    ) -> Self:
        """Extract features once, train the denoiser on them, calibrate the score on held-out normals.

        Of each category a share of ``holdout_fraction`` is held out. With ``checkpoint_folder`` an interrupted training
        goes on where it was; after each of ``snapshot_steps`` the denoiser is written there, for `at_step`. Leaves
        ``training_log_`` (losses, seconds) and ``holdout_features_`` [n, C, grid, grid] behind: those that calibrate.
        The network does not depend on ``category``: ``with_settings`` calibrates it for another.

        Raises ``ValueError`` for anomalous images, a ``category`` without training images, or snapshots without a
        folder.
        """
        check_train_dataset(train_dataset)
        self._check_category(self.category, set(train_dataset.index["category"]))
        self._load_backbone()
        description = {
            "features": "invad",
            "backbone": self.backbone_.resolved.sha256,
            "strides": list(self.strides),
            "grid": self.grid,
            "image_size": self.image_size,
            "device": self.torch_device.type,
            "channels_last": True,  # as `load_backbone` lays them out: other layouts round otherwise
        }
        raw, keys = cached_features(lambda: batches(train_dataset, self.batch_size), self._raw_features, description)
        categories = [key.split("/")[1] for key in keys]
        fitted, held_out = self._split(categories)
        self.feature_mean_, self.feature_std_ = self._channel_statistics(raw[fitted])
        features = (raw - self.feature_mean_) / self.feature_std_
        self.train_features_, self.held_out_ = features[fitted], features[held_out]
        self.held_out_categories_ = [categories[i] for i in held_out.tolist()]
        self._train(checkpoint_folder, snapshot_steps)
        return self

    @property
    def holdout_features_(self) -> Tensor:
        """Held-out features that calibrate the score, those of ``category``: float32 [n, C, grid, grid]."""
        return self.held_out_[[self.category in ("", name) for name in self.held_out_categories_]]

    @staticmethod
    def _check_category(category: str, known: set[str]) -> None:
        if category and category not in known:
            raise ValueError(f"category={category!r} has no training images, which are of {', '.join(sorted(known))}")

    def _split(self, categories: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows to train on, and rows held out: int64, sorted."""
        rows = {
            name: torch.tensor([i for i, c in enumerate(categories) if c == name]) for name in sorted({*categories})
        }
        parts = {name: scoring.holdout_split(len(r), self.holdout_fraction, self.seed) for name, r in rows.items()}
        fitted, held_out = (torch.cat([r[parts[name][k]] for name, r in rows.items()]).sort().values for k in (0, 1))
        return fitted, held_out

    def _train(self, checkpoint_folder: str | Path | None, snapshot_steps: Sequence[int]) -> None:
        """DDPM's simplified objective (Ho et al. 2020, eq. 14) on standardised features [N, C, grid, grid]."""
        if snapshot_steps and checkpoint_folder is None:
            raise ValueError("snapshot_steps needs a checkpoint_folder to write the networks to")
        self._build_denoiser(self.train_features_.shape[1])

        def draw(generator: torch.Generator) -> NoisyBatch:
            return noisy_batch(self.train_features_, self.schedule, self.train_batch_size, generator, self.torch_device)

        def loss(model: torch.nn.Module, *batch: Tensor) -> Tensor:
            return epsilon_loss(model, NoisyBatch(*batch))

        def keep(step: int) -> None:
            path = _snapshot(checkpoint_folder, step)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.denoiser_.state_dict().items()}
            with written_whole(path) as temporary:
                save_file(tensors, temporary)

        if snapshot_steps:
            Path(checkpoint_folder).mkdir(parents=True, exist_ok=True)
        loss_fn = BatchLoss(self.train_batch_size, draw, loss)
        snapshots = {"snapshot_steps": snapshot_steps, "on_snapshot": keep} if snapshot_steps else {}
        self.training_log_ = self._optimise(self.denoiser_, loss_fn, "InvAD denoiser", checkpoint_folder, **snapshots)
        self._calibrate()

    def retrain(
        self, checkpoint_folder: str | Path | None = None, snapshot_steps: Sequence[int] = (), **settings: Any
    ) -> InvAD:
        """A denoiser with other ``settings`` (of `RETRAINED`) on the features and the held-out images of ``fit``.

        Raises ``ValueError`` for a setting that the features depend on, ``RuntimeError`` for a loaded detector.
        """
        if wrong := sorted(set(settings) - RETRAINED):
            raise ValueError(
                f"retrain cannot change {', '.join(wrong)}: fit another detector; it can {sorted(RETRAINED)}"
            )
        other = self._copy("retrain")
        for name, value in settings.items():
            setattr(other, name, value)
        other._train(checkpoint_folder, snapshot_steps)
        return other

    def at_step(self, step: int, checkpoint_folder: str | Path = "") -> InvAD:
        """This detector as it was after ``step`` training steps, 0: untrained; calibrated anew.

        checkpoint_folder : that of the training, with a snapshot of the step. Raises ``FileNotFoundError`` without one.
        """
        other = self._copy("at_step")
        other._build_denoiser(self.train_features_.shape[1])
        if step:
            path = _snapshot(checkpoint_folder, step)
            if not path.is_file():
                raise FileNotFoundError(f"{path} not found: train with snapshot_steps that hold {step}")
            other.denoiser_.load_state_dict(load_file(path))
        other._calibrate()
        return other

    def with_settings(
        self, *, num_steps: int | None = None, spacing: str | None = None, category: str | None = None
    ) -> InvAD:
        """The same network with other inversion steps or for another category, calibrated anew on the held-out normals
        of ``fit``.

        Raises ``RuntimeError`` for a detector that was loaded (the held-out features are not saved), ``ValueError`` for
        a ``category`` without training images.
        """
        other = self._copy("with_settings")
        other.num_steps, other.spacing = num_steps or self.num_steps, spacing or self.spacing
        if category is not None:
            self._check_category(category, set(self.held_out_categories_))
            other.category = category
        inversion_timesteps(other.schedule, other.num_steps, other.spacing)
        other._calibrate()
        return other

    def _copy(self, purpose: str) -> InvAD:
        if not hasattr(self, "held_out_"):
            raise RuntimeError(f"{purpose} needs the features that fit leaves; a loaded detector has none")
        return copy.copy(self)

    def _calibrate(self) -> None:
        self.calibration_ = scoring.Calibration.fit(score_parts(self.invert(self.holdout_features_)))

    # -- predict -------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("calibration_")
        z = self.invert(self.features(images))
        return self.prediction_from_latents(z, images.shape[-2:])

    @kept()
    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Standardised features of ``images`` [B, 3, H, W] in [0, 1]: float32 [B, C, grid, grid] on the CPU."""
        self._require_fitted("feature_mean_")
        return (self._raw_features(images) - self.feature_mean_) / self.feature_std_

    @kept()
    def invert(self, features: Tensor) -> Tensor:
        """Final latents of the inversion: standardised features [N, C, grid, grid] -> [N, C, grid, grid], CPU."""
        return torch.cat([self.trajectory(x0)[-1] for x0 in features.split(self.batch_size)])

    @torch.inference_mode()
    def trajectory(self, features: Tensor) -> Tensor:
        """States of the inversion of a batch, the features first: [B, C, grid, grid] -> [num_steps + 1, B, ...], CPU.

        State k is at the noise level after k steps (`diffusion.inversion_timesteps`).
        """
        x0 = features.to(self.torch_device)
        return ddim_invert(self._eps_fn(), x0, self.schedule, self.num_steps, self.spacing, True)[1].float().cpu()

    def prediction_from_latents(self, z: Tensor, size: tuple[int, int]) -> Prediction:
        """Scores and maps of final latents ``z`` [N, C, grid, grid] for images of ``size`` (H, W)."""
        parts = score_parts(z)
        score = image_score(parts, self.calibration_, self.score.split("+"))
        return Prediction(score, anomaly_map(z, size), parts=parts, nfe=self.num_steps)

    @kept()
    @torch.inference_mode()
    def reconstruct(self, features: Tensor, keys: Sequence[str], noise_timestep: int, num_steps: int) -> Tensor:
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
            outputs.append(ddim_sample(self._eps_fn(), x_t, self.schedule, timesteps).float().cpu())
        return torch.cat(outputs)

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _eps_fn(self) -> torch.nn.Module:
        if self.inference_precision == "fp32":
            return self.denoiser_
        return in_precision(self.denoiser_, self.inference_precision)

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
            self.denoiser_ = FeatureDiT(channels, self.grid, self.width, self.depth, self.num_heads, linear_skip=skip)
        self.denoiser_.to(self.torch_device).eval()

    def resolved_weights(self) -> dict[str, Resolved]:
        return {"backbone": self.backbone_.resolved}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser_.state_dict().items()}
        tensors |= {"feature_mean": self.feature_mean_, "feature_std": self.feature_std_}
        values = {"calibration": self.calibration_.to_dict(), "backbone_sha256": self.backbone_.resolved.sha256}
        return tensors, values

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])
        self.feature_mean_, self.feature_std_ = tensors["feature_mean"], tensors["feature_std"]
        self._build_denoiser(self.feature_mean_.shape[1])
        self.denoiser_.load_state_dict(
            {k.removeprefix("denoiser."): v for k, v in tensors.items() if k.startswith("denoiser.")}
        )
        self._load_backbone()
        self._check_weights({"backbone": values["backbone_sha256"]})


def _snapshot(folder: str | Path, step: int) -> Path:
    return Path(folder) / f"step-{step}.safetensors"
