"""The sentences under the figures of notebook 05: what each shows, and what it does not, with the numbers of the run.

Every function takes what was measured and returns Markdown; the wording follows the interval, so that it is true for
every outcome. Those of what needs no images are in `score_toy_sentences`. Used by notebook 05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from torch import Tensor

from diffad_utils.analyses import score_contrast
from diffad_utils.analyses.score_claims import MAIN, Effect, compared
from diffad_utils.analyses.score_detection import Controls, largest_inside
from diffad_utils.analyses.score_map_sentences import cells, darkest, place
from diffad_utils.analyses.score_matching import fixed_pattern
from diffad_utils.analyses.score_process import Trace, bound_acted
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import detects, enumerated, relation, signed, worded
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.study import numbers

# --- part 1: what is the variance? ------------------------------------------------------------------------------------


def problem(task: Task) -> str:
    normal, anomalous = (int((task.labels == value).sum()) for value in (0, 1))
    size = f" The median defect covers {float(task.defect_areas.median()):.1%} of its image." if task.has_masks else ""
    return (
        f"There are {len(task.train)} normal images to learn from, and {normal} normal and {anomalous} defective ones "
        f"to test on.{size} The picture does not show how much normal images vary. That is what a network has to learn."
    )


def chosen(table: pd.DataFrame, tie: float = 0.01) -> str:
    """``table`` : the T_d that were tried, as `noise_level.validate` has them, or the one T_d that is used."""
    if len(table) < 2:
        return f"$T_d$ = {table['noise_timestep'].iloc[0]} was not chosen here, so nothing was tried."
    first, second = table.nlargest(2, "selection").to_dict("records")
    gap = first["selection"] - second["selection"]
    said = (
        f"$T_d$ = {first['noise_timestep']} is taken, with {first['selection']:.3f}; next is "
        f"{second['noise_timestep']} with {second['selection']:.3f}. "
    )
    if gap >= tie:
        return said + "The choice rests on a few pasted defects."
    return (
        said + f"They differ by less than {tie:g}: **this is a tie**, and other pasted defects may reverse the order."
    )


def training(esm: ScoreMatchingDetector, sgm: ScoreMatchingDetector, given: int, published: int | None) -> str:
    """``given``, ``published`` : T_d of the run's parameters (0: none) and of the paper's tables."""
    chosen = "chosen on held-out normal images with pasted defects"
    source = "as given" if given else "from the paper's tables" if published else chosen
    losses = [*esm.dsm_log_.losses, *sgm.training_log_.losses]
    tail = losses[-50:]
    return (
        f"The loss goes from {losses[0]:.2f} to {sum(tail) / len(tail):.2f} in {len(losses)} steps (mean of the last "
        f"{len(tail)}). A network that always predicts zero noise would have 1. The curve does not say whether defects "
        f"are removed. $T_d$ = {esm.noise_timestep_}, {source}."
    )


def variance_maps(
    table: pd.DataFrame,
    ratios: Mapping[int, Tensor],
    shown: Mapping[str, Tensor],
    kinds: Sequence[str],
    most: float = 0.5,
) -> str:
    """``shown``, ``kinds`` : as `score_map_sentences.darkest` has them.

    ``table`` : `score_matching.variance_table` of ``ratios``. A plaid is more than a frame if it explains the share
    ``most`` without the outer fifth of the cells on each side.
    """
    first, last = table.iloc[0], table.iloc[-1]
    images, side = len(ratios[first["t"]]), ratios[first["t"]].shape[-1]
    border = max(1, side // 5)
    inside = {t: fixed_pattern(ratios[t].mean(dim=1)[:, border:-border, border:-border])[1] for t in table["t"]}
    stripes = "Padding can explain a frame at the border. What makes the stripes further in is not tested. "
    if min(inside[first["t"]], inside[last["t"]]) < most:
        stripes = ""
    return (
        f"Part of each map is the same in every image. At t = {first['t']:.0f} this common pattern explains "
        f"{first['same']:.0%} of the variation within the maps of {images} images. A plaid alone, horizontal plus "
        f"vertical stripes, explains {first['plaid']:.0%}. At t = {last['t']:.0f} the two shares are "
        f"{last['same']:.0%} and {last['plaid']:.0%}. Such a pattern can have two causes. Autoencoder and network pad "
        "their inputs with zeros, so cells near the border see less of the image. And aligned images have content in "
        f"common; free textures do not. Without the outer {cells(border)} on each side a plaid explains "
        f"{inside[first['t']]:.0%} at t = {first['t']:.0f} and {inside[last['t']]:.0%} at t = {last['t']:.0f}. "
        f"{stripes}What is the same everywhere cannot mark a defect. Only the rest may. {darkest(shown, kinds)}"
    )


def marks_caption(has_masks: bool) -> str:
    """Of the figure of `score_matching.what_variance_marks`, which has defects only where there are masks."""
    defects, border = (" and to defects (0.5: none)", ", and of the border alone to defects") if has_masks else ("", "")
    return (
        f"Relation of the predicted variance to structure (0: none){defects} inside an image{border}; "
        "bands: 95 % over images."
    )


def variance_marks(marks: pd.DataFrame, timestep: int, ratios: Mapping[int, Tensor]) -> str:
    """``ratios`` : what the marks were measured on.

    ``marks`` of `score_matching.what_variance_marks`; the t nearest to T_d = ``timestep`` is put in words.
    """
    nearest = min(marks["t"], key=lambda t: abs(t - timestep))
    rows = marks[marks["t"] == nearest].set_index("measure")

    def said(measure: str, chance: float) -> str:
        mean, low, high = rows.loc[measure, ["mean", "low", "high"]]
        return f"{numbers.effect((mean, low, high), 2, sign='')}, {relation(low, high, chance)} {chance:g}"

    text = (
        f"At t = {nearest}, the time nearest to $T_d$, the variance's rank correlation with the gradient is "
        f"{said('structure', 0)} ({rows.loc['structure', 'images']} images). "
    )
    if "defect" in rows.index:
        text += (
            f"Its pixel AUROC for the mask is {said('defect', 0.5)} ({rows.loc['defect', 'images']} images). The "
            f"nearness to the border alone, which knows neither image nor network, has {said('border alone', 0.5)}. "
            f"{_more_than_position(rows)} {place(ratios, marks)} "
        )
    else:
        text += "There are no masks, so a relation to defects cannot be measured. "
    return text + (
        "These relations hold for this network, which was trained briefly. At its optimum (a) the variance would be "
        "large wherever the image is hard to guess."
    )


def _more_than_position(rows: pd.DataFrame) -> str:
    """Whether the variance is further from 0.5 than the border alone, on its own side; ``rows`` by measure."""
    mean, low, high = rows.loc["defect minus border alone", ["mean", "low", "high"]]
    side, of_border = (relation(rows.loc[n, "low"], rows.loc[n, "high"], 0.5) for n in ("defect", "border alone"))
    beyond = relation(low, high) == side
    if {side, of_border} == {"above", "below"}:  # a map that is bright in the middle has one minus the border's value
        middle = 1 - rows.loc["border alone", "low" if side == "above" else "high"]
        beyond = beyond and relation(rows.loc["defect", "low"], rows.loc["defect", "high"], middle) == side
    if side.startswith("not"):
        end = "**So no relation of the variance to the defects is shown.**"
    elif beyond:
        end = "**So the variance is related to the defects by more than their place in the image.**"
    else:
        end = (
            "The variance's value is not shown to be further from 0.5 than a map that knows the place alone can be. "
            "**So no relation to the defects themselves is shown.**"
        )
    return f"The first minus the second is {signed((mean, low, high), 2)}. {end}"


# --- part 2: does it detect? ------------------------------------------------------------------------------------------


def maps(predictions: Mapping[str, Prediction], task: Task) -> str:
    change = {name: float((q.reconstruction - task.images).abs().mean()) for name, q in predictions.items()}
    said = "The reconstruction differs from the image by " + ", ".join(f"{v:.3f} ({n})" for n, v in change.items())
    said += " (mean absolute difference over all pixels; images range from 0 to 1). Outside defects it should be 0."
    if not task.has_masks:
        return said + " There are no masks, so it cannot be checked whether the bright spots are defects."
    marked = task.with_masks & (task.labels == 1)
    hits = {n: largest_inside(q.anomaly_map[marked], task.masks[marked]) for n, q in predictions.items()}
    found = ", ".join(f"{int(hit.sum())} ({n})" for n, hit in hits.items())
    return (
        f"Of {int(marked.sum())} defective images, the brightest point of the map lies inside the defect in {found}. A "
        f"random point would do so in {float(task.defect_areas.mean()):.1%} of the images on average, the mean area of "
        f"a defect. {said}"
    )


def accuracy(results: Mapping[str, Mapping], effects: Mapping[str, list[Effect]], trivial: float) -> str:
    """The main comparison by this run's own training; ``effects`` of `score_detection.comparisons`."""
    auroc = {name: row["I-AUROC"] for name, row in results.items()}
    gain, guided = effects["C44"][0], effects["C46 image"][0]
    return (
        f"**ESM is {compared(gain)} SGM** with this training: I-AUROC {auroc['ESM']:.3f} and {auroc['SGM']:.3f}, "
        f"difference {worded(gain)}. With the same four detectors for both the difference is "
        f"{worded(effects['C47a'][0])}. ESM-sigma is {compared(guided)} ESM ({worded(guided)}). The best trivial "
        f"statistic has {trivial:.3f}. Intervals are over images; another training may give another answer."
    )


