"""Is a detection right for the wrong reason? Residual inside and outside the defect, and images whose defect was taken
out.

Used by notebook 03; entry points: `reasons`, `Reasons.table`, `beyond_half`, `wrong_reason`, `split_residual`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.img2img import Img2Img
from diffad_utils.metrics.bootstrap import bootstrap_counts, bootstrap_percentiles
from diffad_utils.metrics.counterfactual import mean_where
from diffad_utils.metrics.intervals import auroc


def split_residual(residual: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Means [B] of residual maps [B, H, W]: ``full``, ``inside`` (NaN for an empty mask) and ``outside`` the mask.

    ``outside`` is a score that has not seen the defect; for a normal image, whose mask is empty, it is the full one.
    """
    where = {"full": torch.ones_like(mask), "inside": mask, "outside": ~mask}
    return {name: mean_where(residual, pixels) for name, pixels in where.items()}


def top_pixels_inside(residual: Tensor, mask: Tensor, share: float = 0.01) -> Tensor:
    """Share [B] of an image's highest residual pixels (``share`` of all its pixels) that lie inside the mask.

    An uninformed map reaches the mask's share of the image.
    """
    count = max(1, round(share * residual[0].numel()))
    highest = residual.flatten(1).topk(count, dim=1).indices
    return mask.flatten(1).gather(1, highest).float().mean(dim=1)


def brightest_outside(residual: Tensor, task: Task) -> Tensor:
    """Share of each defective image's 1 % highest residual pixels that lie outside its mask, for those with a mask."""
    rows = (task.labels == 1) & task.with_masks
    return 1 - top_pixels_inside(residual[rows], task.masks[rows])


