"""Accuracy over T_d, readings of the paper, early stops and subsets of detectors, for SGM, ESM and ESM-sigma.

Used by notebook 05; entry points: `over_timesteps`, `timestep_scores`, `readings`, `over_stops`, `detector_subsets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.score_claims import Effect
from diffad_utils.analyses.score_process import stopped_early
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm.base import ReconstructionMaps, ScoreMatchingDetector
from diffad_utils.metrics.bootstrap import bootstrap_counts, bootstrap_percentiles, bootstrap_statistic


def readings(
    detectors: Mapping[str, ScoreMatchingDetector], own: Mapping[str, Prediction], task: Task
) -> tuple[pd.DataFrame, dict[str, tuple[float, float, float]]]:
    """The same networks under other readings of what the paper leaves open.

    Parameters
    ----------
    own : the detectors' predictions for the task's images as they are.

    Returns
    -------
    A table with columns name, I-AUROC, low, high, change (mean absolute change of a pixel by the reconstruction) and
    data; and by name the I-AUROC minus that of the same method as it is, with interval.
    """
    esm, esm_sigma = detectors["ESM"], detectors["ESM-sigma"]
    variants = {
        "ESM, mean tied to the input": esm.with_settings(mean="input"),
        "ESM, bound 0.1": esm.with_settings(variance_min=0.1),
        "ESM, plain sum of the maps": esm.with_settings(combination="plain sum"),
        "ESM-sigma, larger steps": esm_sigma.with_settings(dt=1 / esm_sigma.stride),
    }
    found = {**own, **{name: d.predict(task.images, task.keys) for name, d in variants.items()}}
    rows = [
        {
            "name": name,
            **task.accuracy(q.score),
            "change": float((q.reconstruction - task.images).abs().mean()),
            "data": f"{len(task.labels)} test images",
        }
        for name, q in found.items()
    ]
    gains = {name: task.difference(found[name].score, own[name.split(",")[0]].score) for name in variants}
    return pd.DataFrame(rows), gains


def over_timesteps(
    detectors: Mapping[str, ScoreMatchingDetector], own: Mapping[str, Prediction], task: Task, timesteps: Sequence[int]
) -> tuple[pd.DataFrame, dict[str, dict[int, Tensor]]]:
    """Accuracy of each method over T_d: (table, scores {method: {steps: [B]}}).

    Columns: variant, T_d, NFE, I-AUROC, low, high. ``own`` as in `readings`, for the T_d that the detectors have.
    """
    rows: list[dict] = []
    scores: dict[str, dict[int, Tensor]] = {name: {} for name in detectors}
    for name, detector in detectors.items():
        for t in sorted({*timesteps, detector.noise_timestep_}):
            is_own = t == detector.noise_timestep_
            other = detector if is_own else detector.with_settings(noise_timestep=t)
            score = own[name].score if is_own else other.predict(task.images, task.keys).score
            scores[name][other.num_steps] = score
            rows.append({"variant": name, "T_d": t, "NFE": other.nfe, **task.accuracy(score)})
    return pd.DataFrame(rows), scores


def timestep_scores(
    table: pd.DataFrame, scores: Mapping[str, Mapping[int, Tensor]], labels: Tensor
) -> dict[str, dict[str, list]]:
    """What `over_timesteps` returned, for the run's record: method -> T_d [S], labels [B] and scores [S, B].

    Notebook 08 needs the scores to find a T_d on some images and to measure it on others.
    """
    return {
        name: {
            "T_d": table.loc[table["variant"] == name, "T_d"].tolist(),
            "labels": labels.tolist(),
            "scores": [values.double().tolist() for values in by_steps.values()],
        }
        for name, by_steps in scores.items()
    }


def over_stops(
    detectors: Mapping[str, ScoreMatchingDetector], task: Task, noise_timestep: int, stops: Sequence[int]
) -> tuple[pd.DataFrame, dict[str, dict[int, Tensor]]]:
    """SGM and ESM from T_d = ``noise_timestep``, stopped early: (table, scores {method: {t: [B]}})."""
    scores = {name: stopped_early(detectors[name], task, noise_timestep, stops) for name in ("SGM", "ESM")}
    rows = [{"method": n, "t": t, **task.accuracy(s)} for n, by in scores.items() for t, s in by.items()]
    return pd.DataFrame(rows), scores


def last_steps(stopped: Mapping[str, Mapping[int, Tensor]], task: Task) -> dict[str, Effect]:
    """Claims C51 and C52 from the scores of `over_stops`: the full path against one stopped at t = 50."""
    n = len(task.labels)
    return {
        "C51": Effect(*task.difference(stopped["SGM"][0], stopped["SGM"][50]), n),
        "C52": Effect(*task.difference(stopped["ESM"][50], stopped["ESM"][0]), n),
    }


def steps_needed(
    scores: Mapping[str, Mapping[int, Tensor]], labels: Tensor, n: int, seed: int, within: float = 0.02
) -> Effect:
    """log2 of the steps that SGM needs over those of ESM for an I-AUROC within ``within`` of its best, with interval.

    scores : {"SGM": {steps: [B]}, "ESM": {steps: [B]}}. Images are resampled, the same for both (claim C47).
    """
    values = {name: {k: s.numpy() for k, s in by_steps.items()} for name, by_steps in scores.items()}
    target = labels.numpy()

    def needed(rows: np.ndarray, name: str) -> int:
        aurocs = {k: metrics.image_auroc(s[rows], target[rows]) for k, s in sorted(values[name].items())}
        return next(k for k, auroc in aurocs.items() if auroc >= max(aurocs.values()) - within)

    counts = bootstrap_counts(target, n, seed)
    ratios = bootstrap_statistic(lambda rows: float(np.log2(needed(rows, "SGM") / needed(rows, "ESM"))), counts)
    effect, low, high = bootstrap_percentiles(ratios)
    return Effect(float(effect), float(low), float(high), len(target))


def detector_subsets(
    detector: ScoreMatchingDetector, maps: Mapping[str, Tensor], task: Task
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Every subset of the detectors of eq. 14 with equal weights: (table, scores {subset: [B]}).

    Columns: detectors, number, I-AUROC with low and high (95 % over images), P-AUROC where there are masks
    (`metrics.with_masks`).
    """
    single = {name: detector.combine(maps, weights={name: 1.0}) for name in maps}  # smoothed: a sum's is their sum
    rows, scores = [], {}
    for size in range(1, len(maps) + 1):
        for names in combinations(maps, size):
            combined = torch.stack([single[name] for name in names]).sum(dim=0)
            score = scores["+".join(names)] = detector.score(combined)
            row = {"detectors": "+".join(names), "number": size, **task.accuracy(score)}
            if task.has_masks:
                row["P-AUROC"] = float(metrics.pixel_auroc(combined[task.with_masks], task.masks[task.with_masks]))
            rows.append(row)
    return pd.DataFrame(rows), scores


def table_5(
    detectors: Mapping[str, ScoreMatchingDetector], measured: Mapping[str, ReconstructionMaps], task: Task
) -> tuple[pd.DataFrame, dict[str, Effect], pd.DataFrame]:
    """The paper's table 5 for ESM-sigma, which it has, and for ESM.

    Returns
    -------
    `detector_subsets` of both with a column method; claims C55 (a key for each smaller subset, "C55 cos+re") and C56 on
    ESM-sigma; and the rank correlations of the single detectors' scores there.
    """
    both = {n: detector_subsets(detectors[n], measured[n].maps, task) for n in ("ESM-sigma", "ESM")}
    scores = both["ESM-sigma"][1]
    full, n = scores["cos+u+kl+re"], len(task.labels)
    effects = {f"C55 {name}": Effect(*task.difference(full, s), n) for name, s in scores.items() if s is not full}
    effects["C56"] = effects["C55 cos+re"]
    table = pd.concat([table.assign(method=name) for name, (table, _) in both.items()], ignore_index=True)
    return table, effects, pd.DataFrame({k: scores[k] for k in ("cos", "u", "kl", "re")}).corr("spearman")
