"""A small UNet on the latents of a frozen autoencoder, which repairs them before they are decoded.

Source: Madan, Srivastava, Raghuvanshi, "A Critical Evaluation of Diffusion Models" (slides, IIT (BHU) Varanasi, 2025),
"Three Reconstruction Pipelines" (1): "small U-Net on Stable Diffusion latents". The slides give neither its size nor
what it was trained on, and their code holds nothing of it, so both readings of "repair the latent" are here. In both
the repaired image is Dec(z + f(z)) with z = Enc(x), f begins at zero, so that training starts from the plain
autoencoder, and only f is trained, on normal images:

- ``objective="pixel"`` (default), through the frozen decoder: L1 between Dec(z + f(z)) and x. As an option the L1
  distance between their Fourier transforms is added (Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image
  Deblurring", ICCV 2021, the frequency reconstruction loss on one scale), which asks for the fine detail that an L1
  distance of pixels lets blur.
- ``objective="latent"``, the decoder is never seen: || (z + n + f(z + n)) - z ||² with Gaussian noise n, a denoising
  autoencoder of latents (Vincent et al., ICML 2008). At test time no noise is added. It has never seen x, so it can
  move a latent towards normal ones but does not know what the encoder lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import check_train_dataset
from diffad_utils.methods.reconstruction import ReconstructionDetector
from diffad_utils.models.autoencoders import AT_ONCE, LatentSpace, decode, downsampling, encode
from diffad_utils.models.feature_cache import cached_latents
from diffad_utils.models.stable_diffusion import load_vae
from diffad_utils.models.unet import small_unet
from diffad_utils.training import BatchLoss, Training, TrainingLog
from diffad_utils.weights import Resolved

OBJECTIVES = ("pixel", "latent")


@dataclass(kw_only=True)
class LatentUNet(Training, ReconstructionDetector):
    """Repair of the latents by a small UNet; see the module's text for the source.

    Parameters
    ----------
    vae : a name for `models.stable_diffusion.load_vae`: any AutoencoderKL or AutoencoderTiny.
    allow_mini : whether the shipped small autoencoder may stand in where the real weights are not found.
    image_size : a multiple of twice the autoencoder's downsampling (of 16 for Stable Diffusion's).
    objective : "pixel" or "latent".
    spectral_weight : weight of the Fourier term of "pixel"; 0 for none, 0.1 in Cho et al.
    noise_std : standard deviation of the noise of "latent", for latents scaled to about unit variance.
    width : channels of the UNet's upper level; the lower one has twice as many. 64 makes 2.5 million parameters.
    The fields of `training.Training` are those of its training.
        With ``train_steps`` = 0 the repair stays zero: the plain autoencoder, scored in the same way.

    Prediction: parts ``mse`` and ``peak`` of the residual against the repaired image, and ``displacement``, the mean
    square of f(z): how far the repair moves the latent. nfe = 0: one pass of a network that is no diffusion model.
    """

    name: ClassVar[str] = "latent_unet"
    family: ClassVar[str] = "classical"
    contract_settings: ClassVar[dict[str, Any]] = {"width": 16, "train_steps": 6, "train_batch_size": 2}
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}
    PARTS: ClassVar[tuple[str, ...]] = ("mse", "peak", "displacement")

    vae: str = "sd-mini"
    allow_mini: bool = False
    objective: str = "pixel"
    spectral_weight: float = 0.0
    noise_std: float = 0.3
    width: int = 64
    train_batch_size: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {OBJECTIVES}, got {self.objective!r}")
        if self.spectral_weight < 0 or self.noise_std <= 0:
            got = f"{self.spectral_weight} and {self.noise_std}"
            raise ValueError(f"expected spectral_weight >= 0 and noise_std > 0, got {got}")
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")

    @property
    def nfe(self) -> int:
        return 0

    def fit(self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None) -> Self:
        """Encode once, train the UNet, calibrate the score on held-out normals.

        With ``checkpoint_folder`` an interrupted training goes on where it was. Leaves ``training_log_`` behind.
        """
        check_train_dataset(train_dataset)
        self._load_vae()
        images, held_out, held_out_keys = self._fitted_and_held_out(train_dataset, self.holdout_fraction)
        latents = cached_latents(LatentSpace(self.vae_), images)
        self._build_unet()
        self.training_log_ = self._train_unet(images, latents, checkpoint_folder) if self.train_steps else TrainingLog()
        self._calibrate(held_out, held_out_keys)
        return self

    @torch.inference_mode()
    def _reconstruct(self, x: Tensor, keys: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Dec(z + f(z)), and how far f moves z; nothing in it is random."""
        outputs, shifts = [], []
        for part in x.split(AT_ONCE):
            z = encode(self.vae_, part)
            shift = self._f(self.unet_, z)
            outputs.append(decode(self.vae_, z + shift).clamp(0, 1).cpu())
            shifts.append(shift.square().mean(dim=(1, 2, 3)).float().cpu())
        return torch.cat(outputs), {"displacement": torch.cat(shifts)}

    def _train_unet(self, images: Tensor, latents: Tensor, checkpoint_folder: str | Path | None) -> TrainingLog:
        """images [n, 3, H, W] in [0, 1] and their latents [n, C, h, w]."""

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(images), (self.train_batch_size,), generator=generator)
            z = latents[chosen]
            if self.objective == "latent":
                noise = self.noise_std * torch.randn(z.shape, generator=generator)
                return z.to(self.torch_device), noise.to(self.torch_device, z.dtype)
            return z.to(self.torch_device), images[chosen].to(self.torch_device)

        def loss(model: UNet2DModel, z: Tensor, other: Tensor) -> Tensor:
            if self.objective == "latent":
                noisy = z + other
                return F.mse_loss(noisy + self._f(model, noisy), z)
            return pixel_loss(decode(self.vae_, z + self._f(model, z)), other, self.spectral_weight)

        description, through = f"latent UNet ({self.objective})", self.vae_ if self.objective == "pixel" else None
        loss_fn = BatchLoss(self.train_batch_size, draw, loss)
        return self._optimise(self.unet_, loss_fn, description, checkpoint_folder, through)

    @staticmethod
    def _f(unet: UNet2DModel, latents: Tensor) -> Tensor:
        return unet(latents, 0, return_dict=False)[0]  # one noise level, so the timestep says nothing

    def _load_vae(self) -> None:
        if not hasattr(self, "vae_"):
            self.vae_ = load_vae(self.vae, device=self.device, allow_mini=self.allow_mini)
        step = 2 * downsampling(self.vae_)
        if self.image_size % step:
            raise ValueError(f"image_size must be a multiple of {step} with this autoencoder, got {self.image_size}")

    def _build_unet(self) -> None:
        channels, side, _ = LatentSpace(self.vae_).shape(self.image_size)
        unet = small_unet(channels, side, (self.width, 2 * self.width), seed=self.seed, groups=8)
        torch.nn.init.zeros_(unet.conv_out.weight)
        torch.nn.init.zeros_(unet.conv_out.bias)
        self.unet_ = unet.to(self.torch_device, memory_format=torch.channels_last).eval()

    def resolved_weights(self) -> dict[str, Resolved]:
        return {"vae": self.vae_.resolved}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        values = {"calibration": self.calibration_.to_dict(), "vae_sha256": self.vae_.resolved.sha256}
        return self.unet_.state_dict(), values

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load_vae()
        self._check_weights({"vae": values["vae_sha256"]})
        self._build_unet()
        self.unet_.load_state_dict(tensors)
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])


def pixel_loss(x_hat: Tensor, x: Tensor, spectral_weight: float = 0.0) -> Tensor:
    """L1 of images [B, C, H, W], plus ``spectral_weight`` times the L1 of their orthonormal Fourier transforms: a
    scalar.

    The second term is the mean of |real| + |imaginary| of the difference (Cho et al., ICCV 2021).
    """
    difference = (x_hat - x).float()
    loss = difference.abs().mean()
    if spectral_weight:
        spectrum = torch.view_as_real(torch.fft.fft2(difference, norm="ortho"))
        loss = loss + spectral_weight * spectrum.abs().sum(dim=-1).mean()
    return loss
