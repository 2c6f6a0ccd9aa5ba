"""What a data set's pictures show, in numbers and in sentences whose numbers are computed.

Used by notebook 01. Entry points: `defect_table`, `counterpart_differences`, `mean_and_deviation`, and the sentences
`of_counts`, `of_copies`, `of_brightness`, `of_alignment`, `of_counterparts`, `of_sizes`, `of_false_alarms`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

from diffad_utils import data
from diffad_utils.analyses.task import Task


def defect_table(task: Task) -> pd.DataFrame | None:
    """A row a marked defect: ``defect``, ``area, % of the image`` and, with counterparts, ``contrast``: the mean
    absolute difference from the counterpart inside the mask, in units of the full grey range. None without masks."""
    marked = (task.labels == 1) & task.with_masks
    if not bool(marked.any()):
        return None
    masks = task.masks[marked].float()
    kinds = [kind for kind, chosen in zip(task.kinds, marked.tolist(), strict=True) if chosen]
    table = pd.DataFrame({"defect": kinds, "area, % of the image": 100 * masks.mean(dim=(1, 2)).numpy()})
    if task.has_counterparts:
        change = (task.images - task.batch["twin"])[marked].abs().mean(dim=1)
        table["contrast"] = ((change * masks).sum(dim=(1, 2)) / masks.sum(dim=(1, 2))).numpy()
    return table


def counterpart_differences(task: Task, rows: Tensor) -> Tensor:
    """Largest difference over the channels between the images ``rows`` and their defect-free counterparts: [n, S, S].

    Raises
    ------
    ValueError: one of these anomalous images equals its counterpart.
    """
    difference = (task.images[rows] - task.batch["twin"][rows]).abs().amax(dim=1)
    equal = [task.keys[row] for row, d in zip(rows.tolist(), difference, strict=True) if not bool(d.any())]
    if equal:
        raise ValueError(f"anomalous images that equal their defect-free counterparts: {equal}")
    return difference


def mean_and_deviation(images: Tensor) -> Tensor:
    """Mean and three times the standard deviation over images [N, 3, S, S] at every pixel, in [0, 1]: [2, 3, S, S]."""
    return torch.stack([images.mean(dim=0), (3 * images.std(dim=0)).clamp(0, 1)])


def of_counts(task: Task) -> str:
    kinds = len({kind for kind, label in zip(task.kinds, task.labels.tolist(), strict=True) if label})
    return (
        f"{int(task.labels.sum())} of the {len(task.labels)} test images are defective, of "
        f"{kinds} {'kinds' if kinds > 1 else 'kind'}. In a factory defects may be much "
        "rarer; the shares here are the data set's."
    )


def of_copies(index: pd.DataFrame) -> str:
    """How many images there are, and how many test images are copies of training images by content."""
    copies = int(data.summary(index).get("copies", pd.Series([0])).sum())  # rendered images have none
    train, test = ((index["split"] == split).sum() for split in ("train", "test"))
    return f"{train} training images, {test} test images; {copies} test images are copies of training images."


def of_brightness(images: Tensor) -> str:
    brightness = images.mean(dim=(1, 2, 3))
    return (
        f"The mean brightness of normal images is {brightness.mean():.3f} with a standard deviation of "
        f"{brightness.std():.3f} (images range from 0 to 1). A detector has to accept such differences."
    )


def of_alignment(images: Tensor) -> str:
    """How much of the contrast of single images [N, 3, S, S] survives in their mean, and how much each pixel varies."""
    grey, varies = images.mean(dim=1), images.std(dim=0).mean(dim=0)
    share = float(grey.mean(dim=0).std() / grey.flatten(1).std(dim=1).mean())
    return (
        f"The mean image keeps {share:.0%} of the contrast of a single image. This says how well the images line up, "
        f"not how well defects are found. Over the images a pixel has a standard deviation of {varies.mean():.3f} on "
        f"average, {varies.min():.3f} at the steadiest pixel and {varies.max():.3f} at the least steady."
    )


def of_counterparts(task: Task, rows: Tensor, differences: Tensor) -> str:
    """differences : `counterpart_differences` of the same ``rows``."""
    inside = task.masks[rows]
    return (
        f"On average image and counterpart differ by {float(differences[inside].mean()):.3f} inside the masks "
        f"and by {float(differences[~inside].mean()):.4f} outside. The borders of real defects may be less clear."
    )


def of_sizes(defects: pd.DataFrame) -> str:
    area = defects["area, % of the image"]
    return (
        f"The median defect covers {area.median():.2f} % of the image, the smallest {area.min():.2f} %. How hard a "
        "defect is to see depends on its contrast and on the texture as well."
    )


def of_false_alarms(shares: Mapping[str, float], unseen: int) -> str:
    """shares : ``{"without": ..., "with": ...}`` themselves as neighbours, of ``unseen`` normal images."""
    said = {}
    for name, share in shares.items():
        interval = binomtest(round(share * unseen), unseen).proportion_ci()
        said[name] = f"{share:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
    return (
        f"False alarms among {unseen} unseen normal images: {said['without']} if a training image does not count as "
        f"its own neighbour, {said['with']} if it does (95 % exact binomial intervals). The threshold was "
        "meant to give 5 %."
    )
