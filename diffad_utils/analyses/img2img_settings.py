"""Why a reconstruction-based detector detects or does not: measured, where the defect-free twin of an image is known.

Source of the questions: slides, "Small Defects vs Model Variance", "Generative vs Invertible", "Identity Drift" and
"Quantitative Metrics and Their Limitations". Names: x_anom is the defective image, x_norm its twin without the defect,
x_hat a reconstruction of x_anom, mask where x_anom and x_norm differ. Images are float [B, 3, H, W] in [0, 1], masks
bool [B, H, W]. |a - b| is the mean absolute difference over channels and the pixels named. What is not defined (inside
an empty mask, say) is NaN.

Used by notebooks 02, 03 and 06; entry points: `alpha_study`, `alpha_effects`, `response_to_changes`, `round_trip`,
`time_by_size`.
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
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from torch import Tensor

from diffad_utils import metrics, scoring
from diffad_utils.analyses.adapter_drift import lab
from diffad_utils.analyses.img2img_claims import WEAKER
from diffad_utils.diffusion import EpsFn, ddim_step, image_noise
from diffad_utils.io import store
from diffad_utils.methods.base import Detector, resize_images
from diffad_utils.methods.img2img.engine import Schedule
from diffad_utils.methods.kept import kept
from diffad_utils.metrics import bootstrap, intervals
from diffad_utils.models.clip import Clip
from diffad_utils.models.clip_features import clip_features


def crossing(x: Sequence[float], rising: Sequence[float], falling: Sequence[float]) -> tuple[float, float] | None:
    """Where a rising curve first meets a falling one, both linear between the points x [K]: (x, value), or None.

    For removal and fidelity over strength this is the best compromise there is: beyond it more of the defect goes only
    with more of the rest. Raises ``ValueError`` unless x ascends and all three have one length.
    """
    gap = np.asarray(rising, float) - np.asarray(falling, float)
    if len(x) != len(gap) or len(x) == 0 or bool((np.diff(x) <= 0).any()):
        raise ValueError(f"x must ascend and be as long as the curves, got {list(x)} and {len(gap)} values")
    if gap[0] >= 0:
        return (float(x[0]), float(rising[0])) if gap[0] == 0 else None
    for i in np.flatnonzero(gap >= 0):
        share = -gap[i - 1] / (gap[i] - gap[i - 1])
        return float(x[i - 1] + share * (x[i] - x[i - 1])), float(rising[i - 1] + share * (rising[i] - rising[i - 1]))
    return None


def reconstruction_std(x_hats: Tensor) -> Tensor:
    """Standard deviation of each pixel over K reconstructions, mean over channels: [K, B, 3, H, W] -> [B, H, W].

    Over seeds, or over guidance scales with one seed. Sample standard deviation; ``ValueError`` for K < 2.
    """
    if x_hats.ndim != 5 or len(x_hats) < 2:
        raise ValueError(f"expected at least 2 reconstructions [K, B, 3, H, W], got {list(x_hats.shape)}")
    return x_hats.std(dim=0).mean(dim=1)


def amplification(x_hat: Tensor, x_hat_moved: Tensor, x: Tensor, x_moved: Tensor) -> Tensor:
    """How much a small change of the input grows: |x_hat' - x_hat| / |x' - x| in the L2 norm, [B].

    A lower estimate of the local Lipschitz constant. All four [B, 3, H, W].
    """
    return (x_hat_moved - x_hat).flatten(1).norm(dim=1) / (x_moved - x).flatten(1).norm(dim=1)


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


def alpha_study(
    parts: Mapping[str, Tensor],
    labels: Sequence[int],
    calibration: scoring.Calibration,
    alphas: Sequence[float],
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """`alpha_curve` with the 95 % interval of its I-AUROC over images in the columns low and high."""
    curve = alpha_curve(parts, labels, calibration, alphas)
    scores = [
        scoring.hybrid_score(parts, row.alpha, calibration if row.kind == "calibrated" else None)
        for row in curve.itertuples()
    ]
    drawn = intervals.auroc(torch.stack(scores), labels, bootstrap.bootstrap_counts(labels, n, seed))
    ends = [bootstrap.percentile_interval(column[1:]) for column in drawn.T]
    return curve.assign(low=[low for low, _ in ends], high=[high for _, high in ends])


def alpha_effects(
    parts: Mapping[str, Tensor],
    labels: Sequence[int],
    ends: tuple[float, float] = (0.3, 0.9),
    n: int = 200,
    seed: int = 0,
) -> dict[tuple[str, str], np.ndarray]:
    """What alpha changes in the raw score between the ends of the slides' range, draws [n + 1] over images.

    C22: the rank correlation of score and squared error at the upper end minus that at the lower. C23: the share of the
    score's variance owed to either part at the end where its weight is smallest, each by itself: the smaller of both
    would be too small on average.
    """
    low, high = ends
    counts = bootstrap.bootstrap_counts(labels, n, seed)
    mse, clip = (np.asarray(parts[name], dtype=np.float64) for name in ("mse", "clip"))
    at = {alpha: alpha * mse + (1 - alpha) * clip for alpha in ends}

    def moved(rows: np.ndarray) -> float:
        before, after = (spearmanr(at[alpha][rows], mse[rows]).statistic for alpha in ends)
        return float(after - before)

    return {
        ("C22", ""): bootstrap.bootstrap_statistic(moved, counts),
        ("C23", WEAKER["mse"]): mse_shares(mse, clip, low, counts),
        ("C23", WEAKER["clip"]): 1 - mse_shares(mse, clip, high, counts),
    }


def mse_shares(mse: np.ndarray, clip: np.ndarray, alpha: float, counts: np.ndarray) -> np.ndarray:
    """The squared error's share of the raw score's variance over images, cov(its term, score) / var(score): [R].

    mse, clip : float64 [N]. counts : [R, N], how often each image is drawn.
    """
    term = alpha * (mse - mse.mean())
    score = term + (1 - alpha) * (clip - clip.mean())
    of_term, of_score, both, square = bootstrap.bootstrap_means([term, score, term * score, score**2], counts).T
    return (both - of_term * of_score) / (square - of_score**2)


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


def best_compromise(removal: ArrayLike, fidelity: ArrayLike, times: np.ndarray) -> np.ndarray:
    """The larger of removal and fidelity's smaller over settings: max over s of min(mean removal, mean fidelity), [R].

    removal, fidelity : [S, N] of S settings on N anomalous images. times : [R, N], `bootstrap.bootstrap_counts`. A
        setting
    that removes every defect and changes nothing else reaches 1; the best setting is chosen anew in each resample, so
    the value is an estimate from above.
    """
    return np.minimum(bootstrap.bootstrap_means(removal, times), bootstrap.bootstrap_means(fidelity, times)).max(axis=1)


def rank_agreement(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Spearman correlation over settings of two criteria [R, S], resample by resample: [R]; 0 where one is constant."""
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    return np.array([0.0 if flat else spearmanr(x, y).statistic for x, y, flat in zip(a, b, constant, strict=True)])


