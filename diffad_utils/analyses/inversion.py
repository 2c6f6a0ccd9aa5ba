"""Is it the inversion? InvAD against its controls, over training, and with random noise in the place of the model's.

Used by notebook 07; entry points: `unified_training_images`, `controls`, `training_curves`, `noise_of_the_model`,
`scaled_over_test_set`. Steps, rivals and settings: `inversion_sweeps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import data, scoring
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import add_noise, image_noise
from diffad_utils.methods.base import batches
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.invad.score import min_max_over_test_set, prediction
from diffad_utils.methods.kept import kept
from diffad_utils.metrics import bootstrap
from diffad_utils.study.run import Run

ONE_CATEGORY = "no diffusion, one category"
RECORDED = {
    "no_diffusion": ("no diffusion", "the same score of the features themselves"),
    "untrained": ("untrained network", "the same network, untrained"),
    "no_diffusion_one_category": (ONE_CATEGORY, "the same score of the features, standardised on one category"),
}
"""What a run records of its controls: key -> name of the score, and the control in words."""

LEAST_IMAGES = 4
"""Of a category in the unified training, so that some can be held out."""


def unified_training_images(run: Run, task: Task) -> ImageDataset:
    """Training images of all categories of the run's data set, for one network: InvAD's unified setting.

    The run's own category is there with all its training images. The others (``categories``, or all that are there if
    it is empty) share what is left of ``train_images`` equally. Their images are noted in the manifest. Rows are in the
    order of the categories' names: where ``train_images`` is enough for all images, every category's run has the same
    table, and one training in the store serves them all.

    Raises
    ------
    ValueError
        A category whose images are not there, or less than `LEAST_IMAGES` images left for each of the others.
    """
    p = run.parameters
    known = data.categories(p.dataset, root=p.data_root or None)
    others = sorted({*(p.categories or known)} - {p.category})
    if missing := sorted(set(others) - set(known)):
        raise ValueError(f"categories {missing} are not there: expected some of {known}")
    own = task.train.index
    if not others:
        return task.train
    share = (p.train_images - len(own)) // len(others)
    if share < LEAST_IMAGES:
        raise ValueError(
            f"train_images={p.train_images} leaves {max(share, 0)} images for each of {len(others)} other categories "
            f"besides the {len(own)} of {p.category}, expected at least {LEAST_IMAGES}: raise train_images, or name "
            "fewer categories"
        )
    tables = {name: data.load_index(p.dataset, root=p.data_root or None, category=name, seed=p.seed) for name in others}
    added = {name: table[table["split"] == "train"].head(share) for name, table in tables.items()}
    data.validate(pd.concat(added.values()))
    run.note_data(pd.concat(added.values()))
    union = [table for _, table in sorted((added | {p.category: own}).items())]
    return ImageDataset(pd.concat(union, ignore_index=True), size=p.image_size)


@dataclass(frozen=True)
class Controls:
    """A detector and what it has to beat, on the same images.

    scores : by name [N]: "InvAD"; "untrained network", the same before its first step; "no diffusion", the same score
    of the standardised features themselves; `ONE_CATEGORY`, that score of features standardised with images of this
    category alone, where the detector has seen others; and the "trivial baseline". table : a row each, ``label``,
    ``I-AUROC``, ``low``, ``high``, ``AUPRO`` where there are masks. records : for the run's record, `Task.control_row`
    of "no_diffusion", "untrained" and "no_diffusion_one_category". trivial : the baseline's statistic and I-AUROC.
    """

    scores: dict[str, Tensor]
    table: pd.DataFrame
    records: dict[str, dict[str, float]]
    trivial: dict[str, Any]


def controls(task: Task, detector: InvAD, features: Tensor) -> Controls:
    """InvAD and its controls on the task's images, of which ``features`` are the standardised ones, [N, C, h, w]."""
    size, untrained = task.images.shape[-2:], detector.at_step(0)
    predictions = {
        "InvAD": detector.prediction_from_latents(detector.invert(features), size),
        "untrained network": untrained.prediction_from_latents(untrained.invert(features), size),
        "no diffusion": prediction(features, detector.holdout_features_, size),
    }
    own, normal = standardised_on_one_category(task, detector, features)
    if not torch.allclose(own, features, atol=1e-4):
        predictions[ONE_CATEGORY] = prediction(own, normal, size)
    baseline = task.trivial_baseline()
    scores = {name: found.score for name, found in predictions.items()} | {"trivial baseline": baseline.chosen.score}
    maps = {name: found.anomaly_map for name, found in predictions.items()}
    table = pd.DataFrame([{"label": name, **task.accuracy(score, maps.get(name))} for name, score in scores.items()])
    records = {
        key: task.control_row(scores["InvAD"], scores[name], what, maps[name])
        for key, (name, what) in RECORDED.items()
        if name in scores
    }
    return Controls(scores, table, records, baseline.record())


