"""The reverse processes of SGM, ESM and ESM-sigma: their paths, where they could stop, and how stable they are.

Used by notebook 05; entry points: `trace`, `settling`, `stopped_early`, `updates_over_bound`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffad_utils.analyses.score_claims import MEASURES, Effect
from diffad_utils.analyses.task import Task
from diffad_utils.methods.esm import ESM
from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.methods.esm.equations import (
    Moments,
    denoised,
    esm_reverse,
    guided_forward,
    guided_reverse,
    guided_variance,
    matched_dt,
    step_edges,
)
from diffad_utils.methods.kept import kept
from diffad_utils.metrics.bootstrap import mean_interval


class Trace(NamedTuple):
    """A reverse process seen from T_d to its end, for B images.

    timesteps : the paper's t of every state [K + 1], T_d first, 0 last. states, estimates : [K + 1, B, ...], the state
        over
    sqrt(alpha_bar_t), so that all are on the scale of images, and X_0_hat; the last of both is the reconstruction.
    variance_low, variance_high : [K, B], smallest and largest sigma_t^2 used at each step (1 - alpha_bar_t for SGM).
    """

    timesteps: list[int]
    states: Tensor
    estimates: Tensor
    variance_low: Tensor
    variance_high: Tensor


@kept(state=None)
def trace(detector: ScoreMatchingDetector, images: Tensor, keys: Sequence[str], noise_timestep: int) -> Trace:
    """Every step of a detector's reverse process from T_d = ``noise_timestep`` on images [B, 3, H, W]."""
    detector = copy.copy(detector)  # not a variant: nothing is scored, so nothing need be calibrated
    detector._check_steps(noise_timestep)
    detector.noise_timestep_ = noise_timestep
    timesteps, states, estimates, low, high = [], [], [], [], []

    def observe(index: int, x: Tensor, moments: Moments) -> None:
        alpha_bar = float(detector.schedule_.alphas_cumprod[index])
        timesteps.append(index + 1)
        states.append((x / alpha_bar**0.5).cpu())
        estimates.append(denoised(x, moments.eps, alpha_bar).cpu())
        low.append(moments.variance.flatten(1).amin(dim=1).cpu())
        high.append(moments.variance.flatten(1).amax(dim=1).cpu())

    x0 = detector.encode(detector._input(images))
    x_hat = detector.sample(x0, keys, observe)
    return Trace(
        [*timesteps, 0],
        torch.stack([*states, x_hat]),
        torch.stack([*estimates, x_hat]),
        torch.stack(low),
        torch.stack(high),
    )


def distance_to_end(states: Tensor) -> Tensor:
    """Root mean square distance of states [K + 1, B, ...] to the last, over that of the first: [K + 1, B], 1 to 0."""
    distance = (states - states[-1]).flatten(2).square().mean(dim=2).sqrt()
    return distance / distance[0]


def settled_at(timesteps: Sequence[int], distance: Tensor, level: float) -> Tensor:
    """The largest t from which on each image's distance [K + 1, B] stays at most ``level``: [B]."""
    away = distance > level
    last_away = torch.where(away.any(dim=0), away.shape[0] - 1 - away.flip(0).float().argmax(dim=0), -1)
    return torch.tensor(timesteps)[last_away + 1].float()


def settling(paths: Mapping[str, Trace], level: float = 0.1) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """How states and running estimates approach each method's own reconstruction, and where they have settled.

    Returns
    -------
    A table, a row a t: t and "<method>, state", "<method>, estimate", the mean of `distance_to_end` over images; and by
    the same names the t [B] at which each image is within ``level`` (`settled_at`).
    """
    table, settled = {}, {}
    for name, path in paths.items():
        table["t"] = path.timesteps
        for kind, values in (("state", path.states), ("estimate", path.estimates)):
            distance = distance_to_end(values)
            table[f"{name}, {kind}"] = distance.mean(dim=1).tolist()
            settled[f"{name}, {kind}"] = settled_at(path.timesteps, distance, level)
    return pd.DataFrame(table), settled


def strips(
    paths: Mapping[str, Trace], detector: ScoreMatchingDetector, marks: Sequence[int], image: int
) -> tuple[dict[str, Tensor], list[str], dict[str, list[str]]]:
    """One image's states at the first t and then nearest to each lower t of ``marks``, as `plots.captioned_strips`
    takes them: decoded states by method, titles, and "smallest, largest" sigma_t^2 of each step."""
    rows, captions, first = {}, {}, next(iter(paths.values())).timesteps[0]
    times = [first, *(t for t in marks if t < first)]
    for name, path in paths.items():
        at = [int(np.abs(np.array(path.timesteps) - t).argmin()) for t in times]
        steps = [min(i, len(path.variance_low) - 1) for i in at]  # the last state has no step of its own
        rows[name] = detector.decode(path.states[at, image])
        captions[name] = [f"{path.variance_low[i, image]:.2g}, {path.variance_high[i, image]:.2g}" for i in steps]
    return rows, [f"t = {t}" for t in times], captions


