"""The sentences under the figures of notebook 05: what each shows, and what it does not, with the numbers of the run.

Every function takes what was measured and returns Markdown; the wording follows the interval, so that it is true for
every outcome. Used by notebook 05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from diffad_utils.analyses.score_claims import MAIN, Effect, compared, signed
from diffad_utils.analyses.score_detection import Controls, largest_inside
from diffad_utils.analyses.score_matching import Fields
from diffad_utils.analyses.score_process import Trace, bound_acted
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm.base import ScoreMatchingDetector


def _defect_area(task: Task) -> float:
    """Median share of an image that its defect covers."""
    return float(task.masks[task.with_masks & (task.labels == 1)].float().mean(dim=(1, 2)).median())


# --- part 1: what is the variance? ------------------------------------------------------------------------------------


def problem(task: Task) -> str:
    normal, anomalous = (int((task.labels == value).sum()) for value in (0, 1))
    size = f" A defect covers {_defect_area(task):.1%} of its image in the median." if task.has_masks else ""
    return (
        f"{len(task.train)} normal images are there to learn from, {normal} normal and {anomalous} anomalous ones to "
        f"test on.{size} The picture does not show how much normal images vary: that is what a network has to learn."
    )


def one_number(table: pd.DataFrame) -> str:
    peak = table.loc[table["variance"].idxmax()]
    return (
        f"With much noise what is left is largest between the two values, at $X_t$ = {peak['x']:.2f}: there it is "
        f"{peak['variance']:.2f}, and {table['variance'].min():.2f} at the least; the noise has "
        f"{table['noise'].iloc[0]:.2f}. Where "
        "$X_t$ decides for one of the two values, little is left. So the variance says what cannot be known from "
        "$X_t$. It does not say how unusual $X_t$ is: far outside, where no data are, it is small."
    )


def _times(error: float) -> str:
    """An error relative to the truth: "7 %" if it is small, "295 times its size" if it is not."""
    return f"{error:.1%}" if error < 1 else f"{error:.0f} times its size"


def toy_errors(errors: Mapping[str, pd.DataFrame]) -> str:
    parts = []
    for name, table in errors.items():
        worst, where = table.drop(columns="t").max(), table.set_index("t").idxmax()
        parts.append(
            f"**{name}**: the learnt score by eq. 4 is off by at most {_times(worst['SGM (eq. 4)'])} (at t = "
            f"{where['SGM (eq. 4)']}), the learnt variance by {_times(worst['sigma^2'])}. Eq. 3 is off by up to "
            f"{_times(worst['ESM (eq. 3)'])} (at t = {where['ESM (eq. 3)']}), and by "
            f"{_times(worst['ESM, theory'])} with "
            "the exact optimum of eq. 10: that part is no error of training. (Simulated draws agree with (a) to "
            f"{worst['closed form, drawn']:.1%}.)"
        )
    return "\n\n".join(parts)


def toy_fields(fields: Fields, errors: pd.DataFrame) -> str:
    """``errors`` of the same toy, with a row for t = 300."""
    off = float(errors.set_index("t").loc[300, "sigma^2"])
    return (
        "The true variance is largest in the band between the two components, as for one number. The learnt one has "
        f"only a blurred idea of it: it is off by {off:.0%}. The score by eq. 3 is {float(fields.longer.median()):.1f} "
        f"times as long as that by eq. 4 in the median, and longer at {float((fields.longer > 1).double().mean()):.0%} "
        "of the points. Element by element both have the same sign: the variance changes the length of a step, not "
        "its aim."
    )


def toy_ends(table: pd.DataFrame) -> str:
    last, first = table.iloc[-1], table.iloc[0]
    return (
        f"From $T_d$ = {last['T_d']:.0f} SGM keeps {last['SGM']:.0%} of the variance and ESM "
        f"{last['ESM']:.0%} (theory: "
        f"{last['SGM, theory']:.0%} and {last['ESM, theory']:.0%}). SGM ends at the mean of all images that fit the "
        f"noised one, not at one of them. From $T_d$ = {first['T_d']:.0f} both keep nearly the same, "
        f"{first['SGM']:.0%} and {first['ESM']:.0%}."
    )


def printed_objectives(table: pd.DataFrame) -> str:
    gap = (table["DSM"] - table["ESM"]).groupby(table["l"])
    changes = gap.max() - gap.min()
    odd = table[table["l"] % 2 == 1].groupby("l")["DSM"].apply(lambda values: values.is_monotonic_increasing)
    return (
        f"For l = 1 the two printed quantities are the same (largest distance {gap.max()[1]:.0e}). "
        "For l = 2 they differ "
        f"by {gap.max()[2]:.2f} at every b, a term without the network. For l = 3 and 4 the distance changes with b, "
        f"by {changes[3]:.1f} and {changes[4]:.1f}. So the paper's statement about l > 2 holds, and l = 1 agrees as "
        "well as l = 2.\n\nFor odd l the printed quantity "
        f"{'rises with b everywhere' if odd.all() else 'does not rise everywhere'}: to the left it "
        "falls without bound, "
        "so it has no minimiser, and its norm is zero wherever it changes sign. Only even powers could be trained. "
        "Eq. 10, which is trained, has l = 2."
    )


def distance_of_powers(table: pd.DataFrame) -> str:
    distance = table.set_index("l")["distance"]
    return (
        f"Only l = 2 leads to the true score (distance {distance[2]:.0e}). With l = 3 denoising score matching ends "
        f"{distance[3]:.0%} off, with l = 1, a median, {distance[1]:.0%}. This is one skewed mixture: "
        "for Gaussian data "
        "all powers have one centre."
    )


def schedule_of_the_paper(table: pd.DataFrame, printed: Mapping[int, float]) -> str:
    """``table`` : `score_toys.schedule_candidates`; ``printed`` {t: value}."""
    ours = {t: float(table.iloc[t - 1, 1]) for t in printed}
    agree = all(abs(ours[t] / value - 1) < 2e-3 for t, value in printed.items())
    values = ", ".join(f"{ours[t]:.4g} at t = {t} (printed: {value:g})" for t, value in printed.items())
    roots = " and ".join(f"{value**0.5:.3g}" for value in ours.values())
    end = "the formula is a misprint, and the numbers identify the schedule" if agree else "neither fits"
    return (
        f"With DDPM's linear schedule $1-\\bar\\alpha_t$ is {values}; the root, which is the printed formula, would be "
        f"{roots}. So {end}. The figure does not show which schedule the authors' code has."
    )


def training(esm: ScoreMatchingDetector, sgm: ScoreMatchingDetector, given: int, published: int | None) -> str:
    """``given``, ``published`` : T_d of the run's parameters (0: none) and of the paper's tables."""
    chosen = "chosen on held-out normal images with pasted defects"
    source = "as given" if given else "from the paper's tables" if published else chosen
    losses = [*esm.dsm_log_.losses, *sgm.training_log_.losses]
    tail = losses[-50:]
    return (
        f"The loss falls from {losses[0]:.2f} to {sum(tail) / len(tail):.2f} in {len(losses)} steps (mean of the last "
        f"{len(tail)}); to guess no noise at all would give 1. The paper trains far longer. The curve does not say "
        f"whether defects are removed. $T_d$ = {esm.noise_timestep_}, {source}."
    )


def variance_maps(table: pd.DataFrame, images: int) -> str:
    """``table`` : `score_matching.variance_table` of ``images`` images."""
    first, last = table.iloc[0], table.iloc[-1]
    return (
        f"The plaid is not a property of the single image. At t = {first['t']:.0f}, "
        f"{first['same']:.0%} of the variation "
        f"within a map is the same in all {images} images; one pattern of rows and one of columns, added up, explain "
        f"{first['plaid']:.0%}. At t = {last['t']:.0f} it is {last['same']:.0%} and {last['plaid']:.0%}. Textures have "
        "no fixed positions, so there it comes from the borders: autoencoder and network pad with zeros, and cells "
        "near the rim see less of the image. (Where images are aligned, it can also be what they have in common.) "
        "What is the same everywhere cannot mark a defect; only what is left may."
    )


def variance_marks(marks: pd.DataFrame, timestep: int) -> str:
    """``marks`` of `score_matching.what_variance_marks`; the t nearest to T_d = ``timestep`` is put in words."""
    nearest = min(marks["t"], key=lambda t: abs(t - timestep))
    parts = []
    for row in marks[marks["t"] == nearest].itertuples():
        structure = row.measure == "structure"
        what, chance = ("rank correlation with the gradient", 0) if structure else ("pixel AUROC for the mask", 0.5)
        parts.append(
            f"{what} {row.mean:.2f} [{row.low:.2f}, {row.high:.2f}] over {row.images} images, "
            f"{compared((row.mean, row.low, row.high), chance)} {chance}"
        )
    return (
        f"At t = {nearest}, near $T_d$: {'; '.join(parts)}. The links are of this network, trained briefly; (a) would "
        "have the variance follow whatever is hard to guess."
    )


# --- part 2: does it detect? ------------------------------------------------------------------------------------------


def maps(predictions: Mapping[str, Prediction], task: Task) -> str:
    change = {name: float((q.reconstruction - task.images).abs().mean()) for name, q in predictions.items()}
    said = "The reconstruction differs from the image by " + ", ".join(f"{v:.3f} ({n})" for n, v in change.items())
    said += " in the mean over all pixels, of a range of 1: everywhere, not only at defects."
    if not task.has_masks:
        return said + " There are no masks, so nobody can say whether the bright spots are defects."
    marked = task.with_masks & (task.labels == 1)
    hits = {n: largest_inside(q.anomaly_map[marked], task.masks[marked]) for n, q in predictions.items()}
    found = ", ".join(f"{int(hit.sum())} ({n})" for n, hit in hits.items())
    return (
        f"The brightest point of the map lies inside the defect in {found} of {int(marked.sum())} defective images; a "
        f"point at random would in about {_defect_area(task):.1%}. {said}"
    )


def accuracy(results: Mapping[str, Mapping], effects: Mapping[str, list[Effect]], trivial: float) -> str:
    """The main comparison by this run's own training; ``effects`` of `score_detection.comparisons`."""
    auroc = {name: row["I-AUROC"] for name, row in results.items()}
    gain, guided = effects["C44"][0], effects["C46 image"][0]
    return (
        f"**ESM is {compared(gain)} SGM** with this training: I-AUROC {auroc['ESM']:.3f} and {auroc['SGM']:.3f}, "
        f"difference {signed(gain)}. With four detectors for both it is {signed(effects['C47a'][0])}. ESM-sigma is "
        f"{compared(guided)} ESM ({signed(guided)}). The best trivial statistic has {trivial:.3f}. Intervals are over "
        "images; another training may say something else."
    )


