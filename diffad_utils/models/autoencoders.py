"""One encode and one decode for every autoencoder of diffusers: latents in the scale that its UNet knows."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

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


def encode(vae: VAE, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents [B, C, h, w] as diffusion models see them, (posterior mean - shift) * scale, differentiable; with
    ``noise`` [B, C, h, w] a draw from the posterior, mean + std * noise, instead of the mean (an AutoencoderTiny has
    std 0).

    Raises ``ValueError`` for images whose sides are no multiples of the downsampling.
    """
    factor, (height, width) = downsampling(vae), images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"images must have sides that are multiples of {factor}, got {height} x {width}")
    output = vae.encode((2 * images - 1).to(vae.device, vae.dtype))
    raw = output.latent_dist.mean if hasattr(output, "latent_dist") else output.latents
    if noise is not None and hasattr(output, "latent_dist"):
        raw = raw + output.latent_dist.std * noise.to(raw)
    shift, scale = _latent_scale(vae)
    return (raw - shift) * scale


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Images of latents [B, C, h, w] (scaled, as from `encode`), differentiable and therefore not clamped to [0, 1]."""
    shift, scale = _latent_scale(vae)
    return vae.decode((latents / scale + shift).to(vae.device, vae.dtype)).sample / 2 + 0.5


@torch.inference_mode()
def reconstruct(vae: VAE, images: Tensor) -> Tensor:
    """Dec(Enc(x)) of images [N, 3, H, W]: float32 in [0, 1] on the CPU."""
    return torch.cat([decode(vae, encode(vae, part)).float().clamp(0, 1).cpu() for part in images.split(AT_ONCE)])


def _latent_scale(vae: VAE) -> tuple[float, float]:
    """(shift, scale); a configuration may leave out the shift (Stable Diffusion 1.x) or both."""
    return vae.config.get("shift_factor") or 0.0, vae.config.get("scaling_factor") or 1.0
