"""Effects of notebook 06 on the claims: measure -> draws [n + 1] (or value, low, high), larger speaks for the claim.

The words of each measure are those that ``data/published/claims.csv`` fixes. "Better than every" gives an effect for
each rival, never one for the best of them.

Used by notebook 06; one function a claim or pair of claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd
from torch import Tensor

from diffad_utils.analyses.d3ad_study import Thirds, means
from diffad_utils.analyses.paired_comparison import SIZES, BootstrapQuality
from diffad_utils.analyses.task import Task
from diffad_utils.metrics import bootstrap

Effects = dict[str, np.ndarray]
DYNAMIC = "dynamic"


def mean_of(quality: BootstrapQuality) -> str:
    """ "mean of I-AUROC, P-AUROC, AUPRO": what ``quality[name]`` is."""
    return f"mean of {', '.join(quality.metrics)}"


def detection_and_place(quality: BootstrapQuality) -> Effects:
    """Mean of I-AUROC and, where there are masks, P-AUROC of each variant."""
    return {
        name: np.mean([draws for metric, draws in found.items() if metric != "AUPRO"], axis=0)
        for name, found in quality.values.items()
    }


def inversion(quality: BootstrapQuality, own: str, inverted: str) -> Effects:
    """C42, of two variants by name."""
    both = detection_and_place(quality)
    return {"mean of I-AUROC and P-AUROC, with inversion minus with its own inference": both[inverted] - both[own]}


def beyond_plain(quality: BootstrapQuality, inverted: str, plain: str) -> Effects:
    """The control of C42: inversion minus the same score without any diffusion."""
    both = detection_and_place(quality)
    return {
        "mean of I-AUROC and P-AUROC, inversion minus the same score of plain latents": both[inverted] - both[plain]
    }


def in_place(quality: BootstrapQuality, name: str, other: str) -> Effects:
    """AUPRO of one variant minus another's; empty without masks."""
    if "AUPRO" not in quality.metrics:
        return {}
    pro = quality.metric("AUPRO")
    return {f"AUPRO, {name} minus {other}": pro[name] - pro[other]}


def strongest_minus_weakest(guidance: BootstrapQuality) -> Effects:
    """Of guidance weights by name."""
    weak, *_, strong = sorted(guidance.values, key=float)
    return {f"{mean_of(guidance)}, eta = {strong} minus eta = {weak}": guidance[strong] - guidance[weak]}


def higher_bins(bins: Mapping[str, Tensor], group: str, task: Task) -> Effects:
    """C77: mean bin of a group of test images minus that of the training images, both resampled."""
    here, training = (bins[name].double().numpy() for name in (group, "training"))
    other = bootstrap.resampled_means(training, task.bootstrap_samples, task.seed + 1)
    return {f"higher bins: mean bin of {group} images minus that of training images": means(here, task) - other}


def grows_with_area(areas: Sequence[float], distances: Sequence[float], task: Task) -> Effects:
    """C77, where the areas of defects are known."""
    draws = bootstrap.spearman_draws(areas, distances, task.bootstrap_samples, task.seed)
    return {"rank correlation of the KNN distance with the area of the defect": draws}


def outliers_kept(quality: BootstrapQuality) -> Effects:
    """C96, of two variants: bins of all training images, and of those without the outliers."""
    kept, left_out = quality.metric("I-AUROC").values()
    return {"I-AUROC of D3AD, outliers kept minus left out when the bins are formed": kept - left_out}


def pixels_over_latents(ratios: np.ndarray) -> Effects:
    """C97, of ratios of times, as `slower`."""
    middle = np.log2([np.median(ratios), ratios.min(), ratios.max()])
    return {"log2 of seconds in pixels over seconds in latents, an image": middle}


def less_noise(omega: BootstrapQuality) -> Effects:
    """C68: the first variant (no noise) minus the last (all of it)."""
    first, *_, last = omega.values
    return {f"{mean_of(omega)}: omega = {first} minus omega = {last}": omega[first] - omega[last]}


def noise_trend(omega: BootstrapQuality) -> Effects:
    """C69: minus the rank correlation of the variants' order with their mean metric, in each resample."""
    curves = np.stack([omega[name] for name in omega.values])
    centred = np.arange(len(curves)) - (len(curves) - 1) / 2
    ranks = curves.argsort(axis=0).argsort(axis=0) - centred.max()
    trend = -(centred[:, None] * ranks).sum(axis=0) / (centred**2).sum()
    return {f"minus the rank correlation of omega with the {mean_of(omega)}": trend}


def dynamic_minus_static(quality: BootstrapQuality) -> Effects:
    """C73."""
    both = detection_and_place(quality)
    return {
        f"mean of I-AUROC and P-AUROC: dynamic minus {name}": both[DYNAMIC] - both[name]
        for name in both
        if name != DYNAMIC
    }


