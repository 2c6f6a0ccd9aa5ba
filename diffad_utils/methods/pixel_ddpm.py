"""Diffusion in pixel space: a DDPM of normal images that reconstructs by partial noising and DDIM.

Source: the code of the slides "A Critical Evaluation of Diffusion Models" (codes/diffusion_unet.ipynb), which adapts
google/ddpm-celebahq-256 to normal images with all but four blocks frozen (``weights``, ``trainable``, ``learning_rate``
= 3e-5, ``train_batch_size`` = 2, 30 epochs at 128 pixels), and the pixel-space model that the slides name as future
work. The objective is that of Ho et al. (NeurIPS 2020, eq. 14), reconstruction is that of AnoDDPM (Wyatt et al., CVPRW
2022) with DDIM (Song et al., ICLR 2021, eq. 12): the image is noised up to ``noise_timestep`` and denoised in
``num_steps``.

Where ours differs from their code:

- *Input*: theirs is in [0, 1], ours in [-1, 1], which the pretrained model was trained on.
- *Start*: theirs runs 250 steps from t = 999 on the clean test image, to which no noise was added, so the network is
  told of noise that is not there. Ours noises, with noise seeded by (seed, image key).
- *Without pretrained weights* a small network is trained from scratch, which their code does not have.

``reconstruction_weight`` adds a term to the objective that asks for the clean image, which the slides name as future
work ("more reconstruction-oriented objectives") without saying which.

``noise="simplex"`` has AnoDDPM's noise in training and at test time, with the variance of the Gaussian noise
(`diffusion.simplex`, which says how it differs from AnoDDPM's code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from diffad_utils import scoring, weights
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import (
    NOISES,
    NoiseSchedule,
    NoisyBatch,
    add_noise,
    ddim_sample,
    epsilon_loss,
    image_noise,
    noisy_batch,
)
from diffad_utils.methods.base import check_train_dataset, noise_keys
from diffad_utils.methods.reconstruction import ReconstructionDetector
from diffad_utils.models.unet import small_unet
from diffad_utils.training import BatchLoss, Training, TrainingLog
from diffad_utils.weights import Resolved


@dataclass(kw_only=True)
class PixelDDPM(Training, ReconstructionDetector):
    """Reconstruction by a DDPM of images; see the module's text for the source.

    Parameters
    ----------
    weights : a diffusers folder or hub id of an unconditional DDPM that predicts the noise, for `weights.resolve`:
        "google/ddpm-celebahq-256" is the seed project's. None: a small network from scratch.
    trainable : with ``weights``, the blocks that are trained, by the beginning of their parameters' names; all others
        stay as they are. The default is the seed project's choice.
    image_size : a multiple of 2 for each level of the network but the first (8 for the small one).
    block_out_channels : widths of the small network, each a multiple of 8; attention on the last level.
    The fields of `training.Training` are those of its training.
    noise_timestep : how far images are noised, up to T - 1. The small network, briefly trained, loses what is normal as
        well where there is more noise (validation draws of carpet and leather: 50 best of 50, 100 and 250); AnoDDPM has
        250.
    num_steps : DDIM steps from there, at most as many.
    noise : "gaussian" or "simplex", of the training and of the test images. A pretrained network knows Gaussian noise
        alone.

    reconstruction_weight : of the mean absolute error of the estimate of the clean image, in grey values of [-1, 1], at
        noise levels up to ``noise_timestep``, the ones that the detector starts at or visits. 0: the objective of the
        sources, without it. Each step then evaluates the network twice.

    Prediction: parts ``mse`` and ``peak`` of the residual; nfe = ``num_steps``.
    """

    name: ClassVar[str] = "pixel_ddpm"
    family: ClassVar[str] = "diffusion"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": 32,
        "train_steps": 6,
        "train_batch_size": 2,
        "num_steps": 2,
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}

    image_size: int = 64
    weights: str | None = None
    trainable: Sequence[str] = ("down_blocks.3", "mid_block", "up_blocks.2", "up_blocks.3")
    block_out_channels: Sequence[int] = (16, 32, 64, 96)
    noise_timestep: int = 50
    num_steps: int = 10
    noise: str = "gaussian"
    reconstruction_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._timesteps(self.noise_timestep, self.num_steps)  # refuses bad settings before any training
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {NOISES}, got {self.noise!r}")
        if self.reconstruction_weight < 0:
            raise ValueError(f"reconstruction_weight must be at least 0, got {self.reconstruction_weight}")

    @property
    def nfe(self) -> int:
        return self.num_steps

    def fit(self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None) -> Self:
        """Train the network, or the chosen blocks of a pretrained one, and calibrate the score on held-out normals.

        With ``checkpoint_folder`` an interrupted training goes on where it was. Leaves ``training_log_`` behind.
        """
        check_train_dataset(train_dataset)
        self._build()
        images, held_out, held_out_keys = self._fitted_and_held_out(train_dataset, self.holdout_fraction)
        self.training_log_ = self._train(2 * images - 1, checkpoint_folder)
        self._calibrate(held_out, held_out_keys)
        return self

    def reconstruct(
        self,
        images: Tensor,
        keys: Sequence[str] | None = None,
        noise_timestep: int | None = None,
        num_steps: int | None = None,
    ) -> Tensor:
        """As in every such detector; another noise level or number of steps may be tried with the same network."""
        self._require_fitted("calibration_")
        noise_timestep = self.noise_timestep if noise_timestep is None else noise_timestep
        num_steps = self.num_steps if num_steps is None else num_steps
        return self._denoise(self._input(images), noise_keys(images, keys), noise_timestep, num_steps)

    def _reconstruct(self, x: Tensor, keys: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return self._denoise(x, keys, self.noise_timestep, self.num_steps), {}

    @torch.inference_mode()
    def _denoise(self, x: Tensor, keys: Sequence[str], noise_timestep: int, num_steps: int) -> Tensor:
        """Noise images x [B, 3, H, W] in [0, 1] and denoise them: the same, on the CPU."""
        noise = image_noise(x.shape[1:], self.seed, keys, self.noise)
        x_t = add_noise(2 * x - 1, torch.full((len(x),), noise_timestep), noise, self.schedule_).to(self.torch_device)
        x_hat = ddim_sample(self.predict_noise, x_t, self.schedule_, self._timesteps(noise_timestep, num_steps))
        return (x_hat.float().cpu() / 2 + 0.5).clamp(0, 1)

    def predict_noise(self, x: Tensor, t: Tensor) -> Tensor:
        """The network: noise in images x [B, 3, H, W] in [-1, 1] at timesteps t int64 [B], float32."""
        return self.unet_(x, t, return_dict=False)[0]

    @staticmethod
    def _timesteps(noise_timestep: int, num_steps: int) -> list[int]:
        """Descending timesteps, from the noise level in equal strides; the last move goes to the clean image."""
        if not 1 <= num_steps <= noise_timestep:
            raise ValueError(
                f"expected 1 <= num_steps <= noise_timestep, got {num_steps} steps from timestep {noise_timestep}"
            )
        return torch.linspace(noise_timestep, 0, num_steps + 1).round().long()[:-1].tolist()

    def _train(self, x0: Tensor, checkpoint_folder: str | Path | None) -> TrainingLog:
        """DDPM's simplified objective on images x0 [n, 3, H, W] in [-1, 1], and the reconstruction term if there is
        one."""

        def draw(generator: torch.Generator) -> NoisyBatch:
            drawn = self.train_batch_size, generator, self.torch_device
            return noisy_batch(x0, self.schedule_, *drawn, kind=self.noise)

        def loss(model: UNet2DModel, *batch: Tensor) -> Tensor:
            def predict(x: Tensor, t: Tensor) -> Tensor:
                return model(x, t, return_dict=False)[0]

            drawn = NoisyBatch(*batch)
            value = epsilon_loss(predict, drawn)
            if not self.reconstruction_weight:
                return value
            x, t = x0[drawn.rows.cpu()].to(drawn.noise), drawn.t % self.noise_timestep + 1
            return value + self.reconstruction_weight * x0_loss(predict, x, t, drawn.noise, self.schedule_)

        loss_fn = BatchLoss(self.train_batch_size, draw, loss)
        return self._optimise(self.unet_, loss_fn, "pixel DDPM", checkpoint_folder)

    def _build(self) -> None:
        """The network, with what is trained of it, and its noise schedule."""
        if self.weights is None:
            levels, self.resolved_ = len(self.block_out_channels), None
            self.unet_ = small_unet(
                3, self.image_size, self.block_out_channels, attention_levels=(levels - 1,), seed=self.seed, groups=8
            )
            self.schedule_ = NoiseSchedule.linear()
        else:
            self.resolved_ = weights.resolve(self.weights)
            self.unet_, self.schedule_ = load_ddpm(self.resolved_.path)
            unfreeze(self.unet_, self.trainable)
        if self.noise_timestep >= self.schedule_.T:
            raise ValueError(
                f"noise_timestep must be less than the model's {self.schedule_.T} timesteps, got {self.noise_timestep}"
            )
        step = 2 ** (len(self.unet_.config.block_out_channels) - 1)
        if self.image_size % step:
            raise ValueError(f"image_size must be a multiple of {step} with this network, got {self.image_size}")
        self.unet_.to(self.torch_device).eval()

    def resolved_weights(self) -> dict[str, Resolved]:
        return {"weights": self.resolved_} if self.resolved_ else {}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        values = {"calibration": self.calibration_.to_dict(), "weights_sha256": self._checksums().get("weights")}
        return {name: p for name, p in self.unet_.named_parameters() if p.requires_grad}, values

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._build()
        self._check_weights({"weights": values["weights_sha256"]})
        unexpected = self.unet_.load_state_dict(tensors, strict=False).unexpected_keys
        trained = {name for name, p in self.unet_.named_parameters() if p.requires_grad}
        if unexpected or trained != set(tensors):
            raise ValueError(f"the saved tensors are not those of this network: {len(set(tensors) ^ trained)} differ")
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])


def x0_loss(
    eps_fn: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Mean absolute error, a scalar, of the network's estimate of the clean x0 [B, ...] from x0 with ``noise`` [B, ...]
    at timesteps t int64 [B]: (x_t - sqrt(1 - alpha_bar_t) eps(x_t, t)) / sqrt(alpha_bar_t) (Ho et al., eq. 15)."""
    alphas = schedule.alphas_cumprod[t.cpu()].to(x0).reshape(-1, *[1] * (x0.ndim - 1))
    x_t = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise
    estimate = (x_t - (1 - alphas).sqrt() * eps_fn(x_t, t).float()) / alphas.sqrt()
    return (estimate - x0).abs().mean()


