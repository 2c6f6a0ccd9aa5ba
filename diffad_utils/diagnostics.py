"""Why a reconstruction-based detector detects or does not: measured, where the defect-free twin of an image is known.

Source of the questions: slides, "Small Defects vs Model Variance", "Generative vs Invertible", "Identity Drift" and
"Quantitative Metrics and Their Limitations". Names: x_anom is the defective image, x_norm its twin without the defect,
x_hat a reconstruction of x_anom, mask where x_anom and x_norm differ. Images are float [B, 3, H, W] in [0, 1], masks
bool [B, H, W]. |a - b| is the mean absolute difference over channels and the pixels named. What is not defined (inside
an empty mask, say) is NaN.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from diffad_utils import metrics, resampling, scoring
from diffad_utils.bottleneck import absolute_error, masked_mean
from diffad_utils.diffusion import EpsFn, ddim_step, image_noise
from diffad_utils.methods.base import Detector, resize_images
from diffad_utils.methods.img2img import Schedule

# --- removal and fidelity ---------------------------------------------------------------------------------------------


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """`bottleneck.masked_mean` of maps [B, H, W] in their own dtype: [B], NaN where ``where`` bool [B, H, W] is
    empty."""
    return masked_mean(values, where).to(values.dtype)


def removal_and_drift(x_hat: Tensor, x_anom: Tensor, x_norm: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What a reconstruction did to the defect and to everything else, [B] each.

    removal : 1 - |x_hat - x_norm| / |x_anom - x_norm| inside the mask. 1: the defect is gone and its place is right; 0:
        as far from the twin as the defect was; negative: further.
    drift : |x_hat - x_norm| outside the mask, in grey values of [0, 1].
    defect : |x_anom - x_norm| inside the mask, the size of the defect a pixel.
    fidelity : 1 - drift / defect. 1: nothing else changed; 0: the rest changed as much a pixel as the defect did.
    energy_ratio : L2 norm of x_hat - x_norm outside the mask over the L2 norm of x_anom - x_norm inside: the drift
        against the whole defect, which a small defect loses by its size.
    """
    defect = mean_where(absolute_error(x_anom, x_norm), mask)
    drift = mean_where(absolute_error(x_hat, x_norm), ~mask)
    left = mean_where(absolute_error(x_hat, x_norm), mask)
    inside, outside = mask[:, None], ~mask[:, None]
    drift_norm = ((x_hat - x_norm) * outside).flatten(1).norm(dim=1)
    defect_norm = ((x_anom - x_norm) * inside).flatten(1).norm(dim=1)
    nan = torch.where(defect > 0, 1.0, math.nan)  # no defect, nothing to compare with
    return {
        "removal": (1 - left / defect) * nan,
        "drift": drift,
        "defect": defect,
        "fidelity": (1 - drift / defect) * nan,
        "energy_ratio": drift_norm / defect_norm * nan,
    }


def reconstruction_table(reconstruction: Tensor, batch: dict) -> pd.DataFrame:
    """What a reconstruction [B, 3, H, W] of ``batch`` (`data.collate`) did to each image, one row an image in its
    order.

    Columns label; SSIM and PSNR (dB) against the input, for normal images; removal and drift
    (`removal_and_drift`) for anomalous ones, where the data set has twins. What does not apply is NaN.
    """
    normal = np.asarray(batch["label"]) == 0
    table = pd.DataFrame({"label": np.asarray(batch["label"]).astype(int)})
    quality = metrics.reconstruction(batch["image"][normal], reconstruction[normal])
    table.loc[normal, "SSIM"], table.loc[normal, "PSNR"] = quality["ssim"], quality["psnr"]
    if "twin" in batch:
        done = removal_and_drift(*(x[~normal] for x in (reconstruction, batch["image"], batch["twin"], batch["mask"])))
        for name in ("removal", "drift"):
            table.loc[~normal, name] = done[name].double().numpy()
    return table


def reconstruction_metrics(reconstruction: Tensor, batch: dict) -> dict[str, float]:
    """What the comparison's table says of a reconstruction [B, 3, H, W] of ``batch`` (`data.collate`), as means over
    images.

    SSIM, PSNR : against the input, over the normal images: what a method does to pictures it should leave alone. PSNR
        in dB.
    removal, drift : `removal_and_drift` over the anomalous images; absent where the data set has no twins.
    """
    table = reconstruction_table(reconstruction, batch)
    return {name: float(table[name].mean()) for name in ("SSIM", "PSNR", "removal", "drift") if name in table}


