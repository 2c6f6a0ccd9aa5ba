"""What an adapter changed besides the defect: colour, style, the loss it was trained on, and what it forgot.

Source of the questions: slides, "LoRA - Parameter-Efficient Fine-Tuning" ("causes color shift and style changes") and
"Identity Drift". "Outside" is a mask of the pixels that should have stayed as they were: everything but the defect.
Images are float [B, 3, H, W] in [0, 1], masks bool [B, H, W]; what has no pixel to be measured on is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from torch import Tensor

from diffad_utils import bottleneck
from diffad_utils.diagnostics import mean_where
from diffad_utils.diffusion import NoiseSchedule, add_noise, image_noise
from diffad_utils.methods.img2img import Img2ImgEngine

# --- colour -----------------------------------------------------------------------------------------------------------


def lab(images: Tensor) -> Tensor:
    """sRGB images [B, 3, H, W] in [0, 1] as CIELAB (D65): float32 [B, 3, H, W], L in [0, 100]."""
    return torch.from_numpy(rgb2lab(images.double().cpu().numpy(), channel_axis=1)).float()


def colour_changes(x: Tensor, x_hat: Tensor, outside: Tensor) -> dict[str, Tensor]:
    """CIELAB differences (CIE 1976) between x and x_hat over the pixels of ``outside``, [B] each.

    "Mean colour difference" can be read in two ways, and both are here:

    colour_shift : length of the mean difference. A cast over the whole image; errors that point this way here and that
        way there cancel. 2.3 is often taken as just noticeable.
    colour_difference : mean length of the difference. Every pixel's error counts, lost texture too.
    """
    difference = lab(x_hat) - lab(x)
    mean = torch.stack([mean_where(difference[:, channel], outside) for channel in range(3)], dim=1)
    return {"colour_shift": mean.norm(dim=1), "colour_difference": mean_where(difference.norm(dim=1), outside)}


# --- style ------------------------------------------------------------------------------------------------------------


def gram(features: Tensor, outside: Tensor) -> Tensor:
    """Gram matrix of features [B, C, h, w], mean over the places that lie wholly in ``outside`` [B, H, W]: [B, C, C].

    Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, eq. 3, divided by the
    number of places. A place's receptive field may reach into what is not outside.
    """
    where = F.adaptive_avg_pool2d(outside[:, None].float(), features.shape[-2:]) > 1 - 1e-6
    kept = (features * where).flatten(2).double()
    return kept @ kept.transpose(1, 2) / where.flatten(1).sum(dim=1).view(-1, 1, 1)


def gram_distance(features: Callable[[Tensor], Sequence[Tensor]], x: Tensor, x_hat: Tensor, outside: Tensor) -> Tensor:
    """Style change: |G(x_hat) - G(x)| / |G(x)| in the Frobenius norm, mean over the levels of a network, float64 [B].

    Gatys et al. (eq. 4 and 5) add the squares, divided by the numbers of channels and places; relative to G(x) every
    level counts alike, and 0.1 is a change of a tenth.

    features : images [B, 3, H, W] -> features [B, C, h, w] at each level, such as a `models.backbones.Backbone`.
    """
    with torch.inference_mode():
        levels = zip(features(x), features(x_hat), strict=True)
        pairs = [(gram(a, outside), gram(b, outside)) for a, b in levels]
    return torch.stack([(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in pairs]).mean(dim=0).clone()


def spectrum_distance(x: Tensor, x_hat: Tensor, outside: Tensor) -> Tensor:
    """Style change without a network: root mean square over spatial frequencies of the change in power, in dB, [B].

    Of the mean over channels, with the pixels that are not ``outside`` taken from x in both. The mean grey value, which
    is colour, is left out.
    """
    kept = torch.where(outside[:, None], x_hat, x)
    power = [bottleneck.power_spectrum(images.mean(dim=1, keepdim=True)).power[:, 0, 1:] for images in (x, kept)]
    floor = 1e-12  # far below one grey level of 8 bits; a flat image has no power at all
    return (10 * ((power[1] + floor) / (power[0] + floor)).log10()).square().mean(dim=1).sqrt()


# --- what was trained, and what was forgotten -------------------------------------------------------------------------


@torch.inference_mode()
def denoising_loss(
    engine: Img2ImgEngine, images: Tensor, keys: Sequence[str], prompt: str, timesteps: Sequence[int], seed: int = 0
) -> Tensor:
    """DDPM's training loss (Ho et al., NeurIPS 2020, eq. 14) of each image at fixed timesteps: float32 [N, K].

    The noise comes from (seed, key) and is the same for every model, so losses of two models on the same images are
    paired. Latents are the posterior's means; no guidance.

    images : float [N, 3, H, W] in [0, 1]. timesteps : [K].
    """
    schedule = NoiseSchedule(engine.scheduler.betas)
    latents = engine.encode(images).mean
    noise = image_noise((len(timesteps), *latents.shape[1:]), seed, keys)
    losses = []
    for rows in torch.arange(len(images)).split(engine.batch_size):
        eps_fn = engine.eps_fn([engine.embed(prompt)] * len(rows), [1.0] * len(rows))
        columns = []
        for k, timestep in enumerate(timesteps):
            t, target = torch.full((len(rows),), timestep), noise[rows, k]
            predicted = eps_fn(add_noise(latents[rows], t, target, schedule), t).cpu()
            columns.append((predicted - target).square().mean(dim=(1, 2, 3)))
        losses.append(torch.stack(columns, dim=1))
    return torch.cat(losses)