def seeds(effects: Mapping[str, list[Effect]]) -> str:
    parts = []
    for key, name in MAIN.items():
        values = [effect.effect for effect in effects[key]]
        if len(values) == 1:
            parts.append(f"{name}: {values[0]:+.3f}, from one training, which cannot say how much trainings differ")
            continue
        same = all(v > 0 for v in values) or all(v < 0 for v in values)
        mean = sum(values) / len(values)
        sign = "the sign is the same each time" if same else "**the sign depends on the seed**"
        parts.append(f"{name}: mean {mean:+.3f}, from {min(values):+.3f} to {max(values):+.3f}; {sign}")
    return ". ".join(parts) + "."


def no_diffusion(found: Controls) -> str:
    parts, alone = [], found.no_diffusion is not found.closed_form
    for name, record in found.no_diffusion.items():
        rivals = {"the autoencoder alone": record} if alone else {}
        rivals["the closed form"] = found.closed_form[name]
        effects = {rival: (row["difference"], row["low"], row["high"]) for rival, row in rivals.items()}
        text = ", ".join(f"{compared(e)} {rival} ({signed(e)})" for rival, e in effects.items())
        parts.append(f"**{name}** is {text}")
    return (
        "; ".join(parts) + ". Where a method is not above a control, what it finds is found as well by autoencoder, "
        "backbone and calibration, or by mean and variance of the training images. The figure does not say that a "
        "larger network could not do better."
    )


