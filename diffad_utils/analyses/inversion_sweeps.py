"""InvAD's inversion over steps and spacings, against reconstruction with the same network, and as findings on claims.

Used by notebook 07; entry points: `inversion_steps`, `reconstructions`, `range_bounds`, `noise_findings`, `class_rows`,
`findings`, `compared`, `size_of_latents`, `maps_shown`, `moved_in_rank`, `over_training`, `which_matters_more`,
`answer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from torch import Tensor

from diffad_utils.analyses.inversion import ONE_CATEGORY
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import detects, enumerated, relation, signed
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.invad.score import channel_norm, prediction
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.intervals import range_difference
from diffad_utils.scoring import upsample_map
from diffad_utils.study import claims

Effect = tuple[float, float, float]
"""A difference and the ends of its 95 % interval."""

SECTIONS = {
    "C33": "How many steps, and where?",
    "C34": "The rival: noise, then denoise",
    "C35": "The rival: noise, then denoise",
    "C37": "Is it the inversion?",
    "C38": "Is it the model's noise?",
    "C39": "From the final latent to a score",
}
"""The notebook's heading under which each claim is measured."""

OF_THE_SWEEPS = ("C33", "C34", "C35")
"""Claims that are measured on the subset of the test images."""


class Sweep(NamedTuple):
    """Settings of one network on the same images: ``table`` has a row each, ``scores`` [N] are by setting."""

    table: pd.DataFrame
    scores: dict[tuple, Tensor]


def with_level(table: pd.DataFrame, x: str, hue: str, name: str, accuracy: Mapping[str, float]) -> pd.DataFrame:
    """A table of lines over ``x`` with one more line ``name``, at the same ``accuracy`` everywhere."""
    return pd.concat([table, *(pd.DataFrame([{hue: name, x: value, **accuracy}]) for value in sorted(set(table[x])))])


def inversion_steps(task: Task, detector: InvAD, features: Tensor, counts: Sequence[int]) -> Sweep:
    """Both spacings with each number of steps ("reference" from two on), calibrated anew each time.

    Returns
    -------
    `Sweep`: columns ``spacing``, ``steps``, ``I-AUROC``, ``low``, ``high`` and ``AUPRO``, with settings (spacing,
    steps).
    """
    rows, scores = [], {}
    for spacing in ("reference", "paper"):
        for steps in counts:
            if steps == 1 and spacing == "reference":
                continue
            other = detector.with_settings(num_steps=steps, spacing=spacing)
            found = other.prediction_from_latents(other.invert(features), task.images.shape[-2:])
            scores[spacing, steps] = found.score
            rows.append({"spacing": spacing, "steps": steps, **task.accuracy(found.score, found.anomaly_map)})
    return Sweep(pd.DataFrame(rows), scores)


