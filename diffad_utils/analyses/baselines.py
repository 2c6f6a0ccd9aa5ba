"""The two bars that a diffusion model has to clear: trivial statistics, and established detectors without diffusion.

Used by notebook 01. Entry points: `detectors`, `measure`, `record`, `trivial_table`, `trivial_by_category`, `median_sizes`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from diffad_utils import data, metrics
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.methods.anomalib_models import BY_NAME, AnomalibDetector, PaDiM, PatchCore
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.invad.detector import InvAD
from diffad_utils.methods.trivial import Trivial, best_statistic
from diffad_utils.study.run import Run

LARGEST, MEAN = 0.70, 0.62
"""What the best trivial statistic may reach on a category of `textures`, and on average over them."""
TITLES = {"patchcore": "PatchCore", "padim": "PaDiM", "fastflow": "FastFlow", "stfpm": "STFPM", "winclip": "WinCLIP"}


def detectors(run: Run) -> dict[str, AnomalibDetector]:
    """The detectors that the parameter ``baselines`` names, unfitted, with the run's settings; title -> detector."""
    p = run.parameters
    steps = {"train_steps": p.baseline_steps}
    settings = {
        "patchcore": {"coreset_ratio": p.coreset_ratio, "subsampling": p.coreset},
        "fastflow": steps,
        "stfpm": steps,
    }
    shared = {"image_size": p.image_size, "backbone": p.backbone, "allow_mini": True}
    made = {}
    for name in p.baselines:
        own = {"clip": p.winclip_weights} if name == "winclip" else shared | settings.get(name, {})
        made[TITLES[name]] = BY_NAME[f"anomalib:{name}"](**own, seed=run.seed, device=run.device)
    return made


def compared(run: Run) -> dict[str, PaDiM | PatchCore | InvAD]:
    """The detectors that are run on every backbone beside nearest patch, unfitted; those of anomalib only where the
    parameter ``baselines`` has them."""
    p = run.parameters
    chosen = {title: made for title, made in detectors(run).items() if title in ("PaDiM", "PatchCore")}
    grid = max(2, p.image_size // 16)  # InvAD's paper: 16 cells at 256 px
    invad = InvAD(
        image_size=p.image_size,
        grid=grid,
        train_steps=p.invad_steps,
        learning_rate=1e-3,
        seed=run.seed,
        device=run.device,
    )
    return chosen | {"InvAD": invad}


def measure(detector: Detector, task: Task) -> tuple[Prediction, dict[str, float]]:
    """Fit on the training images and predict all test images, with the time of both.

    Returns
    -------
    prediction, ``{"fit_s", "ms_per_image"}``.

    Raises
    ------
    RuntimeError: an image's score depends on what else is predicted.
    """
    start = time.perf_counter()
    detector.fit(task.train)
    fit_s, start = time.perf_counter() - start, time.perf_counter()
    prediction = detector.predict_dataset(task.test)
    timing = {"fit_s": fit_s, "ms_per_image": 1000 * (time.perf_counter() - start) / len(task.test)}
    detector.check_batch_independence(task.batch, prediction)
    return prediction, timing


def record(
    run: Run,
    task: Task,
    detector: AnomalibDetector,
    prediction: Prediction,
    timing: Mapping[str, float],
    trivial: TrivialBaseline,
) -> dict[str, float]:
    """Write a baseline's own run folder; its row for the table: metrics, the interval of I-AUROC, times."""
    values = metrics.evaluate(prediction, task.batch)
    run.note_weights(detector.resolved)
    run.record_method(
        detector.name,
        prediction,
        task.batch,
        values,
        detector=detector,
        maps=True,
        timing=timing,
        trivial_baseline={"statistic": trivial.statistic, "I-AUROC": trivial.auroc},
    )
    accuracy = task.accuracy(prediction.score)
    return values | {"low": accuracy["low"], "high": accuracy["high"]} | timing


def trivial_table(task: Task, prediction: Prediction) -> pd.DataFrame:
    """I-AUROC and interval of the trivial score and of each statistic, best first: ``statistic, I-AUROC, low, high``."""
    scores = {"largest deviation (the score)": prediction.score, **prediction.parts}
    rows = [{"statistic": name, **task.accuracy(values)} for name, values in scores.items()]
    return pd.DataFrame(rows).sort_values("I-AUROC", ascending=False, ignore_index=True)


def trivial_by_category(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """The best trivial statistic in every category of the run's data set (in its own alone with ``survey`` false).

    Returns
    -------
    table with ``category, best statistic, I-AUROC, low, high`` (95 % over images); categories that are left out because
    their test images are all of one kind.

    Raises
    ------
    ValueError: for `textures` and seed 0, if a category gives more away than it was built to (`LARGEST`, `MEAN`).
    """
    p = run.parameters
    names = data.categories(p.dataset, root=p.data_root or None) if p.survey else [p.category]
    found = {name: _trivial_of(run, name) for name in names}
    table = pd.DataFrame([{"category": name, **row} for name, row in found.items() if row])
    if p.dataset == "textures" and p.seed == 0 and p.survey:
        largest, mean = table["I-AUROC"].max(), table["I-AUROC"].mean()
        if largest > LARGEST or mean > MEAN:
            raise ValueError(
                f"trivial statistics on textures: largest {largest:.3f}, mean {mean:.3f}, expected at most {LARGEST} and "
                f"{MEAN}; the generator gives something away"
            )
    return table, [name for name, row in found.items() if row is None]


def _trivial_of(run: Run, category: str) -> dict | None:
    p = run.parameters
    index = data.load_index(p.dataset, root=p.data_root or None, category=category, seed=p.seed)
    if set(index.loc[index["split"] == "test", "label"]) != {0, 1}:
        return None
    train, test = (data.ImageDataset(index[index["split"] == split], size=p.survey_size) for split in ("train", "test"))
    parts = Trivial(image_size=p.survey_size, device="cpu").fit(train).predict_dataset(test).parts
    labels = torch.tensor(test.index["label"].to_numpy())
    statistic, auroc = best_statistic(parts, labels)
    low, high = metrics.bootstrap_interval(
        metrics.image_auroc, parts[statistic], labels, n=p.bootstrap_samples, seed=p.seed
    )
    return {"best statistic": statistic, "I-AUROC": auroc, "low": low, "high": high}


def defect_table(task: Task) -> pd.DataFrame | None:
    """A row a marked defect: ``defect``, ``area, % of the image`` and, with counterparts, ``contrast``: the mean absolute
    difference from the counterpart inside the mask, in units of the full grey range. None without masks."""
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


def in_words(difference: tuple[float, float, float], what: str) -> str:
    """ "is above X by 0.05 [0.02, 0.08]": a paired difference (value, low, high), judged by its whole interval."""
    value, low, high = difference
    side = "is above" if low > 0 else "is below" if high < 0 else "is not shown to differ from"
    return f"{side} {what} ({value:+.3f} [{low:+.3f}, {high:+.3f}])"
