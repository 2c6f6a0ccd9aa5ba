"""One encode and one decode for every autoencoder of diffusers: latents in the scale that its UNet knows.

`encode` and `decode` are differentiable. `LatentSpace` does both in pieces and in a precision of choice, for detectors
that diffuse latents; `PixelSpace` is the same for those that diffuse images.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from diffad_utils.diffusion import autocast

VAE = AutoencoderKL | AutoencoderTiny


AT_ONCE = 8
"""Images that go through an autoencoder together: it gains nothing from more, and at 512 px each takes gigabytes."""


def downsampling(vae: VAE) -> int:
    """How many pixels of the image a side of a latent cell covers: 8 for Stable Diffusion's autoencoder."""
    config = vae.config
    levels = config.block_out_channels if isinstance(vae, AutoencoderKL) else config.encoder_block_out_channels
    return 2 ** (len(levels) - 1)


def properties(vae: VAE, size: int) -> dict[str, Any]:
    """What an autoencoder does to images of ``size`` x ``size``: latent_channels, downsampling, latent_shape,
    compression (values in the image for each value of the latent), and its number of parameters."""
    factor, channels = downsampling(vae), vae.config.latent_channels
    return {
        "latent_channels": channels,
        "downsampling": factor,
        "latent_shape": (channels, size // factor, size // factor),
        "compression": 3 * factor**2 / channels,
        "parameters": sum(p.numel() for p in vae.parameters()),
    }


def moments(vae: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior of images [B, 3, H, W] in [0, 1], not yet scaled: [B, C, h, w] each.

    An AutoencoderTiny has no posterior: its standard deviation is 0. Raises ``ValueError`` for images whose sides are
    no multiples of the downsampling.
    """
    factor, (height, width) = downsampling(vae), images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"images must have sides that are multiples of {factor}, got {height} x {width}")
    output = vae.encode((2 * images - 1).to(vae.device, vae.dtype))
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mean, output.latent_dist.std
    return output.latents, torch.zeros_like(output.latents)


def encode(vae: VAE, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents [B, C, h, w] as diffusion models see them, (posterior mean - shift) * scale, differentiable; with
    ``noise`` [B, C, h, w] a draw from the posterior, mean + std * noise, instead of the mean.

    Raises ``ValueError`` as `moments`.
    """
    mean, std = moments(vae, images)
    raw = mean if noise is None else mean + std * noise.to(mean)
    shift, scale = _latent_scale(vae)
    return (raw - shift) * scale


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Images float32 of latents [B, C, h, w] (scaled, as from `encode`), differentiable and so not clamped to [0, 1].

    The last step is in float32: in half precision it would round an image to 2^-9 (bfloat16) or 2^-12 of its range.
    """
    shift, scale = _latent_scale(vae)
    return vae.decode((latents / scale + shift).to(vae.device, vae.dtype)).sample.float() / 2 + 0.5


class LatentSpace:
    """The latents of an autoencoder, as the space that a diffusion model works in.

    vae : the autoencoder, frozen, on its device. precision : of its passes, "fp32", "bf16" or "fp16" (autocast).
    `AT_ONCE` images go through it together.
    """

    def __init__(self, vae: VAE, precision: str = "fp32") -> None:
        self.vae, self.precision = vae, precision

    @property
    def downsampling(self) -> int:
        return downsampling(self.vae)

    def shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of an image of ``size`` x ``size``."""
        side = size // self.downsampling
        return self.vae.config.latent_channels, side, side

    @torch.inference_mode()
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> latents float32 [B, C, h, w] on the CPU; with ``noise`` of that shape they
        are drawn from the posterior."""
        pieces = [slice(start, start + AT_ONCE) for start in range(0, len(images), AT_ONCE)]
        with autocast(self.vae.device, self.precision):
            latents = [encode(self.vae, images[p], None if noise is None else noise[p]).float().cpu() for p in pieces]
        return torch.cat(latents)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> images float32 [B, 3, H, W] in [0, 1] on the CPU."""
        with autocast(self.vae.device, self.precision):
            pieces = latents.to(self.vae.device).split(AT_ONCE)
            return torch.cat([decode(self.vae, piece).clamp(0, 1).cpu() for piece in pieces])


class PixelSpace:
    """Images in [-1, 1] in the place of latents: what `LatentSpace` is, without an autoencoder."""

    downsampling = 1

    def shape(self, size: int) -> tuple[int, int, int]:
        return 3, size, size

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> the same in [-1, 1], on the CPU. There is no posterior, so no ``noise``."""
        return 2 * images.cpu() - 1

    def decode(self, states: Tensor) -> Tensor:
        """[B, 3, H, W] -> images float32 in [0, 1] on the CPU."""
        return (states.float().cpu() / 2 + 0.5).clamp(0, 1)


def reconstruct(vae: VAE, images: Tensor) -> Tensor:
    """Dec(Enc(x)) of images [N, 3, H, W]: float32 in [0, 1] on the CPU."""
    space = LatentSpace(vae)
    return space.decode(space.encode(images))


def _latent_scale(vae: VAE) -> tuple[float, float]:
    """(shift, scale); a configuration may leave out the shift (Stable Diffusion 1.x) or both."""
    return vae.config.get("shift_factor") or 0.0, vae.config.get("scaling_factor") or 1.0
