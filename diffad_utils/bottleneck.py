"""What a latent autoencoder throws away: by spatial frequency, by place, and of the defects themselves.

Source of the questions: Madan, Srivastava, Raghuvanshi, "A Critical Evaluation of Diffusion Models" (slides, IIT (BHU)
Varanasi, 2025), "Information Bottleneck in the VAE" and "Small Defects vs Model Variance": what Dec(Enc(x)) loses lies
in high frequencies, and a defect below this "VAE noise floor" is gone before any diffusion starts.

Images are float [B, 3, H, W] in [0, 1] unless said otherwise; frequencies are in cycles per pixel (0.5 is the finest
along a row). A latent grid that is 8 times coarser than the image can hold a cosine of up to 1/16 in each of its
channels, so `BANDS` are octaves around that. Everything here is computed in float64 on the device of its input and
looks at each image by itself, unless a function says that it pools.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader

from diffad_utils.bootstrap import mean_interval
from diffad_utils.data import ImageDataset, collate
from diffad_utils.diffusion import image_noise
from diffad_utils.metrics import EIGHT_NEIGHBOURS

VAE = AutoencoderKL | AutoencoderTiny
Reconstruct = Callable[[Tensor, Sequence[str]], Tensor]
"""``reconstruct(images [B, 3, H, W], keys [B]) -> images [B, 3, H, W]``, as the detectors' method of that name."""

AT_ONCE = 8
"""Images that go through an autoencoder together: it gains nothing from more, and at 512 px each takes gigabytes."""

BANDS = (0.0, 1 / 16, 1 / 8, 1 / 4, math.inf)
"""Edges of the frequency bands in cycles per pixel; a band holds its lower edge, the last reaches to the corners."""


# -- the round trip ----------------------------------------------------------------------------------------------------


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


