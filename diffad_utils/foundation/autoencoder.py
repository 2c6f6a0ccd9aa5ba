"""Training of the small VAE: diffusers' `AutoencoderKL` with Stable Diffusion's bottleneck, 8x smaller and 4 channels.

The objective is the squared error and a light Kullback-Leibler term (Kingma and Welling, 2014), without the perceptual
and adversarial terms of Rombach et al. (CVPR 2022, section 3.1): those need a network pretrained on photographs, and
they put back texture that looks right instead of the texture that was there.

Training has two stages. Small crops teach encoder and decoder together, because many different ones fit into a batch.
Then the decoder alone goes on at the sizes of use. The network is convolutional, but its group normalisation takes mean
and variance over the whole picture, and in a small crop the border with its zero padding weighs more. So a decoder that
saw nothing else gives larger pictures another mean colour (`quality.statistics_of_tiles` shows it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from diffad_utils import training

from .captioned import Pairs, to_tensor

#: Stable Diffusion v1's: code that forgets to scale the latents goes wrong with the small model as well.
SCALING_FACTOR = 0.18215
CONFIG = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(16, 32, 64, 64),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=128,
    scaling_factor=SCALING_FACTOR,
    mid_block_add_attention=False,
)


def new_autoencoder(seed: int = 0) -> AutoencoderKL:
    """The small VAE with random weights drawn from a seed."""
    torch.manual_seed(seed)
    return AutoencoderKL(**CONFIG)


def draw_crops(pairs: Pairs, generator: torch.Generator, batch_size: int, crop: int) -> Tensor:
    """float32 [batch_size, 3, crop, crop] in [-1, 1]: crops of different pictures at whole multiples of 8 pixels,
    half of them mirrored each way. Either picture of a pair may be taken."""
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    chosen, which = rng.integers(len(pairs), size=batch_size), rng.integers(2, size=batch_size)
    places = 8 * rng.integers((pairs.images.shape[2] - crop) // 8 + 1, size=(batch_size, 2))
    flips = rng.choice([-1, 1], (batch_size, 2))
    cut = [
        pairs.images[i, w, y : y + crop, x : x + crop][::a, ::b]
        for i, w, (y, x), (a, b) in zip(chosen, which, places, flips, strict=True)
    ]
    return to_tensor(np.stack(cut))


def autoencoder_loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator, kl_weight: float) -> Tensor:
    """Squared error, mean over pixels, plus `kl_weight` times the divergence from N(0, 1), mean over latent elements.

    images: float32 [B, 3, H, W] in [-1, 1]. With error variance s the evidence lower bound has kl_weight = 2 s / 48 (a
    latent element stands for 48 values): about 1e-3 at 22 dB in this range. Far less is used, as in Rombach et al.
    """
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
    return F.mse_loss(decoded.float(), images) + kl_weight * divergence


def train_autoencoder(
    pairs: Pairs,
    *,
    num_steps: int,
    batch_size: int = 64,
    crop: int = 64,
    lr: float = 1e-3,
    kl_weight: float = 1e-5,
    seed: int = 0,
    device: str | torch.device = "cpu",
    mixed_precision: str = "no",
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 250,
    start: AutoencoderKL | None = None,
) -> tuple[AutoencoderKL, training.TrainingLog]:
    """Train the small VAE on crops and scale its latents (`normalize_latents`); resumes from `checkpoint_folder`.

    num_steps: steps of `batch_size` crops of `crop` pixels. What comes out is right at that size alone, so
    `train_decoder` follows. start: weights to go on from.
    """
    vae = (start or new_autoencoder(seed)).to(device)

    def loss_fn(model, generator):
        images = draw_crops(pairs, generator, batch_size, crop).to(device)
        return autoencoder_loss(model, images, generator, kl_weight)

    log = training.train(
        vae,
        loss_fn,
        num_steps=num_steps,
        lr=lr,
        seed=seed,
        warmup_steps=min(100, num_steps // 10),
        ema_decay=0.995,
        mixed_precision=mixed_precision,
        checkpoint_folder=checkpoint_folder,
        checkpoint_every=checkpoint_every,
        description="VAE",
    )
    normalize_latents(vae, pairs)
    return vae, log


def decoder_loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator, colour_weight: float) -> Tensor:
    """Squared error of the decoded pictures, mean over pixels, plus `colour_weight` times that of their mean colours.

    images: float32 [B, 3, H, W] in [-1, 1]. The encoder gets no gradient; its divergence, a constant here, is left out.
    Texture is nearly all of the squared error, and a cast of two grey levels is lost in it: hence the second term.
    """
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        latents = posterior.mean + posterior.std * noise
    error = vae.decode(latents).sample.float() - images
    return error.square().mean() + colour_weight * error.mean((2, 3)).square().mean()


def train_decoder(
    pairs: Pairs,
    vae: AutoencoderKL,
    *,
    num_steps: int,
    batch_size: int = 16,
    crops: Sequence[int] = (128, 128, 96, 64),
    lr: float = 5e-4,
    colour_weight: float = 10.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    mixed_precision: str = "no",
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 50,
) -> tuple[AutoencoderKL, training.TrainingLog]:
    """Train the decoder of `vae` alone, in place, at the sizes of use; resumes from `checkpoint_folder`.

    The encoder stays as it is, and with it the latents and every network trained on them. crops: sides in pixels, one
    drawn a step. batch_size: crops a step of the largest size; of a smaller one as many as have its pixels.
    """
    vae = vae.to(device).requires_grad_(False)
    vae.decoder.requires_grad_(True)

    def loss_fn(model, generator):
        crop = crops[int(torch.randint(len(crops), (1,), generator=generator))]
        images = draw_crops(pairs, generator, round(batch_size * (max(crops) / crop) ** 2), crop).to(device)
        return decoder_loss(model, images, generator, colour_weight)

    log = training.train(
        vae,
        loss_fn,
        num_steps=num_steps,
        lr=lr,
        seed=seed + 1,  # other pictures than those of the first stage's steps
        warmup_steps=min(100, num_steps // 10),
        ema_decay=0.995,
        mixed_precision=mixed_precision,
        checkpoint_folder=checkpoint_folder,
        checkpoint_every=checkpoint_every,
        description="decoder",
    )
    return vae.requires_grad_(True), log


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 64) -> Tensor:
    """Scaled latent means float32 [N, 4, S/8, S/8] of pictures uint8 [N, S, S, 3]."""
    device = next(vae.parameters()).device
    parts = [vae.encode(to_tensor(chunk).to(device)).latent_dist.mean.cpu() for chunk in _chunks(images, batch_size)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Dec(Enc(x)) of pictures uint8 [N, S, S, 3] as float32 [N, S, S, 3] in [0, 1] (posterior mean, no sampling)."""
    device = next(vae.parameters()).device
    parts = [
        vae.decode(vae.encode(to_tensor(chunk).to(device)).latent_dist.mean).sample.cpu()
        for chunk in _chunks(images, batch_size)
    ]
    return torch.cat(parts).add(1).div(2).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _chunks(images: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    return (images[i : i + batch_size] for i in range(0, len(images), batch_size))


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each image: [N, H, W, 3] and the same in [0, 1] -> [N]."""
    return -10 * np.log10(np.square(images - others).mean(axis=(1, 2, 3)))


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, pairs: Pairs, num_pictures: int = 512) -> None:
    """Change the two 1 x 1 convolutions around the latents so that, scaled by `scaling_factor`, every channel has zero
    mean and unit standard deviation over the first twins. Exact: what the decoder returns stays the same."""
    current = encode(vae, pairs.images[:num_pictures, 0]) / vae.config.scaling_factor
    mean, std = current.mean((0, 2, 3)), current.std((0, 2, 3))
    gain = 1 / (std * vae.config.scaling_factor)
    device = vae.quant_conv.weight.device
    mean, gain = mean.to(device), gain.to(device)
    channels = len(gain)
    weight, bias = vae.quant_conv.weight.data, vae.quant_conv.bias.data
    weight[:channels] *= gain.view(-1, 1, 1, 1)
    bias[:channels] = (bias[:channels] - mean) * gain
    bias[channels:] += 2 * gain.log()
    weight, bias = vae.post_quant_conv.weight.data, vae.post_quant_conv.bias.data
    bias += weight.flatten(1) @ mean
    weight /= gain.view(1, -1, 1, 1)