def gradient_energy(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring grey values, [B, 3, H, W] -> [B]."""
    grey = images.mean(dim=1)
    return (grey.diff(dim=1).abs().mean(dim=(1, 2)) + grey.diff(dim=2).abs().mean(dim=(1, 2))) / 2


def style_statistics(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    """What changed over the whole image, blind to where: [B] each.

    colour_shift : length of the difference of the mean colours. gradient_change : absolute difference of the gradient
    energies (the slides' "style change" read as statistic of x_hat minus statistic of x). gradient_of_change : gradient
    energy of x_hat - x (read as statistic of the difference).
    """
    return {
        "colour_shift": (x_hat - x).mean(dim=(2, 3)).norm(dim=1),
        "gradient_change": (gradient_energy(x_hat) - gradient_energy(x)).abs(),
        "gradient_of_change": gradient_energy(x_hat - x),
    }


def without_defect(images: Tensor, twins: Tensor, masks: Tensor) -> Tensor:
    """Images with the pixels of their masks taken from the twins: [B, 3, H, W]. Reconstruct and score these as well."""
    return torch.where(masks[:, None], twins, images)


class WrongReason(NamedTuple):
    """What `wrong_reason` found: a table (statistic, I-AUROC, low, high), numbers, and a verdict in words."""

    table: pd.DataFrame
    numbers: dict[str, float]
    verdict: str


def wrong_reason(
    labels: Sequence[int],
    full: Tensor,
    outside: Tensor | None,
    without: Tensor | None,
    style: Mapping[str, Tensor],
    maps: Tensor | None,
    masks: Tensor | None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> WrongReason:
    """Is a detector right because of the defects?

    Parameters
    ----------
    labels, full : [N], the score of the images as they are. outside : [N], the score of the residual outside the mask
        (`split_residual`), or None without masks. without : [N], the score where the defect was replaced by the twin's
        pixels before the reconstruction (`without_defect`), with the same noise, and for normal images the full score;
        or None without twins.
    style : global statistics [N] (`style_statistics`). maps, masks : [N, H, W], or None. What needs masks is of the
        images that have them alone (`metrics.with_masks`).

    The share of detection that survives without the defect is (I-AUROC without - 0.5) / (I-AUROC full - 0.5), and the
    share that is there outside the mask accordingly. The verdict follows a rule fixed beforehand, with 95 % bootstrap
    intervals over images:

    - "ranks the wrong way round" if the whole interval of the full I-AUROC lies below 0.5;
    - "does not detect" if it contains 0.5;
    - else "right for the wrong reason" if the interval without the defect lies above 0.5 and at least half survives;
    - else "right for the right reason" if less than half survives and the paired difference lies above 0;
    - else, and where there are no twins to tell, "undecided".
    """
    labels = np.asarray(labels)
    scores = {
        "full residual": full,
        "outside the mask": outside,
        "defect replaced by its counterpart": without,
        **style,
    }
    times, rows = bootstrap_counts(labels, bootstrap, seed), {}
    marked = np.ones(len(labels), bool) if masks is None else metrics.with_masks(labels, masks)
    aurocs = {name: auroc(values, labels, times)[:, 0] for name, values in scores.items() if values is not None}
    if outside is not None and not marked.all():
        times = bootstrap_counts(labels[marked], bootstrap, seed)
        aurocs["outside the mask"] = auroc(outside[marked], labels[marked], times)[:, 0]
    for name, values in aurocs.items():
        value, low, high = bootstrap_percentiles(values)
        rows[name] = {"I-AUROC": value, "low": low, "high": high}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("statistic").reset_index()
    detected = rows["full residual"]
    numbers = {"I-AUROC": detected["I-AUROC"]}
    if maps is not None:
        of_pixels = maps[marked], masks[marked]
        numbers |= {"AUPRO": metrics.aupro(*of_pixels), "P-AUROC": metrics.pixel_auroc(*of_pixels)}
    if without is not None:
        lost = bootstrap_percentiles(aurocs["full residual"] - aurocs["defect replaced by its counterpart"])
        numbers |= dict(zip(("lost_without_defect", "lost_low", "lost_high"), lost, strict=True))
    if detected["low"] <= 0.5:
        return WrongReason(table, numbers, "ranks the wrong way round" if detected["high"] < 0.5 else "does not detect")
    if outside is not None:
        whole = auroc(full[marked], labels[marked], times)[0, 0]  # of the same images
        numbers["outside_share"] = (rows["outside the mask"]["I-AUROC"] - 0.5) / (whole - 0.5)
    if without is None:
        return WrongReason(table, numbers, "undecided")
    left = rows["defect replaced by its counterpart"]
    share = (left["I-AUROC"] - 0.5) / (detected["I-AUROC"] - 0.5)
    numbers["surviving_share"] = share
    if share >= 0.5 and left["low"] > 0.5:
        return WrongReason(table, numbers, "right for the wrong reason")
    right = share < 0.5 and numbers["lost_low"] > 0
    return WrongReason(table, numbers, "right for the right reason" if right else "undecided")


class Reasons(NamedTuple):
    """The parts of img2img's score and their hybrid, each asked for its reason.

    scores : name -> [N], of the test images. without : the same with each defect replaced by its counterpart's pixels
    before the reconstruction; empty without counterparts. residual : squared error, maps [N, H, W]. outside : its mean
    outside the mask, [N]. found : name -> `WrongReason`.
    """

    scores: dict[str, Tensor]
    without: dict[str, Tensor]
    residual: Tensor
    outside: Tensor
    found: dict[str, WrongReason]

    def table(self) -> pd.DataFrame:
        """I-AUROC, low, high by statistic, with the name of the score that it is of."""
        rows = []
        for name, found in self.found.items():
            of_score = {
                "full residual": name,
                "outside the mask": f"{name}, outside the mask",
                "defect replaced by its counterpart": f"{name}, defect replaced by its counterpart",
            }
            rows.append(found.table.replace({"statistic": of_score}))
        table = pd.concat(rows, ignore_index=True)
        return table.assign(statistic=table["statistic"].str.replace("_", " ")).set_index("statistic")

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        scores = {name: {"verdict": found.verdict, "numbers": found.numbers} for name, found in self.found.items()}
        return {"table": self.table().reset_index().to_dict("records"), "scores": scores}


def reasons(detector: Img2Img, task: Task, prediction: Prediction) -> Reasons:
    """`wrong_reason` of the squared error, of CLIP's distance and of the hybrid score of img2img on a task."""
    x, x_hat, labels = task.images, prediction.reconstruction, task.labels
    residual = (x - x_hat).square().mean(dim=1)
    split = split_residual(residual, task.masks)
    scores = {
        "squared error": split["full"],
        "CLIP distance": prediction.parts["clip"],
        "hybrid score": prediction.score,
    }
    without: dict[str, Tensor] = {}
    if task.has_counterparts:
        defects = torch.nonzero(labels == 1)[:, 0]
        healed = without_defect(x[defects], task.batch["twin"][defects], task.masks[defects])
        again = detector.predict(healed, [task.keys[i] for i in defects.tolist()])
        error = (healed - again.reconstruction).square().mean(dim=(1, 2, 3))
        replaced = (error, again.parts["clip"], again.score)
        for (name, values), new in zip(scores.items(), replaced, strict=True):
            without[name] = values.index_copy(0, defects, new.to(values.dtype))
    found = {}
    for name, values in scores.items():
        extras: tuple = (None, {}, None, None)
        if name == "squared error":
            masked = (split["outside"], residual, task.masks) if task.has_masks else (None, None, None)
            extras = (masked[0], style_statistics(x, x_hat), masked[1], masked[2])
        outside, style, maps, masks = extras
        found[name] = wrong_reason(
            labels, values, outside, without.get(name), style, maps, masks, task.bootstrap_samples, task.seed
        )
    return Reasons(scores, without, residual, split["outside"], found)


def beyond_half(found: Reasons, task: Task) -> dict[str, np.ndarray]:
    """What a score detects without the defect, minus half of what it detects with it, for scores that detect: draws
    [n + 1] by what was measured; above 0 where most of the detection is not the defect's.

    Without counterparts the residual outside the mask takes the place of the score without the defect; without masks
    nothing can be said.
    """
    if not task.has_masks:
        return {}
    marked = task.with_masks
    labels = task.labels[marked]
    counts = bootstrap_counts(labels, task.bootstrap_samples, task.seed)
    detecting = [name for name, reason in found.found.items() if reason.table["low"].iloc[0] > 0.5]
    pairs = {
        f"the {name} detects with the defect replaced by its counterpart's pixels": (found.without[name], name)
        for name in detecting
        if name in found.without
    }
    if not found.without and task.has_masks and "squared error" in detecting:
        pairs["the squared error outside the mask detects"] = (found.outside, "squared error")
    return {
        what: auroc(left[marked], labels, counts)[:, 0]
        - 0.5
        - (auroc(found.scores[name][marked], labels, counts)[:, 0] - 0.5) / 2
        for what, (left, name) in pairs.items()
    }