def seeds(effects: Mapping[str, list[Effect]]) -> str:
    parts, number = [], partial(numbers.number, sign="+")
    if max(len(effects[key]) for key in MAIN) == 1:
        once = "; ".join(f"{name} {worded(effects[key][0])}" for key, name in MAIN.items())
        return f"{once}. This run has one training (`training_seeds`), which cannot say how much trainings differ."
    for key, name in MAIN.items():
        values = [effect.effect for effect in effects[key]]
        same = all(v > 0 for v in values) or all(v < 0 for v in values)
        mean = sum(values) / len(values)
        sign = "the sign is the same each time" if same else "**not all have the same sign**"
        parts.append(f"{name}: mean {number(mean)}, from {number(min(values))} to {number(max(values))}; {sign}")
    weak = "So few trainings are weak evidence, in particular where their intervals include zero."
    return ". ".join(parts) + f". {weak}"


def no_diffusion(found: Controls) -> str:
    parts, alone = [], found.no_diffusion is not found.closed_form
    for name, record in found.no_diffusion.items():
        rivals = {"the autoencoder alone": record} if alone else {}
        rivals["the closed form"] = found.closed_form[name]
        effects = {rival: (row["difference"], row["low"], row["high"]) for rival, row in rivals.items()}
        by_relation: dict[str, list[str]] = {}
        for rival, e in effects.items():
            by_relation.setdefault(compared(e), []).append(f"{rival} ({worded(e)})")
        text = [f"is {r} {enumerated(said, 'or' if r.startswith('not') else 'and')}" for r, said in by_relation.items()]
        parts.append(f"* **{name}** {' and '.join(text)}.")
    return (
        "\n".join(parts) + "\n\nIf a method is not above a control, this run does not show that it finds more than "
        "the autoencoder, the backbone and the calibration do, or than mean and variance of the training images do. "
        "The figure does not say that a larger network could not do better."
    )


