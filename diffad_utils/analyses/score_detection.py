"""Do SGM, ESM and ESM-sigma detect, and is it the diffusion? Their controls, seeds, subsets of detectors and cost.

Used by notebook 05; entry points: `fit_three`, `without_diffusion`, `closed_form`, `detector_subsets`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffad_utils import scoring
from diffad_utils.analyses.latent_inversion import Inverted
from diffad_utils.analyses.score_claims import MAIN, Effect
from diffad_utils.analyses.score_matching import pixel_auroc_by_image
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.io import store
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.esm import ESM, SGM, ESMSigma
from diffad_utils.methods.esm.base import ReconstructionMaps, ScoreMatchingDetector
from diffad_utils.methods.esm.equations import Moments, cosine_map, residual_map, step_edges
from diffad_utils.methods.kept import kept
from diffad_utils.metrics.bootstrap import mean_interval
from diffad_utils.models.recent import recent

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
    esm: Any = ESM(**shared, noise_timestep=noise_timestep).fit(train)
    sgm = SGM(**shared, noise_timestep=esm.noise_timestep_).fit(train, warm_start=esm)
    return {"SGM": sgm, "ESM": esm, "ESM-sigma": esm.with_settings(ESMSigma)}


def accuracy_table(task: Task, scores: Mapping[str, Tensor]) -> pd.DataFrame:
    """I-AUROC of each of the scores [B] with its 95 % interval: columns name, I-AUROC, low, high, data (the task)."""
    return pd.DataFrame([{"name": name, **task.accuracy(s), "data": task.name} for name, s in scores.items()])


def measure_all(
    detectors: Mapping[str, ScoreMatchingDetector], task: Task
) -> tuple[dict[str, ReconstructionMaps], dict[str, Prediction], dict[str, float]]:
    """What each detector makes of the task's images: (reconstructions and maps, predictions, milliseconds an image).

    The time of what is computed once for all of them (`models.recent`) counts for each.
    """
    measured, predictions, milliseconds = {}, {}, {}
    for name, detector in detectors.items():
        start = store.clock()
        measured[name] = detector.measure(task.images, task.keys)
        predictions[name] = detector.prediction(measured[name], tuple(task.images.shape[-2:]))
        milliseconds[name] = 1000 * (store.clock() - start) / len(task.labels)
    return measured, predictions, milliseconds


def taken(prediction: Prediction, rows: Tensor) -> Prediction:
    """Scores, maps and reconstructions of some images alone (rows int64 [n])."""
    return Prediction(
        prediction.score[rows], prediction.anomaly_map[rows], prediction.reconstruction[rows], nfe=prediction.nfe
    )


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


# --- several trainings ------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What one training says of the task's images: the methods' predictions, and SGM's scores with four detectors."""

    predictions: dict[str, Prediction]
    four: Tensor


def first_training(
    detectors: Mapping[str, ScoreMatchingDetector],
    measured: Mapping[str, ReconstructionMaps],
    predictions: dict[str, Prediction],
) -> Trained:
    """The detectors' own training in the form of `train_again`."""
    return Trained(predictions, sgm_with_four_detectors(detectors, measured["SGM"]))


def against(task: Task, score: Tensor, others: Mapping[str, Tensor]) -> dict[str, Effect]:
    """I-AUROC of ``score`` [B] minus that of each of the others."""
    return {name: Effect(*task.difference(score, other), len(task.labels)) for name, other in others.items()}


def train_all(task: Task, shared: Mapping, noise_timestep: int, trainings: int, first: Trained) -> dict[int, Trained]:
    """``first`` and `train_again` with the seeds that follow its own, in all ``trainings``: {seed: `Trained`}."""
    seeds = range(shared["seed"] + 1, shared["seed"] + trainings)
    return {shared["seed"]: first} | {seed: train_again(task, shared, noise_timestep, seed) for seed in seeds}


def train_again(task: Task, shared: Mapping, noise_timestep: int, seed: int) -> Trained:
    """The three methods once more, with another seed for training, noise and the held-out images, and the same T_d."""
    detectors = fit_three(task.train, shared, noise_timestep, seed=seed)
    measured, predictions, _ = measure_all(detectors, task)
    return Trained(predictions, sgm_with_four_detectors(detectors, measured["SGM"]))


def effects_table(effects: Mapping[str, Sequence[Effect]]) -> pd.DataFrame:
    """The main comparisons (`MAIN`) by seed: columns comparison, effect, low, high, n, seed."""
    rows = [{"comparison": name, **e._asdict()} for key, name in MAIN.items() for e in effects[key]]
    return pd.DataFrame(rows).drop(columns="note")