def standardised_on_one_category(task: Task, detector: InvAD, features: Tensor) -> tuple[Tensor, Tensor]:
    """The detector's ``features`` of the task's images, and those of held-out normal images, as InvAD's training on
    this category alone would standardise them: both [n, C, h, w]. No denoiser is trained."""
    train = torch.cat([detector.features(batch["image"]) for batch in batches(task.train, detector.batch_size)])
    raw = train * detector.feature_std_ + detector.feature_mean_
    fitted, held_out = scoring.holdout_split(len(raw), detector.holdout_fraction, detector.seed)
    mean, std = detector._channel_statistics(raw[fitted])
    return (features * detector.feature_std_ + detector.feature_mean_ - mean) / std, (raw[held_out] - mean) / std


def snapshot_steps(parameters: Mapping) -> list[int]:
    """The run's ``snapshot_steps`` that lie within its training, and its end."""
    return [
        *sorted(s for s in parameters["snapshot_steps"] if s < parameters["train_steps"]),
        parameters["train_steps"],
    ]


def scores_over_training(
    detector: InvAD, features: Tensor, size: tuple[int, int], steps: Sequence[int], folder: str | Path
) -> list[Tensor]:
    """Scores [N] by a detector as it was after each of ``steps``, from its snapshots in ``folder``; 0 is untrained.

    features : standardised, of images of ``size`` (H, W), [N, C, h, w].
    """
    then = (detector.at_step(step, folder) for step in steps)
    return [each.prediction_from_latents(each.invert(features), size).score for each in then]


@kept(ignore=("folder",))
def retrained_scores(
    detector: InvAD, features: Tensor, size: tuple[int, int], steps: Sequence[int], folder: Path, change: Mapping
) -> tuple[list[Tensor], Tensor]:
    """`InvAD.retrain` with the settings ``change`` and snapshots after ``steps`` in ``folder``: `scores_over_training`
    before its first step (not without the skip connection: it predicts no noise then, and every latent is the same)
    and after ``steps``, and the scores at its end."""
    other = detector.retrain(folder, steps, **change)
    shown = [0, *steps] if other.linear_skip else steps
    end = other.prediction_from_latents(other.invert(features), size).score
    return scores_over_training(other, features, size, shown, folder), end


def training_curves(
    task: Task,
    detector: InvAD,
    features: Tensor,
    folder: Callable[[str], Path],
    steps: Sequence[int],
    seeds: int,
    no_skip: bool = True,
) -> tuple[pd.DataFrame, Tensor | None]:
    """I-AUROC over training: of the detector, of ``seeds`` - 1 more trainings, and with ``no_skip`` of one without the
    skip connection.

    Parameters
    ----------
    detector : fitted with ``folder("unified")`` and snapshots after ``steps``.
    folder : gives the checkpoints' folder of a training by its name, as `io.checkpoints.folder`.

    Returns
    -------
    A row a step, 0 and ``steps`` (without the skip connection ``steps``): ``network``, ``step``, ``I-AUROC``, ``low``,
    ``high``; and the scores [N] of the network without the skip connection after its whole training.
    """
    size = (task.images.shape[-2], task.images.shape[-1])
    own = scores_over_training(detector, features, size, [0, *steps], folder("unified"))
    scores, end = {f"seed {detector.seed}": own}, None
    changes: dict[str, dict] = {
        f"seed {seed}": {"seed": seed} for seed in range(detector.seed + 1, detector.seed + seeds)
    }
    changes |= {"no skip connection": {"linear_skip": False}} if no_skip else {}
    for name, change in changes.items():
        place = folder(name.replace(" ", "-"))
        scores[name], end = retrained_scores(detector, features, size, [*steps], place, change)
    rows = [
        {"network": f"InvAD, {name}", "step": step, **task.accuracy(score)}
        for name, group in scores.items()
        for step, score in zip([0, *steps][-len(group) :], group, strict=True)
    ]
    return pd.DataFrame(rows), end if no_skip else None


