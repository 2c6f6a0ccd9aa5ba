"""A masked two-pass editor against one pass over the whole image: does it escape the conflict of removal and fidelity?

Used by notebooks 03 and 06; entry points: `second_pass`, `some_pairs`, `two_pass_study`, `TwoPassStudy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.analyses.img2img_edits import DefectPairs, edit_measures, mean_rows
from diffad_utils.analyses.img2img_settings import best_compromise
from diffad_utils.analyses.task import Task
from diffad_utils.io import store
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad.masked import D3ADMasked
from diffad_utils.methods.img2img import Img2ImgMasked
from diffad_utils.methods.img2img.masked import widened
from diffad_utils.metrics import bootstrap


def second_pass(masked: Img2ImgMasked, first: Prediction, task: Task) -> tuple[Prediction, dict[str, float]]:
    """What ``masked.predict_dataset`` gives for a task, from the first pass's prediction that is there already; and
    the time of the second pass alone."""
    start, predictions = store.clock(), []
    for rows in torch.arange(len(task.keys)).split(masked.batch_size):
        images, keys = task.images[rows], [task.keys[i] for i in rows.tolist()]
        edited = masked.edit(images, keys, masked.masks_of(first.anomaly_map[rows]))
        predictions.append(masked.score(images, edited))
    spent = store.clock() - start
    return Prediction.concatenate(predictions), {"ms_per_image": 1000 * spent / len(task.keys)}


EDITORS = ("one pass", "two passes, mask found", "two passes, true mask")
"""The editors that `two_pass_study` compares, the one without a mask first."""


@dataclass(frozen=True)
class TwoPassStudy:
    """`edit_measures` of each of `EDITORS` by strength, on ``count`` defects. axis : what the strength is called."""

    measures: Mapping[str, Mapping[float, Mapping[str, Tensor]]]
    count: int
    bootstrap_samples: int = 1000
    axis: str = "strength"

    def table(self) -> pd.DataFrame:
        """Means with intervals (`mean_rows`), one row an editor and strength."""
        return pd.concat(
            [
                mean_rows(by_strength, "strength", self.bootstrap_samples).assign(editor=name)
                for name, by_strength in self.measures.items()
            ],
            ignore_index=True,
        )

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"curve": self.table().to_dict("records"), "best": self.best().reset_index().to_dict("records")}

    def best(self) -> pd.DataFrame:
        """How far each editor escapes the conflict: one row an editor.

        value, low, high : the smaller one of "defect gone" (1 - mean survival) and "rest kept" (mean fidelity) at the
        strength where it is largest. 1: some strength takes every defect and changes nothing else. The best strength is
        chosen anew in each resample, for every editor alike, so the values are estimates from above. gain, gain low,
        gain high : paired difference to one pass.
        """
        counts = bootstrap.bootstrap_counts([0] * self.count, self.bootstrap_samples)
        draws = {}
        for name, by_strength in self.measures.items():
            gone = torch.stack([1 - measures["survival"] for measures in by_strength.values()])
            kept = torch.stack([measures["fidelity"] for measures in by_strength.values()])
            draws[name] = best_compromise(gone, kept, counts)
        columns = ["value", "low", "high", "gain", "gain low", "gain high"]
        rows = {
            name: (*bootstrap.bootstrap_percentiles(d), *bootstrap.bootstrap_percentiles(d - draws[EDITORS[0]]))
            for name, d in draws.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("editor")


def some_pairs(pairs: DefectPairs, count: int) -> DefectPairs:
    """At most ``count`` of the pairs, evenly over their order."""
    return pairs.take(torch.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().long())


def two_pass_study(
    masked: Img2ImgMasked | D3ADMasked,
    pairs: DefectPairs,
    settings: Mapping[float, Any],
    n: int = 1000,
    axis: str = "strength",
) -> TwoPassStudy:
    """One pass over the whole image against a second pass inside a mask, over strength.

    The mask is the one that the first pass of ``masked`` finds, in the image and in its counterpart; or, as a control
    of the finder, the cells that the true mask touches. All images as they leave the decoder, before pixels are
    pasted, so that the autoencoder is the same for the three. ``settings`` : strength -> what ``masked.repaint`` takes,
    of the pass over the whole image and of the second pass alike. n : resamples for the intervals. axis : what the
    strength is called.
    """
    images = (pairs.x, pairs.counterpart)
    true = widened(F.max_pool2d(pairs.mask[:, None].float(), masked.cell_size)[:, 0] > 0)
    found = [masked.find(x, pairs.keys) for x in images]
    masks = dict(zip(EDITORS, ([torch.ones_like(true)] * 2, found, [true] * 2), strict=True))
    measures = {
        name: {
            strength: edit_measures(
                pairs, *(masked.repaint(x, pairs.keys, mask, setting) for x, mask in zip(images, both, strict=True))
            )
            for strength, setting in settings.items()
        }
        for name, both in masks.items()
    }
    return TwoPassStudy(measures, len(pairs), n, axis)