def comparisons(task: Task, trained: Mapping[int, Trained]) -> dict[str, list[Effect]]:
    """The paper's main comparisons for each training {seed: `Trained`}, by key of `score_claims.MEASURES`.

    Differences of I-AUROC; with masks also of the pixel AUROC within an image, its mean over images.
    """
    found: dict[str, list[Effect]] = {}
    for seed, (predictions, four) in trained.items():
        score = {name: q.score for name, q in predictions.items()} | {"four": four}
        for key, a, b in (("C44", "ESM", "SGM"), ("C46 image", "ESM-sigma", "ESM"), ("C47a", "ESM", "four")):
            found.setdefault(key, []).append(Effect(*task.difference(score[a], score[b]), len(task.labels), seed))
        if task.has_masks:
            pixel = {name: pixel_auroc_by_image(q.anomaly_map, task.masks) for name, q in predictions.items()}
            for key, a, b in (("C45", "ESM", "SGM"), ("C46 pixel", "ESM-sigma", "ESM")):
                gain = mean_interval(pixel[a] - pixel[b], task.bootstrap_samples, task.seed)
                found.setdefault(key, []).append(Effect(*gain, len(pixel[a]), seed))
    return found


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


class Controls(NamedTuple):
    """Each method without its network. table: method, row, I-AUROC, low, high; the others {method: `Task.control_row`}:
    ``no_diffusion`` is the autoencoder alone (in pixel space ``closed_form``)."""

    table: pd.DataFrame
    no_diffusion: dict[str, dict]
    closed_form: dict[str, dict]


def controls(
    detectors: Mapping[str, ScoreMatchingDetector], predictions: Mapping[str, Prediction], task: Task
) -> Controls:
    """Every method beside `closed_form` and, in latent space, `without_diffusion`."""
    what = "same noise, process and detectors; an element-wise Gaussian of the training images for the network"
    plain = {name: closed_form(d, task.train).predict(task.images, task.keys) for name, d in detectors.items()}
    formula = {n: task.control_row(predictions[n].score, q.score, what, q.anomaly_map) for n, q in plain.items()}
    rows = [(n, "with its network", q.score) for n, q in predictions.items()]
    rows += [(n, "closed form", q.score) for n, q in plain.items()]
    nothing, first = formula, detectors["SGM"]
    if first.space == "latent":
        what = "S_Cos and S_RE of the image against Dec(Enc(image)), calibrated alike: no noise, no network"
        score, maps = without_diffusion(first, task.images)
        maps = scoring.upsample_map(maps, tuple(task.images.shape[-2:]))
        nothing = {n: task.control_row(q.score, score, what, maps) for n, q in predictions.items()}
        rows += [(n, "autoencoder alone", score) for n in predictions]
    table = pd.DataFrame([{"method": n, "row": row, **task.accuracy(s)} for n, row, s in rows])
    return Controls(table, nothing, formula)


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
    other: Any = copy.copy(detector)
    images = other._fitted_and_held_out(train, other.holdout_fraction)[0]
    x0 = torch.cat([other.encode(part) for part in images.split(other.batch_size)])
    other.network_ = ElementwiseGaussian(x0, other.schedule_).to(other.torch_device)
    other.calibration_ = other._calibrate(*other.held_out_)
    return other


# --- inversion in the place of reconstruction (claim C42) -------------------------------------------------------------


def inversion_effects(inversion: Inverted, task: Task) -> dict[str, Effect]:
    """I-AUROC of the inversion minus that of the network's own inference (C42), and minus that without a network."""
    rivals = {"C42": inversion.own, "no network": inversion.no_diffusion}
    note = f"{inversion.prediction.nfe:g} steps"
    return {
        key: Effect(*task.difference(inversion.prediction.score, q.score), len(task.labels), note=note)
        for key, q in rivals.items()
    }


# --- other trainings of ESM -------------------------------------------------------------------------------------------


def train_otherwise(task: Task, shared: Mapping, esm: ESM) -> dict[str, Tensor]:
    """Scores of the task's images by ESM with one network of two heads, and with all steps by eq. 10, no warm-up."""
    heads = ESM(**shared, noise_timestep=esm.noise_timestep_, shared=True).fit(task.train, warm_start=esm)
    steps = {"dsm_steps": 0, "train_steps": esm.dsm_steps + esm.train_steps}
    cold = ESM(**{**shared, **steps}, noise_timestep=esm.noise_timestep_).fit(task.train)
    trained = {"one network, two heads": heads, "no warm-up": cold}
    return {name: detector.predict(task.images, task.keys).score for name, detector in trained.items()}


