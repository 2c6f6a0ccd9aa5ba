"""What an adapter changed besides the defect: colour, style, the loss it was trained on, and what it forgot.

Source of the questions: slides, "LoRA - Parameter-Efficient Fine-Tuning" ("causes color shift and style changes") and
"Identity Drift". "Outside" is a mask of the pixels that should have stayed as they were: everything but the defect.
Images are float [B, 3, H, W] in [0, 1], masks bool [B, H, W]; what has no pixel to be measured on is NaN.

Used by notebook 04; entry points: `image_table`, `summary`, `paired_changes`, `change`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses import frequencies
from diffad_utils.diffusion import NoiseSchedule, add_noise, image_noise
from diffad_utils.methods.img2img import Img2ImgEngine
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import mean_where, removal_and_drift
from diffad_utils.models.clip import Clip
from diffad_utils.models.clip_features import clip_features_of_both
from diffad_utils.scoring import cosine_map


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


def gram(features: Tensor, outside: Tensor) -> Tensor:
    """Gram matrix of features [B, C, h, w], mean over the positions wholly in ``outside`` [B, H, W]: [B, C, C].

    Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, eq. 3, divided by the
    number of positions. A position's receptive field may reach into what is not outside.
    """
    where = F.adaptive_avg_pool2d(outside[:, None].float(), features.shape[-2:]) > 1 - 1e-6
    kept = (features * where).flatten(2).double()
    return kept @ kept.transpose(1, 2) / where.flatten(1).sum(dim=1).view(-1, 1, 1)


def gram_distance(features: Callable[[Tensor], Sequence[Tensor]], x: Tensor, x_hat: Tensor, outside: Tensor) -> Tensor:
    """Style change: |G(x_hat) - G(x)| / |G(x)| in the Frobenius norm, mean over the levels of a network, float64 [B].

    Gatys et al. (eq. 4 and 5) add the squares, divided by the numbers of channels and positions; relative to G(x) every
    level counts alike, and 0.1 is a change of a tenth.

    features : images [B, 3, H, W] -> features [B, C, h, w] at each level, such as a `models.backbones.Backbone`.
    """
    with torch.inference_mode():
        levels = zip(features(x), features(x_hat), strict=True)
        pairs = [(gram(a, outside), gram(b, outside)) for a, b in levels]
    return (
        torch.stack([(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in pairs]).mean(dim=0).clone()
    )


def spectrum_distance(x: Tensor, x_hat: Tensor, outside: Tensor) -> Tensor:
    """Style change without a network: root mean square over spatial frequencies of the change in power, in dB, [B].

    Of the mean over channels, with the pixels that are not ``outside`` taken from x in both. The mean grey value, which
    is colour, is left out.
    """
    kept = torch.where(outside[:, None], x_hat, x)
    power = [frequencies.power_spectrum(images.mean(dim=1, keepdim=True)).power[:, 0, 1:] for images in (x, kept)]
    least = 1e-12  # far below one grey level of 8 bits; a flat image has no power at all
    return (10 * ((power[1] + least) / (power[0] + least)).log10()).square().mean(dim=1).sqrt()


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


MEASURES = {
    "PSNR": "PSNR, dB",
    "SSIM": "SSIM",
    "CLIP similarity": "cosine of CLIP features",
    "MSE": "squared error",
    "colour shift": "colour shift, ΔE",
    "colour difference": "colour difference, ΔE",
    "Gram distance": "Gram distance",
    "spectrum distance": "spectrum distance, dB",
    "removal": "removal",
    "drift": "drift, grey values",
}
"""What `image_table` measures, with units."""

MAIN = ("PSNR", "CLIP similarity", "colour shift", "Gram distance", "removal", "drift")
"""Those that say most: of normal images, of colour and style outside the defect, of the defect."""


CLAIMED = {
    "C17a": ("colour shift", "colour shift outside the mask, LoRA minus base, ΔE"),
    "C17b": ("Gram distance", "relative Gram distance outside the mask, LoRA minus base"),
}
"""Claims on an adapter: the measure of `image_table`, and how data/published/claims.csv names its change."""


AT_ONCE = 16
"""Images whose features are held at once."""


def image_table(
    x_hat: Tensor, batch: dict, clip: Clip | None = None, features: Callable[[Tensor], Sequence[Tensor]] | None = None
) -> pd.DataFrame:
    """One row an image of ``batch`` (`data.collate`) and its reconstruction x_hat [B, 3, H, W]: key, label, and
    `MEASURES`.

    PSNR in dB, SSIM, MSE : against the image, over all of it, so read them on normal images. CLIP similarity : cosine
        of
    the image features (with ``clip``). Colour shift, colour difference, Gram distance (with ``features``), spectrum
    distance : outside the mask, and NaN for an anomalous image without one. removal, drift :
        `counterfactual.removal_and_drift` of anomalous images with twins; else NaN.
    """
    parts = [
        _measures(x_hat[rows], {name: values[rows] for name, values in batch.items() if name != "key"}, clip, features)
        for rows in torch.arange(len(x_hat)).split(AT_ONCE)
    ]
    columns = {name: torch.cat([part[name].double() for part in parts]).numpy() for name in parts[0]}
    table = pd.DataFrame({"key": batch["key"], "label": batch["label"].numpy(), **columns})
    table["label"] = table["label"].astype(int)
    return table


def _measures(x_hat: Tensor, batch: dict, clip: Clip | None, features: Any) -> dict[str, Tensor]:
    x, mask = batch["image"], batch["mask"]
    quality = metrics.reconstruction(x, x_hat)
    values = {"PSNR": quality["psnr"], "SSIM": quality["ssim"], "MSE": quality["mse"]}
    values = {name: torch.as_tensor(value) for name, value in values.items()}
    if clip is not None:
        image, other = (f.image for f in clip_features_of_both(clip, x, x_hat))
        values["CLIP similarity"] = 1 - cosine_map(image, other)
    known = torch.where((batch["label"] == 0) | mask.any(dim=(1, 2)), 1.0, torch.nan)  # where outside is
    colour = colour_changes(x, x_hat, ~mask)
    values |= {"colour shift": known * colour["colour_shift"], "colour difference": known * colour["colour_difference"]}
    if features is not None:
        values["Gram distance"] = known * gram_distance(features, x, x_hat, ~mask)
    values["spectrum distance"] = known * spectrum_distance(x, x_hat, ~mask)
    if "twin" in batch:
        done = removal_and_drift(x_hat, x, batch["twin"], mask)
        anomalous = torch.where(batch["label"] == 1, 1.0, torch.nan)
        values |= {name: done[name] * anomalous for name in ("removal", "drift")}
    return values


def summary(table: pd.DataFrame, n: int = 1000, seed: int = 0) -> dict[str, float]:
    """Means over the images of an `image_table` with 95 % bootstrap intervals: "<measure>", "<measure> low", "...
    high".

    PSNR, SSIM, MSE and CLIP similarity are of the normal images, what a method should leave alone; the others of all
    that have them.
    """
    values = {}
    for name, (part,) in _common(table).items():
        values |= dict(
            zip((name, f"{name} low", f"{name} high"), map(float, bootstrap.mean_interval(part, n, seed)), strict=True)
        )
    return values


def paired_changes(before: pd.DataFrame, after: pd.DataFrame, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Two `image_table` of the same images: measure, before, after, change, low, high (95 % interval of the change) and
    n.

    Raises ``ValueError`` if the images differ.
    """
    if before["key"].tolist() != after["key"].tolist():
        raise ValueError("the two tables are not of the same images in the same order")
    rows = []
    for name, (old, new) in _common(before, after).items():
        change = bootstrap.mean_interval(new - old, n, seed)
        rows.append(
            {
                "measure": name,
                "before": old.mean(),
                "after": new.mean(),
                "change": float(change.mean),
                "low": float(change.low),
                "high": float(change.high),
                "n": len(old),
            }
        )
    return pd.DataFrame(rows)


def change(changes: pd.DataFrame, measure: str) -> tuple[float, float, float, int]:
    """Change, low, high and n of one measure in `paired_changes`, as `findings.judge` takes them."""
    row = changes.set_index("measure").loc[measure]
    return float(row["change"]), float(row["low"]), float(row["high"]), int(row["n"])


def _common(*tables: pd.DataFrame) -> dict[str, list[np.ndarray]]:
    """Each measure that the tables have, over the images where all of them are finite (PSNR is not where nothing
    changed); over normal images alone where it is about what should be left alone."""
    found = {}
    for name in MEASURES:
        if not all(name in table for table in tables):
            continue
        rows = np.isfinite([table[name].to_numpy() for table in tables]).all(axis=0)
        if name in ("PSNR", "SSIM", "MSE", "CLIP similarity"):
            rows &= (tables[0]["label"] == 0).to_numpy()
        if rows.sum() >= 2:
            found[name] = [table[name].to_numpy()[rows] for table in tables]
    return found