def figure_3(paths: Mapping[str, Trace], settled: Mapping[str, Tensor], task: Task) -> dict[str, Effect]:
    """What the paper reads off its figure 3, by key of `score_claims.MEASURES` (C49a, C49b, C50a), and "estimate".

    The last is the difference of C49a for the running estimates in the place of the states.
    """
    far = torch.maximum((settled["ESM, state"] - 100).abs(), (settled["SGM, state"] - 20).abs())
    high = paths["ESM"].variance_high
    values = {
        "C49a": settled["ESM, state"] - settled["SGM, state"],
        "C49b": 20 - far,
        "C50a": float(np.log10(2)) - (high[-1] / high[0]).log10().abs(),
        "estimate": settled["ESM, estimate"] - settled["SGM, estimate"],
    }
    note = f"from T_d = {paths['ESM'].timesteps[0]}; sigma^2 bounded below by 0.01, as in the paper"
    settles = "; when the state settles, not whether it looks like an image"
    return {
        key: Effect(
            *mean_interval(v, task.bootstrap_samples, task.seed), len(v), note=note + settles * key.startswith("C49")
        )
        for key, v in values.items()
    }


def stopped_early(
    detector: ScoreMatchingDetector, task: Task, noise_timestep: int, at: Sequence[int]
) -> dict[int, Tensor]:
    """Scores [B] if the state nearest to each t of ``at`` is taken for the reconstruction of the task's images.

    The process starts at T_d = ``noise_timestep``; scores have the calibration of the full path from there.
    """
    if noise_timestep != detector.noise_timestep_:
        detector = detector.with_settings(noise_timestep=noise_timestep)
    path = trace(detector, task.images, task.keys, noise_timestep)
    x0, scores = detector.encode(detector._input(task.images)), {}
    for t in at:
        nearest = int(np.abs(np.asarray(path.timesteps) - t).argmin())
        scores[t] = detector.score(detector.combine(detector.maps(x0, path.states[nearest])))
    return scores


@kept(state=None)
@torch.inference_mode()
def updates_over_bound(
    detector: ESM, images: Tensor, keys: Sequence[str], noise_timestep: int, bounds: Sequence[float]
) -> dict[float, dict[str, Tensor]]:
    """The largest root mean square update of each image in eq. 5 and in eq. 13, for lower bounds of sigma^2: {bound:
    {"ESM": [B], ...}}.

    The clock of eq. 13 stays that of the paper's bound. Values that overflow are 1e30. Beside them, for eq. 5, whether
    a small variance occurred: "small", share of elements and steps with sigma^2 not above the highest of ``bounds``;
    "small, largest", share of elements in the step of the largest update; "overshooting", share of elements and steps
    with sigma^2 below half of beta_t dt, that go more than twice the way to mu_t.
    """
    x0 = detector.encode(detector._input(images)).to(detector.torch_device)
    noise_edges, dt = step_edges(noise_timestep, detector.stride), matched_dt(detector.schedule_, noise_timestep)
    lengths = [float(detector.schedule_.betas[low:high].sum()) for high, low in pairwise(noise_edges)]
    result = {}
    for bound in bounds:
        noised = detector.noised(x0, keys, noise_timestep)
        forth = guided_forward(detector.network_.variance, x0, noise_edges, dt, detector.seed, keys, variance_min=bound)
        runs = {
            "ESM": lambda see: esm_reverse(
                detector.network_, noised, detector.schedule_, noise_edges, variance_min=bound, observe=see
            ),
            "ESM-sigma": lambda see: guided_reverse(
                detector.network_, forth, detector.schedule_, noise_edges, dt, variance_min=bound, observe=see
            ),
        }
        result[bound] = {}
        for name, run in runs.items():
            seen: list[Tensor] = []
            used: list[Tensor] = []
            seen.append(run(lambda _, x, m: (seen.append(x), used.append(m.variance))))
            steps = torch.stack(seen).diff(dim=0).flatten(2).square().mean(dim=2).sqrt()
            steps = torch.nan_to_num(steps, nan=1e30, posinf=1e30).clamp_max(1e30)
            result[bound][name] = steps.amax(dim=0).cpu()
            if name == "ESM":  # [K, B]: what was small in each step

                def share(smaller):
                    return torch.stack([mask.flatten(1).float().mean(dim=1) for mask in smaller])

                small = share(v <= max(bounds) * (1 + 1e-6) for v in used)
                over = share(v < length / 2 for v, length in zip(used, lengths, strict=True))
                largest = small.gather(0, steps.argmax(dim=0)[None])[0]
                result[bound] |= {
                    "small": small.mean(dim=0).cpu(),
                    "small, largest": largest.cpu(),
                    "overshooting": over.mean(dim=0).cpu(),
                }
    return result


