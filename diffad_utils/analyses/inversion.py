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

from diffad_utils import data
from diffad_utils.analyses.summaries import control_record
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import add_noise, image_noise
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.invad.score import min_max_over_test_set, prediction
from diffad_utils.metrics import bootstrap
from diffad_utils.study.run import Run

LEAST_IMAGES = 4
"""Of a category in the unified training, so that some can be held out."""


def unified_training_images(run: Run, task: Task) -> ImageDataset:
    """Training images of all categories of the run's data set, for one network: InvAD's unified setting.

    The run's own category is there with all its training images. The others (``categories``, or all that are there if
    it is empty) share what is left of ``train_images`` equally. Their images are noted in the manifest.

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
    tables = [data.load_index(p.dataset, root=p.data_root or None, category=name, seed=p.seed) for name in others]
    added = pd.concat([table[table["split"] == "train"].head(share) for table in tables])
    data.validate(added)
    run.note_data(added)
    return ImageDataset(pd.concat([own, added]), size=p.image_size)


@dataclass(frozen=True)
class Controls:
    """A detector and what it has to beat, on the same images.

    scores : by name [N]: "InvAD"; "untrained network", the same before its first step; "no diffusion", the same score
    of the standardised features themselves; and the "trivial baseline". table : a row each, ``label``, ``I-AUROC``,
    ``low``, ``high``, ``AUPRO`` where there are masks. records : for the run's record, `control_record` of
    "no_diffusion" and "untrained". trivial : the baseline's statistic and I-AUROC.
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
    baseline = task.trivial_baseline()
    scores = {name: found.score for name, found in predictions.items()}
    scores["trivial baseline"] = baseline.prediction.parts[baseline.statistic]
    maps = {name: found.anomaly_map for name, found in predictions.items()}
    table = pd.DataFrame([{"label": name, **task.accuracy(score, maps.get(name))} for name, score in scores.items()])
    records = {
        key: control_record(task, predictions["InvAD"], predictions[name])
        for key, name in {"no_diffusion": "no diffusion", "untrained": "untrained network"}.items()
    }
    return Controls(scores, table, records, {"statistic": baseline.statistic, "I-AUROC": baseline.auroc})


def snapshot_steps(parameters: Mapping) -> list[int]:
    """The run's ``snapshot_steps`` that lie within its training, and its end."""
    return [
        *sorted(s for s in parameters["snapshot_steps"] if s < parameters["train_steps"]),
        parameters["train_steps"],
    ]


def over_training(
    task: Task, detector: InvAD, features: Tensor, steps: Sequence[int], folder: str | Path, network: str
) -> list[dict]:
    """I-AUROC of a detector as it was after each of ``steps``, from its snapshots in ``folder``; 0 is untrained.

    Returns
    -------
    A row a step: ``network`` (as given), ``step``, ``I-AUROC``, ``low``, ``high``.
    """
    rows = []
    for step in steps:
        then = detector.at_step(step, folder)
        found = then.prediction_from_latents(then.invert(features), task.images.shape[-2:])
        rows.append({"network": network, "step": step, **task.accuracy(found.score)})
    return rows


def training_curves(
    task: Task, detector: InvAD, features: Tensor, folder: Callable[[str], Path], steps: Sequence[int], seeds: int
) -> tuple[pd.DataFrame, Tensor]:
    """I-AUROC over training: of the detector, of ``seeds`` - 1 more trainings, and of one without the skip connection.

    Parameters
    ----------
    detector : fitted with ``folder("unified")`` and snapshots after ``steps``.
    folder : gives the checkpoints' folder of a training by its name, as `io.checkpoints.folder`.

    Returns
    -------
    Rows as of `over_training` at 0 and ``steps`` (without the skip connection at ``steps``), and the scores [N] of the
    network without the skip connection after its whole training.
    """
    own = folder("unified")
    rows = over_training(task, detector, features, [0, *steps], own, f"InvAD, seed {detector.seed}")
    changes = {f"seed {seed}": {"seed": seed} for seed in range(detector.seed + 1, detector.seed + seeds)}
    for name, change in (changes | {"no skip connection": {"linear_skip": False}}).items():
        place = folder(name.replace(" ", "-"))
        other = detector.retrain(place, steps, **change)
        # untrained and without the skip it predicts no noise: every latent is the same
        shown = [0, *steps] if other.linear_skip else steps
        rows += over_training(task, other, features, shown, place, f"InvAD, {name}")
    last = other.prediction_from_latents(other.invert(features), task.images.shape[-2:])
    return pd.DataFrame(rows), last.score


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