def linear_bottleneck(images: Tensor, channels: int, downsampling: int) -> Reconstruct:
    """The best linear autoencoder of a latent shape, in closed form: PCA of patches of images [N, 3, H, W].

    Each patch of downsampling x downsampling pixels is kept as its ``channels`` largest principal components over all
    patches of ``images`` (the minimum of a linear autoencoder's squared error: Baldi and Hornik, Neural Networks 1989).
    Needs no training, so it shows what a bottleneck of that shape costs without the question whether training was long
    enough; a network can look beyond the patch and do better. Raises ``ValueError`` for more channels than values in a
    patch, or sides that are no multiples of the downsampling.
    """
    values = 3 * downsampling**2
    if not 1 <= channels <= values:
        raise ValueError(f"channels must be from 1 to {values}, the values of a patch, got {channels}")

    def patches(x: Tensor) -> Tensor:
        if x.shape[-2] % downsampling or x.shape[-1] % downsampling:
            raise ValueError(f"images must have sides that are multiples of {downsampling}, got {list(x.shape[-2:])}")
        return F.unfold(x.double().cpu(), downsampling, stride=downsampling).transpose(1, 2)

    total, square, count = torch.zeros(values, dtype=torch.float64), torch.zeros(values, values, dtype=torch.float64), 0
    for part in images.split(64):
        flat = patches(part).flatten(0, 1)
        total, square, count = total + flat.sum(dim=0), square + flat.T @ flat, count + len(flat)
    mean = total / count
    basis = torch.linalg.eigh(square / count - mean[:, None] * mean[None]).eigenvectors[:, -channels:]

    def reconstruct(x: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        flat = (patches(x) - mean) @ basis @ basis.T + mean
        return F.fold(flat.transpose(1, 2), x.shape[-2:], downsampling, stride=downsampling).float().clamp(0, 1)

    return reconstruct


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Images after JPEG at ``quality`` in 1 .. 100, float32 in [0, 1]: an everyday loss to compare with."""
    outputs = []
    for pixels in images.mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        outputs.append(torch.from_numpy(np.array(Image.open(file), dtype=np.float32) / 255).permute(2, 0, 1))
    return torch.stack(outputs)


# -- by spatial frequency ----------------------------------------------------------------------------------------------


class RadialSpectrum(NamedTuple):
    """frequency [K] in cycles per pixel; power [B, C, K], the mean over a ring of frequencies: s² for white noise of
    variance s²; energy [B, C, K], the sum over the ring: over all rings it is the mean square of the (windowed)
    image."""

    frequency: Tensor
    power: Tensor
    energy: Tensor


class Transfer(NamedTuple):
    """frequency [K] in cycles per pixel; amplitude, gain [B, C, K].

    amplitude : |X_hat| / |X|, each the root of the ring's power. Detail that was made up counts like detail that was
        kept.
    gain : Re <X_hat, X> / <X, X> over the ring, the factor by which x is found in x_hat. For x_hat = h * x + n with
        noise n that has nothing to do with x, gain is the response of h, and amplitude is larger by what the noise
        adds.
    """

    frequency: Tensor
    amplitude: Tensor
    gain: Tensor


def power_spectrum(images: Tensor, window: bool = True) -> RadialSpectrum:
    """Radially averaged power spectrum of each channel of images or residuals [B, C, H, W].

    With ``window`` a Hann window (of mean square 1) is put over what is left of the image without its mean, so that the
    jump from one border to the other does not look like fine detail; the mean goes into the first ring. Rings are
    1 / min(H, W) wide and reach to the corners of the spectrum, sqrt(0.5) cycles per pixel.
    """
    rings = _rings(*images.shape[-2:])
    energy = _sum_rings(_transform(images, window).abs().square(), rings)
    pixels = images.shape[-2] * images.shape[-1]
    return RadialSpectrum(rings.frequency.to(energy.device), energy * pixels / rings.count.to(energy.device), energy)


def transfer(images: Tensor, reconstructions: Tensor, window: bool = True) -> Transfer:
    """What a map of images [B, C, H, W] to reconstructions of them does to each frequency; see `Transfer`,
    `power_spectrum`.

    A ring in which the image has no energy at all gets NaN. Raises ``ValueError`` if shapes differ.
    """
    _same_shape(images, reconstructions)
    rings = _rings(*images.shape[-2:])
    x, x_hat = _transform(images, window), _transform(reconstructions, window)
    power = _sum_rings(x.abs().square(), rings)
    cross = _sum_rings((x_hat * x.conj()).real, rings)
    power = torch.where(power > 0, power, torch.nan)
    amplitude = (_sum_rings(x_hat.abs().square(), rings) / power).sqrt()
    return Transfer(rings.frequency.to(power.device), amplitude, cross / power)


def band_energy(images: Tensor, bands: Sequence[float] = BANDS, window: bool = True) -> Tensor:
    """Mean square of images or residuals [B, C, H, W] in each band of frequencies: [B, len(bands) - 1].

    Mean over channels; the sum over bands that span everything is the mean square of the (windowed) image.
    Raises ``ValueError`` unless the edges ascend.
    """
    edges = torch.tensor(bands, dtype=torch.float64)
    if len(edges) < 2 or bool((edges.diff() <= 0).any()):
        raise ValueError(f"bands must be ascending edges in cycles per pixel, at least two, got {tuple(bands)}")
    energy = _transform(images, window).abs().square().mean(dim=1)
    number = torch.bucketize(_radius(*images.shape[-2:]), edges, right=True) - 1
    members = torch.stack([number == band for band in range(len(edges) - 1)]).to(energy.device, energy.dtype)
    return torch.einsum("bhw,nhw->bn", energy, members)


def recovered_energy(
    images: Tensor, plain: Tensor, repaired: Tensor, bands: Sequence[float] = BANDS, window: bool = True
) -> Tensor:
    """Share of the lost energy that a repair brings back, by band: 1 - E(x - repaired) / E(x - plain), [B, len(bands) -
    1].

    images, plain and repaired reconstructions: [B, C, H, W]. 1 is a perfect repair, 0 none, below 0 a repair that
    harms; the gain in dB is -10 log10(1 - share). NaN where the plain reconstruction loses nothing.
    """
    _same_shape(images, plain)
    _same_shape(images, repaired)
    lost, left = (band_energy(images - other, bands, window) for other in (plain, repaired))
    return 1 - left / torch.where(lost > 0, lost, torch.nan)


def sharpness(images: Tensor) -> Tensor:
    """Variance of the Laplacian of the mean over channels (Pech-Pacheco et al., ICPR 2000): images [B, C, H, W] ->
    [B]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64, device=images.device)
    laplacian = F.conv2d(images.double().mean(dim=1, keepdim=True), kernel[None, None])
    return laplacian.flatten(1).var(dim=1, correction=0)


class _Rings(NamedTuple):
    frequency: Tensor  # [K]
    number: Tensor  # int64 [H * W]
    count: Tensor  # [K]