def inversion(effects: Mapping[str, Effect], auroc: float, evaluations: tuple[int, int]) -> str:
    """``effects`` of `inversion_effects`, I-AUROC without a network, evaluations of the inversion and of the other."""
    gain, bare = effects["C42"], effects["no network"]
    return (
        f"Inversion is {compared(gain)} the network's own inference ({worded(gain)}). It is {compared(bare)} the "
        f"same score without any network ({worded(bare)}), whose I-AUROC is {auroc:.3f}. Inversion takes "
        f"{evaluations[0]} evaluations of the network, the way there and back {evaluations[1]}. This is one network "
        "on one category."
    )


def readings(table: pd.DataFrame, gains: Mapping[str, Sequence[float]]) -> str:
    parts = "; ".join(f"{name} {worded(e)} ({compared(e)} zero)" for name, e in gains.items())
    change = table.set_index("name")["change"]
    return (
        f"Change of the I-AUROC by each alternative: {parts}. With the mean tied to the input the reconstruction "
        f"differs from the image by {change['ESM, mean tied to the input']:.4f}, otherwise by {change['ESM']:.4f} "
        "(mean over pixels; both include the loss of the autoencoder, if there is one). The pull to the input acts on "
        "defects as on everything else."
    )


def timesteps(table: pd.DataFrame, ratio: Sequence[float]) -> str:
    best = table.loc[table.groupby("variant")["I-AUROC"].idxmax()].set_index("variant")["T_d"]
    picked = ", ".join(f"{t} for {name}" for name, t in best.items())
    effect, low, high = (2**value for value in ratio[:3])
    often = "as many steps" if effect == 1 else f"{effect:.2g} times as many steps"
    worse = [f"{row.variant} at $T_d$ = {row.T_d}" for row in table[table["I-AUROC"] < 0.5].itertuples()]
    below = f" The I-AUROC is below chance, 0.5, for {enumerated(worse)}." if worse else ""
    last = table.groupby("variant")["T_d"].max()
    ends = [name for name, t in best.items() if t == last[name]]
    beyond = f" {last.max()} is the largest tried; the best of {enumerated(ends)} may lie beyond." if ends else ""
    return (
        f"The highest points are at $T_d$ = {picked}; they are picked with the test labels.{beyond}{below} "
        f"To come within 0.02 of its best I-AUROC, SGM needs {often} as ESM (95 % interval [{low:.2g}, {high:.2g}]). "
        "A few values of $T_d$ on one category say nothing about others."
    )


