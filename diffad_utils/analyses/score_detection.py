"""Do SGM, ESM and ESM-sigma detect, and is it the diffusion? Their controls, seeds, subsets of detectors and cost.

Used by notebook 05; entry points: `fit_three`, `without_diffusion`, `closed_form`, `detector_subsets`, `seconds`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffad_utils import metrics, scoring
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import NoiseSchedule, ddim_invert
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm import ESM, SGM, ESMSigma
from diffad_utils.methods.esm.base import ReconstructionMaps, ScoreMatchingDetector
from diffad_utils.methods.esm.equations import Moments, cosine_map, residual_map, step_edges
from diffad_utils.methods.invad.score import channel_norm, gaussian_nll, value_range
from diffad_utils.metrics.bootstrap import bootstrap_counts, bootstrap_percentiles, bootstrap_statistic
from diffad_utils.models.unet import small_unet

SETTINGS = (
    *("space", "image_size", "vae", "backbone", "block_out_channels", "layers_per_block", "attention_levels"),
    *("dsm_steps", "train_steps", "train_batch_size", "learning_rate", "noise_timesteps", "stride", "seed"),
    *("calibration_images", "mixed_precision", "gradient_checkpointing", "inference_precision"),
)
"""Parameters of notebook 05 that are settings of the detectors by the same name."""


def settings(parameters: Mapping, device: str) -> dict:
    """The settings that the three detectors share, from the parameters of notebook 05."""
    return {name: parameters[name] for name in SETTINGS} | {
        "device": device,
        "warmup_steps": min(20, parameters["dsm_steps"] - 1),
    }


def fit_three(
    train: ImageDataset, shared: Mapping, noise_timestep: int | None, **more: int
) -> dict[str, ScoreMatchingDetector]:
    """SGM, ESM and ESM-sigma on the same warm-up, images and T_d, by their names in the paper.

    Parameters
    ----------
    noise_timestep : T_d of all three; None: chosen by ESM on held-out normal images with pasted defects.
    more : settings in the place of those in ``shared``, such as ``seed``.
    """
    shared = {**shared, **more}
    esm = ESM(**shared, noise_timestep=noise_timestep).fit(train)
    sgm = SGM(**shared, noise_timestep=esm.noise_timestep_).fit(train, warm_start=esm)
    return {"SGM": sgm, "ESM": esm, "ESM-sigma": esm.with_settings(ESMSigma)}


def measure_all(
    detectors: Mapping[str, ScoreMatchingDetector], task: Task
) -> tuple[dict[str, ReconstructionMaps], dict[str, Prediction], dict[str, float]]:
    """What each detector makes of the task's images: (reconstructions and maps, predictions, milliseconds an image)."""
    measured, predictions, milliseconds = {}, {}, {}
    for name, detector in detectors.items():
        start = time.perf_counter()
        measured[name] = detector.measure(task.images, task.keys)
        predictions[name] = detector.prediction(measured[name], tuple(task.images.shape[-2:]))
        milliseconds[name] = 1000 * (time.perf_counter() - start) / len(task.labels)
    return measured, predictions, milliseconds


def largest_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the largest value of each map [B, H, W] lies inside the mask [B, H, W] (bool): bool [B]."""
    return masks.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True))[:, 0].bool()


def recombined(detector: ScoreMatchingDetector, x0: Tensor, x_hat: Tensor, held_out: tuple[Tensor, Tensor]) -> Tensor:
    """Scores [B] that ``detector``'s detectors give to another method's reconstructions ``x_hat`` of X_0, calibrated on
    that method's (X_0, X_0_hat) of ``held_out`` normal images: what the score adds, at equal reconstructions."""
    calibration = scoring.Calibration.fit({name: values.flatten() for name, values in detector.maps(*held_out).items()})
    return detector.score(detector.combine(detector.maps(x0, x_hat), calibration=calibration))


def sgm_with_four_detectors(detectors: Mapping[str, ScoreMatchingDetector], sgm: ReconstructionMaps) -> Tensor:
    """Scores [B] of SGM's reconstructions by ESM's four detectors, whose variances are those of ESM's network."""
    normal = detectors["SGM"].encode(detectors["SGM"].held_out_[0])
    held_out = normal, detectors["SGM"].sample(normal, detectors["SGM"].held_out_[1])
    return recombined(detectors["ESM"], sgm.x0, sgm.x_hat, held_out)