def _radius(height: int, width: int) -> Tensor:
    """Distance of each frequency of a DFT from zero, in cycles per pixel: float64 [H, W]."""
    rows, columns = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.hypot(rows[:, None], columns[None])


@lru_cache(maxsize=8)
def _rings(height: int, width: int) -> _Rings:
    number = (_radius(height, width) * min(height, width)).round().long().flatten()
    count = torch.bincount(number)
    return _Rings(torch.arange(len(count), dtype=torch.float64) / min(height, width), number, count)


def _sum_rings(values: Tensor, rings: _Rings) -> Tensor:
    """[B, C, H, W] -> [B, C, K]"""
    flat = values.flatten(2)
    return flat.new_zeros(*flat.shape[:2], len(rings.count)).index_add_(2, rings.number.to(flat.device), flat)


def _transform(images: Tensor, window: bool) -> Tensor:
    """DFT of [B, C, H, W], complex128, scaled so that the squares add up to the mean square of the image."""
    x = images.double()
    height, width = x.shape[-2:]
    weight = torch.ones(height, width, dtype=x.dtype, device=x.device)
    if window:
        hann = [torch.hann_window(n, dtype=x.dtype, device=x.device) for n in (height, width)]
        weight = hann[0][:, None] * hann[1][None]
        weight = weight / weight.square().mean().sqrt()
    # minus the mean under the window: a plain mean would leave some of it, spread over the lowest frequencies
    centre = (x * weight).sum(dim=(2, 3), keepdim=True) / weight.sum()
    spectrum = torch.fft.fft2((x - centre) * weight, norm="forward")
    spectrum[..., 0, 0] = x.mean(dim=(2, 3))
    return spectrum


# -- by place ----------------------------------------------------------------------------------------------------------


class Regions(NamedTuple):
    """The defects of a batch, each a set of connected pixels: image int64 [R], area int64 [R] in pixels, mean float64
    [R]."""

    image: Tensor
    area: Tensor
    mean: Tensor


def absolute_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """|x - x_hat|, mean over channels: [B, C, H, W] twice -> [B, H, W]. ``ValueError`` if shapes differ."""
    _same_shape(images, reconstructions)
    return (images - reconstructions).abs().mean(dim=1)


def squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(x - x_hat)², mean over channels: [B, C, H, W] twice -> [B, H, W]. ``ValueError`` if shapes differ."""
    _same_shape(images, reconstructions)
    return (images - reconstructions).square().mean(dim=1)


def masked_mean(values: Tensor, masks: Tensor) -> Tensor:
    """Mean of values [B, H, W] over the pixels in masks bool [B, H, W]: float64 [B], NaN where a mask is empty."""
    _same_shape(values, masks)
    return _moments(values, masks)[0]


def region_means(values: Tensor, masks: Tensor) -> Regions:
    """Mean of values [B, H, W] in each region of masks bool [B, H, W]; pixels that touch at a corner are connected."""
    _same_shape(values, masks)
    images, areas, means = [], [], []
    for i, (value, mask) in enumerate(zip(values.double().cpu().numpy(), masks.cpu().numpy(), strict=True)):
        labelled, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        images += [i] * count
        areas += np.bincount(labelled.ravel(), minlength=count + 1)[1:].tolist()
        means += np.atleast_1d(ndimage.mean(value, labelled, np.arange(1, count + 1))).tolist() if count else []
    number, area = (torch.tensor(values, dtype=torch.int64) for values in (images, areas))
    return Regions(number, area, torch.tensor(means, dtype=torch.float64))


def detectability(residuals: Tensor, masks: Tensor, normal_residuals: Tensor) -> Tensor:
    """d' of the residual inside the mask against the residual on normal images: [B].

    d' = (mean inside - mean normal) / sqrt((variance inside + variance normal) / 2), over pixels (Green and Swets,
    1966; d_a of Simpson and Fitter, 1973, where the variances differ). residuals [B, H, W] and masks bool [B, H, W] of
    anomalous images; normal_residuals [N, H, W], whose pixels are pooled. It is the separation of single pixels, before
    any smoothing or averaging. NaN where a mask is empty or both variances are zero.
    """
    _same_shape(residuals, masks)
    everything = torch.ones_like(normal_residuals, dtype=torch.bool)
    return _d_prime(_moments(residuals, masks), _moments(normal_residuals, everything))


def _moments(values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of values [B, H, W] over the pixels in masks: float64 [B] each."""
    values, weight = values.double().flatten(1), masks.flatten(1).double()
    count = weight.sum(dim=1)
    return (values * weight).sum(dim=1) / count, (values.square() * weight).sum(dim=1) / count


