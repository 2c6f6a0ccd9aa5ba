"""img2img of one task over a grid of settings: scores, a table, and how much the choice of a setting matters.

Used by notebook 03; entry points: `detectors`, `detect`, `fit`, `autoencoder_alone`, `controlled`,
`accuracies`, `results_table`, `gains`, `settings_of`, `run_grid`, `Grid.table`, `sensitivity`, `order_agreement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import data, metrics, scoring
from diffad_utils.analyses.img2img_claims import STEADIER, Effect, unknown_to
from diffad_utils.analyses.img2img_settings import rank_agreement, variance_explained
from diffad_utils.analyses.no_diffusion import RoundTrip
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.io import store
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.clip_detectors import ClipKNN, ClipProbe, ClipZeroShot
from diffad_utils.methods.img2img import Img2Img, Img2ImgMasked, Setting, sweep
from diffad_utils.metrics import bootstrap, intervals

ALONE = "Dec(Enc(x)) alone"
"""Name of the control of image-to-image among the scores: the autoencoder's round trip, without diffusion."""


def detectors(p: Mapping[str, Any], device: str) -> dict[str, Detector]:
    """The detectors of notebook 03 from its parameters, not fitted: img2img, its masked form, and CLIP's three."""
    shared = dict(clip=p["clip"], image_size=p["image_size"], seed=p["seed"], device=device)
    names = "weights prompt negative_prompt strength guidance_scale num_inference_steps alpha calibration_images"
    editing = shared | {name: p[name] for name in [*names.split(), "batch_size", "low_memory"]}
    precision = p["inference_precision"]
    editing["inference_precision"] = None if precision == "auto" else precision
    second = {name: p[name] for name in ("second_strength", "mask_quantile")}
    return {
        "img2img": Img2Img(**editing),
        "img2img_masked": Img2ImgMasked(**editing, **second),
        "clip_knn": ClipKNN(**shared),
        "clip_zero_shot": ClipZeroShot(**shared),
        "clip_probe": ClipProbe(**shared),
    }


def detect(detector: Detector, task: Task) -> tuple[Prediction, dict[str, float]]:
    """Fit a detector on a task's training images and predict its test images; with the time that both take."""
    fit_s, start = fit(detector, task), store.clock()
    prediction = detector.predict_dataset(task.test)
    spent = store.clock() - start
    return prediction, {"fit_s": fit_s, "ms_per_image": 1000 * spent / len(task.test)}


def autoencoder_alone(detector: Img2Img, task: Task) -> Prediction:
    """What a fitted image-to-image finds without diffusion: Dec(Enc(x)) of the test images, scored in the same way.

    Its images are those of the `Task`, its networks the detector's; the strength, the prompt and the guidance have no
    part in it.
    """
    return RoundTrip.of(detector, task.train).predict_dataset(task.test)


def controlled(task: Task, predictions: Mapping[str, Prediction], name: str) -> dict[str, dict[str, Any]]:
    """The control ``no_diffusion`` of method ``name`` (`Task.control_row`): against `autoencoder_alone`, which is
    ``predictions[ALONE]``. Empty for CLIP's detectors, which edit nothing."""
    if name not in ("img2img", "img2img_masked"):
        return {}
    control, what = predictions[ALONE], "Dec(Enc(x)) with the same score"
    return {"no_diffusion": task.control_row(predictions[name].score, control.score, what, control.anomaly_map)}


def fit(detector: Detector, task: Task) -> float:
    """Fit a detector on a task's training images: the seconds that it takes."""
    start = store.clock()
    detector.fit(task.train)
    return store.clock() - start


def accuracies(task: Task, predictions: Mapping[str, Prediction], trivial: TrivialBaseline) -> pd.DataFrame:
    """I-AUROC, low, high of every score, of both parts of img2img's, and of the trivial baseline."""
    parts = predictions["img2img"].parts
    scores = {name: found.score for name, found in predictions.items()} | {
        "img2img, CLIP distance alone": parts["clip"],
        "img2img, squared error alone": parts["mse"],
        f"trivial baseline ({trivial.statistic})": trivial.chosen.score,
    }
    return pd.DataFrame({name: task.accuracy(score) for name, score in scores.items()}).T


def results_table(
    results: Mapping[str, Mapping[str, float]], prediction: Prediction, task: Task, p: Mapping[str, Any]
) -> pd.DataFrame:
    """Metrics with a row for each detector, and for the slides' raw sum, which has no map of its own.

    Rows say which sum img2img has; those of a model with a prompt are marked where the model has met neither the words
    nor the pictures of the category.

    Parameters
    ----------
    results : metrics by detector, img2img among them. prediction : of img2img. p : the notebook's parameters.
    """
    sums = "img2img, calibrated sum, alpha = {alpha:g}", "img2img, raw sum (2), alpha = {alpha:g}"
    calibrated, raw = (text.format(alpha=p["alpha"]) for text in sums)
    rows = {calibrated if name == "img2img" else name: row for name, row in results.items()}
    rows[raw] = metrics.evaluate(Prediction(scoring.hybrid_score(prediction.parts, p["alpha"])), task.batch)
    prompted = {"img2img": p["weights"], "clip_zero_shot": p["clip"]}

    def marked(row: str) -> str:
        model = next((model for name, model in prompted.items() if row.startswith(name)), "")
        unknown = unknown_to(model, p["dataset"], p["category"])
        return f"{row} (prompt unknown to it)" if unknown.startswith("neither") else row

    return pd.DataFrame(rows).T.rename(index=marked)