def inversion(effects: Mapping[str, Effect], auroc: float, evaluations: tuple[int, int]) -> str:
    """``effects`` of `inversion_effects`, I-AUROC without a network, evaluations of the inversion and of the other."""
    gain, bare = effects["C42"], effects["no network"]
    return (
        f"Inversion is {compared(gain)} the network's own inference ({signed(gain)}), and {compared(bare)} the same "
        f"score without any network ({signed(bare)}; that has {auroc:.3f}). It takes {evaluations[0]} "
        f"evaluations of the network, the way there and back {evaluations[1]}. This is one network, on latents."
    )


def readings(table: pd.DataFrame, gains: Mapping[str, Sequence[float]]) -> str:
    parts = "; ".join(f"{name} {signed(e)} ({compared(e)} zero)" for name, e in gains.items())
    change = table.set_index("name")["change"]
    return (
        f"I-AUROC minus that of the same method as it is: {parts}. With the mean tied to the input the image changes "
        f"by {change['ESM, mean tied to the input']:.4f}, else by {change['ESM']:.4f} (mean over pixels; what the "
        "autoencoder loses is in both). This pull holds for defects as for everything else."
    )


def timesteps(table: pd.DataFrame, ratio: Sequence[float]) -> str:
    best = table.loc[table.groupby("variant")["I-AUROC"].idxmax()].set_index("variant")["T_d"]
    picked = ", ".join(f"{t} for {name}" for name, t in best.items())
    effect, low, high = (2**value for value in ratio[:3])
    return (
        f"The highest points, picked with the test labels, are at $T_d$ = {picked}. To come within 0.02 of its best, "
        f"SGM needs {effect:.2g} times the steps of ESM [{low:.2g}, {high:.2g}]. A few values of $T_d$ on one task say "
        "nothing about other classes."
    )