def _d_prime(inside: tuple[Tensor, Tensor], normal: tuple[Tensor, Tensor]) -> Tensor:
    """From the moments of each anomalous image, and those of normal images of one size, which are pooled."""
    (mean, square), (normal_mean, normal_square) = inside, (moment.mean() for moment in normal)
    variances = (square - mean.square()).clamp_min(0), (normal_square - normal_mean.square()).clamp_min(0)
    return (mean - normal_mean) / ((variances[0] + variances[1]) / 2).sqrt()


# -- of the defects ----------------------------------------------------------------------------------------------------


def defect_survival(anomalous: Tensor, normal: Tensor, anomalous_hat: Tensor, normal_hat: Tensor) -> Tensor:
    """Share of each defect that is still there after reconstruction: float64 [B].

    With delta = x_anomalous - x_normal, the defect alone (x_normal is the exact twin without it):
    survival = <x_hat_anomalous - x_hat_normal, delta> / <delta, delta>, over all pixels and channels. 1: kept as it is;
    0: gone; for a linear filter the mean of its response over the energy spectrum of the defect. All [B, C, H, W].

    Raises ``ValueError`` if shapes differ, or an image is the same as its twin: there is no defect to survive.
    """
    for other in (normal, anomalous_hat, normal_hat):
        _same_shape(anomalous, other)
    delta = (anomalous.double() - normal.double()).flatten(1)
    energy = delta.square().sum(dim=1)
    if bool((energy == 0).any()):
        same = (energy == 0).nonzero().flatten().tolist()
        raise ValueError(f"images {same} are the same as their twins; give anomalous images only")
    return ((anomalous_hat.double() - normal_hat.double()).flatten(1) * delta).sum(dim=1) / energy


def survival_table(reconstruct: Reconstruct, dataset: ImageDataset, batch_size: int = 16) -> pd.DataFrame:
    """What a reconstruction does to each defect that has an exact twin: one row an anomalous image of ``dataset``.

    Columns: key, category, defect; ``area``, share of the image in the mask; ``contrast``, root mean square of
    image - twin inside the mask, in grey values of [0, 1]; ``survival`` (`defect_survival`); ``floor``, root mean
    square of twin - reconstructed twin inside the same mask: what the reconstruction changes there without any defect;
    ``error_inside`` and ``error_outside``, squared error of the anomalous image by place; ``detectability``, d' of the
    absolute error inside the mask against that on all twins of the category in this data set (pooled).

    reconstruct : called with the images and then with their twins under the same keys, so what is random in it is the
    same for both. Normal images of the data set are passed over. Raises ``ValueError`` if no image has a twin.
    """
    anomalous = dataset.index[dataset.index["twin"].notna() & (dataset.index["label"] == 1)]
    if anomalous.empty:
        raise ValueError("no anomalous image of this data set has a twin; textures has them for its test images")
    subset = ImageDataset(anomalous, dataset.size, cache=False)
    columns, inside, normal = [], [], []
    for batch in DataLoader(subset, batch_size=batch_size, collate_fn=collate):
        x, twin, mask, keys = batch["image"], batch["twin"], batch["mask"], batch["key"]
        x_hat, twin_hat = reconstruct(x, keys), reconstruct(twin, keys)
        squared = squared_error(x, x_hat)
        columns.append(
            pd.DataFrame(
                {
                    "key": keys,
                    "area": mask.double().mean(dim=(1, 2)),
                    "contrast": masked_mean(squared_error(x, twin), mask).sqrt(),
                    "survival": defect_survival(x, twin, x_hat, twin_hat),
                    "floor": masked_mean(squared_error(twin, twin_hat), mask).sqrt(),
                    "error_inside": masked_mean(squared, mask),
                    "error_outside": masked_mean(squared, ~mask),
                }
            )
        )
        inside.append(_moments(absolute_error(x, x_hat), mask))
        normal.append(_moments(absolute_error(twin, twin_hat), torch.ones_like(mask)))
    table = pd.concat(columns, ignore_index=True)
    for column, name in enumerate(("category", "defect")):
        table.insert(column + 1, name, subset.index[name].to_numpy())
    inside, normal = (tuple(torch.cat(part) for part in zip(*moments, strict=True)) for moments in (inside, normal))
    for rows in table.groupby("category").indices.values():
        d_prime = _d_prime(tuple(m[rows] for m in inside), tuple(m[rows] for m in normal))
        table.loc[rows, "detectability"] = d_prime.numpy()
    return table