def pro_of_steps(quality: BootstrapQuality) -> Effects:
    """C74a: every pair of static steps, a part each way; the size of a difference, as one number, would be too large on
    average."""
    pro = {name: draws for name, draws in quality.metric("AUPRO").items() if name != DYNAMIC}
    return {
        f"0.02 minus the difference of AUPRO, {a} minus {b}": 0.02 - (pro[a] - pro[b]) for a, b in permutations(pro, 2)
    }


def static_minus_dynamic(quality: BootstrapQuality) -> Effects:
    """C74b."""
    pro = quality.metric("AUPRO")
    return {f"AUPRO: static minus dynamic, {name}": pro[name] - pro[DYNAMIC] for name in pro if name != DYNAMIC}


def fewer_for_small(thirds: Thirds, task: Task) -> Effects:
    """C75a: the first static step minus the last, on the smaller half of the defects."""
    first, last = _ends(thirds)
    small = thirds.areas <= np.median(thirds.areas)
    gain = (thirds.values[first] - thirds.values[last])[small]
    return {f"small ones need fewer: pixel AUROC within the image, {first} minus {last}": means(gain, task)}


def more_for_large(thirds: Thirds, task: Task) -> Effects:
    """C75b."""
    first, last = _ends(thirds)
    gain = thirds.values[last] - thirds.values[first]
    draws = bootstrap.spearman_draws(thirds.areas, gain, task.bootstrap_samples, task.seed)
    return {f"large ones need more: rank correlation of the area with the gain of {last} over {first}": draws}


def _ends(thirds: Thirds) -> tuple[str, str]:
    static = [name for name in thirds.values if name != DYNAMIC]
    return static[0], static[-1]


def dynamic_by_size(thirds: Thirds, size: str, task: Task) -> Effects:
    """C76: dynamic minus each static step on a third; small defects may lose 0.02."""
    rows, allowed = thirds.sizes == size, 0.02 * (size == "small")
    return {
        f"pixel AUROC within the image: {size} defects, dynamic minus {name}"
        + (", plus 0.02" if allowed else ""): means((thirds.values[DYNAMIC] - thirds.values[name])[rows], task)
        + allowed
        for name in thirds.values
        if name != DYNAMIC
    }


def between_thirds(thirds: Thirds, a: str, b: str, task: Task) -> Effects:
    """Of two thirds: what `difference_of_thirds` compares with 0.05."""
    values = thirds.values[DYNAMIC]
    of = [
        bootstrap.resampled_means(values[thirds.sizes == size], task.bootstrap_samples, task.seed + SIZES.index(size))
        for size in (a, b)
    ]
    return {f"pixel AUROC within the image: {a} minus {b} defects": of[0] - of[1]}


def difference_of_thirds(thirds: Thirds, a: str, b: str, task: Task) -> Effects:
    """C88, of two thirds, a part each way (see `pro_of_steps`)."""
    (difference,) = between_thirds(thirds, a, b, task).values()
    measure = "0.05 minus the difference between thirds, {} minus {}"
    return {measure.format(a, b): 0.05 - difference, measure.format(b, a): 0.05 + difference}


def gains(parts: BootstrapQuality) -> Effects:
    """What each modification adds alone; the variants are those of `notebook 06`, table 5."""
    alone = parts["DIC"]
    return {
        f"gain of scaling, {mean_of(parts)}": parts["DIC + DS"] - alone,
        f"gain of adaptation, {mean_of(parts)}": parts["DIC + DA"] - alone,
        f"gain of DIC, {mean_of(parts)}": alone - parts["neither, T_max"],
    }


def scaling_gains_most(parts: BootstrapQuality) -> Effects:
    """C70."""
    scaling, adaptation, dic = gains(parts).values()
    return {
        f"{mean_of(parts)}: gain of scaling minus that of adaptation": scaling - adaptation,
        f"{mean_of(parts)}: gain of scaling minus that of DIC": scaling - dic,
    }


def adaptation_helps(parts: BootstrapQuality) -> Effects:
    """C71."""
    without = parts["DIC"] + parts["DIC + DS"]
    draws = (parts["DIC + DA"] + parts["DIC + DS + DA"] - without) / 2
    return {f"{mean_of(parts)}: with minus without adaptation, mean over DS off and on": draws}


def both_are_best(parts: BootstrapQuality) -> Effects:
    """C72."""
    rivals = {"DS": "DIC + DS", "DA": "DIC + DA", "neither": "DIC"}
    return {
        f"{mean_of(parts)}: both minus {name}": parts["DIC + DS + DA"] - parts[rival] for name, rival in rivals.items()
    }


def both_maps(weighted: BootstrapQuality) -> Effects:
    """C91."""
    return {
        f"{mean_of(weighted)}: lambda = 0.85 minus lambda = {end}": weighted["0.85"] - weighted[end]
        for end in ("1", "0")
    }


def seen_longer(last_seen: Mapping[str, np.ndarray], task: Task) -> Effects:
    """C82."""
    difference = last_seen["scaled"] - last_seen["noised"]
    measure = "last t at which the SSIM of Dec(z_t) and x is half of its value at t = 1: scaled minus noised"
    return {measure: means(difference, task)}


