"""What notebook 03 says about the published claims: where each was measured, and in which words.

The measures hold the phrases that ``data/published/claims.csv`` fixes; margins are the table's.

Used by notebook 03; entry points: `judge`, `over_images`, `over_draws`, `relation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from diffad_utils.analyses import wording
from diffad_utils.data import captions
from diffad_utils.metrics import bootstrap
from diffad_utils.study import claims, numbers


class Effect(NamedTuple):
    """An effect with its 95 % interval over images, how many there are, and what the reader must know."""

    value: float
    low: float
    high: float
    n: int
    note: str = ""


_DETECTOR = "Does it detect, and what must it beat?"
_EDIT = "Does it remove the defect and leave the rest?"
_STABLE = "Is the reconstruction repeatable?"
_IDENTITY = "Is it the identity on normal images?"
_ALPHA = "What does the weight alpha do?"
_REASON = "Right for the wrong reason?"

MEASURES = {
    "C05a": (_EDIT, "SSIM of x_hat at {} and Dec(Enc(x)), minus 0.9"),
    "C05b": (_EDIT, "share of the defect that survives, of what the autoencoder left, at {}"),
    "C06": (
        _EDIT,
        "at {}, the smaller of the share of the defect that is gone and the drift over its size, against Dec(Enc(x))",
    ),
    "C07": (_EDIT, "drift against Dec(Enc(counterpart)), 0.5 minus the smaller of removal and fidelity at {}"),
    "C08": (
        _EDIT,
        "log2 of the L2 norm of the generative drift outside the mask, x_hat - Dec(Enc(x)), over that of the defect, "
        "smaller half of the defects, {}",
    ),
    "C09": (_REASON, "share of the 1 % highest residual pixels that lie outside the mask"),
    "C10": (_STABLE, "standard deviation of a pixel over seeds, in units of the defect's mean absolute size"),
    "C11": (_STABLE, "standard deviation of a pixel over guidance scales, in units of the defect's mean absolute size"),
    "C12": (_IDENTITY, "{}"),
    "C13": (_IDENTITY, "{}"),
    "C21": (
        "Pixels for the local, CLIP for the global?",
        "log2 of CLIP's response to global changes (colour cast, contrast; geometric mean) over its response to a spot "
        "that is as visible",
    ),
    "C22": (_ALPHA, "rank correlation of the raw score with the squared error at alpha 0.9 minus that at 0.3"),
    "C23": (_ALPHA, "share of the raw score's variance owed to {}"),
    "C25": (_DETECTOR, "I-AUROC of img2img's calibrated hybrid score"),
    "C26": (_REASON, "what {} (I-AUROC - 0.5) minus half of what the whole detects"),
    "C27": (_REASON, "0.5 minus the rank correlation over settings of I-AUROC and {}"),
    "C28": (
        "Inversion and back",
        "mean |Dec(back) - Dec(z)| after DDIM inversion and sampling, {}, no guidance, in units of the autoencoder's "
        "error",
    ),
    "C29": ("How sensitive is it to its settings?", "range of I-AUROC over settings, {}"),
    "C32a": ("How sensitive is it to its settings?", "range of the squared error's I-AUROC over settings, {}"),
    "C32b": (
        _DETECTOR,
        "I-AUROC of CLIP's distance to normal training images minus that of CLIP's distance to the reconstruction",
    ),
}
"""Claim -> (heading of the notebook's section, measure); {} is what differs between findings of one claim."""

STEADIER = (
    "cross-fitted, minus that of the CLIP distance's on the same images",
    "on the same images, minus that of the CLIP distance's, cross-fitted",
)
"""What is measured for C32a: a lower and an upper bound."""
WEAKER = {"mse": "the squared error at alpha 0.3", "clip": "the CLIP distance at alpha 0.9"}
"""The two parts of C23: either part of the score, where alpha gives it the smallest weight."""


def over_images(values: Sequence[float] | Tensor, note: str = "") -> Effect:
    """The mean of values [N] with its interval over images."""
    mean, low, high = bootstrap.mean_interval(values)
    return Effect(float(mean), float(low), float(high), len(values), note)


def over_draws(draws: np.ndarray, n: int, note: str = "") -> Effect:
    """A statistic with its interval: ``draws`` [R], that of the data first, of ``n`` images."""
    return Effect(*bootstrap.bootstrap_percentiles(draws), n, note)


def judge(found: Mapping[tuple[str, str], Effect], restriction: str = "") -> list[dict]:
    """Findings (`claims.finding`) from effects by (claim, what differs between findings of one claim); the
    ``restriction`` is in the note of each."""
    rows = []
    for (claim, which), effect in found.items():
        section, measure = MEASURES[claim]
        note = "; ".join(text for text in (Effect(*effect).note, restriction) if text)
        rows.append(claims.finding(claim, *effect[:4], measure=measure.format(which), section=section, note=note))
    return sorted(rows, key=lambda row: row["claim_id"])


SHIPPED = ("sd-mini", "clip-mini")
"""Models whose captions were those of `data.captions.NOUNS`, on pictures of the kind of ``textures``."""


def unknown_to(weights: str, dataset: str, category: str) -> str:
    """What a model that reads prompts has not met of a category in its training: "", "pictures" or "neither the
    pictures nor the words". Of models other than the shipped ones it is taken that they have met both."""
    if weights not in SHIPPED or dataset == "textures":
        return ""
    return "pictures" if category in captions.NOUNS else "neither the pictures nor the words"


def restriction(dataset: str, category: str, weights: str, gain: Sequence[float]) -> str:
    """What the reader must know of every finding on a category; empty where there is nothing.

    weights : of Stable Diffusion. gain : I-AUROC of img2img minus the trivial baseline: value, low, high.
    """
    texts = []
    if unknown := unknown_to(weights, dataset, category):
        texts.append(f"the generator has seen {'no ' * (unknown == 'pictures')}{unknown} of this data set")
    if gain[1] <= 0:
        texts.append("img2img is not shown to be above the trivial baseline here")
    return "; ".join(texts)


def written(value: float, low: float, high: float, *_: object, digits: int = 2, sign: str = "") -> str:
    """A value with its interval: "0.31 [0.25, 0.38]"."""
    return numbers.effect((value, low, high), digits, sign)


def relation(low: float, high: float, reference: float = 0.0) -> str:
    """Where an interval lies, as the end of a sentence: `wording.relation` after "is"."""
    return f"is {wording.relation(low, high, reference)}"