def strips(paths: Mapping[str, Trace]) -> str:
    high = {n: (float(path.variance_high[0].mean()), float(path.variance_high[-1].mean())) for n, path in paths.items()}
    return (
        f"ESM's largest variance goes from {high['ESM'][0]:.3f} to {high['ESM'][1]:.3f}, SGM's from "
        f"{high['SGM'][0]:.3f} to {high['SGM'][1]:.4f} (means over images). By (a) a variance at its "
        "optimum is at most "
        "$1-\\bar\\alpha_t$ on average and must fall with it; what holds ESM's up in the end is the bound of 0.01. "
        "One image cannot say when an image is there."
    )


def settling(settled: Mapping[str, Tensor], effects: Mapping[str, Effect]) -> str:
    gaps = {"state": effects["C49a"], "estimate": effects["estimate"]}
    parts = [
        f"the {kind} comes within 10 % of its end at t = {float(settled[f'ESM, {kind}'].mean()):.0f} in ESM and "
        f"{float(settled[f'SGM, {kind}'].mean()):.0f} in SGM (difference {signed(gap, 1)}, {compared(gap)} zero)"
        for kind, gap in gaps.items()
    ]
    return f"On average {'; '.join(parts)}. That says how early something settles, not how good it is."


def stopping(effects: Mapping[str, Effect]) -> str:
    need, early = effects["C51"], effects["C52"]
    return (
        f"For SGM the full path minus that stopped at t = 50 is {signed(need)} ({compared(need)} "
        "zero); for ESM, stopped "
        f"at t = 50 minus the full path is {signed(early)} ({compared(early)} zero). Other $T_d$ may differ."
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
        f"{words.count('below')}, and not shown to differ from the rest. Highest is {top} "
        f"({rows['I-AUROC'].max():.3f}, "
        f"picked with the test labels). The two detectors with a variance change cos+re by {signed(effects['C56'])}."
        f"{pixel} Scores by $S_U$ and $S_{{KL}}$ have a rank correlation of {ranks.loc['u', 'kl']:.4f}, by $S_U$ and "
        f"$S_{{RE}}$ {ranks.loc['u', 're']:.3f}."
    )


def stability(updates: Mapping[float, Mapping[str, Tensor]], more: Effect) -> str:
    lowest = updates[min(updates)]
    return (
        f"With the lowest bound the variance is at most {max(updates)} on "
        f"{float(lowest['small'].mean()):.1%} of elements "
        f"and steps, and small enough to overshoot on {float(lowest['overshooting'].mean()):.2%}. As the bound is "
        f"relaxed, log10 of ESM's largest change grows by {signed(more, 2)} more than ESM-sigma's. "
        + (
            ""
            if bound_acted(updates)
            else "The bound never mattered in the largest step, so claim C53 gets no verdict. "
        )
        + "Only $T_d$ = 100 is tried."
    )


def logistic(table: pd.DataFrame, effect: Effect) -> str:
    last = table.iloc[-1]
    return (
        f"The network's variance is {0.1 - effect.effect:.0%} off the curve of eq. 12 in the mean "
        "over time and images; "
        f"it ends at {last['network']:.3f}, the curve at {last['eq. 12']:.3f}. Another size of step moves both."
    )


def streams(gap: float, gains: Mapping[str, Sequence[float]]) -> str:
    parts = [f"ESM is {compared(e)} ESM with {name} ({signed(e)})" for name, e in gains.items()]
    same = f"The gradients of eq. 10 with a fixed variance and of SGM's loss differ by {gap:.0e} at most. "
    return same + ("; ".join(parts) + ". These are single trainings." if parts else "No other training was asked for.")


def cost(printed: Sequence[float], effects: Mapping[str, Effect]) -> str:
    """``printed`` : the paper's T_d; ``effects`` of `score_detection.cost_effects`."""
    steps = torch.as_tensor(printed)
    mean = {"ESM": effects["C60b"].effect, "ESM-sigma": effects["ESM-sigma"].effect}
    return (
        f"The printed $T_d$ is {float(steps.mean()):.1f} in the mean and {float(steps.max()):.0f} at most. By the "
        f"seconds measured here ESM with the mean $T_d$ is {mean['ESM']:.1f} times as fast as 1000 steps of SGM's "
        f"network, and ESM-sigma {mean['ESM-sigma']:.1f} times. By counting steps it would be "
        f"{1000 / float(steps.mean()):.1f} times for ESM, by counting networks half of that. Other machines have other "
        "seconds."
    )