def gains(
    task: Task, predictions: Mapping[str, Prediction], trivial: TrivialBaseline
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Paired differences of I-AUROC: img2img minus the trivial baseline, and CLIP's distance to normal training images
    minus CLIP's distance to the reconstruction."""
    img2img, baseline = predictions["img2img"], trivial.chosen.score
    without = task.difference(predictions["clip_knn"].score, img2img.parts["clip"])
    return task.difference(img2img.score, baseline), without


def nearest_setting(settings: Sequence[Setting], base: Setting) -> Setting:
    """The setting nearest to ``base``: in strength first, then guidance scale, then steps."""
    names = ("strength", "guidance_scale", "num_inference_steps")
    return min(settings, key=lambda s: tuple(abs(getattr(s, name) - getattr(base, name)) for name in names))


def settings_of(
    strengths: Sequence[float], guidance_scales: Sequence[float], step_counts: Sequence[int], base: Setting
) -> list[Setting]:
    """Every strength with every guidance scale at the first number of steps, and the other numbers of steps at the one
    of these that is nearest to ``base``.

    Steps cost most and are varied alone: the full grid of the slides' ranges would take three times as long.
    """
    full = sweep.grid(strengths, guidance_scales, step_counts[:1], [base.seed])
    middle = nearest_setting(full, base)
    others = [Setting(middle.strength, middle.guidance_scale, steps, base.seed) for steps in step_counts[1:]]
    return [*full, *(setting for setting in others if setting not in full)]


@dataclass(frozen=True)
class Grid:
    """A finished grid over the test images of ``task``, and the detector's calibration images before them."""

    done: sweep.Sweep
    task: Task
    calibration_images: int

    @property
    def settings(self) -> list[Setting]:
        """Each computation once."""
        return [self.done.settings[first] for first, *_ in sweep.equal_settings(self.done.settings)]

    def load(self, setting: Setting) -> dict[str, Tensor]:
        """Of the test images, in the task's order: ``latents``, and what `sweep.ResidualMeasure` gives."""
        return {name: values[self.calibration_images :] for name, values in self.done.load(setting).items()}

    def table(self, alpha: float) -> pd.DataFrame:
        """`sweep.evaluate` of every setting; each is calibrated anew on the calibration images."""
        held_out = torch.arange(len(self.done.keys)) < self.calibration_images
        normal = torch.zeros(self.calibration_images, dtype=self.task.labels.dtype)
        masks = torch.cat([torch.zeros_like(self.task.masks[:1]).expand(len(normal), -1, -1), self.task.masks])
        labels = torch.cat([normal, self.task.labels])
        return sweep.evaluate(self.done, labels, masks if self.task.has_masks else None, held_out, alpha=alpha)

    def calibrated_scores(self, alpha: float) -> np.ndarray:
        """The hybrid score of each setting, calibrated for it: [S, N]."""
        rows = []
        for setting in self.settings:
            stored, first = self.done.load(setting), self.calibration_images
            parts = {name: stored[name] for name in ("mse", "clip")}
            calibration = scoring.Calibration.fit({name: values[:first] for name, values in parts.items()})
            here = {name: values[first:] for name, values in parts.items()}
            rows.append(scoring.hybrid_score(here, alpha, calibration).numpy())
        return np.stack(rows)


def run_grid(detector: Img2Img, task: Task, settings: Sequence[Setting], folder: str | Path) -> Grid:
    """img2img of the task's images and of the detector's calibration images with every setting, kept in ``folder``.

    A run that was stopped goes on where it was.
    """
    calibration = data.load_batch(detector.calibration_set(task.train))
    images, keys = torch.cat([calibration["image"], task.images]), [*calibration["key"], *task.keys]
    prompts, (negative, *_) = detector.prompts(keys, len(keys))
    done = sweep.run(
        detector.engine_,
        images,
        keys,
        prompts,
        settings,
        folder,
        negative_prompt=negative,
        measure=sweep.ResidualMeasure(images, detector.clip_),
    )
    return Grid(done, task, len(calibration["key"]))


def raw_scores(grid: Grid, alphas: Sequence[float]) -> tuple[np.ndarray, pd.DataFrame]:
    """The slides' raw score for every setting and alpha: scores [S, N], and a table strength, guidance, steps, alpha,
    I-AUROC with a row for each."""
    scores, rows = [], []
    for setting in grid.settings:
        stored = grid.load(setting)
        for alpha in alphas:
            score = scoring.hybrid_score({name: stored[name] for name in ("mse", "clip")}, alpha)
            scores.append(score.numpy())
            rows.append(
                {
                    "strength": setting.strength,
                    "guidance": setting.guidance_scale,
                    "steps": setting.num_inference_steps,
                    "alpha": alpha,
                    "I-AUROC": metrics.image_auroc(score, grid.task.labels),
                }
            )
    return np.stack(scores), pd.DataFrame(rows)


def ranges(
    scores: np.ndarray, labels: Sequence[int], n: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """The range of I-AUROC over settings from both sides, each with its 95 % interval over images.

    "cross-fitted": the best and the worst setting are found on one half of the images and measured on the other
    (`intervals.crossfitted_range`), too small on average. "on the same images": largest minus smallest, too large, as
    it is above 0 even where all settings are equally good.
    """
    drawn = intervals.auroc(scores, labels, bootstrap.bootstrap_counts(labels, n, seed))
    found = intervals.crossfitted_range(scores, labels, n=n, seed=seed)[0], np.ptp(drawn, axis=1)
    return dict(zip(("cross-fitted", "on the same images"), map(bootstrap.bootstrap_percentiles, found), strict=True))


def clip_steadiness(grid: Grid, n: int = 1000, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Range of the squared error's I-AUROC over settings minus that of the CLIP distance's, from both sides.

    The lower and the upper bound of `intervals.range_difference`, each with its 95 % interval, by what is measured.
    """
    stored = [grid.load(setting) for setting in grid.settings]
    mse, clip = (torch.stack([each[name] for each in stored]).numpy() for name in ("mse", "clip"))
    drawn = intervals.range_difference(mse, clip, grid.task.labels, n=n, seed=seed)
    return dict(zip(STEADIER, map(bootstrap.bootstrap_percentiles, drawn), strict=True))


def order_agreement(grid: Grid, alpha: float, edits: Iterable[dict[str, Tensor]] | None) -> tuple[np.ndarray, str]:
    """Rank correlation over settings of I-AUROC and the quality of the reconstruction, draws [n + 1], and the quality.

    edits : `img2img_edits.edit_measures` of the task's defects for each setting: the quality is the smaller of mean
    removal and mean fidelity. None: the mean SSIM of normal images.
    """
    labels, edits = np.asarray(grid.task.labels), None if edits is None else [*edits]
    counts = bootstrap.bootstrap_counts(labels, grid.task.bootstrap_samples // 5, grid.task.seed)
    aurocs = intervals.auroc(grid.calibrated_scores(alpha), labels, counts)
    if edits is None:
        ssim = torch.stack([grid.load(setting)["ssim"] for setting in grid.settings])[:, labels == 0]
        return rank_agreement(aurocs, bootstrap.bootstrap_means(ssim, counts[:, labels == 0])), "SSIM on normal images"
    both = (torch.stack([edit[name] for edit in edits]) for name in ("removal", "fidelity"))
    quality = np.minimum(*(bootstrap.bootstrap_means(values, counts[:, labels == 1]) for values in both))
    return rank_agreement(aurocs, quality), "the smaller of removal and fidelity"


@dataclass(frozen=True)
class Sensitivity:
    """How much the choice of a setting matters.

    explained : share of the variance of I-AUROC over the full part of the grid that each factor explains alone. bounds
    : `ranges`. clip_steadier : `clip_steadiness`. settings, images : how many.
    """

    explained: dict[str, float]
    bounds: dict[str, tuple[float, float, float]]
    clip_steadier: dict[str, tuple[float, float, float]]
    settings: int
    images: int

    def table(self) -> pd.DataFrame:
        """range, low, high by bound."""
        columns = ["range", "low", "high"]
        return pd.DataFrame.from_dict(self.bounds, orient="index", columns=columns).rename_axis("bound")

    def evidence(self) -> dict[tuple[str, str], Effect]:
        """What it says about C29 and C32a."""
        found = {"C29": self.bounds, "C32a": self.clip_steadier}
        return {
            (claim, name): Effect(*ends, self.images) for claim, both in found.items() for name, ends in both.items()
        }


def sensitivity(grid: Grid, alphas: Sequence[float]) -> Sensitivity:
    """Of a grid's raw scores with those of ``alphas`` in the slides' range, 0.3 to 0.9.

    The shares leave out the settings that vary the steps alone.
    """
    n, seed = grid.task.bootstrap_samples, grid.task.seed
    scores, factors = raw_scores(grid, [alpha for alpha in alphas if 0.3 <= alpha <= 0.9])
    counts = factors["steps"].value_counts()
    full = factors[factors["steps"] == counts.index[0]]
    return Sensitivity(
        variance_explained(full, ["strength", "guidance", "alpha"], "I-AUROC"),
        ranges(scores, grid.task.labels, n, seed),
        clip_steadiness(grid, n, seed),
        len(scores),
        len(grid.task.keys),
    )
