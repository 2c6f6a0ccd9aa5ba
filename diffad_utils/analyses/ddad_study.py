"""The experiments of notebook 06 on DDAD, and what reconstructions do to defects that have a defect-free counterpart.

Used by notebook 06; entry points: `ddad_settings`, `survival_over_guidance`, `reconstructions`, `removal_table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from diffad_utils.analyses.detector_variants import Variants, settings_of
from diffad_utils.analyses.paired_comparison import size_groups
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import DDAD
from diffad_utils.metrics.counterfactual import defect_survival, removal_and_drift


def survival_over_guidance(ddad: DDAD, task: Task, weights: Sequence[float]) -> pd.DataFrame:
    """How much of each defect is left in DDAD's reconstruction over its pull towards the image, w.

    One row a weight and anomalous image: w, image, and ``survival`` (`metrics.counterfactual.defect_survival`) at
    DDAD's own image size. What is random is the same for an image and its counterpart.
    """
    hurt = task.take(torch.nonzero(task.labels == 1)[:, 0])
    size = (ddad.image_size, ddad.image_size)
    x, twin = (at_size(images, size) for images in (hurt.images, hurt.batch["twin"]))
    rows = []
    for w in weights:
        fitted = ddad.with_settings(guidance_weight=w)
        kept = defect_survival(x, twin, fitted.reconstruct(x, hurt.keys), fitted.reconstruct(twin, hurt.keys))
        rows.append(pd.DataFrame({"w": w, "image": range(len(kept)), "survival": kept.numpy()}))
    return pd.concat(rows, ignore_index=True)


def same_level(detector: Any, ddad: Any) -> int:
    """The step of ``detector``, a D3AD, in tens, of the noise level that ``ddad``, a DDAD, starts from."""
    level = ddad.schedule.alphas_cumprod[ddad.start_timestep]
    return int((detector.schedule.alphas_cumprod - level).abs().argmin()) // 10 * 10


def at_size(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] resized bilinearly, without aliases."""
    return torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def ddad_settings(parameters: Mapping) -> dict:
    """DDAD's settings from a notebook's parameters: those it shares with D3AD, and its own under the names ddad_...;
    without domain adaptation, and with the default batch."""
    own = {"image_size": "size", "block_out_channels": "channels", "train_steps": "steps"}
    own |= {"learning_rate": "learning_rate", "guidance_weight": "weight"}
    return (
        {name: value for name, value in settings_of(DDAD, parameters).items() if name != "train_batch_size"}
        | {name: parameters[f"ddad_{key}"] for name, key in own.items()}
        | {"adaptation_epochs": 0}
    )


def reconstructions(variants: Variants, ddad: Variants, hurt: Task, autoencoder: Prediction) -> dict[str, Tensor]:
    """What each method makes of the anomalous images ``hurt``, a part of the variants' task, at their size.

    autoencoder : prediction of the whole task by Dec(Enc(x)). DDAD on latents has DDAD's noise level, noise and
    guidance in D3AD's network.
    """
    detector: Any = variants.detector  # D3AD
    rows = [variants.task.keys.index(key) for key in hurt.keys]
    like_ddad = {"static_step": same_level(detector, ddad.detector), "noise_fraction": 1.0}
    like_ddad |= {"guidance_weight": ddad.detector.guidance_weight}
    size = tuple(hurt.images.shape[-2:])
    return {
        "D3AD": variants.predict().reconstruction[rows],
        "Dec(Enc(x))": at_size(autoencoder.reconstruction[rows], size),
        "noised DDIM": variants.fitted(static_step=detector.t_max, noise_fraction=1.0).reconstruct(
            hurt.images, hurt.keys
        ),
        "DDAD on latents": variants.fitted(**like_ddad).reconstruct(hurt.images, hurt.keys),
        "DDAD": ddad.predict().reconstruction[rows],
    }


def removal_table(reconstructions: Mapping[str, Tensor], task: Task) -> pd.DataFrame:
    """What methods do to defect images: one row a method and image, with removal, drift and fidelity
    (`metrics.counterfactual.removal_and_drift`), and ``third``, "small", "medium" or "large" by the mask's area.

    reconstructions : name -> [n, 3, H, W] of the ``task``'s images, all anomalous, at their size.
    """
    tables, thirds = [], size_groups(task.masks.float().mean(dim=(1, 2)))
    for name, x_hat in reconstructions.items():
        done = removal_and_drift(x_hat, task.images, task.batch["twin"], task.masks)
        found = {part: done[part].numpy() for part in ("removal", "drift", "fidelity")}
        tables.append(pd.DataFrame({"method": name, "image": range(len(x_hat)), "third": thirds} | found))
    return pd.concat(tables, ignore_index=True)


def removal_in_words(table: pd.DataFrame) -> str:
    """The most and the least of removal and drift by method, of means with intervals (method, measure, value)."""
    lines = []
    for measure, text in (
        ("removal", "Removal of the defect"),
        ("drift", "Drift of the rest, in grey values from 0 to 1"),
    ):
        values = table[table["measure"] == measure].set_index("method")["value"]
        lines.append(
            f"- {text}: lowest {values.min():.3f} ({values.idxmin()}), highest {values.max():.3f} ({values.idxmax()})."
        )
    return "\n".join(lines)