def sensitivity(scores: ArrayLike, labels: Sequence[int], n: int = 1000, seed: int = 0) -> np.ndarray:
    """I-AUROC of the best setting minus that of the worst, found on one half of the images and measured on the other:
    [n + 1].

    scores : [S, N] of S settings. Both halves (drawn by ``seed``, stratified by label) play both parts and the mean is
    taken. The range over settings on the images themselves would be above 0 even if all settings were equally good. As
    `bootstrap.bootstrap_percentiles` takes it: the data first, then resamples of the half that is measured on.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    rng, halves = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        halves[members[: len(members) // 2]] = True
    gaps = []
    for chosen in (halves, ~halves):
        found = intervals.auroc(scores[:, chosen], labels[chosen], np.ones((1, chosen.sum()), dtype=np.int64))[0]
        ends = scores[[found.argmax(), found.argmin()]][:, ~chosen]
        measured = intervals.auroc(ends, labels[~chosen], bootstrap.bootstrap_counts(labels[~chosen], n, seed))
        gaps.append(measured[:, 0] - measured[:, 1])
    return (gaps[0] + gaps[1]) / 2


JUST_NOTICEABLE = 2.3
"""A colour difference of CIELAB (CIE 1976) that half of the observers see: Mahy, Van Eycken and Oosterlinck, Color
Research and Application 19 (1994)."""


def changes_as_visible(
    images: Tensor, keys: Sequence[str], delta_e: float = 3 * JUST_NOTICEABLE, seed: int = 0
) -> dict[str, Tensor]:
    """Images [B, 3, H, W] changed in three ways that are as visible where they are: what do score parts respond to?

    spot : a disc on 1 % of the image, darker or lighter, at a position drawn by (seed, key): a local change.
    colour cast : one colour added everywhere. contrast : every pixel's distance from the image's mean colour scaled: a
    change of the texture. delta_e : mean colour difference over the changed area, in CIELAB, after clipping to [0, 1].
    """
    side = torch.tensor(images.shape[-2:]).float()
    position = 0.15 + 0.7 * torch.special.ndtr(image_noise((2,), seed, list(keys)))[:, :, None, None] * torch.ones(
        1, 2, 1, 1
    )
    y, x = (torch.arange(n, dtype=torch.float32) + 0.5 for n in images.shape[-2:])
    distance = ((y[:, None] - position[:, 0] * side[0]) ** 2 + (x[None] - position[:, 1] * side[1]) ** 2).sqrt()
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
    where = {name: disc if name == "spot" else torch.ones_like(disc) for name in changes}
    return {name: _scaled_to(images, change, where[name], delta_e) for name, change in changes.items()}


def _scaled_to(images: Tensor, change: Tensor, where: Tensor, delta_e: float, turns: int = 6) -> Tensor:
    """images + s change, clipped, with s so that the mean colour difference over ``where`` [B, 1, H, W] is delta_e.

    It grows about in proportion to s, so a few corrections by the ratio are enough; every second pixel is looked at.
    """
    x, d, w = (part[..., ::2, ::2] for part in (images, change, where))
    before, scale = lab(x), torch.full((len(images), 1, 1, 1), 0.01)
    for _ in range(turns):
        seen = (lab((x + scale * d).clamp(0, 1)) - before).norm(dim=1, keepdim=True)
        mean = (seen * w).sum(dim=(1, 2, 3), keepdim=True) / w.sum(dim=(1, 2, 3), keepdim=True)
        scale = scale * (delta_e / mean.clamp_min(1e-6)).clamp(0.1, 10)
    return (images + scale * change).clamp(0, 1)


class Response(NamedTuple):
    """Images changed in three ways that are as visible, the mean of each part of the score for them (a row a change),
    and log2 of the response to the global changes over that to the spot, [N], of CLIP and of the squared error."""

    changed: dict[str, Tensor]
    means: pd.DataFrame
    log_ratio: Tensor
    log_ratio_mse: Tensor


def response_to_changes(clip: Clip, images: Tensor, keys: Sequence[str], seed: int = 0) -> Response:
    """What squared error and CLIP distance answer to `changes_as_visible` of normal images [N, 3, H, W]."""
    changed, before = changes_as_visible(images, keys, seed=seed), clip_features(clip, images)
    parts = {
        name: scoring.residual_parts(images, image, (before, clip_features(clip, image)))[0]
        for name, image in changed.items()
    }

    def ratio(part: str) -> Tensor:
        globally = [parts[name][part].log2() for name in ("colour cast", "contrast")]
        return torch.stack(globally).mean(dim=0) - parts["spot"][part].log2()

    means = pd.DataFrame({name: {part: float(v.mean()) for part, v in p.items()} for name, p in parts.items()}).T
    return Response(changed, means, ratio("clip"), ratio("mse"))


@kept()
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
            with store.paused():
                other.predict(x)
            turns.append(time.perf_counter() - start)
        found[f"ms_at_{size}px"] = 1000 * min(turns[1:]) / len(x)
    return found
