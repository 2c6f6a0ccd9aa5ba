"""GLAD against its plain form, two by two: what it is trained on, and how an image chooses its step.

The four forms share the size of the network, its training steps and seed, the noise, the map and the test images. The
plain form, trained on normal images with the step of nearest neighbours, is D3AD's from noise.

Used by notebook 06 and `benchmarks.glad`; entry points: `four_forms`, `in_words`, `cost_in_words`, `to_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from diffad_utils.analyses.conditioned_controls import AUTOENCODER, GATE, d3ad_controls
from diffad_utils.analyses.d3ad_study import all_metrics, beside_controls, seconds_of
from diffad_utils.analyses.detector_variants import Variants, settings_of
from diffad_utils.analyses.paired_comparison import BootstrapQuality
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import relation, signed
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.glad import GLAD
from diffad_utils.metrics.bootstrap import bootstrap_percentiles

TRAININGS = {"plain": {"pasted_share": 0.0}, "pasted": {}}
RULES = {"neighbours": {"step_rule": "neighbours"}, "criterion": {"step_rule": "criterion"}}
PLAIN, BOTH = "plain, neighbours", "pasted, criterion"
QUESTIONS = {
    "pasted anomalies in training (step by neighbours)": ("pasted, neighbours", PLAIN),
    "pasted anomalies in training (step by the criterion)": (BOTH, "plain, criterion"),
    "the criterion's step (plain training)": ("plain, criterion", PLAIN),
    "the criterion's step (pasted training)": (BOTH, "pasted, neighbours"),
    "both": (BOTH, PLAIN),
}
"""What each idea adds: the first form minus the second."""

OWN_SETTINGS = ("t_max", "guidance_weight", "adaptation_epochs")
"""Settings of D3AD in notebook 06 that GLAD has values of its own for."""


class Forms(NamedTuple):
    """predictions : of the test images by form. quality : their metrics, and those of Dec(Enc(x)) without diffusion, on
    the same resamples. controls : those without diffusion, by name. detector : GLAD as a whole. timing : its fit_s and
    ms_per_image. milliseconds : an image, by form."""

    predictions: dict[str, Prediction]
    quality: BootstrapQuality
    controls: Mapping[str, Prediction]
    detector: GLAD
    timing: dict[str, float]
    milliseconds: dict[str, float]


def four_forms(parameters: Mapping[str, Any], task: Task, device: str) -> Forms:
    """Train twice, for ``glad_steps`` steps each, and predict the test images of a task four times.

    parameters : of notebook 06. The network is D3AD's there, noise, steps and criterion are GLAD's defaults.
    """
    given = {name: value for name, value in settings_of(GLAD, parameters).items() if name not in OWN_SETTINGS}
    given |= {"train_steps": parameters["glad_steps"], "seed": parameters["seed"], "device": device}
    predictions: dict[str, Prediction] = {}
    timing: dict[str, float] = {}
    milliseconds: dict[str, float] = {}
    for training, settings in TRAININGS.items():
        detector = GLAD(**given | settings)
        timing["fit_s"] = seconds_of(partial(detector.fit, task.train))
        variants = Variants(detector, task)
        for rule, setting in RULES.items():
            form, _ = f"{training}, {rule}", variants.fitted(**setting).scales_  # calibrated before it is timed
            milliseconds[form] = 1000 * seconds_of(partial(variants.predict, **setting)) / len(task.keys)
            predictions[form] = variants.predict(**setting)
    # `detector`, `variants` and `timing` are now of GLAD as a whole: the last training with the last rule
    timing["ms_per_image"] = milliseconds[BOTH]
    maps = variants.maps(**RULES["neighbours"])
    controls = d3ad_controls(detector, maps, tuple(task.images.shape[-2:]))
    compared = predictions | {AUTOENCODER: controls[AUTOENCODER]}
    quality = BootstrapQuality.of(compared, task.batch, task.bootstrap_samples, task.seed)
    return Forms(predictions, quality, controls, detector, timing, milliseconds)


def differences(quality: BootstrapQuality, metric: str) -> dict[str, np.ndarray]:
    """What each idea adds to a metric, and both to Dec(Enc(x)): question -> draws [n + 1]."""
    asked = QUESTIONS | {"both, over Dec(Enc(x)) without diffusion": (BOTH, AUTOENCODER)}
    of = quality.metric(metric)
    return {question: of[one] - of[other] for question, (one, other) in asked.items()}


def in_words(quality: BootstrapQuality) -> str:
    """What the two ideas add, each with its interval over images."""
    said = []
    for metric in [name for name in ("I-AUROC", "AUPRO") if name in quality.metrics]:
        effects = {name: bootstrap_percentiles(draws) for name, draws in differences(quality, metric).items()}
        parts = [f"{name} {signed(found)}, {relation(*found[1:])} zero" for name, found in effects.items()]
        said.append(f"What is added to {metric}: {'; '.join(parts)}.")
    return " ".join(said) + " Each network was trained once; intervals are over images."


def cost_in_words(forms: Forms, labels: Tensor) -> str:
    """Which steps the two rules choose for normal and anomalous images, and what they cost."""
    said = []
    for rule, name in (("criterion", BOTH), ("neighbours", "pasted, neighbours")):
        prediction = forms.predictions[name]
        normal, anomalous = (float(prediction.parts["step"][labels == label].mean()) for label in (0, 1))
        said.append(
            f"By the {rule} the mean step is {normal:.0f} for normal and {anomalous:.0f} for anomalous images, with "
            f"{prediction.nfe:.1f} network evaluations and {forms.milliseconds[name]:.0f} ms an image."
        )
    return " ".join(said) + " The criterion saves none: it is taken on the way down from T_max."


def to_record(forms: Forms, task: Task, baseline: TrivialBaseline) -> dict[str, Any]:
    """The arguments of ``run.record_method("glad", ...)``: GLAD as a whole, with its controls without diffusion."""
    prediction = forms.predictions[BOTH]
    scores = {name: forms.controls[name].score for name in (AUTOENCODER, GATE)}
    _, records = beside_controls(task, {"GLAD": prediction.score} | scores)
    return {
        "prediction": prediction,
        "batch": task.batch,
        "metrics": all_metrics(prediction, task),
        "detector": forms.detector,
        "timing": forms.timing,
        "maps": True,
        "trivial_baseline": baseline.record(),
        "experiments": {
            "no_diffusion": records[0],
            "no_diffusion_neighbours": records[1],
            "forms": forms.quality.long("form").to_dict("records"),
        },
    }