def strips(paths: Mapping[str, Trace], kept: Mapping[str, float]) -> str:
    """``kept`` : `score_contrast.contrast_kept` of the last state of the image that is shown, by method."""
    high = {n: (float(path.variance_high[0].mean()), float(path.variance_high[-1].mean())) for n, path in paths.items()}
    return (
        f"ESM's largest variance goes from {high['ESM'][0]:.3f} to {high['ESM'][1]:.3f}, SGM's from "
        f"{high['SGM'][0]:.3f} to {high['SGM'][1]:.4f} (means over images). By (a) the best variance is at most "
        "$1-\\bar\\alpha_t$ on average, and this bound goes to zero with t; before that, the "
        "variance need not fall at every step. The walk never uses a variance below the paper's bound of 0.01. The "
        "last state keeps "
        + enumerated([f"{numbers.share(share)} ({name})" for name, share in kept.items()])
        + f" of the contrast of the image that is shown. {score_contrast.DEFINED} "
        "One image does not show when images form; the next figure counts over all."
    )


def settling(settled: Mapping[str, Tensor], effects: Mapping[str, Effect]) -> str:
    gaps = {"state": effects["C49a"], "estimate": effects["estimate"]}
    parts = [
        f"the {kind} comes within 10 % of its end at t = {float(settled[f'ESM, {kind}'].mean()):.0f} in ESM and "
        f"{float(settled[f'SGM, {kind}'].mean()):.0f} in SGM (difference {signed(gap, 1)}, {compared(gap)} zero)"
        for kind, gap in gaps.items()
    ]
    return (
        f"On average {'; '.join(parts)}. This says how early something settles, not how good it is: a state that has "
        "settled may still lack the texture of an image, as the strips above may show. The verdicts on C49a and "
        "C49b are about settling alone."
    )


