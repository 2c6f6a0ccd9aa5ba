"""How much of a defect survives an autoencoder, by size and contrast.

Used by notebook 02; entry points: `survival_table`, `planted_table`, `survival_by_group`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffad_utils.analyses.frequencies import Reconstruct
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset, collate
from diffad_utils.diffusion import image_noise
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import absolute_error, defect_survival, masked_mean, moments, squared_error


def d_prime(inside: tuple[Tensor, Tensor], normal: tuple[Tensor, Tensor]) -> Tensor:
    """Detectability d' of the residual inside the mask against the residual on normal images: [B].

    d' = (mean inside - mean normal) / sqrt((variance inside + variance normal) / 2), over pixels (Green and Swets,
    1966; d_a of Simpson and Fitter, 1973, where the variances differ). inside : `moments` [B] of each anomalous image's
    residual in its mask. normal : those of normal images of one size, which are pooled. It is the separation of single
    pixels, before any smoothing or averaging. NaN where a mask is empty or both variances are zero.
    """
    (mean, square), (normal_mean, normal_square) = inside, (moment.mean() for moment in normal)
    variances = (square - mean.square()).clamp_min(0), (normal_square - normal_mean.square()).clamp_min(0)
    return (mean - normal_mean) / ((variances[0] + variances[1]) / 2).sqrt()


def survival_table(reconstruct: Reconstruct, dataset: ImageDataset, batch_size: int = 16) -> pd.DataFrame:
    """What a reconstruction does to each defect that has an exact twin: one row an anomalous image of ``dataset``.

    Columns: key, category, defect; ``area``, share of the image in the mask; ``contrast``, root mean square of
    image - twin inside the mask, in grey values of [0, 1]; ``survival`` (`defect_survival`); ``vae_error``, root mean
    square of twin - reconstructed twin inside the same mask: what the reconstruction changes there without any defect;
    ``error_inside`` and ``error_outside``, squared error of the anomalous image there and elsewhere; ``detectability``,
    d' of the absolute error inside the mask against that on all twins of the category in this data set (pooled).

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
                    "vae_error": masked_mean(squared_error(twin, twin_hat), mask).sqrt(),
                    "error_inside": masked_mean(squared, mask),
                    "error_outside": masked_mean(squared, ~mask),
                }
            )
        )
        inside.append(moments(absolute_error(x, x_hat), mask))
        normal.append(moments(absolute_error(twin, twin_hat), torch.ones_like(mask)))
    table = pd.concat(columns, ignore_index=True)
    for column, name in enumerate(("category", "defect")):
        table.insert(column + 1, name, subset.index[name].to_numpy())
    of_defects, of_normal = (tuple(torch.cat(part) for part in zip(*parts, strict=True)) for parts in (inside, normal))
    for rows in table.groupby("category").indices.values():
        separation = d_prime(tuple(m[rows] for m in of_defects), tuple(m[rows] for m in of_normal))
        table.loc[rows, "detectability"] = separation.numpy()
    return table


def plant(images: Tensor, keys: Sequence[str], area: float, contrast: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] in [0, 1] with a disc added to each, and where it is: masks bool [B, H, W].

    For data without twins: the image before is the twin. area : of the disc, as a share of the image. contrast : what
    is added, in grey values; subtracted where the image under the disc is lighter than mid-grey, so that little is
    clipped. The edge is one pixel wide. The position comes from (seed, key), the same for every area and contrast
    as far as the disc fits in. Raises ``ValueError`` for a disc smaller than a pixel or wider than the image.
    """
    height, width = images.shape[-2:]
    radius = math.sqrt(area * height * width / math.pi)
    if not area * height * width >= 1 or 2 * radius + 2 > min(height, width):
        raise ValueError(
            f"a disc of area {area} does not fit images of {height} x {width}: it is {2 * radius:.2g} pixels wide"
        )
    positions = torch.special.ndtr(image_noise((2,), seed, keys).double())  # uniform in (0, 1)
    margin = radius + 1
    centre = margin + positions * (torch.tensor([height, width]) - 1 - 2 * margin)
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
    vae_error as in `survival_table`.
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
                        "vae_error": masked_mean(squared_error(images, images_hat), mask).sqrt(),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


SMALL = 0.01
"""Share of the image below which a defect is small (claim C03)."""


def survival_by_group(table: pd.DataFrame, kind: str, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Survival of the defects of a `survival_table` or `planted_table`, all together and in groups of at least two.

    Groups: each value of column ``kind``; those below `SMALL`; those whose contrast is below or above the
    autoencoder's error where they are. Columns group, n, survival (mean), low, high (95 % interval over defects; none
    for fewer than 10), below the error, lost (< 0.25), kept (> 0.75) (shares), and where it is known the median d'.
    """
    below = table["contrast"] < table["vae_error"]
    groups = {"all": table["area"] > 0} | {str(value): table[kind] == value for value in sorted(table[kind].unique())}
    groups |= {"below 1 % of the image": table["area"] < SMALL}
    groups |= {"contrast below the error": below, "contrast above the error": ~below}
    rows = []
    for name, chosen in groups.items():
        part = table[chosen]
        if len(part) < 2:
            continue
        row = {"group": name, "n": len(part), "survival": float(part["survival"].mean())}
        if len(part) >= 10:
            row["low"], row["high"] = map(float, bootstrap.mean_interval(part["survival"], n, seed)[1:])
        row |= {
            "below the error": float(below[chosen].mean()),
            "lost (< 0.25)": float((part["survival"] < 0.25).mean()),
            "kept (> 0.75)": float((part["survival"] > 0.75).mean()),
        }
        if "detectability" in part:
            row["median d'"] = float(part["detectability"].median())
        rows.append(row)
    return pd.DataFrame(rows)


def task_survival(reconstruct: Reconstruct, task: Task) -> Tensor:
    """`defect_survival` of the defects of a task with defect-free counterparts: float64 [number of defects].

    Images and counterparts get the same keys, so what is random is the same for both.
    """
    defects = task.take(task.labels.nonzero()[:, 0])
    x, counterpart, keys = defects.images, defects.batch["twin"], defects.keys
    return defect_survival(x, counterpart, reconstruct(x, keys), reconstruct(counterpart, keys))