def crossing(x: Sequence[float], rising: Sequence[float], falling: Sequence[float]) -> tuple[float, float] | None:
    """Where a rising curve first meets a falling one, both linear between the points x [K]: (x, value), or None.

    For removal and fidelity over strength this is the best compromise there is: beyond it more of the defect goes only
    with more of the rest. Raises ``ValueError`` unless x ascends and all three have one length.
    """
    x, gap = np.asarray(x, float), np.asarray(rising, float) - np.asarray(falling, float)
    if len(x) != len(gap) or len(x) == 0 or bool((np.diff(x) <= 0).any()):
        raise ValueError(f"x must ascend and be as long as the curves, got {x.tolist()} and {len(gap)} values")
    if gap[0] >= 0:
        return (float(x[0]), float(rising[0])) if gap[0] == 0 else None
    for i in np.flatnonzero(gap >= 0):
        share = -gap[i - 1] / (gap[i] - gap[i - 1])
        return float(x[i - 1] + share * (x[i] - x[i - 1])), float(rising[i - 1] + share * (rising[i] - rising[i - 1]))
    return None


def pareto_front(removal: Sequence[float], drift: Sequence[float]) -> np.ndarray:
    """Which points nothing beats: none has at least the removal and at most the drift, and one of the two better.

    bool [K]. Both sequences [K], finite.
    """
    removal, drift = np.asarray(removal, float), np.asarray(drift, float)
    no_worse = (removal[:, None] >= removal) & (drift[:, None] <= drift)  # [i, j]: i is no worse than j
    better = (removal[:, None] > removal) | (drift[:, None] < drift)
    return ~(no_worse & better).any(axis=0)


# --- variance over seeds and guidance ---------------------------------------------------------------------------------


def reconstruction_spread(x_hats: Tensor) -> Tensor:
    """Standard deviation of each pixel over K reconstructions, mean over channels: [K, B, 3, H, W] -> [B, H, W].

    Over seeds, or over guidance scales with one seed. Sample standard deviation; ``ValueError`` for K < 2.
    """
    if x_hats.ndim != 5 or len(x_hats) < 2:
        raise ValueError(f"expected at least 2 reconstructions [K, B, 3, H, W], got {list(x_hats.shape)}")
    return x_hats.std(dim=0).mean(dim=1)


