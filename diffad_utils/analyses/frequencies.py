"""What a latent autoencoder throws away: by spatial frequency, by place, and of the defects themselves.

Source of the questions: Madan, Srivastava, Raghuvanshi, "A Critical Evaluation of Diffusion Models" (slides, IIT (BHU)
Varanasi, 2025), "Information Bottleneck in the VAE" and "Small Defects vs Model Variance": what Dec(Enc(x)) loses lies
in high frequencies, and a defect below this "VAE noise floor" is gone before any diffusion starts.

Images are float [B, 3, H, W] in [0, 1] unless said otherwise; frequencies are in cycles per pixel (0.5 is the finest
along a row). A latent grid that is 8 times coarser than the image can hold a cosine of up to 1/16 in each of its
channels, so `BANDS` are octaves around that. Everything here is computed in float64 on the device of its input and
looks at each image by itself, unless a function says that it pools.

Used by notebook 02; entry points: `response_curves`, `share_above`, `gain_table`,
`detail_shares`.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffad_utils.metrics.bootstrap import mean_interval
from diffad_utils.metrics.counterfactual import check_same_shape, squared_error

Reconstruct = Callable[[Tensor, Sequence[str]], Tensor]
"""``reconstruct(images [B, 3, H, W], keys [B]) -> images [B, 3, H, W]``, as the detectors' method of that name."""


BANDS = (0.0, 1 / 16, 1 / 8, 1 / 4, math.inf)
"""Edges of the frequency bands in cycles per pixel; a band holds its lower edge, the last reaches to the corners."""


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

    # scikit-learn's PCA finds the same from all patches at once, gigabytes of them; its IncrementalPCA is not exact
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
    outputs = []  # torchvision's JPEG gives the same pixels, and is deprecated since its version 0.29
    for pixels in images.mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        outputs.append(torch.from_numpy(np.array(Image.open(file), dtype=np.float32) / 255).permute(2, 0, 1))
    return torch.stack(outputs)


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
    check_same_shape(images, reconstructions)
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
    check_same_shape(images, plain)
    check_same_shape(images, repaired)
    lost, left = (band_energy(images - other, bands, window) for other in (plain, repaired))
    return 1 - left / torch.where(lost > 0, lost, torch.nan)


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


def share_above(images: Tensor, cut_off: float) -> Tensor:
    """Share of the energy of images or residuals [B, C, H, W] at and above ``cut_off`` cycles per pixel: float64 [B].

    Without the mean of each channel, which is no frequency. NaN for a flat image.
    """
    energy = band_energy(images - images.mean(dim=(2, 3), keepdim=True), (0.0, cut_off, math.inf))
    return energy[:, 1] / energy.sum(dim=1)


DETAIL = (1 / 16, 1 / 8)
"""The band, in cycles per pixel, in which the repair of a latent is judged: detail with little sensor noise."""


def detail_shares(images: Tensor, plain: Tensor, repaired: Tensor) -> dict[str, Tensor]:
    """What a repair of a plain reconstruction does to the detail at 1/16 to 1/8 cycles per pixel (`DETAIL`), [B] each.

    recovered : the share of the energy lost there that the repair brings back (`recovered_energy`).
    missing : the share of the plain reconstruction's energy there that is not in the repair; below 0 it has more.
    """
    return {
        "recovered": recovered_energy(images, plain, repaired, DETAIL)[:, 0],
        "missing": 1 - band_energy(repaired, DETAIL)[:, 0] / band_energy(plain, DETAIL)[:, 0],
    }


def response_curves(images: Tensor, reconstructions: Tensor, n: int = 1000, seed: int = 0) -> dict[str, dict]:
    """Power spectra of images and residual, and the response of the reconstruction, for `plots.frequency_curves`.

    Two panels: power of "image" and "residual"; "gain" and "amplitude" (`Transfer`). Each curve is (frequency, mean,
    low, high) over images, mean over channels.
    """

    def curve(frequency: Tensor, values: Tensor) -> tuple:
        return (frequency, *mean_interval(values.mean(dim=1), n, seed))

    spectra = {"image": power_spectrum(images), "residual": power_spectrum(images - reconstructions)}
    response = transfer(images, reconstructions)
    return {
        "power, mean over channels": {name: curve(s.frequency, s.power) for name, s in spectra.items()},
        "response": {name: curve(response.frequency, getattr(response, name)) for name in ("gain", "amplitude")},
    }