def stopping(effects: Mapping[str, Effect], table: pd.DataFrame) -> str:
    """``table`` : of `score_sweeps.over_stops`."""
    need, early = effects["C51"], effects["C52"]
    largest = []
    for name, rows in table.groupby("method", sort=False):
        change = rows.set_index("t")["I-AUROC"] - rows.set_index("t")["I-AUROC"][0]
        t = change.abs().idxmax()
        largest.append(f"{numbers.number(change[t], sign='+')} at t = {t} ({name})")
    return (
        f"SGM, I-AUROC of the full walk minus that stopped at t = 50: {worded(need)}, {compared(need)} zero. ESM, "
        f"stopped at t = 50 minus the full walk: {worded(early)}, {compared(early)} zero. The largest change by "
        f"stopping early is {enumerated(largest)}; these are picked from the curves, without an interval. With another "
        "$T_d$ this may differ."
    )


def detectors(table: pd.DataFrame, effects: Mapping[str, Effect], ranks: pd.DataFrame) -> str:
    """What `score_sweeps.table_5` found."""
    words = [compared(effect) for key, effect in effects.items() if key.startswith("C55")]
    rows = table[table["method"] == "ESM-sigma"].set_index("detectors")
    top = rows["I-AUROC"].idxmax()
    pixel = ""
    if "P-AUROC" in rows:
        full, two = rows.loc["cos+u+kl+re", "P-AUROC"], rows.loc["cos+re", "P-AUROC"]
        pixel = f" P-AUROC is {full:.3f} with all four and {two:.3f} with cos+re."
    return (
        f"ESM-sigma with all four detectors is above {words.count('above')} of the {len(words)} smaller subsets, below "
        f"{words.count('below')}, and not shown to differ from the rest. The highest is {top} "
        f"({rows['I-AUROC'].max():.3f}, picked with the test labels). Adding the two detectors that use a variance to "
        f"cos+re changes the I-AUROC by {worded(effects['C56'])}."
        f"{pixel} The scores by $S_U$ and $S_{{KL}}$ have a rank correlation of {ranks.loc['u', 'kl']:.4f}, those "
        f"by $S_U$ and $S_{{RE}}$ of {ranks.loc['u', 're']:.3f}; at 1 two detectors rank all images alike."
    )


def stability(updates: Mapping[float, Mapping[str, Tensor]], more: Effect) -> str:
    lowest, highest = updates[min(updates)], updates[max(updates)]
    grows = {n: 10 ** float((lowest[n].log10() - highest[n].log10()).mean()) for n in ("ESM", "ESM-sigma")}
    grown = {n: f"{g:.3g} times as large" if f"{g:.3g}" != "1" else "as large as before" for n, g in grows.items()}
    ratio = [10**value for value in more[:3]]
    small, overshooting = (float(lowest[name].mean()) for name in ("small", "overshooting"))
    return (
        f"With the lowest bound the variance is at most {max(updates)} on {numbers.share(small, 1)} of all elements "
        f"and steps, and small enough to overshoot on {numbers.share(overshooting, 2)} of them. With that bound "
        f"instead of {max(updates):g}, ESM's largest step is {grown['ESM']}, and ESM-sigma's "
        f"is {grown['ESM-sigma']}. ESM's factor is {ratio[0]:.3g} times ESM-sigma's "
        f"(95 % interval [{ratio[1]:.3g}, {ratio[2]:.3g}]). "
        + (
            ""
            if bound_acted(updates)
            else "No step could overshoot, so instability was not tested: no verdict on C53. "
        )
        + "Only $T_d$ = 100 is tried."
    )


def logistic(table: pd.DataFrame, effect: Effect) -> str:
    last = table.iloc[-1]
    return (
        f"The network's variance is {0.1 - effect.effect:.0%} off the curve of eq. 12 in the mean "
        f"over time and images. It ends at {last['network']:.3f}, the curve at {last['eq. 12']:.3f}. Another step "
        "size would change both."
    )


def streams(same: Effect, gains: Mapping[str, Sequence[float]]) -> str:
    """``same`` : `score_claims.identity` of the gradients; ``gains`` : of ESM over the other trainings."""
    parts = [f"ESM is {compared(e)} ESM with {name} ({worded(e)})" for name, e in gains.items()]
    gradients = f"The gradients of eq. 10 with a fixed variance and of SGM's loss are {same.note}. "
    return gradients + (
        "; ".join(parts) + ". Each is a single training."
        if parts
        else "This run tests the fixed variance alone; the other two were not trained (`two_heads`)."
    )


