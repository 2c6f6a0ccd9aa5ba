"""Does an editor remove a defect and leave the rest? Measured against what its autoencoder alone makes of both.

An editor behind an autoencoder cannot be better than Dec(Enc(counterpart)): that is what a perfect editor would return,
the *oracle* below. Images are float [N, 3, H, W] in [0, 1], masks bool [N, H, W].

Used by notebook 03; entry points: `edit_study`, `EditStudy`, `edit_measures`, `mean_rows`, `oracle_residual_outside`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.img2img_claims import Effect, over_images
from diffad_utils.analyses.img2img_grid import Grid, nearest_setting
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wrong_reason import top_pixels_inside
from diffad_utils.methods.img2img import Img2Img, Setting
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import absolute_error, defect_survival, mean_where, removal_and_drift
from diffad_utils.metrics.pareto import pareto_front


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


def defect_pairs(through: Callable[[Tensor], Tensor], task: Task) -> DefectPairs:
    """All defective images of a task that has counterparts. through : what an editor's autoencoder alone makes of
    images.

    Raises
    ------
    ValueError: the data set has no defect-free counterparts.
    """
    if not task.has_counterparts:
        raise ValueError(f"{task.name} has no defect-free counterparts; textures has them for its test images")
    defects = task.take(torch.nonzero(task.labels == 1)[:, 0])
    x, counterpart = defects.images, defects.batch["twin"]
    return DefectPairs(x, counterpart, defects.masks, defects.keys, through(x), through(counterpart))


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


@dataclass(frozen=True)
class EditStudy:
    """One pass of img2img on the defects of a grid's test images.

    by_setting : `edit_measures` of every setting. over_strength : of every strength at the first guidance scale, with
    survival. oracle : of Dec(Enc(counterpart)). bootstrap_samples : for the intervals.
    """

    pairs: DefectPairs
    by_setting: dict[Setting, dict[str, Tensor]]
    over_strength: dict[float, dict[str, Tensor]]
    oracle: dict[str, Tensor]
    drifts: pd.DataFrame  # `generative_drift` at the setting nearest to the detector's
    near: Setting
    bootstrap_samples: int = 1000

    @property
    def oracle_passes(self) -> bool:
        return oracle_passes(self.pairs)

    def curve(self) -> pd.DataFrame:
        """`mean_rows` over strength."""
        return mean_rows(self.over_strength, "strength", self.bootstrap_samples)

    def oracle_row(self) -> pd.Series:
        """`mean_rows` of the oracle."""
        return mean_rows({0.0: self.oracle}, "strength", self.bootstrap_samples).iloc[0]

    def points(self) -> pd.DataFrame:
        """Mean drift and removal of every setting: strength, drift, removal, not_beaten."""
        rows = [
            {"strength": s.strength, "drift": float(e["drift"].mean()), "removal": float(e["removal"].mean())}
            for s, e in self.by_setting.items()
        ]
        table = pd.DataFrame(rows)
        return table.assign(not_beaten=pareto_front(table["removal"], table["drift"]))

    def setting_at(self, strength: float) -> Setting:
        """The first guidance scale and number of steps of the grid, at another strength."""
        return replace(next(iter(self.by_setting)), strength=strength)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"curve": self.curve().to_dict("records"), "oracle": self.oracle_row().to_dict()}

    def evidence(self) -> dict[tuple[str, str], Effect]:
        """What it says about C05 to C08, by claim and setting; about C07 only where the oracle passes."""
        found = {}
        for strength, e in self.over_strength.items():
            at = f"strength {strength:g}"
            if strength in (0.1, 0.3):
                found["C05a", at], found["C05b", at] = over_images(e["ssim"] - 0.9), over_images(e["survival"])
            if strength in (0.5, 0.7):
                found["C06", at] = over_images(torch.minimum(1 - e["survival"], e["drift"]))
        for setting, e in self.by_setting.items() if self.oracle_passes else ():
            for quality in ("removal", "fidelity"):  # the smaller of two means would be too small on average
                found["C07", f"{in_words(setting)}: {quality}"] = over_images(0.5 - e[quality])
        small = self.drifts.loc[self.drifts["smaller_half"], "log2_drift"].to_numpy()
        found["C08", in_words(self.near)] = over_images(small)
        return found


def in_words(setting: Setting) -> str:
    """ "strength 0.3, guidance 3.5, 20 steps"."""
    return f"strength {setting.strength:g}, guidance {setting.guidance_scale:g}, {setting.num_inference_steps} steps"


def edit_study(detector: Img2Img, grid: Grid) -> EditStudy | None:
    """What every setting of a grid did to the defects; None where the task has no defect-free counterparts."""
    if not grid.task.has_counterparts:
        return None
    engine = detector.engine_
    pairs = defect_pairs(lambda images: engine.decode(engine.encode(images).mean), grid.task)
    defects = torch.nonzero(grid.task.labels == 1)[:, 0]
    x_hats = {setting: engine.decode(grid.load(setting)["latents"][defects]) for setting in grid.settings}
    prompts, (negative, *_) = detector.prompts(pairs.keys, len(pairs))
    over_strength = {}
    for setting, x_hat in x_hats.items():
        if setting.strength not in over_strength:  # the first of each strength
            redrawn = engine.reconstruct(pairs.counterpart, pairs.keys, prompts, setting, negative)
            over_strength[setting.strength] = edit_measures(pairs, x_hat, redrawn)
    near = nearest_setting(grid.settings, detector.setting)
    return EditStudy(
        pairs,
        {setting: edit_measures(pairs, x_hat) for setting, x_hat in x_hats.items()},
        over_strength,
        edit_measures(pairs, pairs.counterpart_vae),
        generative_drift(pairs, x_hats[near]),
        near,
        grid.task.bootstrap_samples,
    )


def oracle_residual_outside(pairs: DefectPairs) -> float:
    """Share of the 1 % highest pixels of |x - Dec(Enc(counterpart))|, a perfect editor's residual, outside the mask."""
    residual = (pairs.x - pairs.counterpart_vae).square().mean(dim=1)
    return float(1 - top_pixels_inside(residual, pairs.mask).mean())
