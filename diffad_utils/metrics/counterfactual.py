"""Metrics that need the defect-free counterpart ('twin') of an image: removal, drift, survival."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils.metrics import image_quality


def absolute_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """|x - x_hat|, mean over channels: [B, C, H, W] twice -> [B, H, W]. ``ValueError`` if shapes differ."""
    check_same_shape(images, reconstructions)
    return (images - reconstructions).abs().mean(dim=1)


def squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(x - x_hat)², mean over channels: [B, C, H, W] twice -> [B, H, W]. ``ValueError`` if shapes differ."""
    check_same_shape(images, reconstructions)
    return (images - reconstructions).square().mean(dim=1)


def masked_mean(values: Tensor, masks: Tensor) -> Tensor:
    """Mean of values [B, H, W] over the pixels in masks bool [B, H, W]: float64 [B], NaN where a mask is empty."""
    check_same_shape(values, masks)
    return moments(values, masks)[0]


def defect_survival(anomalous: Tensor, normal: Tensor, anomalous_hat: Tensor, normal_hat: Tensor) -> Tensor:
    """Share of each defect that is still there after reconstruction: float64 [B].

    With delta = x_anomalous - x_normal, the defect alone (x_normal is the exact twin without it):
    survival = <x_hat_anomalous - x_hat_normal, delta> / <delta, delta>, over all pixels and channels. 1: kept as it is;
    0: gone; for a linear filter the mean of its response over the energy spectrum of the defect. All [B, C, H, W].

    Raises ``ValueError`` if shapes differ, or an image is the same as its twin: there is no defect to survive.

    Examples
    --------
    A reconstruction that keeps a quarter of a spot:

    >>> normal, spot = torch.zeros(1, 1, 2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    >>> defect_survival(normal + spot, normal, normal + 0.25 * spot, normal)
    tensor([0.2500], dtype=torch.float64)
    """
    for other in (normal, anomalous_hat, normal_hat):
        check_same_shape(anomalous, other)
    delta = (anomalous.double() - normal.double()).flatten(1)
    energy = delta.square().sum(dim=1)
    if bool((energy == 0).any()):
        same = (energy == 0).nonzero().flatten().tolist()
        raise ValueError(f"images {same} are the same as their twins; give anomalous images only")
    return ((anomalous_hat.double() - normal_hat.double()).flatten(1) * delta).sum(dim=1) / energy


def check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"tensors must have the same shape, got {list(a.shape)} and {list(b.shape)}")


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """`counterfactual.masked_mean` of maps [B, H, W] in their own dtype: [B], NaN where ``where`` bool [B, H, W] is
    empty."""
    return masked_mean(values, where).to(values.dtype)


def removal_and_drift(x_hat: Tensor, x_anom: Tensor, x_norm: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What a reconstruction did to the defect and to everything else, [B] each.

    removal : 1 - |x_hat - x_norm| / |x_anom - x_norm| inside the mask. 1: the defect is gone and its place is right; 0:
        as far from the twin as the defect was; negative: further.
    drift : |x_hat - x_norm| outside the mask, in grey values of [0, 1].
    defect : |x_anom - x_norm| inside the mask, the size of the defect a pixel.
    fidelity : 1 - drift / defect. 1: nothing else changed; 0: the rest changed as much a pixel as the defect did.
    energy_ratio : L2 norm of x_hat - x_norm outside the mask over the L2 norm of x_anom - x_norm inside: the drift
        against the whole defect, which a small defect loses by its size.

    Examples
    --------
    A defect of 0.8 in one pixel of two: 0.2 of it is left, and the other pixel has moved by 0.1.

    >>> x_norm, x_anom, x_hat = (torch.tensor(v).reshape(1, 1, 1, 2) for v in ([0.0, 0.0], [0.8, 0.0], [0.2, 0.1]))
    >>> found = removal_and_drift(x_hat, x_anom, x_norm, torch.tensor([[[True, False]]]))
    >>> {name: round(found[name].item(), 3) for name in ("removal", "drift", "fidelity")}
    {'removal': 0.75, 'drift': 0.1, 'fidelity': 0.875}
    """
    defect = mean_where(absolute_error(x_anom, x_norm), mask)
    drift = mean_where(absolute_error(x_hat, x_norm), ~mask)
    left = mean_where(absolute_error(x_hat, x_norm), mask)
    inside, outside = mask[:, None], ~mask[:, None]
    drift_norm = ((x_hat - x_norm) * outside).flatten(1).norm(dim=1)
    defect_norm = ((x_anom - x_norm) * inside).flatten(1).norm(dim=1)
    nan = torch.where(defect > 0, 1.0, math.nan)  # no defect, nothing to compare with
    return {
        "removal": (1 - left / defect) * nan,
        "drift": drift,
        "defect": defect,
        "fidelity": (1 - drift / defect) * nan,
        "energy_ratio": drift_norm / defect_norm * nan,
    }


def reconstruction_table(reconstruction: Tensor, batch: dict) -> pd.DataFrame:
    """What a reconstruction [B, 3, H, W] of ``batch`` (`data.collate`) did to each image, one row an image in its
    order.

    Columns label; SSIM and PSNR (dB) against the input, for normal images; removal and drift
    (`removal_and_drift`) for anomalous ones, where the data set has twins. What does not apply is NaN.
    """
    normal = np.asarray(batch["label"]) == 0
    table = pd.DataFrame({"label": np.asarray(batch["label"]).astype(int)})
    table["SSIM"] = table["PSNR"] = np.nan
    if normal.any():
        quality = image_quality.reconstruction(batch["image"][normal], reconstruction[normal])
        table.loc[normal, "SSIM"], table.loc[normal, "PSNR"] = quality["ssim"], quality["psnr"]
    if "twin" in batch and not normal.all():
        done = removal_and_drift(*(x[~normal] for x in (reconstruction, batch["image"], batch["twin"], batch["mask"])))
        for name in ("removal", "drift"):
            table.loc[~normal, name] = done[name].double().numpy()
    return table


def reconstruction_metrics(reconstruction: Tensor, batch: dict) -> dict[str, float]:
    """What the comparison's table says of a reconstruction [B, 3, H, W] of ``batch`` (`data.collate`), as means over
    images.

    SSIM, PSNR : against the input, over the normal images: what a method does to pictures it should leave alone. PSNR
        in dB.
    removal, drift : `removal_and_drift` over the anomalous images; absent where the data set has no twins.
    """
    table = reconstruction_table(reconstruction, batch)
    return {name: float(table[name].mean()) for name in ("SSIM", "PSNR", "removal", "drift") if name in table}


def moments(values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of values [B, H, W] over the pixels in masks: float64 [B] each."""
    values, weight = values.double().flatten(1), masks.flatten(1).double()
    count = weight.sum(dim=1)
    return (values * weight).sum(dim=1) / count, (values.square() * weight).sum(dim=1) / count
