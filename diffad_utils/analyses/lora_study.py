"""The comparisons of notebook 04: one model with two prompts, sweeps on a few images, images of another category.

Models here are fitted `Img2Img` detectors, with a LoRA or without.

Used by notebook 04; entry points: `with_prompt`, `differences`, `Sweep`, `Trainings`, `of_unseen`,
`answer`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import data, metrics
from diffad_utils.analyses import adapter_drift
from diffad_utils.analyses.summaries import Means
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import detects, enumerated, relation, signed
from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.clip_detectors import fill_prompt
from diffad_utils.methods.img2img import Img2Img, Setting
from diffad_utils.methods.img2img.lora import LoRA
from diffad_utils.metrics.counterfactual import defect_survival
from diffad_utils.models.backbones import Backbone
from diffad_utils.models.clip import Clip

Features = Callable[[Tensor], Sequence[Tensor]]
"""Images float [B, 3, H, W] in [0, 1] to features [B, C, h, w] of several levels, as a `models.backbones.Backbone`."""


def settings_of(method: type[Img2Img], parameters: Mapping, device: str) -> dict:
    """The parameters of a notebook that are fields of a method, by name, and the device; prompts are given apart.

    An ``inference_precision`` of "auto" is left to the method.
    """
    names = {field.name for field in fields(method)} & set(parameters.keys()) - {"prompt"}
    given = {name: parameters[name] for name in names} | {"device": device}
    return given | ({"inference_precision": None} if given.get("inference_precision") == "auto" else {})


def on_cpu(network: Backbone, device: torch.device) -> Features:
    """The features of a network that is on ``device``, for images and results on the CPU."""
    return lambda images: [level.cpu() for level in network(images.to(device))]


def with_prompt(model: Img2Img, prompt: str, normal: ImageDataset) -> Img2Img:
    """The same model with another prompt (a template, see `fill_prompt`), calibrated with it on ``normal`` images."""
    other = copy.copy(model)
    other.prompt = prompt
    Img2Img.fit(other, normal)
    return other


def of_rows(prediction: Prediction, rows: Tensor) -> Prediction:
    """Score, map and reconstruction of the images ``rows`` (int64 [n]) of a prediction."""
    return Prediction(prediction.score[rows], prediction.anomaly_map[rows], prediction.reconstruction[rows])


def differences(task: Task, first: Prediction, second: Prediction) -> dict[str, tuple[float, float, float, int]]:
    """Accuracy of the first minus that of the second on a task's images.

    I-AUROC, and where there are masks AUPRO: difference, low, high (paired 95 % interval over images), images.
    """
    found = {"I-AUROC": (*task.difference(first.score, second.score), len(task.keys))}
    rows = task.with_masks
    if task.has_masks and bool((task.labels[rows] == 1).any()):
        maps = first.anomaly_map[rows], second.anomaly_map[rows], task.masks[rows]
        ends = metrics.paired_aupro_difference(*maps, n=task.bootstrap_samples, seed=task.seed)
        found["AUPRO"] = (*ends, int(rows.sum()))
    return found


def loss_rows(losses: Mapping[str, Tensor], timesteps: Sequence[int], means: Means) -> pd.DataFrame:
    """Denoising losses [N, K] by model (`adapter_drift.denoising_loss`) over the K timesteps.

    Columns model, timestep, mean, low, high: over images.
    """
    rows = []
    for name, values in losses.items():
        columns: dict[Any, Tensor] = {t: values[:, k] for k, t in enumerate(timesteps)}
        rows.append(means.rows(columns, name).rename(columns={"name": "timestep", "group": "model"}))
    return pd.concat(rows, ignore_index=True)


class Sweep(NamedTuple):
    """Images on which settings are tried, and what is measured on them.

    task : the images. clip, features : for `adapter_drift.image_table`. timesteps : of the denoising loss.
    """

    task: Task
    clip: Clip
    features: Features
    means: Means
    timesteps: Sequence[int]

    def made(self, model: Img2Img, strength: float | None = None) -> Tensor:
        """Image-to-image of the images with a model's own prompts: [N, 3, H, W]. strength : None for the model's."""
        setting = model.setting
        if strength is not None:
            setting = Setting(strength, setting.guidance_scale, setting.num_inference_steps, setting.seed)
        (prompt, *_), (negative, *_) = model.prompts(self.task.keys[:1], 1)
        texts = [prompt] * len(self.task.keys)
        return model.engine_.reconstruct(self.task.images, self.task.keys, texts, setting, negative)

    def table(self, x_hat: Tensor) -> pd.DataFrame:
        """`adapter_drift.image_table` of reconstructions [N, 3, H, W] of the images."""
        return adapter_drift.image_table(x_hat, self.task.batch, self.clip, self.features)

    def row(self, x_hat: Tensor, losses: Tensor | None = None) -> dict[str, float]:
        """Means of the measures with their intervals, and the I-AUROC of the squared error alone.

        losses : denoising loss of normal images [M, K], averaged over its timesteps as "loss", "loss low", "loss high".
        """
        table = self.table(x_hat)
        values = adapter_drift.summary(table, *self.means)
        if losses is not None:
            ends = map(float, self.means.of(losses.mean(dim=1)))
            values |= dict(zip(("loss", "loss low", "loss high"), ends, strict=True))
        return values | {"I-AUROC": float(metrics.image_auroc(table["MSE"], table["label"]))}

    def loss(self, model: Img2Img, prompt: str, normal: Task) -> Tensor:
        """Denoising loss [M, K] of the images of ``normal`` with a prompt."""
        return adapter_drift.denoising_loss(
            model.engine_, normal.images, normal.keys, prompt, self.timesteps, normal.seed
        )


def error_above(x: Tensor, x_hat: Tensor, reference: Tensor) -> np.ndarray:
    """Squared error of each reconstruction minus that of a reference, in shares of the reference's mean: [N].

    Images [N, 3, H, W] each; 0.1 is a tenth more than the reference has on average.
    """
    ours, theirs = ((made - x).double().square().mean(dim=(1, 2, 3)) for made in (x_hat, reference))
    return ((ours - theirs) / theirs.mean()).numpy()


class Unseen(NamedTuple):
    """Normal test images of a category that a model was not trained on: its name, index and batch."""

    name: str
    category: str
    index: pd.DataFrame
    batch: dict


def unseen_images(
    dataset: str, category: str, own: tuple[str, str], images: int, size: int, root: str | None = None, seed: int = 0
) -> Unseen:
    """At most ``images`` normal test images of another category.

    Parameters
    ----------
    category : empty for the one that follows ``own`` in the data set's list.
    own : data set and category of the training.
    root : folder of the data set.

    Raises
    ------
    ValueError
        The category is the one that is trained on.
    """
    names = data.categories(dataset, root=root)
    following = names[(names.index(own[1]) + 1) % len(names)] if own[1] in names else names[0]
    category = category or following
    if (dataset, category) == own:
        raise ValueError(f"other_category is {category}, the category that is trained on: name another one")
    index = data.load_index(dataset, root=root, category=category, seed=seed)
    index = index[(index["split"] == "test") & (index["label"] == 0)].head(images)
    batch = data.load_batch(ImageDataset(index, size=size))
    return Unseen(f"{dataset}/{category}", category, index, batch)


class OfUnseen(NamedTuple):
    """What a model does with `Unseen` images: denoising loss [N], mean over timesteps; reconstructions; the prompt."""

    loss: Tensor
    made: Tensor
    prompt: str


def of_unseen(model: Img2Img, other: Unseen, prompts: tuple[str, str], timesteps: Sequence[int]) -> OfUnseen:
    """Denoising loss and image-to-image of images of another category, with a prompt and a negative prompt for it."""
    images, keys = other.batch["image"], other.batch["key"]
    prompt, negative = (fill_prompt(text, other.category) for text in prompts)
    losses = adapter_drift.denoising_loss(model.engine_, images, keys, prompt, timesteps, model.seed)
    made = model.engine_.reconstruct(images, keys, [prompt] * len(keys), model.setting, negative)
    return OfUnseen(losses.mean(dim=1), made, prompt)


class Trainings(NamedTuple):
    """Adapters of other ranks and of earlier steps. options : of the `LoRA`; folder : with a folder for each rank.

    They reconstruct and score nothing, so they are calibrated on as few images as that takes.
    """

    options: Mapping
    train: ImageDataset
    folder: Path

    def at_step(self, step: int) -> LoRA:
        """The adapter of ``options`` after so many steps, from the snapshot of its training."""
        adapter = str(self.folder / f"rank-{self.options['rank']}" / f"step-{step}")
        return LoRA(**{**self.options, "calibration_images": 2, "adapter": adapter}).fit(self.train)

    def of_rank(self, rank: int) -> LoRA:
        """An adapter of another rank, trained for as long."""
        model = LoRA(**{**self.options, "calibration_images": 2, "rank": rank})
        return model.fit(self.train, self.folder / f"rank-{rank}")


def worst_median_best(table: pd.DataFrame) -> dict[str, int]:
    """Rows of an `adapter_drift.image_table`: largest, median, smallest colour shift; then SSIM of normal images.

    Returns title -> row, such as "worst ΔE\\n4.20". Measures without a value are left out.
    """
    colour = table["colour shift"].dropna().sort_values(ascending=False)
    identity = table.loc[table["label"] == 0, "SSIM"].sort_values()
    return {
        f"{name} {measure}\n{ranked.iloc[at]:.2f}": ranked.index[at]
        for measure, ranked in {"ΔE": colour, "SSIM": identity}.items()
        for name, at in {"worst": 0, "median": len(ranked) // 2, "best": -1}.items()
    }


def survivals(models: Mapping[str, Img2Img], made: Mapping[str, Prediction], task: Task) -> dict[str, np.ndarray]:
    """Share of each defect that survives, by model: float64 [number of defects].

    models : name -> model. made : name -> its prediction of all of the task's images. The defect-free counterparts are
    reconstructed here, with the same keys and so the same noise.
    """
    rows = task.labels.nonzero()[:, 0]
    defects = task.take(rows)
    x, counterpart = defects.images, defects.batch["twin"]
    found = {}
    for name, model in models.items():
        back = model.reconstruct(counterpart, defects.keys)
        found[name] = defect_survival(x, counterpart, made[name].reconstruction[rows], back).numpy()
    return found


def counts_table(counts: Mapping[str, Any]) -> pd.DataFrame:
    """Parameters of adapters and networks: name -> `Counts`; columns network, adapter, network's own, share in %."""
    return pd.DataFrame(
        {"network": name, "adapter": c.lora, "network's own": c.base, "share, %": 100 * c.share}
        for name, c in counts.items()
    )