def noise_of_the_model(task: Task, detector: InvAD, features: Tensor, timesteps: Sequence[int]) -> pd.DataFrame:
    """The state of the inversion at intermediate timesteps against random noise of exactly the same level.

    Parameters
    ----------
    features : standardised, of the task's test images, [N, C, grid, grid].
    timesteps : multiples of (T - 1) / 6, rounded: 166, 333, 500, 666, 832. The paper's spacing with six steps visits
        them all on one path.

    Returns
    -------
    Two rows a timestep, ``noise`` = "of the model" or "random": ``t``, ``I-AUROC`` and ``cosine`` (of the state and the
    features, mean over images) with "<name> low" and "<name> high". In the attributes ``differences``: (t, "I-AUROC" or
    "cosine") -> model minus random with its interval.

    Raises
    ------
    ValueError
        A timestep that the path does not visit.
    """
    six = detector.with_settings(num_steps=6, spacing="paper")
    last = detector.schedule.T - 1
    visited = [round(k * last / 6) for k in range(7)]
    if wrong := sorted(set(timesteps) - set(visited[1:])):
        raise ValueError(f"timesteps {wrong} are not visited, expected some of {visited[1:]}")
    normal = detector.holdout_features_
    keys = task.keys, [f"held-out/{i}" for i in range(len(normal))]
    paths = [
        torch.cat([six.trajectory(x) for x in group.split(detector.batch_size)], dim=1) for group in (features, normal)
    ]
    rows, differences = [], {}
    for t in timesteps:
        random = [
            add_noise(x, torch.full((len(x),), t), image_noise(x.shape[1:], detector.seed, names), detector.schedule)
            for x, names in zip((features, normal), keys, strict=True)
        ]
        states = {"of the model": [path[visited.index(t)] for path in paths], "random": random}
        scores = {name: prediction(z, normal_z, task.images.shape[-2:]).score for name, (z, normal_z) in states.items()}
        cosines = {name: _cosine(z, features) for name, (z, _) in states.items()}
        for name in states:
            found = task.accuracy(scores[name])
            similar = bootstrap.mean_interval(cosines[name], task.bootstrap_samples, task.seed)
            rows.append(
                {"noise": name, "t": t, "I-AUROC": found["I-AUROC"]}
                | {"I-AUROC low": found["low"], "I-AUROC high": found["high"]}
                | {"cosine": float(similar.mean), "cosine low": float(similar.low), "cosine high": float(similar.high)}
            )
        closer = cosines["of the model"] - cosines["random"]
        differences[t, "I-AUROC"] = task.difference(scores["of the model"], scores["random"])
        mean, low, high = bootstrap.mean_interval(closer, task.bootstrap_samples, task.seed)
        differences[t, "cosine"] = float(mean), float(low), float(high)
    table = pd.DataFrame(rows)
    table.attrs["differences"] = differences
    return table


def _cosine(a: Tensor, b: Tensor) -> np.ndarray:
    return torch.cosine_similarity(a.flatten(1), b.flatten(1)).numpy()


def scaled_over_test_set(task: Task, parts: Mapping[str, Tensor], score: Tensor) -> dict[str, float]:
    """How the public code's scaling over the test set (`min_max_over_test_set`) moves scores.

    Returns
    -------
    I-AUROC of our ``score`` and of theirs, the range of theirs, and the largest change among the other images when the
    one with the largest NLL is left out.
    """
    theirs = min_max_over_test_set(parts)
    kept = torch.arange(len(theirs)) != parts["nll"].argmax()
    without = min_max_over_test_set({name: values[kept] for name, values in parts.items()})
    return {
        "calibrated on held-out normals": task.accuracy(score)["I-AUROC"],
        "scaled over the test set": task.accuracy(theirs)["I-AUROC"],
        "range of their scores": float(theirs.max() - theirs.min()),
        "largest change of a score": float((without - theirs[kept]).abs().max()),
    }