def hallucination(strong: pd.DataFrame, contrast: float, task: Task) -> Effects:
    """C81, from `d3ad_study.strong_perturbation`: steps from 240 up, in units of ``contrast``.

    In grey values of [0, 1], which is another measure than the claim's, where that is NaN (not known), or where all
    steps are below: then of the largest.
    """
    least = min(240, int(strong["T"].max()))
    far, known = strong[strong["T"] >= least], bool(np.isfinite(contrast)) and least == 240
    unit = "over the median defect's contrast" if known else "in grey values of [0, 1]"
    effects = {}
    for column, text in (("error", "error outside the mask"), ("nearest", "distance to the nearest normal image")):
        wide = far.pivot_table(index="image", columns="kind", values=column)
        draws = means(wide["noised"] - wide["scaled"], task) / (contrast if known else 1.0)
        effects[f"{text}, normal images, T >= {least}, noised minus scaled, {unit}"] = draws
    return effects


def autoencoder_share(traces: pd.DataFrame, task: Task) -> Effects:
    """C79a, from `d3ad_study.feature_distances` before adaptation."""
    normal = traces[traces["label"] == 0]
    draws = means(normal["autoencoder"], task) / means(normal["distance"], task) - 0.5
    return {"share of the feature distance of normal images that Dec(Enc(x)) alone has, minus 0.5": draws}


def autoencoder_flagged(traces: pd.DataFrame, task: Task) -> Effects:
    """C79b."""
    draws = means(traces.loc[traces["label"] == 0, "flagged"], task) - 0.01
    return {"false-positive area of normal images from Dec(Enc(x)) alone, minus 1 %": draws}


def adaptation_filters(before: pd.DataFrame, after: pd.DataFrame, task: Task) -> Effects:
    """C80: the relative fall of the distance on normal images minus that on defects."""
    falls = []
    for label in (0, 1):
        found = [means(table.loc[table["label"] == label, "distance"], task) for table in (before, after)]
        falls.append(1 - found[1] / found[0])
    return {"relative fall of the feature distance after adaptation: normal images minus defects": falls[0] - falls[1]}


def survival(table: pd.DataFrame, task: Task) -> Effects:
    """C66, from `d3ad_study.survival_over_guidance`: w = 4 minus w = 0."""
    wide = table.pivot_table(index="image", columns="w", values="survival")
    return {"survival by DDAD, w = 4 minus w = 0": means(wide[4.0] - wide[0.0], task)}


def latents_remove_more(removal: pd.DataFrame, task: Task) -> Effects:
    """C78, from `d3ad_study.removal_table`."""
    large = removal[removal["third"] == "large"].pivot_table(index="image", columns="method", values="removal")
    draws = means(large["DDAD on latents"] - large["DDAD"], task)
    return {"removal of the largest third of the defects: DDAD's settings, latents minus pixel space": draws}


def reproduces_or_adds(removal: pd.DataFrame, method: str, name: str, task: Task) -> Effects:
    """C93, of a method of `d3ad_study.removal_table`."""
    worst = removal.loc[removal["method"] == method, ["removal", "fidelity"]].min(axis=1)
    draws = means((worst < 0.5).astype(float), task) - 0.5
    return {f"{name}: share of the images with removal or fidelity below 0.5, minus 1/2": draws}


def pixels_overestimate(simulated: BootstrapQuality) -> Effects:
    """C89."""
    missed = {name: found["smallest half"] for name, found in _two_metrics(simulated).items()}
    measure = "P-AUROC minus AUPRO of a detector that misses the smaller half of the defects"
    return {measure: missed["P-AUROC"] - missed["AUPRO"]}


def large_count_more(simulated: BootstrapQuality) -> Effects:
    """C90."""
    uneven = {name: found["smallest half"] - found["largest half"] for name, found in _two_metrics(simulated).items()}
    measure = "additional loss from missing large instead of small defects: P-AUROC's minus AUPRO's"
    return {measure: uneven["P-AUROC"] - uneven["AUPRO"]}


def _two_metrics(quality: BootstrapQuality) -> dict[str, dict[str, np.ndarray]]:
    return {name: quality.metric(name) for name in ("P-AUROC", "AUPRO")}


def slower(ratios: np.ndarray) -> Effects:
    """C92a, of ratios of times: the median, and the smallest and largest of the repetitions as its interval."""
    middle = np.log2([np.median(ratios), ratios.min(), ratios.max()])
    return {"log2 of the time of D3AD over that of features and neighbours alone": middle}


def competitive(ratios: np.ndarray) -> Effects:
    """C92b."""
    (value, low, high), *_ = slower(ratios).values()
    measure = "1 minus log2 of the time of D3AD over that of features and neighbours alone"
    return {measure: np.array([1 - value, 1 - high, 1 - low])}