@kept(state=None)
@torch.inference_mode()
def variance_along_guided_forward(
    detector: ESM, images: Tensor, keys: Sequence[str], noise_timestep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Claim C54: mean sigma_t^2 of the network along eq. 11, and eq. 12 from its first value: (clock [K], [K, B], [K,
    B])."""
    x0 = detector.encode(detector._input(images)).to(detector.torch_device)
    edges, dt, seen = step_edges(noise_timestep, detector.stride), matched_dt(detector.schedule_, noise_timestep), []

    def variance_fn(x: Tensor, t: Tensor) -> Tensor:
        variance = detector.network_.variance(x, t)
        seen.append(variance.clamp_min(detector.variance_min).flatten(1).mean(dim=1).cpu())
        return variance

    guided_forward(variance_fn, x0, edges, dt, detector.seed, keys, variance_min=detector.variance_min)
    clock = torch.tensor(sorted(edges)[:-1]) * dt
    network = torch.stack(seen)
    return clock, network, guided_variance(network[0], clock[:, None])


def stability_table(updates: Mapping[float, Mapping[str, Tensor]]) -> pd.DataFrame:
    """Means over images of `updates_over_bound`, a row a bound.

    Columns: bound; ESM, ESM-sigma (log10 of the largest update); then shares, for eq. 5: of elements and steps with
    sigma^2 up to the highest bound, the same in the step of the largest update, and below beta_t dt / 2.
    """
    rows = []
    for bound, by in updates.items():
        logs = {name: float(by[name].log10().mean()) for name in ("ESM", "ESM-sigma")}
        shares = {name: float(by[name].mean()) for name in ("small", "small, largest", "overshooting")}
        rows.append({"bound": bound, **logs, **shares})
    return pd.DataFrame(rows)


def growth(updates: Mapping[float, Mapping[str, Tensor]], samples: int, seed: int) -> Effect:
    """By how much more log10 of the largest update grows in ESM than in ESM-sigma, from the highest to the lowest
    bound (claim C53)."""
    by_name = [updates[min(updates)][n].log10() - updates[max(updates)][n].log10() for n in ("ESM", "ESM-sigma")]
    return Effect(*mean_interval(by_name[0] - by_name[1], samples, seed), len(by_name[0]))


def bound_acted(updates: Mapping[float, Mapping[str, Tensor]]) -> bool:
    """Whether any step of eq. 5 could overshoot with the lowest bound, that is go more than twice the way to mu_t:
    without one, instability, which claim C53 is about, was not tested."""
    return bool((updates[min(updates)]["overshooting"] > 0).any())


def stability(
    updates: Mapping[float, Mapping[str, Tensor]], effect: Effect
) -> tuple[dict[str, Effect], list[dict[str, str]]]:
    """Claim C53 from ``effect``, the `growth` of ``updates``: (what was found, what is not judged, as `findings.shown`
    takes it). Where the bound has not acted there is no finding."""
    if bound_acted(updates):
        return {"C53": effect}, []
    return {}, [{"claim_id": "C53", "measure": MEASURES["C53"][0], "why": "no step could overshoot"}]


def logistic_table(detector: ESM, task: Task, noise_timestep: int) -> tuple[pd.DataFrame, Effect]:
    """`variance_along_guided_forward` of the task's images: columns time, network, eq. 12 (means over images).

    The effect is 0.1 minus the mean relative distance of both, by image (claim C54).
    """
    clock, network, curve = variance_along_guided_forward(detector, task.images, task.keys, noise_timestep)
    table = pd.DataFrame({"time": clock, "network": network.mean(dim=1), "eq. 12": curve.mean(dim=1)})
    values = 0.1 - ((network - curve).abs() / curve).mean(dim=0)
    return table, Effect(*mean_interval(values, task.bootstrap_samples, task.seed), len(values))
