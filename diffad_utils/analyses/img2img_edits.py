"""Does an editor remove a defect and leave the rest? Measured against what its autoencoder alone makes of both.

An editor behind an autoencoder cannot be better than Dec(Enc(counterpart)): that is what a perfect editor would return,
the *oracle* below. Images are float [N, 3, H, W] in [0, 1], masks bool [N, H, W].

Used by notebook 03; entry points: `defect_pairs`, `edit_measures`, `mean_rows`, `oracle_passes`, `generative_drift`,
`second_pass`, `two_pass_study`, `best_compromises`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.img2img_settings import best_compromise
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.img2img import Img2ImgEngine, Img2ImgMasked, Setting
from diffad_utils.methods.img2img.masked import widened
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import absolute_error, defect_survival, mean_where, removal_and_drift


@dataclass(frozen=True)
class DefectPairs:
    """Defective images, their defect-free counterparts, and both after the autoencoder alone."""

    x: Tensor
    counterpart: Tensor
    mask: Tensor
    keys: list[str]
    x_vae: Tensor
    counterpart_vae: Tensor  # what a perfect editor behind this autoencoder would return

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor) -> DefectPairs:
        """The pairs ``rows``, int64 [n]."""
        images = (self.x[rows], self.counterpart[rows], self.mask[rows])
        return DefectPairs(*images, [self.keys[i] for i in rows.tolist()], self.x_vae[rows], self.counterpart_vae[rows])

    @property
    def size(self) -> Tensor:
        """Mean absolute difference of image and counterpart inside the mask, [N]: the defect's size a pixel."""
        return mean_where(absolute_error(self.x, self.counterpart), self.mask)


def defect_pairs(engine: Img2ImgEngine, task: Task) -> DefectPairs:
    """All defective images of a task that has counterparts.

    Raises
    ------
    ValueError: the data set has no defect-free counterparts.
    """
    if not task.has_counterparts:
        raise ValueError(f"{task.name} has no defect-free counterparts; textures has them for its test images")
    defects = task.take(torch.nonzero(task.labels == 1)[:, 0])
    x, counterpart = defects.images, defects.batch["twin"]
    after = [engine.decode(engine.encode(images).mean) for images in (x, counterpart)]
    return DefectPairs(x, counterpart, defects.masks, defects.keys, *after)


def edit_measures(pairs: DefectPairs, x_hat: Tensor, counterpart_hat: Tensor | None = None) -> dict[str, Tensor]:
    """What an editor did to each pair, [N] each.

    removal : 1 - |x_hat - counterpart| / |x - counterpart| inside the mask, as `removal_and_drift`: the image as it
        is delivered. 1: the defect is gone and its place is right.
    drift : |x_hat - Dec(Enc(counterpart))| outside the mask over |x - counterpart| inside: change that the autoencoder
        does not make, in units of the defect. fidelity : 1 - drift.
    ssim : of x_hat and Dec(Enc(x)).
    survival, with ``counterpart_hat`` : share of what the autoencoder left of the defect that is still there,
        `defect_survival` with Dec(Enc(x)) and Dec(Enc(counterpart)) as the images before the edit.
    """
    drift = mean_where(absolute_error(x_hat, pairs.counterpart_vae), ~pairs.mask) / pairs.size
    found = {
        "removal": removal_and_drift(x_hat, pairs.x, pairs.counterpart, pairs.mask)["removal"],
        "fidelity": 1 - drift,
        "drift": drift,
        "ssim": torch.from_numpy(metrics.reconstruction(pairs.x_vae, x_hat)["ssim"]).float(),
    }
    if counterpart_hat is not None:
        found["survival"] = defect_survival(pairs.x_vae, pairs.counterpart_vae, x_hat, counterpart_hat).float()
    return found