def load_ddpm(folder: Path) -> tuple[UNet2DModel, NoiseSchedule]:
    """The network and noise schedule of an unconditional DDPM of RGB images, from a diffusers folder.

    Both layouts are read: parts in ``unet`` and ``scheduler``, and everything in one folder, as Google's models have
    it. Without a scheduler's configuration the schedule is Ho et al.'s. Raises ``ValueError`` for another kind of
    model, one that predicts something else than the noise, and tensors that are missing.
    """
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    kind = weights.read_json(unet_folder / "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"pixel_ddpm: expected the config.json of a UNet2DModel in {unet_folder}, found {kind!r}")
    unet, info = UNet2DModel.from_pretrained(
        unet_folder, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"pixel_ddpm: {unet_folder} lacks {len(missing)} tensors, such as {', '.join(missing[:3])}. "
            "Download it again"
        )
    config = unet.config
    classes = config.num_class_embeds or config.class_embed_type
    if (config.in_channels, config.out_channels, classes) != (3, 3, None):
        raise ValueError(
            f"pixel_ddpm: expected an unconditional model of RGB images with 3 channels in and out, {unet_folder} has "
            f"{config.in_channels} in, {config.out_channels} out, classes: {classes}"
        )
    places = [place for place in (folder / "scheduler", folder) if (place / "scheduler_config.json").is_file()]
    if not places:
        return unet, NoiseSchedule.linear()
    scheduler = DDPMScheduler.from_pretrained(places[0], local_files_only=True)
    predicts = scheduler.config.prediction_type
    if predicts != "epsilon":
        raise ValueError(f"pixel_ddpm: expected a model that predicts the noise (epsilon), got {predicts!r}")
    return unet, NoiseSchedule(scheduler.betas)


def unfreeze(model: torch.nn.Module, blocks: Sequence[str]) -> None:
    """Let only parameters be trained whose names begin with one of ``blocks`` ("mid_block"); ``ValueError`` if one
    names none."""
    names = [name for name, _ in model.named_parameters()]
    unknown = [block for block in blocks if not any(name.startswith(f"{block}.") for name in names)]
    if unknown or not blocks:
        known = sorted({".".join(name.split(".")[: 2 if "blocks" in name else 1]) for name in names})
        raise ValueError(f"trainable must name blocks of the network, got {[*blocks]}; it has {', '.join(known)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{block}.") for block in blocks))


@dataclass(kw_only=True)
class SimplexDDPM(PixelDDPM):
    """`PixelDDPM` with AnoDDPM's noise, to stand beside it under a name of its own."""

    name: ClassVar[str] = "pixel_ddpm_simplex"

    noise: str = "simplex"