def plant(images: Tensor, keys: Sequence[str], area: float, contrast: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] in [0, 1] with a disc added to each, and where it is: masks bool [B, H, W].

    For data without twins: the image before is the twin. area : of the disc, as a share of the image. contrast : what
    is added, in grey values; subtracted where the image under the disc is lighter than mid-grey, so that little is
    clipped. The edge is one pixel wide. The place comes from (seed, key), and is the same for every area and contrast
    as far as the disc fits in. Raises ``ValueError`` for a disc smaller than a pixel or wider than the image.
    """
    height, width = images.shape[-2:]
    radius = math.sqrt(area * height * width / math.pi)
    if not area * height * width >= 1 or 2 * radius + 2 > min(height, width):
        raise ValueError(
            f"a disc of area {area} does not fit images of {height} x {width}: it is {2 * radius:.2g} pixels wide"
        )
    places = torch.special.ndtr(image_noise((2,), seed, keys).double())  # uniform in (0, 1)
    margin = radius + 1
    centre = margin + places * (torch.tensor([height, width]) - 1 - 2 * margin)
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    distance = torch.hypot(rows - centre[:, :1, None], columns - centre[:, 1:, None])
    alpha = (radius + 0.5 - distance).clamp(0, 1)
    mask = alpha > 0.5
    sign = torch.where(masked_mean(images.mean(dim=1), mask) > 0.5, -1.0, 1.0)
    return (images + (contrast * sign[:, None, None, None] * alpha[:, None]).float()).clamp(0, 1), mask


def planted_table(
    reconstruct: Reconstruct,
    images: Tensor,
    keys: Sequence[str],
    areas: Sequence[float],
    contrasts: Sequence[float],
    seed: int = 0,
) -> pd.DataFrame:
    """What a reconstruction does to discs (`plant`) of every area and contrast on normal images [B, 3, H, W].

    One row an image, area and contrast: key, area (nominal), planted (nominal contrast), and contrast, survival and
    floor as in `survival_table`.
    """
    images_hat, rows = reconstruct(images, keys), []
    for area in areas:
        for contrast in contrasts:
            changed, mask = plant(images, keys, area, contrast, seed)
            rows.append(
                pd.DataFrame(
                    {
                        "key": list(keys),
                        "area": area,
                        "planted": contrast,
                        "contrast": masked_mean(squared_error(changed, images), mask).sqrt(),
                        "survival": defect_survival(changed, images, reconstruct(changed, keys), images_hat),
                        "floor": masked_mean(squared_error(images, images_hat), mask).sqrt(),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def gain_table(
    images: Tensor,
    plain: Tensor,
    others: Mapping[str, Tensor],
    bands: Sequence[float] = BANDS,
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How much nearer to the images other reconstructions [B, C, H, W] are than ``plain``, in dB, by band and over all.

    One row a name and band: name, band (in words), gain (mean over images of -10 log10 of the ratio of the errors'
    energies; below 0 is a loss), low, high (95 % interval), and recovered, the mean share of `recovered_energy`.
    """
    middle = [f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(bands[1:-1])]
    edges = [f"below {bands[1]:.4g}", *middle, f"above {bands[-2]:.4g}"]
    rows = []
    for name, other in others.items():
        shares = recovered_energy(images, plain, other, bands)
        total = 1 - squared_error(images, other).mean(dim=(1, 2)) / squared_error(images, plain).mean(dim=(1, 2))
        for band, share in zip([*edges, "all"], [*shares.T, total], strict=True):
            gain = mean_interval(-10 * (1 - share).log10(), n, seed)
            rows.append(
                {
                    "name": name,
                    "band": band,
                    "gain": float(gain.mean),
                    "low": float(gain.low),
                    "high": float(gain.high),
                    "recovered": float(share.mean()),
                }
            )
    return pd.DataFrame(rows)


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"tensors must have the same shape, got {list(a.shape)} and {list(b.shape)}")