def mean_rows(measured: Mapping[float, Mapping[str, Tensor]], x: str, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means with 95 % intervals over images, one row a key: columns ``x``, and <measure>, <measure> low and high."""
    rows = []
    for value, measures in measured.items():
        row = {x: value}
        for name, values in measures.items():
            mean = bootstrap.mean_interval(values, n, seed)
            row |= {name: float(mean.mean), f"{name} low": float(mean.low), f"{name} high": float(mean.high)}
        rows.append(row)
    return pd.DataFrame(rows)


def smaller_mean(measures: Mapping[str, Tensor], n: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The smaller of mean removal and mean fidelity, and its 95 % interval over images."""
    counts = bootstrap.bootstrap_counts([0] * len(measures["removal"]), n, seed)
    values = torch.stack([measures["removal"], measures["fidelity"]])
    return bootstrap.bootstrap_percentiles(bootstrap.bootstrap_means(values, counts).min(axis=1))


def oracle_passes(pairs: DefectPairs, limit: float = 0.5) -> bool:
    """Whether a perfect editor behind this autoencoder removes more than ``limit`` of the defects, with its whole
    interval. Where it does not, removal says nothing about an editor."""
    oracle = edit_measures(pairs, pairs.counterpart_vae)
    return bool(bootstrap.mean_interval(oracle["removal"]).low > limit)


def generative_drift(pairs: DefectPairs, x_hat: Tensor) -> pd.DataFrame:
    """How large the drift is beside each defect: one row a pair.

    area : of the defect, percent of the image. log2_drift : log2 of |x_hat - Dec(Enc(x))| outside the mask over
    |x - counterpart| inside, L2 norms. log2_vae : the same for Dec(Enc(x)) - x. smaller_half : by area.
    """

    def norm(difference: Tensor, where: Tensor) -> Tensor:
        return (difference * where[:, None]).flatten(1).norm(dim=1)

    defect, area = norm(pairs.x - pairs.counterpart, pairs.mask), pairs.mask.float().mean(dim=(1, 2))
    return pd.DataFrame(
        {
            "area": 100 * area.numpy(),
            "log2_drift": (norm(x_hat - pairs.x_vae, ~pairs.mask) / defect).log2().numpy(),
            "log2_vae": (norm(pairs.x_vae - pairs.x, ~pairs.mask) / defect).log2().numpy(),
            "smaller_half": (area <= area.median()).numpy(),
        }
    )


def second_pass(masked: Img2ImgMasked, first: Prediction, task: Task) -> Prediction:
    """What ``masked.predict_dataset`` gives for a task, from the first pass's prediction that is there already."""
    predictions = []
    for rows in torch.arange(len(task.keys)).split(masked.batch_size):
        images, keys = task.images[rows], [task.keys[i] for i in rows.tolist()]
        edited = masked.edit(images, keys, masked.masks_of(first.anomaly_map[rows]))
        predictions.append(masked.score(images, edited))
    return Prediction.concatenate(predictions)


TWO_PASSES = ("one pass", "two passes, mask found", "two passes, true mask")
"""The editors that `two_pass_study` compares."""


def two_pass_study(
    masked: Img2ImgMasked, pairs: DefectPairs, settings: Sequence[Setting]
) -> dict[str, dict[float, dict[str, Tensor]]]:
    """One pass over the whole image against a second pass inside a mask, over strength: editor -> strength -> measures.

    The mask is the one that the first pass of ``masked`` finds, in the image and in its counterpart; or, as a control
    of the finder, the cells that the true mask touches. Measures as `edit_measures`; all images as they leave the
    decoder, before pixels are pasted, so that the autoencoder is the same for the three. ``settings`` : of the pass
    over the whole image and of the second pass alike, one a strength.
    """
    images, factor = (pairs.x, pairs.counterpart), masked.engine_.size_factor
    true = widened(F.max_pool2d(pairs.mask[:, None].float(), factor)[:, 0] > 0)
    found = [masked.find(x, pairs.keys) for x in images]
    masks = dict(zip(TWO_PASSES, ([torch.ones_like(true)] * 2, found, [true] * 2), strict=True))
    return {
        name: {
            setting.strength: edit_measures(
                pairs, *(masked.repaint(x, pairs.keys, mask, setting) for x, mask in zip(images, both, strict=True))
            )
            for setting in settings
        }
        for name, both in masks.items()
    }


def two_pass_table(study: Mapping[str, Mapping[float, Mapping[str, Tensor]]], n: int = 1000) -> pd.DataFrame:
    """Rows of `mean_rows` for every editor of `two_pass_study`, with the column editor."""
    return pd.concat(
        [mean_rows(by_strength, "strength", n).assign(editor=name) for name, by_strength in study.items()],
        ignore_index=True,
    )


def best_compromises(
    study: Mapping[str, Mapping[float, Mapping[str, Tensor]]], n: int = 1000, seed: int = 0
) -> tuple[dict[str, tuple[float, float, float]], dict[str, tuple[float, float, float]]]:
    """How far each editor escapes the conflict: the best strength's smaller one of "defect gone" and "rest kept".

    Gone is 1 - mean survival, kept is mean fidelity. 1: some strength takes every defect and changes nothing else. The
    best strength is chosen anew in each resample, for every editor alike, so the values are estimates from above.

    Returns
    -------
    The values, and the paired differences to the first editor, each editor -> (value, low, high) over images.
    """
    draws = {}
    for name, by_strength in study.items():
        gone = torch.stack([1 - measures["survival"] for measures in by_strength.values()])
        kept = torch.stack([measures["fidelity"] for measures in by_strength.values()])
        counts = bootstrap.bootstrap_counts([0] * gone.shape[1], n, seed)
        draws[name] = best_compromise(gone, kept, counts)
    first = next(iter(draws.values()))
    values = {name: bootstrap.bootstrap_percentiles(drawn) for name, drawn in draws.items()}
    return values, {name: bootstrap.bootstrap_percentiles(drawn - first) for name, drawn in [*draws.items()][1:]}