def spread_against_defect(x_hats: Tensor, x_anom: Tensor, x_norm: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """``spread`` of x_hats [K, B, 3, H, W] outside the mask, ``defect`` size inside, and their ``ratio``: [B] each."""
    spread = mean_where(reconstruction_spread(x_hats), ~mask)
    defect = mean_where(absolute_error(x_anom, x_norm), mask)
    return {"spread": spread, "defect": defect, "ratio": spread / defect}


def amplification(x_hat: Tensor, x_hat_moved: Tensor, x: Tensor, x_moved: Tensor) -> Tensor:
    """How much a small change of the input grows: |x_hat' - x_hat| / |x' - x| in the L2 norm, [B].

    A lower estimate of the local Lipschitz constant. All four [B, 3, H, W].
    """
    return (x_hat_moved - x_hat).flatten(1).norm(dim=1) / (x_moved - x).flatten(1).norm(dim=1)


# --- round trip -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def round_trip(eps_fn: EpsFn, z: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """DDIM inversion and sampling along the same steps: z [B, ...] -> (noise latents, latents after the way back).

    As diffusers' ``DDIMInverseScheduler``, a step up evaluates the network at the timestep that it goes to, with the
    sample that it comes from; the step down undoes it exactly if the prediction does not change in between. Network
    evaluations: two a step, twice that with guidance.
    """
    steps, x = list(zip(schedule.timesteps.tolist(), schedule.alpha_from, schedule.alpha_to, strict=True)), z
    for t, noisier, cleaner in reversed(steps):
        x = ddim_step(x, eps_fn(x, torch.full((len(x),), t)).to(x.device), cleaner, noisier)
    noise = x
    for t, noisier, cleaner in steps:
        x = ddim_step(x, eps_fn(x, torch.full((len(x),), t)).to(x.device), noisier, cleaner)
    return noise, x


# --- right for the wrong reason ---------------------------------------------------------------------------------------


def split_residual(residual: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Means [B] of residual maps [B, H, W]: ``full``, ``inside`` (NaN for an empty mask) and ``outside`` the mask.

    ``outside`` is a score that has not seen the defect; for a normal image, whose mask is empty, it is the full one.
    """
    where = {"full": torch.ones_like(mask), "inside": mask, "outside": ~mask}
    return {name: mean_where(residual, pixels) for name, pixels in where.items()}


def top_pixels_inside(residual: Tensor, mask: Tensor, share: float = 0.01) -> Tensor:
    """Share [B] of an image's highest residual pixels (``share`` of all its pixels) that lie inside the mask.

    An uninformed map reaches the mask's share of the image.
    """
    count = max(1, round(share * residual[0].numel()))
    highest = residual.flatten(1).topk(count, dim=1).indices
    return mask.flatten(1).gather(1, highest).float().mean(dim=1)


def gradient_energy(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring grey values, [B, 3, H, W] -> [B]."""
    grey = images.mean(dim=1)
    return (grey.diff(dim=1).abs().mean(dim=(1, 2)) + grey.diff(dim=2).abs().mean(dim=(1, 2))) / 2


def style_statistics(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    """What changed over the whole image, blind to where: [B] each.

    colour_shift : length of the difference of the mean colours. gradient_change : absolute difference of the gradient
    energies (the slides' "style change" read as statistic of x_hat minus statistic of x). gradient_of_change : gradient
    energy of x_hat - x (read as statistic of the difference).
    """
    return {
        "colour_shift": (x_hat - x).mean(dim=(2, 3)).norm(dim=1),
        "gradient_change": (gradient_energy(x_hat) - gradient_energy(x)).abs(),
        "gradient_of_change": gradient_energy(x_hat - x),
    }


def without_defect(images: Tensor, twins: Tensor, masks: Tensor) -> Tensor:
    """Images with the pixels of their masks taken from the twins: [B, 3, H, W]. Reconstruct and score these as well."""
    return torch.where(masks[:, None], twins, images)


class WrongReason(NamedTuple):
    """What `wrong_reason` found: a table (statistic, I-AUROC, low, high), numbers, and a verdict in words."""

    table: pd.DataFrame
    numbers: dict[str, float]
    verdict: str


def wrong_reason(
    labels: Sequence[int],
    full: Tensor,
    outside: Tensor | None,
    without: Tensor | None,
    style: Mapping[str, Tensor],
    maps: Tensor | None,
    masks: Tensor | None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> WrongReason:
    """Is a detector right because of the defects?

    Parameters
    ----------
    labels, full : [N], the score of the images as they are. outside : [N], the score of the residual outside the mask
        (`split_residual`), or None without masks. without : [N], the score where the defect was replaced by the twin's
        pixels before the reconstruction (`without_defect`), with the same noise, and for normal images the full score;
        or None without twins.
    style : global statistics [N] (`style_statistics`). maps, masks : [N, H, W], or None.

    The share of detection that survives without the defect is (I-AUROC without - 0.5) / (I-AUROC full - 0.5), and the
    share that is there outside the mask accordingly. The verdict follows a rule fixed beforehand, with 95 % bootstrap
    intervals over images:

    - "ranks the wrong way round" if the whole interval of the full I-AUROC lies below 0.5;
    - "does not detect" if it contains 0.5;
    - else "right for the wrong reason" if the interval without the defect lies above 0.5 and at least half survives;
    - else "right for the right reason" if less than half survives and the paired difference lies above 0;
    - else, and where there are no twins to tell, "undecided".
    """
    labels = np.asarray(labels)
    scores = {"full residual": full, "outside the mask": outside, "defect replaced by the twin": without, **style}
    times, rows = resampling.multiplicities(labels, bootstrap, seed), {}
    aurocs = {
        name: resampling.auroc(values, labels, times)[:, 0] for name, values in scores.items() if values is not None
    }
    for name, values in aurocs.items():
        value, low, high = resampling.interval(values)
        rows[name] = {"I-AUROC": value, "low": low, "high": high}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("statistic").reset_index()
    detected = rows["full residual"]
    numbers = {"I-AUROC": detected["I-AUROC"]}
    if maps is not None:
        numbers |= {"AUPRO": metrics.aupro(maps, masks), "P-AUROC": metrics.pixel_auroc(maps, masks)}
    if without is not None:
        lost = resampling.interval(aurocs["full residual"] - aurocs["defect replaced by the twin"])
        numbers |= dict(zip(("lost_without_defect", "lost_low", "lost_high"), lost, strict=True))
    if detected["low"] <= 0.5:
        return WrongReason(table, numbers, "ranks the wrong way round" if detected["high"] < 0.5 else "does not detect")
    if outside is not None:
        numbers["outside_share"] = (rows["outside the mask"]["I-AUROC"] - 0.5) / (detected["I-AUROC"] - 0.5)
    if without is None:
        return WrongReason(table, numbers, "undecided")
    left = rows["defect replaced by the twin"]
    share = (left["I-AUROC"] - 0.5) / (detected["I-AUROC"] - 0.5)
    numbers["surviving_share"] = share
    if share >= 0.5 and left["low"] > 0.5:
        return WrongReason(table, numbers, "right for the wrong reason")
    right = share < 0.5 and numbers["lost_low"] > 0
    return WrongReason(table, numbers, "right for the right reason" if right else "undecided")


# --- the hybrid score and the settings --------------------------------------------------------------------------------


def alpha_curve(
    parts: Mapping[str, Tensor], labels: Sequence[int], calibration: scoring.Calibration, alphas: Sequence[float]
) -> pd.DataFrame:
    """What alpha does to the hybrid score of ``parts`` "mse" and "clip" [N]: one row an alpha and kind of score.

    Columns: alpha, kind ("raw" or "calibrated"), I-AUROC; ``effective_alpha``, the weight of the squared error once
    both parts are in units of their standard deviation over held-out normals, alpha s_mse / (alpha s_mse + (1 - alpha)
    s_clip), which for the calibrated score is alpha itself; ``mse_share``, the squared error's share of the score's
    variance over the images, cov(its term, score) / var(score); ``rank_mse`` and ``rank_clip``, Spearman correlations
    of the score with each.
    """
    rows = []
    for kind in ("raw", "calibrated"):
        for alpha in alphas:
            score = scoring.hybrid_score(parts, alpha, calibration if kind == "calibrated" else None).double()
            scale = calibration.scale if kind == "raw" else {"mse": 1.0, "clip": 1.0}
            weight = alpha * scale["mse"], (1 - alpha) * scale["clip"]
            term = alpha * parts["mse"].double() / (calibration.scale["mse"] if kind == "calibrated" else 1.0)
            centred = score - score.mean()
            rows.append(
                {
                    "alpha": alpha,
                    "kind": kind,
                    "I-AUROC": metrics.image_auroc(score, labels),
                    "effective_alpha": weight[0] / sum(weight),
                    "mse_share": float(((term - term.mean()) * centred).sum() / centred.square().sum()),
                    **{f"rank_{name}": float(spearmanr(score, parts[name]).statistic) for name in ("mse", "clip")},
                }
            )
    return pd.DataFrame(rows)


def variance_explained(table: pd.DataFrame, factors: Sequence[str], value: str) -> dict[str, float]:
    """Share of the variance of ``value`` over a full grid that each factor explains alone: eta squared.

    What the shares leave of 1 is due to interactions. ``ValueError`` unless every combination occurs equally often; all
    0 if the value is constant.
    """
    sizes = table.groupby(list(factors)).size()
    if len(sizes) != math.prod(table[factor].nunique() for factor in factors) or sizes.nunique() != 1:
        raise ValueError(f"expected every combination of {', '.join(factors)} equally often, got {len(sizes)} of them")
    mean, total = table[value].mean(), table[value].var(ddof=0)
    effects = {f: ((table.groupby(f)[value].transform("mean") - mean) ** 2).mean() for f in factors}
    return {factor: float(effect / total) if total > 0 else 0.0 for factor, effect in effects.items()}


def best_compromise(removal, fidelity, times: np.ndarray) -> np.ndarray:
    """The larger of removal and fidelity's smaller over settings: max over s of min(mean removal, mean fidelity), [R].

    removal, fidelity : [S, N] of S settings on N anomalous images. times : [R, N], `resampling.multiplicities`. A
        setting
    that removes every defect and changes nothing else reaches 1; the best setting is chosen anew in each resample, so
    the value is an estimate from above.
    """
    return np.minimum(resampling.means(removal, times), resampling.means(fidelity, times)).max(axis=1)


def rank_agreement(a, b) -> np.ndarray:
    """Spearman correlation over settings of two criteria [R, S], resample by resample: [R]; 0 where one is constant."""
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    return np.array([0.0 if flat else spearmanr(x, y).statistic for x, y, flat in zip(a, b, constant, strict=True)])


def sensitivity(scores, labels: Sequence[int], n: int = 1000, seed: int = 0) -> np.ndarray:
    """I-AUROC of the best setting minus that of the worst, found on one half of the images and measured on the other:
    [n + 1].

    scores : [S, N] of S settings. Both halves (drawn by ``seed``, stratified by label) play both parts and the mean is
    taken. The range over settings on the images themselves would be above 0 even if all settings were equally good. As
    `resampling.interval` takes it: the data first, then resamples of the half that is measured on.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    rng, halves = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        halves[members[: len(members) // 2]] = True
    gaps = []
    for chosen in (halves, ~halves):
        found = resampling.auroc(scores[:, chosen], labels[chosen], np.ones((1, chosen.sum()), dtype=np.int64))[0]
        ends = scores[[found.argmax(), found.argmin()]][:, ~chosen]
        measured = resampling.auroc(ends, labels[~chosen], resampling.multiplicities(labels[~chosen], n, seed))
        gaps.append(measured[:, 0] - measured[:, 1])
    return (gaps[0] + gaps[1]) / 2


def changes_of_equal_energy(images: Tensor, keys: Sequence[str], mse: float = 1e-3, seed: int = 0) -> dict[str, Tensor]:
    """Images [B, 3, H, W] changed in three ways by one and the same mean squared error: what do score parts respond to?

    spot : a disc on 1 % of the image, darker or lighter, at a place drawn by (seed, key): a local change. colour cast :
        one
    colour added everywhere. contrast : every pixel's distance from the image's mean colour scaled: a change of the
    texture. The error is ``mse`` before the result is clipped to [0, 1].
    """
    side = torch.tensor(images.shape[-2:]).float()
    place = 0.15 + 0.7 * torch.special.ndtr(image_noise((2,), seed, list(keys)))[:, :, None, None] * torch.ones(
        1, 2, 1, 1
    )
    y, x = (torch.arange(n, dtype=torch.float32) + 0.5 for n in images.shape[-2:])
    distance = ((y[:, None] - place[:, 0] * side[0]) ** 2 + (x[None] - place[:, 1] * side[1]) ** 2).sqrt()
    disc = (distance <= math.sqrt(0.01 * float(side.prod()) / math.pi)).float()[:, None]
    below = (images * disc).sum(dim=(1, 2, 3)) / (3 * disc.sum(dim=(1, 2, 3)))
    sign = torch.where(below > 0.5, -1.0, 1.0)[:, None, None, None]
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    cast = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1) * math.sqrt(1.5)
    changes = {
        "spot": sign * disc / disc.mean(dim=(2, 3), keepdim=True).sqrt(),
        "colour cast": cast.expand_as(images),
        "contrast": centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6),
    }
    return {name: (images + math.sqrt(mse) * change).clamp(0, 1) for name, change in changes.items()}


# --- cost -------------------------------------------------------------------------------------------------------------


def time_by_size(detector: Detector, images: Tensor, sizes: Sequence[int], repeats: int = 2) -> dict[str, float]:
    """Milliseconds an image that a fitted detector takes at other image sizes: {"ms_at_64px": ...}.

    A copy of the detector with another ``image_size`` predicts images [B, 3, H, W]; what it says there means nothing,
    as its networks saw another size in training, but they cost what they would cost. For convolutional networks. The
    fastest of ``repeats`` turns after one that is not timed.
    """
    found = {}
    for size in sizes:
        other = copy.copy(detector)
        other.image_size = size
        x = resize_images(images, size)
        turns = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            other.predict(x)
            turns.append(time.perf_counter() - start)
        found[f"ms_at_{size}px"] = 1000 * min(turns[1:]) / len(x)
    return found
