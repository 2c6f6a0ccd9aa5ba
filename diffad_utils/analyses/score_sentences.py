"""The sentences under the figures of notebook 05: what each shows, and what it does not, with the numbers of the run.

Every function takes what was measured and returns Markdown; the wording follows the interval, so that it is true for
every outcome. Used by notebook 05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from torch import Tensor

from diffad_utils.analyses.score_claims import MAIN, Effect, compared
from diffad_utils.analyses.score_detection import Controls, largest_inside
from diffad_utils.analyses.score_matching import Fields
from diffad_utils.analyses.score_process import Trace, bound_acted
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import detects, relation, signed
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


def one_number(table: pd.DataFrame) -> str:
    peak = table.loc[table["variance"].idxmax()]
    return (
        f"In the lower row the variance $\\sigma_t^2$ is largest between the two values, at $X_t$ = {peak['x']:.2f}. "
        f"There it is {peak['variance']:.2f}; its smallest value is {table['variance'].min():.2f}, and the noise has "
        f"{table['noise'].iloc[0]:.2f}. Where $X_t$ points to one of the two values, the variance is small. So it says "
        "what cannot be known from $X_t$. It does not say how unusual $X_t$ is: far outside, where there are no data, "
        "it is small."
    )


def _times(error: float) -> str:
    """An error relative to the truth: "7 %" if it is small, "295 times its size" if it is not."""
    return f"{error:.1%}" if error < 1 else f"{error:.0f} times its size"


def toy_errors(errors: Mapping[str, pd.DataFrame]) -> str:
    parts = []
    for name, table in errors.items():
        worst, where = table.drop(columns="t").max(), table.set_index("t").idxmax()
        parts.append(
            f"**{name}**: the learnt score of eq. 4 is off by at most {_times(worst['SGM (eq. 4)'])} (at t = "
            f"{where['SGM (eq. 4)']}), the learnt variance by {_times(worst['sigma^2'])}. Eq. 3 is off by up to "
            f"{_times(worst['ESM (eq. 3)'])} (at t = {where['ESM (eq. 3)']}), and by "
            f"{_times(worst['ESM, theory'])} with the exact optimum of eq. 10, where training plays no part. (As a "
            f"check, simulated data agree with (a) to {worst['closed form, drawn']:.1%}.)"
        )
    return "\n\n".join(parts)


def toy_fields(fields: Fields, errors: pd.DataFrame) -> str:
    """``errors`` of the same toy, with a row for t = 300."""
    off = float(errors.set_index("t").loc[300, "sigma^2"])
    return (
        "The true variance is largest in the band between the two components, as for one number. The learnt one is "
        f"off by {off:.0%}. The score of eq. 3 is {float(fields.longer.median()):.1f} "
        f"times as long as that of eq. 4 in the median, and longer at {float((fields.longer > 1).double().mean()):.0%} "
        "of the points. In each coordinate both have the same sign: the variance makes a step longer or shorter, but "
        "does not reverse it."
    )


def toy_ends(table: pd.DataFrame) -> str:
    last, first = table.iloc[-1], table.iloc[0]
    return (
        f"From $T_d$ = {last['T_d']:.0f} SGM keeps {last['SGM']:.0%} of the variance and ESM "
        f"{last['ESM']:.0%} (theory: {last['SGM, theory']:.0%} and {last['ESM, theory']:.0%}). SGM ends near the mean "
        f"of all signals that fit the noised one, not at one of them. From $T_d$ = {first['T_d']:.0f} they keep "
        f"{first['SGM']:.0%} and {first['ESM']:.0%}."
    )


def printed_objectives(table: pd.DataFrame) -> str:
    gap = (table["DSM"] - table["ESM"]).groupby(table["l"])
    changes = gap.max() - gap.min()
    odd = table[table["l"] % 2 == 1].groupby("l")["DSM"].apply(lambda values: values.is_monotonic_increasing)
    return (
        f"For l = 1 the two printed quantities are the same (largest distance {gap.max()[1]:.0e}). "
        f"For l = 2 they differ by {gap.max()[2]:.2f} at every b, so the best network is the same. For l = 3 and 4 "
        f"the distance changes with b, by {changes[3]:.1f} and {changes[4]:.1f}. So the paper's statement about l > 2 "
        "holds, and l = 1 agrees as well as l = 2.\n\nFor odd l the printed quantity "
        f"{'rises with b everywhere' if odd.all() else 'does not rise everywhere'}. Such an odd power falls without "
        "bound to the left, so it has no lowest point; its norm is zero wherever it changes sign. Only even powers "
        "could be trained. Eq. 10, which is trained, has l = 2."
    )


def distance_of_powers(table: pd.DataFrame) -> str:
    distance = table.set_index("l")["distance"]
    return (
        f"Only l = 2 leads to the true score (distance {distance[2]:.0e}). With l = 3 denoising score matching ends "
        f"{distance[3]:.0%} off, and with l = 1 {distance[1]:.0%}. This is one skewed mixture. For Gaussian data all "
        "powers lead to the same score."
    )


def schedule_of_the_paper(table: pd.DataFrame, printed: Mapping[int, float]) -> str:
    """``table`` : `score_toys.schedule_candidates`; ``printed`` {t: value}."""
    ours = {t: float(table.iloc[t - 1, 1]) for t in printed}
    agree = all(abs(ours[t] / value - 1) < 2e-3 for t, value in printed.items())
    values = ", ".join(f"{ours[t]:.4g} at t = {t} (printed: {value:g})" for t, value in printed.items())
    roots = " and ".join(f"{value**0.5:.3g}" for value in ours.values())
    end = "the printed formula is a misprint, and the numbers fit this schedule" if agree else "neither formula fits"
    return (
        f"With DDPM's linear schedule $1-\\bar\\alpha_t$ is {values}; the root, which is the printed formula, would be "
        f"{roots}. So {end}. The figure does not show which schedule the authors' code uses."
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


def variance_maps(table: pd.DataFrame, images: int) -> str:
    """``table`` : `score_matching.variance_table` of ``images`` images."""
    first, last = table.iloc[0], table.iloc[-1]
    return (
        f"Part of each map is the same in every image. At t = {first['t']:.0f} this common pattern explains "
        f"{first['same']:.0%} of the variation within the maps of {images} images. A plaid alone, horizontal plus "
        f"vertical stripes, explains {first['plaid']:.0%}. At t = {last['t']:.0f} the two shares are "
        f"{last['same']:.0%} and {last['plaid']:.0%}. Such a pattern can have two causes. Autoencoder and network pad "
        "their inputs with zeros, so cells near the border see less of the image. And aligned images have content in "
        "common; free textures do not. What is the same everywhere cannot mark a defect. Only the rest may."
    )


def variance_marks(marks: pd.DataFrame, timestep: int) -> str:
    """``marks`` of `score_matching.what_variance_marks`; the t nearest to T_d = ``timestep`` is put in words."""
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
            f"{_more_than_position(rows)} "
        )
    return text + (
        "These relations hold for this network, which was trained briefly. At its optimum (a) the variance would be "
        "large wherever the image is hard to guess."
    )


def _more_than_position(rows: pd.DataFrame) -> str:
    """Whether the variance is further from 0.5 than the border alone, on its own side; ``rows`` by measure."""
    mean, low, high = rows.loc["defect minus border alone", ["mean", "low", "high"]]
    side = relation(rows.loc["defect", "low"], rows.loc["defect", "high"], 0.5)
    if not side.startswith("not") and relation(low, high) == side:
        end = "**So the variance is related to the defects by more than their place in the image.**"
    elif side.startswith("not"):
        end = "**So no relation of the variance to the defects is shown.**"
    else:
        end = (
            "**So the place of the defects is enough to explain the variance's value, and no relation to the defects "
            "themselves is shown.**"
        )
    return f"The first minus the second is {signed((mean, low, high), 2)}. {end}"


# --- part 2: does it detect? ------------------------------------------------------------------------------------------


def maps(predictions: Mapping[str, Prediction], task: Task) -> str:
    change = {name: float((q.reconstruction - task.images).abs().mean()) for name, q in predictions.items()}
    said = "The reconstruction differs from the image by " + ", ".join(f"{v:.3f} ({n})" for n, v in change.items())
    said += " (mean absolute difference over all pixels; images range from 0 to 1). A change outside defects is wrong."
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
        f"difference {signed(gain)}. With the same four detectors for both the difference is "
        f"{signed(effects['C47a'][0])}. ESM-sigma is {compared(guided)} ESM ({signed(guided)}). The best trivial "
        f"statistic has {trivial:.3f}. Intervals are over images; another training may give another answer."
    )


def seeds(effects: Mapping[str, list[Effect]]) -> str:
    parts, number = [], partial(numbers.number, sign="+")
    for key, name in MAIN.items():
        values = [effect.effect for effect in effects[key]]
        if len(values) == 1:
            parts.append(f"{name}: {number(values[0])}, from one training, which cannot say how much trainings differ")
            continue
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
        text = " and ".join(f"{compared(e)} {rival} ({signed(e)})" for rival, e in effects.items())
        parts.append(f"* **{name}** is {text}.")
    return (
        "\n".join(parts) + "\n\nIf a method is not above a control, this run does not show that it finds more than "
        "the autoencoder, the backbone and the calibration do, or than mean and variance of the training images do. "
        "The figure does not say that a larger network could not do better."
    )


def inversion(effects: Mapping[str, Effect], auroc: float, evaluations: tuple[int, int]) -> str:
    """``effects`` of `inversion_effects`, I-AUROC without a network, evaluations of the inversion and of the other."""
    gain, bare = effects["C42"], effects["no network"]
    return (
        f"Inversion is {compared(gain)} the network's own inference ({signed(gain)}). It is {compared(bare)} the "
        f"same score without any network ({signed(bare)}), whose I-AUROC is {auroc:.3f}. Inversion takes "
        f"{evaluations[0]} evaluations of the network, the way there and back {evaluations[1]}. This is one network "
        "on one category."
    )


def readings(table: pd.DataFrame, gains: Mapping[str, Sequence[float]]) -> str:
    parts = "; ".join(f"{name} {signed(e)} ({compared(e)} zero)" for name, e in gains.items())
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
    return (
        f"The highest points are at $T_d$ = {picked}; they are picked with the test labels. To come within 0.02 of its "
        f"best I-AUROC, SGM needs {effect:.2g} times the steps of ESM (95 % interval [{low:.2g}, {high:.2g}]). A few "
        "values of $T_d$ on one category say nothing about others."
    )


def strips(paths: Mapping[str, Trace]) -> str:
    high = {n: (float(path.variance_high[0].mean()), float(path.variance_high[-1].mean())) for n, path in paths.items()}
    return (
        f"ESM's largest variance goes from {high['ESM'][0]:.3f} to {high['ESM'][1]:.3f}, SGM's from "
        f"{high['SGM'][0]:.3f} to {high['SGM'][1]:.4f} (means over images). By (a) the best variance is at most "
        "$1-\\bar\\alpha_t$ on average, so it must fall with it. The walk, however, never uses a variance below the "
        "paper's bound of 0.01. One image does not show when images form; the next figure counts over all."
    )


def settling(settled: Mapping[str, Tensor], effects: Mapping[str, Effect]) -> str:
    gaps = {"state": effects["C49a"], "estimate": effects["estimate"]}
    parts = [
        f"the {kind} comes within 10 % of its end at t = {float(settled[f'ESM, {kind}'].mean()):.0f} in ESM and "
        f"{float(settled[f'SGM, {kind}'].mean()):.0f} in SGM (difference {signed(gap, 1)}, {compared(gap)} zero)"
        for kind, gap in gaps.items()
    ]
    return f"On average {'; '.join(parts)}. This says how early something settles, not how good it is."


def stopping(effects: Mapping[str, Effect]) -> str:
    need, early = effects["C51"], effects["C52"]
    return (
        f"SGM, I-AUROC of the full walk minus that stopped at t = 50: {signed(need)}, {compared(need)} zero. ESM, "
        f"stopped at t = 50 minus the full walk: {signed(early)}, {compared(early)} zero. With another $T_d$ this may "
        "differ."
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
        f"cos+re changes the I-AUROC by {signed(effects['C56'])}."
        f"{pixel} The scores by $S_U$ and $S_{{KL}}$ have a rank correlation of {ranks.loc['u', 'kl']:.4f}, those "
        f"by $S_U$ and $S_{{RE}}$ of {ranks.loc['u', 're']:.3f}; at 1 two detectors rank all images alike."
    )


def stability(updates: Mapping[float, Mapping[str, Tensor]], more: Effect) -> str:
    lowest = updates[min(updates)]
    small, overshooting = (float(lowest[name].mean()) for name in ("small", "overshooting"))
    return (
        f"With the lowest bound the variance is at most {max(updates)} on {numbers.share(small, 1)} of all elements "
        f"and steps, and small enough to overshoot on {numbers.share(overshooting, 2)} of them. As the bound is "
        f"relaxed, the largest change of ESM minus that of ESM-sigma, both as log10, moves by {signed(more, 2)}. "
        + (
            ""
            if bound_acted(updates)
            else "No step could overshoot, nor was the variance small in the largest one. So C53 gets no verdict. "
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
    parts = [f"ESM is {compared(e)} ESM with {name} ({signed(e)})" for name, e in gains.items()]
    gradients = f"The gradients of eq. 10 with a fixed variance and of SGM's loss are {same.note}. "
    return gradients + (
        "; ".join(parts) + ". Each is a single training." if parts else "No other training was asked for."
    )


def cost(printed: Sequence[float], effects: Mapping[str, Effect]) -> str:
    """``printed`` : the paper's T_d; ``effects`` of `score_detection.cost_effects`."""
    mean_step = sum(printed) / len(printed)
    mean = {"ESM": effects["C60b"].effect, "ESM-sigma": effects["ESM-sigma"].effect}
    return (
        f"The $T_d$ that the paper prints are {mean_step:.1f} in the mean and {max(printed):.0f} at "
        f"most. By the seconds measured here, ESM with the mean $T_d$ is {mean['ESM']:.1f} times as fast as 1000 "
        f"steps of SGM's network, and ESM-sigma {mean['ESM-sigma']:.1f} times. Counting steps, ESM would be "
        f"{1000 / mean_step:.1f} times as fast; counting evaluations of single networks, half of that. "
        "Another machine would give other seconds."
    )