def cost(printed: Sequence[float], effects: Mapping[str, Effect]) -> str:
    """``printed`` : the paper's T_d; ``effects`` of `score_detection.cost_effects`."""
    mean_step = sum(printed) / len(printed)
    mean = {"ESM": effects["C60b"].effect, "ESM-sigma": effects["ESM-sigma"].effect}
    return (
        f"The $T_d$ that the paper prints are {mean_step:.1f} in the mean and {max(printed):.0f} at "
        f"most. By the seconds measured here, ESM with the mean $T_d$ is {mean['ESM']:.1f} times as fast as 1000 "
        f"steps of SGM's network, and ESM-sigma {mean['ESM-sigma']:.1f} times. Counting steps, ESM would be "
        f"{1000 / mean_step:.1f} times as fast; counting evaluations of single networks, {500 / mean_step:.1f} times. "
        "Another machine would give other seconds."
    )


# --- the answer -------------------------------------------------------------------------------------------------------


def main_result(
    task: Task, scores: Mapping[str, Tensor], controls: Controls, trivial: TrivialBaseline, gains: Sequence[Effect]
) -> str:
    """The main question in short; arguments as those of `answer`."""
    network = _network_helps(_against_controls(task, scores, controls, trivial))
    return (
        f"**The main result.** Does dividing by the variance help? {_dividing_helps(gains[0])} ESM minus SGM is "
        f"{worded(gains[0])} I-AUROC, with this training. Does the trained network help? {network}"
    )


def _dividing_helps(gain: Effect) -> str:
    heads = {"above": "Here it does.", "below": "Here it does not; it costs accuracy."}
    return heads.get(compared(gain), "Not shown here.")


def _against_controls(
    task: Task, scores: Mapping[str, Tensor], controls: Controls, trivial: TrivialBaseline
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """I-AUROC of each method minus that of each rival without a trained network, with its interval."""
    rows = {"the closed form": controls.closed_form}
    if controls.no_diffusion is not controls.closed_form:
        rows = {"the autoencoder alone": controls.no_diffusion} | rows
    return {
        name: {c: (r[name]["difference"], r[name]["low"], r[name]["high"]) for c, r in rows.items()}
        | {"the trivial baseline": task.difference(scores[name], trivial.chosen.score)[:3]}
        for name in controls.closed_form
    }


def _network_helps(by_method: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> str:
    helped = [n for n, without in by_method.items() if all(compared(e) == "above" for e in without.values())]
    rivals = list(next(iter(by_method.values())))
    found = enumerated(helped) if helped else f"none of {enumerated(list(by_method))}"
    return f"That takes a method above {enumerated(rivals)}: here {found}."


def answer(
    task: Task, scores: Mapping[str, Tensor], controls: Controls, trivial: TrivialBaseline, gains: Sequence[Effect]
) -> str:
    """The notebook's two questions and what this run answers.

    Parameters
    ----------
    scores : of the methods [N], by name.
    gains : I-AUROC of ESM minus SGM, an effect for each training, the run's own first.
    """
    said, by_method = [], _against_controls(task, scores, controls, trivial)
    for name, without in by_method.items():
        if name == "SGM":
            continue
        rivals = {"SGM, which predicts no variance": task.difference(scores[name], scores["SGM"])} | without
        said.append(detects(name, rivals, worded) + ".")
    values = [gain.effect for gain in gains]
    ends = " to ".join(numbers.number(value, sign="+") for value in (min(values), max(values)))
    several = f"Over {len(gains)} trainings ESM minus SGM goes from {ends}."
    return (
        "**What is the variance?** It is what cannot be known of the image once only its noised version is seen. "
        f"**Does dividing by it help to detect defects?** {_dividing_helps(gains[0])} "
        f"On {task.name}, by the 95 % intervals over images: {' '.join(said)} "
        f"{several if len(gains) > 1 else 'This is one training.'} "
        f"**Does the trained network help?** {_network_helps(by_method)}"
    )
