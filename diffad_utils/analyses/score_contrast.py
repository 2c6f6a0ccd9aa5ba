"""How much of an image a reconstruction keeps: its contrast, beside that of the autoencoder alone.

Used by notebook 05; entry points: `contrast_kept`, `kept_by_all`, `in_words`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import enumerated
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.metrics.bootstrap import mean_interval
from diffad_utils.study import numbers

ALONE = "the autoencoder alone"

SQUARE = 9
"""Side in pixels, odd, of the squares whose mean `fine` takes away."""

DEFINED = (
    "Contrast is the standard deviation over the pixels. Slow shading counts, too, so fine texture can be gone "
    "although much of the contrast is left."
)


def contrast_kept(images: Tensor, reconstructions: Tensor) -> Tensor:
    """The contrast of each reconstruction over that of its image, both [B, C, H, W]: [B]; 0 is a plain field.

    Contrast is the standard deviation over the pixels of a channel, as a root mean square over the channels, so that a
    colour of its own is none. An image without contrast has nan.
    """
    own, left = (x.double().flatten(2).var(dim=2, correction=0).mean(dim=1).sqrt() for x in (images, reconstructions))
    return torch.where(own > 0, left / own, torch.nan)


def beside_image(
    strips: tuple[Mapping[str, Tensor], Sequence[str], Mapping[str, Sequence[str]]],
    detector: ScoreMatchingDetector,
    task: Task,
) -> tuple[dict[str, Tensor], list[str], dict[str, list[str]]]:
    """`score_process.strips` of the task's first defective image, with the image itself as the first column."""
    rows, titles, captions = strips
    image = detector._input(task.images[task.labels.argmax()][None])
    shown = {name: torch.cat([image, states]) for name, states in rows.items()}
    return shown, ["image", *titles], {name: ["", *words] for name, words in captions.items()}


def fine(images: Tensor, width: int = SQUARE) -> Tensor:
    """Images [B, C, H, W] minus their mean over squares of ``width`` pixels: texture without slow shading."""
    return images - avg_pool2d(images, width, stride=1, padding=width // 2, count_include_pad=False)


def of_last(states: Mapping[str, Tensor], task: Task) -> dict[str, float]:
    """`contrast_kept` of the last of the decoded states [n, 3, H, W] of the task's first defective image, by method."""
    image = task.images[task.labels.argmax()][None]
    return {name: float(contrast_kept(image, decoded[-1:])) for name, decoded in states.items()}


def kept_by_all(detector: ScoreMatchingDetector, predictions: Mapping[str, Prediction], task: Task) -> pd.DataFrame:
    """`contrast_kept` by each reconstruction, and by Dec(Enc(image)) where ``detector`` works on latents.

    Columns: name, mean, low, high: of the test images that have a contrast, with the 95 % interval over images; fine:
    the mean of their `fine` contrast.
    """
    shown = {name: q.reconstruction for name, q in predictions.items()}
    if detector.space == "latent":
        parts = detector._input(task.images).split(detector.batch_size)
        shown[ALONE] = torch.cat([detector.decode(detector.encode(part)) for part in parts])
    rows = []
    for name, reconstruction in shown.items():
        images = task.images if reconstruction.shape == task.images.shape else detector._input(task.images)
        values = contrast_kept(images, reconstruction)
        values = values[~values.isnan()]
        mean, low, high = mean_interval(values.numpy(), task.bootstrap_samples, task.seed)
        texture = float(contrast_kept(fine(images), fine(reconstruction)).nanmean())
        rows.append({"name": name, "mean": mean, "low": low, "high": high, "fine": texture})
    return pd.DataFrame(rows)


def in_words(table: pd.DataFrame) -> str:
    """``table`` of `kept_by_all`."""
    said = {
        row["name"]: f"{numbers.share(row['mean'])} [{row['low']:.0%}, {row['high']:.0%}]"
        for row in table.to_dict("records")
    }
    alone = f"; {ALONE}, without noise or network, keeps {said.pop(ALONE)}" if ALONE in said else ""
    parts = enumerated([f"{share} in {name}" for name, share in said.items()])
    textures = enumerated([f"{numbers.share(row['fine'])} ({row['name']})" for row in table.to_dict("records")])
    return (
        f"**The reconstruction keeps this part of the image's contrast**, in the mean over test images: "
        f"{parts}{alone}. {DEFINED} Of fine texture alone, which is the image minus its mean over squares of "
        f"{SQUARE} pixels, {textures} is left. What is lost of normal texture differs from the image as a defect does."
    )