# --- cost -------------------------------------------------------------------------------------------------------------


def _timed(call: Callable[[], object], repeats: int) -> np.ndarray:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[1:])  # the first call also allocates


@recent.off()
@kept()
def seconds_of_steps(
    detectors: Mapping[str, ScoreMatchingDetector], images: Tensor, keys: Sequence[str], repeats: int = 5
) -> dict[str, dict[str, np.ndarray]]:
    """Seconds an image of a step of each detector's process, and of all that is not a step: {name: {"step", "rest"}}.

    Each [repeats]: the reverse process (for ESM-sigma the forward one too) from T_d = 20 in steps of 2, over its ten
    steps; encoding, decoding and the maps.
    """
    found = {}
    with store.paused():
        for name, detector in detectors.items():
            timed = copy.copy(detector)
            timed.noise_timestep_, timed.stride = 20, 2
            x0 = timed.encode(timed._input(images))
            steps = len(step_edges(20, 2)) - 1
            step = _timed(partial(timed.sample, x0, keys), repeats) / steps
            encode = _timed(partial(timed.encode, timed._input(images)), repeats)
            rest = encode + _timed(partial(timed.maps, x0, x0), repeats)
            found[name] = {"step": step / len(images), "rest": rest / len(images)}
    return found


def times_faster(seconds: Mapping[str, np.ndarray], rival: Mapping[str, np.ndarray], steps: float) -> np.ndarray:
    """How many times longer ``rival`` takes with 1000 steps than a method with ``steps``: [repeats]."""
    return (rival["rest"] + 1000 * rival["step"]) / (seconds["rest"] + steps * seconds["step"])


def cost_effects(
    times: Mapping[str, Mapping[str, np.ndarray]], printed: np.ndarray, samples: int, seed: int
) -> dict[str, Effect]:
    """Claims C60 and C61 from `seconds_of_steps` and the paper's T_d; "ESM-sigma" is C60b for that method."""
    mean, largest, n = float(printed.mean()), float(printed.max()), len(printed)
    found = {"C60a": Effect(300 - largest, 300 - largest, 300 - largest, n)}
    for key, name in (("C60b", "ESM"), ("ESM-sigma", "ESM-sigma")):
        ratios = times_faster(times[name], times["SGM"], mean)
        found[key] = Effect(*mean_interval(ratios, samples, seed), len(ratios), note=f"T_d = {mean:.1f}")
    saved = 1 - 3 * mean / 1000
    return found | {"C61": Effect(saved, saved, saved, n)}


def milliseconds(times: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """An image's mean time of a step of each method, and of what is done once, from `seconds_of_steps`."""
    steps = {f"{name}: a step": 1000 * float(v["step"].mean()) for name, v in times.items()}
    return steps | {"once: encode, decode, maps": 1000 * float(times["ESM"]["rest"].mean())}


def records(
    detectors: Mapping[str, ScoreMatchingDetector],
    milliseconds: Mapping[str, float],
    controls: Controls,
    trivial: TrivialBaseline,
) -> dict[str, dict]:
    """Keyword arguments for the record of each method."""
    baseline = trivial.record()
    return {
        name: {
            "detector": d,
            "maps": True,
            "trivial_baseline": baseline,
            "timing": {"fit_s": d.dsm_log_.seconds + d.training_log_.seconds, "ms_per_image": milliseconds[name]},
            "experiments": {
                "no_diffusion": controls.no_diffusion[name],
                "no_diffusion_closed_form": controls.closed_form[name],
            },
        }
        for name, d in detectors.items()
    }


def cost_table(
    detectors: Mapping[str, Any], milliseconds: Mapping[str, float], results: Mapping[str, Mapping]
) -> pd.DataFrame:
    """T_d, NFE, stream evaluations (each network counted), milliseconds an image, millions of weights and I-AUROC."""
    streams = {"SGM": (1, 0), "ESM": (2, 2), "ESM-sigma": (3, 2)}  # a step, and once an image for sigma_0^2
    rows = [
        {
            "method": name,
            "T_d": d.noise_timestep_,
            "NFE": d.nfe,
            "stream evaluations": streams[name][0] * d.num_steps + streams[name][1],
            "ms an image": milliseconds[name],
            "parameters (M)": sum(q.numel() for q in d.network_.parameters()) / 1e6,
            "I-AUROC": results[name]["I-AUROC"],
        }
        for name, d in detectors.items()
    ]
    return pd.DataFrame(rows)