def require_untouched(untouched: Mapping[str, bool]) -> None:
    """Raise ``RuntimeError`` if training changed a weight that is not the adapter's (`LoRA.base_untouched_`)."""
    moved = ", ".join(name for name, same in untouched.items() if not same)
    if moved:
        raise RuntimeError(f"training changed the base weights of {moved}: only the adapter may move")


def answer(
    task: Task,
    gaps: Mapping[tuple[str, str], Sequence[float]],
    found: Mapping[Any, Sequence[float]],
    changes: Mapping[str, pd.DataFrame],
    scores: Mapping[str, Tensor],
) -> str:
    """Notebook 04's questions and what this run answers.

    Parameters
    ----------
    gaps : (metric, prompt) -> accuracy of the LoRA minus that of the base model, with this prompt for both.
    found : has ("C16", "<prompt> for both"), the base model's survival minus the LoRA's, where there are counterparts.
    changes : prompt -> `adapter_drift.paired_changes` from the base model to the LoRA.
    scores : [N] of "LoRA" with its own prompt, and of what it must beat: "Dec(Enc(x))" and "trivial baseline".
    """
    prompts = [how for metric, how in gaps if metric == "I-AUROC"]

    def sides(effects: Mapping[str, Sequence[float]], below: str, above: str) -> str:
        ends = {"below": below, "above": above, "not shown to differ from": "not shown to differ"}
        return enumerated([f"{ends[relation(*e[1:3])]} with {how} ({signed(e)})" for how, e in effects.items()])

    def changed(name: str, below: str = "smaller", above: str = "larger") -> str:
        return sides({how: adapter_drift.change(changes[how], name) for how in prompts}, below, above)

    survive = {how: found["C16", f"{how} for both"] for how in prompts if ("C16", f"{how} for both") in found}
    survive = {how: (-value, -high, -low) for how, (value, low, high, *_) in survive.items()}
    removed = (
        f"The share of the defect that survives is {sides(survive, 'smaller', 'larger')}"
        if survive
        else "Without defect-free counterparts it is not known what is left of a defect"
    )
    rivals = {"the round trip": "Dec(Enc(x))", "the trivial baseline": "trivial baseline"}
    better = detects("it", {name: task.difference(scores["LoRA"], scores[key]) for name, key in rivals.items()})
    accuracy = sides({how: gaps["I-AUROC", how] for how in prompts}, "lower", "higher")
    return (
        f"On {task.name}, the LoRA compared with the base model, both with the same prompt: **Does image-to-image then "
        f"remove the defects?** {removed}. **Does it keep the rest?** The PSNR of normal images is "
        f"{changed('PSNR', 'lower', 'higher')}. **Does it detect more of them?** The I-AUROC is {accuracy}; with the "
        f"prompt that it was trained with, {better}. **What else does the adapter change?** The colour shift is "
        f"{changed('colour shift')}, the Gram distance {changed('Gram distance')}."
    )