def reconstructions(
    task: Task,
    detector: InvAD,
    features: Tensor,
    timesteps: Sequence[int],
    steps: int,
    step_counts: Sequence[int],
    controls: Mapping[str, Tensor],
) -> Sweep:
    """Noise, then denoise, with the same network; the mean residual of the features is the score.

    Each of ``timesteps`` with ``steps`` DDIM steps, and the middle one of them with each of ``step_counts``.

    Returns
    -------
    `Sweep`: the inversion in the first row, ``controls`` (scores [N] by name) in the next; columns ``group`` (the
    task), ``method``, ``NFE`` (network evaluations an image), ``I-AUROC``, ``low``, ``high``, ``AUPRO``; settings
    (timestep, steps).
    """
    size = task.images.shape[-2:]
    inverted = detector.prediction_from_latents(detector.invert(features), size)
    first = {"group": task.name, "method": f"inversion, S = {detector.num_steps}", "NFE": detector.num_steps}
    rows, scores = [first | task.accuracy(inverted.score, inverted.anomaly_map)], {}
    nfe = {"untrained network": detector.num_steps}
    rows += [
        {"group": task.name, "method": name, "NFE": nfe.get(name, 0), **task.accuracy(score)}
        for name, score in controls.items()
    ]
    middle = timesteps[len(timesteps) // 2]
    for t, count in dict.fromkeys([*((t, steps) for t in timesteps), *((middle, n) for n in step_counts)]):
        residual = channel_norm(features - detector.reconstruct(features, task.keys, t, count))
        scores[t, count] = residual.flatten(1).mean(dim=1)
        row = {"group": task.name, "method": f"reconstruction, t = {t}, {count} step{'s' * (count > 1)}", "NFE": count}
        rows.append(row | task.accuracy(scores[t, count], upsample_map(residual, size)))
    return Sweep(pd.DataFrame(rows), scores)


def as_records(table: pd.DataFrame) -> list[dict]:
    """Rows for the run's record, without what could not be computed."""
    return [row.dropna().to_dict() for _, row in table.iterrows()]


def range_bounds(
    task: Task, noise_levels: Sequence[Tensor], step_counts: Sequence[Tensor]
) -> dict[tuple[str, str], Effect]:
    """Range of I-AUROC over reconstruction's noise levels minus that over inversion's step counts, from both sides.

    The bounds are those of `metrics.intervals.range_difference`.

    Parameters
    ----------
    noise_levels, step_counts : scores [N] of each setting, for the task's images.

    Returns
    -------
    Findings on C34, the lower bound first: (claim, measure) -> effect.
    """
    levels, steps = (np.stack([np.asarray(score, dtype=float) for score in of]) for of in (noise_levels, step_counts))
    lower, upper = range_difference(levels, steps, task.labels, n=task.bootstrap_samples, seed=task.seed)
    measure = "range of I-AUROC over noise levels, {}, minus range over inversion steps, {}"
    ways = "cross-fitted", "on the same images"
    return {
        ("C34", measure.format(*ways)): bootstrap.bootstrap_percentiles(lower),
        ("C34", measure.format(*reversed(ways))): bootstrap.bootstrap_percentiles(upper),
    }


def noise_findings(differences: Mapping[tuple[int, str], Effect]) -> dict[tuple[str, str], Effect]:
    """Findings on C38 from the differences of `inversion.noise_of_the_model`.

    The claim needs both measures, I-AUROC and cosine, at each timestep: the ledger judges each by itself.
    """
    words = {"I-AUROC": "I-AUROC", "cosine": "cosine of x_t and the features,"}
    return {
        ("C38", f"{words[name]} of model-predicted minus random noise of the same level at t = {t}"): effect
        for (t, name), effect in differences.items()
    }


def class_rows(task: Task, variants: Mapping[str, tuple[InvAD, Tensor]]) -> tuple[list[dict], dict[str, Prediction]]:
    """Accuracy of networks that were trained on other categories, each with its own controls.

    variants : name -> detector and its standardised features of the task's images, [N, C, h, w]. Returns the rows
    (``group``, the task, ``setting``, ``I-AUROC``, ``low``, ``high``, ``AUPRO``) and the predictions by setting.
    """
    size, found = task.images.shape[-2:], {}
    for name, (detector, features) in variants.items():
        found[f"{name}, InvAD"] = detector.prediction_from_latents(detector.invert(features), size)
        untrained = detector.at_step(0)
        found[f"{name}, untrained"] = untrained.prediction_from_latents(untrained.invert(features), size)
        found[f"{name}, no diffusion"] = prediction(features, detector.holdout_features_, size)
    rows = [
        {"group": task.name, "setting": name, **task.accuracy(of.score, of.anomaly_map)} for name, of in found.items()
    ]
    return rows, found


# --- sentences and claims ---------------------------------------------------------------------------------------------


def compared(one: str, effect: Effect, other: str) -> str:
    """A difference in words, which its interval chooses.

    >>> compared("InvAD", (0.1, 0.05, 0.15), "chance")
    'InvAD is above chance: +0.100 [+0.050, +0.150] I-AUROC'
    >>> compared("InvAD", (0.1, -0.05, 0.25), "chance")
    'InvAD is not shown to differ from chance: +0.100 [-0.050, +0.250] I-AUROC'
    """
    return f"{one} is {relation(*effect[1:])} {other}: {signed(effect)} I-AUROC"


def size_of_latents(nll: Tensor, labels: Tensor, values: int) -> str:
    """Whether the final latents of normal images are as large as samples of a standard normal.

    nll : [N], in nats, of `gaussian_nll`; the mean square of a latent's numbers follows from it. labels : [N] in
    {0, 1}. values : how many numbers a latent has.
    """
    found = float(nll[labels == 0].double().mean())
    expected = 0.5 * values * (math.log(2 * math.pi) + 1)
    size = math.sqrt(max(2 * found / values - math.log(2 * math.pi), 0.0))
    near = 1.96 / math.sqrt(2 * values)  # 1.96 standard deviations of the root mean square of that many draws
    if abs(size - 1) > near:
        end = f"So even normal images have latents that are too {'small' if size < 1 else 'large'} for such samples"
    else:
        end = "So in size they are like such samples; nothing else of their distribution is tested"
    return (
        f"The final latents of normal test images have an NLL of {found:.0f} nats on average. Samples of a standard "
        f"normal with as many numbers ({values}) have {expected:.0f}. In root mean square the numbers of the latents "
        f"are {size:.3f}; 95 % of such samples lie within {near:.3f} of 1. **{end}.** The NLL depends on $z$ by the "
        "sum of its squares alone: it orders the images by how large $z$ is."
    )


def maps_shown(task: Task, maps: Tensor, shown: Tensor) -> str:
    """How bright a few maps are: those of normal images against those of defects, and where the defects' peaks lie.

    maps : [N, H, W], of the task's images. shown : their rows in the picture, int64 [n], normal images among them.
    """
    peaks, labels = maps[shown].flatten(1).amax(dim=1), task.labels[shown]
    normal = peaks[labels == 0].max()
    missed = [task.kinds[i] for i, peak in zip(shown.tolist(), peaks, strict=True) if task.labels[i] and peak <= normal]
    said = f"The maps of the normal images shown reach {float(normal / peaks.max()):.0%} of the largest value shown. "
    said += (
        f"No brighter than that anywhere: {enumerated(missed)}." if missed else "Each defect shown has a brighter spot."
    )
    if masked := [i for i in shown.tolist() if task.masks[i].any()]:
        inside = sum(bool(task.masks[i].flatten()[maps[i].argmax()]) for i in masked)
        said += f" The brightest pixel lies in the mask in {inside} of the {len(masked)} images that have one."
    return said


def moved_in_rank(control: Tensor, score: Tensor, labels: Tensor) -> str:
    """How many images a score [N] ranks on the right side of their rank by the control [N]; labels [N] in {0, 1}."""
    moved, anomalous = rankdata(score) - rankdata(control), np.asarray(labels) == 1
    return (
        f"On the right, {int((moved[anomalous] > 0).sum())} of {int(anomalous.sum())} anomalous images are above the "
        f"diagonal, and {int((moved[~anomalous] < 0).sum())} of {int((~anomalous).sum())} normal ones below it."
    )


def against_features(difference: Effect, other: Effect | None, category: str, table: pd.DataFrame) -> str:
    """InvAD minus the same score without diffusion, and minus that of features standardised on ``category`` alone.

    The second is the gain by diffusion minus the gain by that standardisation, so its sign says which is larger.
    ``table`` : of `inversion.Controls`.
    """
    said = "**" + compared("InvAD", difference, "the same score without diffusion") + "**. "
    if other is None:
        return said
    auroc, found = table.set_index("label")["I-AUROC"], relation(*other[1:])
    said += (
        f"Without diffusion, standardising on {category} alone gives {auroc[ONE_CATEGORY]:.3f}; InvAD has "
        f"{auroc['InvAD']:.3f}, "
    )
    if relation(*difference[1:]) != "above":
        return said + f"which is {found} it: {signed(other)}. "
    if found.startswith("not"):
        return said + (
            f"and no gain is shown: {signed(other)}. That choice of standardisation alone takes the score without "
            f"diffusion from {auroc['no diffusion']:.3f} to {auroc[ONE_CATEGORY]:.3f}. "
        )
    one, two = "the diffusion", "this choice of standardisation"
    more, less = (one, two) if found == "above" else (two, one)
    return said + f"which is {found} it: {signed(other)}. So {more} does more than {less}. "


def which_matters_more(bounds: Mapping[tuple[str, str], Effect]) -> str:
    """The two bounds of `range_bounds` and what they decide.

    The noise level matters more if all of the lower bound's interval is above zero, the number of steps if all of the
    upper bound's is below.
    """
    lower, upper = bounds.values()
    if relation(*lower[1:]) == "above":
        end = "So the noise level matters more here"
    elif relation(*upper[1:]) == "below":
        end = "So the number of inversion steps matters more here"
    else:
        end = "So it is not decided which matters more"
    return (
        "The range of I-AUROC over noise levels minus that over inversion steps lies between these two bounds: "
        f"{signed(lower)} and {signed(upper)}. **{end}.**"
    )


def over_training(
    curve: pd.DataFrame, task: Task, scores: Mapping[str, Tensor], without_skip: Tensor | None, trainings: int
) -> str:
    """What `inversion.training_curves` shows of InvAD, and of the network in the paper's form.

    Parameters
    ----------
    curve, without_skip : of `inversion.training_curves`.
    scores : of `inversion.Controls`.
    trainings : how many the picture shows.
    """
    own = curve[curve["network"] == curve["network"].iloc[0]]
    steps, values = own["step"].tolist(), own["I-AUROC"].tolist()
    said = [
        f"InvAD goes from {values[0]:.3f} untrained to {values[-1]:.3f}",
        f"From step {steps[-2]} to {steps[-1]} it changes by {values[-1] - values[-2]:+.3f}",
    ]
    if without_skip is None:
        said.append("A network without the skip connection, the paper's form, is not trained in this run")
    else:
        rivals = {"InvAD": "InvAD", "no diffusion": "the score without diffusion"}
        rivals |= {"trivial baseline": "the trivial baseline"}
        effects = {words: task.difference(without_skip, scores[name]) for name, words in rivals.items()}
        network = f"the network without the skip connection, the paper's form, after {steps[-1]} steps"
        said.append(detects(network[0].upper() + network[1:], effects))
        shows = {"above": "finds more than", "below": "finds less than"}.get(
            relation(*effects["the score without diffusion"][1:]), "is not shown to find more than"
        )
        said.append(f"So at this length the paper's form of network {shows} the features alone")
        said += _start_and_end(curve, own)
    more = " With three or more, the picture shows how much trainings differ." if trainings < 3 else ""
    return (
        f"{'. '.join(said)}. Number of trainings shown: {trainings}.{more} The learning rate falls to 0 at the end, so "
        "an earlier point is not the result of a complete training of that length."
    )


def _start_and_end(curve: pd.DataFrame, own: pd.DataFrame) -> list[str]:
    """Sentences on the first and the last point without the skip connection; none where these are one point."""
    without = curve[curve["network"].str.contains("no skip connection")]
    if len(without) < 2:
        return []
    first, last = without.iloc[0], without.iloc[-1]
    start, end = (f"{p['I-AUROC']:.3f} [{p['low']:.3f}, {p['high']:.3f}]" for p in (first, last))
    beside = own.set_index("step").loc[first["step"], "I-AUROC"]
    if last["high"] < first["low"]:
        change = ["**in this training more steps made it worse**", "Why is not known"]
    elif last["low"] > first["high"]:
        change = ["in this training more steps made it better"]
    else:
        change = ["the two intervals overlap, so a change by more steps is not shown"]
    at = f"At step {first['step']} it was at {start} (InvAD {beside:.3f}); after {last['step']} steps it is at {end}"
    return [f"{at}: {change[0]}", *change[1:]]


def answer(
    task: Task,
    scores: Mapping[str, Tensor],
    predictions: Mapping[str, Prediction] | None = None,
    without_skip: Tensor | None = None,
) -> str:
    """The notebook's two questions and what this run answers.

    Parameters
    ----------
    scores : of `inversion.Controls`.
    predictions : of `class_rows`. With those of a network for one category, the fairest pair is in the answer: the same
        standardisation with diffusion and without.
    without_skip : scores [N] of `training_curves`, of the network in the paper's form; None where it is not trained.
    """
    called, category = {"no diffusion": "the features alone"}, task.name.split("/")[-1]
    if ONE_CATEGORY in scores:
        called = {
            "no diffusion": "the features alone, standardised over all categories",
            ONE_CATEGORY: f"those standardised on {category} alone",
        }
    effects = {words: task.difference(scores["InvAD"], scores[name]) for name, words in called.items()}
    trivial = {"the trivial baseline": task.difference(scores["InvAD"], scores["trivial baseline"])}
    pair = fairest_pair(task, predictions or {})
    tested = [*effects.values(), *([] if pair is None else [pair])]
    above = [relation(*effect[1:]) == "above" for effect in tested]
    head = "Yes." if all(above) else "Only in part." if any(above) else "Not shown."
    said = f"{head} {detects('InvAD', effects)}. "
    if pair is not None:
        single = detects(f"InvAD trained on {category} alone", {"its own features": pair})
        said += f"The fairest pair has one category and one standardisation: {single}. "
    if len(tested) > 1:
        said += (
            f"A gain is shown in {sum(above) or 'none'} of these {len(tested)} comparisons; a yes takes all of them, "
            "the verdict on claim C37 only the first. "
        )
    if without_skip is not None:
        paper = {next(iter(effects)): task.difference(without_skip, scores["no diffusion"])}
        said += f"All this is with a skip connection. {detects('Without it, as in the paper, the network', paper)}. "
    return (
        f"**Does it find defects?** On {task.name} {detects('InvAD', trivial)}. **Is it really the inversion that "
        f"finds them, or would the features alone do?** {said}These are 95 % intervals over images, of one "
        "training each."
    )


def fairest_pair(task: Task, predictions: Mapping[str, Prediction]) -> Effect | None:
    """I-AUROC of the network for one category minus that of its own features; None where `class_rows` has no such."""
    if "one category, InvAD" not in predictions:
        return None
    return task.difference(predictions["one category, InvAD"].score, predictions["one category, no diffusion"].score)


def classes_in_words(task: Task, predictions: Mapping[str, Prediction]) -> str:
    """What the predictions of `class_rows` show: unified against one category, and each against its control."""

    def versus(one: str, other: str) -> Effect:
        return task.difference(predictions[one].score, predictions[other].score)

    said = [compared("The unified network", versus("unified, InvAD", "unified, no diffusion"), "its control")]
    own = fairest_pair(task, predictions)
    if own is not None:
        single = versus("unified, InvAD", "one category, InvAD")
        said.append(compared("The network for one category", own, "its control"))
        said.append(compared("The unified network", single, "the network for one category"))
    else:
        said.append("No second network was trained on this category alone, so there is nothing to compare with")
    return ". ".join(said) + "."


def findings(found: Mapping[tuple[str, str], Effect], task: Task, subset: Task, note: str) -> list[dict]:
    """What the sections found, as rows of ``claims.json``.

    Parameters
    ----------
    found : (claim, measure) -> effect.
    task, subset : whose numbers of images stand behind the claims; `OF_THE_SWEEPS` those of the latter.
    note : a restriction that holds for all of them.
    """
    images = {claim: len((subset if claim in OF_THE_SWEEPS else task).labels) for claim in SECTIONS}
    return [
        claims.finding(claim, *effect, images[claim], measure=measure, section=SECTIONS[claim], note=note)
        for (claim, measure), effect in found.items()
    ]