# --- is it the diffusion? ---------------------------------------------------------------------------------------------


@torch.inference_mode()
def without_diffusion(detector: ScoreMatchingDetector, images: Tensor) -> tuple[Tensor, Tensor]:
    """The detectors S_Cos and S_RE on what the autoencoder alone makes of images [B, 3, H, W]: no noise, no network.

    Each image is compared with Dec(Enc(image)); the maps are calibrated on the held-out normal images, combined and
    scored as the detector's own. At T_d = 0 X_0_hat would be X_0 and every map of the detector zero, so this is the
    least that a reconstruction can be.

    Returns
    -------
    scores [B] and maps [B, image_size, image_size].

    Raises
    ------
    ValueError
        In pixel space, where there is no autoencoder and nothing to compare.
    """
    if detector.space == "pixel":
        raise ValueError("without_diffusion compares an image with its autoencoder's output: pixel space has none")

    def maps(images: Tensor) -> dict[str, Tensor]:
        parts = []
        for part in detector._input(images).split(detector.batch_size):
            decoded = detector.decode(detector.encode(part))
            both = torch.cat([part, decoded]).to(detector.torch_device)
            features, others = zip(*(block.float().chunk(2) for block in detector.backbone_(both)), strict=True)
            cosine = cosine_map(features, others, tuple(part.shape[-2:])).cpu()
            parts.append({"cos": cosine, "re": residual_map(part, decoded)})
        return {name: torch.cat([part[name] for part in parts]) for name in ("cos", "re")}

    normal = maps(detector.held_out_[0])
    calibration = scoring.Calibration.fit({name: values.flatten() for name, values in normal.items()})
    combined = detector.combine(maps(images), weights={"cos": 1.0, "re": 1.0}, calibration=calibration)
    return detector.score(combined), combined