# --- the answer -------------------------------------------------------------------------------------------------------


def answer(
    task: Task, scores: Mapping[str, Tensor], controls: Controls, trivial: TrivialBaseline, gains: Sequence[Effect]
) -> str:
    """The notebook's two questions and what this run answers.

    Parameters
    ----------
    scores : of the methods [N], by name.
    gains : I-AUROC of ESM minus SGM, an effect for each training, the run's own first.
    """
    control = "the closed form" if controls.no_diffusion is controls.closed_form else "the autoencoder alone"
    said = []
    for name in ("ESM", "ESM-sigma"):
        row = controls.no_diffusion[name]
        rivals = {"SGM, which predicts no variance": task.difference(scores[name], scores["SGM"])}
        rivals[control] = (row["difference"], row["low"], row["high"])
        rivals["the trivial baseline"] = task.difference(scores[name], trivial.chosen.score)
        said.append(detects(name, rivals) + ".")
    heads = {"above": "Here it does.", "below": "Here it does not; it costs accuracy."}
    head = heads.get(compared(gains[0]), "Not shown here.")
    values = [gain.effect for gain in gains]
    ends = " to ".join(numbers.number(value, sign="+") for value in (min(values), max(values)))
    others = f" Over {len(gains)} trainings ESM minus SGM goes from {ends}."
    return (
        "**What is the variance?** It is what cannot be known of the image once only its noised version is seen. "
        f"**Does dividing by it help to detect defects?** {head} On {task.name}, by the 95 % intervals over images: "
        f"{' '.join(said)}{others if len(gains) > 1 else ' This is one training.'}"
    )