class ElementwiseGaussian(nn.Module):
    """What both streams would say if each element of X_0 were an independent Gaussian: in closed form, no training.

    Parameters
    ----------
    x0 : training data [n, C, h, w] in the diffusion's space, whose mean and variance of each element are taken.
    """

    def __init__(self, x0: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.register_buffer("mean", x0.double().mean(dim=0))
        self.register_buffer("signal", x0.double().var(dim=0).clamp_min(1e-4))  # an element may be the same everywhere
        self.register_buffer("alphas", schedule.alphas_cumprod.double())

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = True) -> Moments:
        """The optimum of eq. 10 at X_t [B, C, h, w] and indices t [B]; a tuple either way, as the samplers take it."""
        alpha = self.alphas[t][:, None, None, None]
        total = alpha * self.signal + 1 - alpha
        eps = (1 - alpha).sqrt() * (x.double() - alpha.sqrt() * self.mean) / total
        return Moments(eps.to(x), (alpha * self.signal * (1 - alpha) / total).to(x))

    def variance(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma_t^2 alone, [1 or B, C, h, w]."""
        return self(x, t).variance.expand_as(x)


def closed_form(detector: ScoreMatchingDetector, train: ImageDataset) -> ScoreMatchingDetector:
    """The same detector, T_d, steps and calibration, with `ElementwiseGaussian` of the training images for a network.

    What remains of its accuracy owes nothing to what the network has learnt.
    """
    other = copy.copy(detector)
    images = other._fitted_and_held_out(train, other.holdout_fraction)[0]
    x0 = torch.cat([other.encode(part) for part in images.split(other.batch_size)])
    other.network_ = ElementwiseGaussian(x0, other.schedule_).to(other.torch_device)
    other.calibration_ = other._calibrate(*other.held_out_)
    return other


# --- inversion in the place of reconstruction (claim C42) -------------------------------------------------------------


@torch.inference_mode()
def inverted_scores(detector: SGM, images: Tensor, num_steps: int = 3, spacing: str = "reference") -> dict[str, Tensor]:
    """InvAD's score on the ends of DDIM inversions by SGM's own network, and on X_0 itself without a network: each [B].

    Both parts of the score, NLL and value range of the channels' norm, are calibrated on the same of the held-out
    normal images. X_0 is taken on the scale on which the network was trained.

    Returns
    -------
    {"inversion": [B], "X_0, no network": [B]}.
    """

    def eps_fn(x: Tensor, t: Tensor) -> Tensor:
        with detector._autocast():
            return detector.network_(x, t, return_dict=False)[0].float()

    def ends(images: Tensor) -> dict[str, Tensor]:
        x0 = torch.cat([detector.encode(part) for part in detector._input(images).split(detector.batch_size)])
        latents = [
            ddim_invert(eps_fn, part.to(detector.torch_device), detector.schedule_, num_steps, spacing).cpu()
            for part in x0.split(detector.batch_size)
        ]
        return {"inversion": torch.cat(latents), "X_0, no network": x0}

    def parts(x: Tensor) -> dict[str, Tensor]:
        return {"nll": gaussian_nll(x), "range": value_range(channel_norm(x))}

    normal, tested = ends(detector.held_out_[0]), ends(images)
    return {name: scoring.Calibration.fit(parts(normal[name])).combine(parts(tested[name])) for name in tested}


# --- over T_d ---------------------------------------------------------------------------------------------------------


def steps_needed(
    scores: Mapping[str, Mapping[int, Tensor]], labels: Tensor, n: int, seed: int, within: float = 0.02
) -> tuple[float, float, float]:
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
    return float(effect), float(low), float(high)


# --- the paper's table 5 ----------------------------------------------------------------------------------------------


def detector_subsets(
    detector: ScoreMatchingDetector, maps: Mapping[str, Tensor], task: Task
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Every subset of the detectors of eq. 14 with equal weights: (table, scores {subset: [B]}).

    Columns: detectors, number, I-AUROC with low and high (95 % over images), P-AUROC where there are masks
    (`metrics.with_masks`).
    """
    rows, scores = [], {}
    for size in range(1, len(maps) + 1):
        for names in combinations(maps, size):
            combined = detector.combine(maps, weights=dict.fromkeys(names, 1.0))
            score = scores["+".join(names)] = detector.score(combined)
            row = {"detectors": "+".join(names), "number": size, **task.accuracy(score)}
            if task.has_masks:
                row["P-AUROC"] = float(metrics.pixel_auroc(combined[task.with_masks], task.masks[task.with_masks]))
            rows.append(row)
    return pd.DataFrame(rows), scores


# --- cost -------------------------------------------------------------------------------------------------------------


def _best_of(call: Callable[[], object], repeats: int) -> np.ndarray:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[1:])  # the first call also allocates


def seconds(
    detectors: Mapping[str, ScoreMatchingDetector], images: Tensor, keys: Sequence[str], repeats: int = 5
) -> dict[str, dict[str, np.ndarray]]:
    """Seconds an image of a step of each detector's process, and of all that is not a step: {name: {"step", "rest"}}.

    Each [repeats]: the reverse process (for ESM-sigma the forward one too) from T_d = 20 in steps of 2, over its ten
    steps; encoding, decoding and the maps.
    """
    found = {}
    for name, detector in detectors.items():
        timed = copy.copy(detector)
        timed.noise_timestep_, timed.stride = 20, 2
        x0 = timed.encode(timed._input(images))
        steps = len(step_edges(20, 2)) - 1
        step = _best_of(lambda timed=timed, x0=x0: timed.sample(x0, keys), repeats) / steps
        rest = _best_of(lambda timed=timed, x0=x0: (timed.encode(timed._input(images)), timed.maps(x0, x0)), repeats)
        found[name] = {"step": step / len(images), "rest": rest / len(images)}
    return found


def times_faster(seconds: Mapping[str, np.ndarray], rival: Mapping[str, np.ndarray], steps: float) -> np.ndarray:
    """How many times longer ``rival`` takes with 1000 steps than a method with ``steps``: [repeats] of `seconds`."""
    return (rival["rest"] + 1000 * rival["step"]) / (seconds["rest"] + steps * seconds["step"])


def network_size(
    channels: int,
    image_size: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    attention_levels: Sequence[int],
) -> int:
    """Parameters of one stream of this size, counted without making it."""
    with torch.device("meta"):
        unet = small_unet(channels, image_size, block_out_channels, layers_per_block, attention_levels)
    return sum(p.numel() for p in unet.parameters())
