"""What notebook 06 says about the claims: its sections add effects, and all are judged at its end.

Used by notebook 06; entry points: `Found`, `sentences`, `in_words`, `over_noise`, `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffad_utils.analyses.paired_comparison import BootstrapQuality
from diffad_utils.analyses.wording import detects, enumerated, relation, signed
from diffad_utils.metrics.bootstrap import bootstrap_percentiles
from diffad_utils.study import claims

FEWEST = 10
"""Images below which no interval is given."""

SECTIONS = {
    "C31": "Is it the implementation?",
    "C42": "The same network by inversion",
    "C66": "DDAD, the ancestor",
    "C68": "Noise or no noise?",
    "C69": "Noise or no noise?",
    "C70": "The modifications one by one",
    "C71": "The modifications one by one",
    "C72": "The modifications one by one",
    "C73": "A step for each image, or one for all?",
    "C74": "A step for each image, or one for all?",
    "C75": "Small and large defects",
    "C76": "Small and large defects",
    "C77": "Which step does an image choose?",
    "C78": "Does it remove the defect and keep the rest?",
    "C79": "What the autoencoder leaves, and what adaptation does about it",
    "C80": "What the autoencoder leaves, and what adaptation does about it",
    "C81": "How far can one go?",
    "C82": "How far can one go?",
    "C88": "Small and large defects",
    "C89": "What the metrics say about size",
    "C90": "What the metrics say about size",
    "C91": "Latent map, feature map, or both?",
    "C92": "Where does the time go?",
    "C93": "Does it remove the defect and keep the rest?",
    "C96": "Which step does an image choose?",
    "C97": "Where does the time go?",
}
"""The notebook's section that computes what is said about a claim."""

NOTES = {
    "C31": "same encoder, same fine-tuned decoder; the best setting of D3AD is picked in each resample",
    "C42": "D3AD's own small network, inverted over the timesteps it was trained on",
    "C66": "small network; supported: the more the reconstruction depends on the input, the more of the defect stays",
    "C78": "two networks, pixel space at a smaller image size",
    "C82": "z_t is decoded as it is: if a scaled latent were scaled back first, nothing would be lost",
    "C92": "interval over five repetitions, the two timed alternately",
    "C93": "the autoencoder is the frozen one of the latents, not trained to detect",
    "C97": "interval over the repetitions, the two timed in turns; the same widths of the UNet in both spaces",
}


def in_words(effect: Sequence[float], unit: str = "") -> str:
    """ "+0.012 [-0.003, +0.027], not shown to differ from 0" of draws [n + 1] or of (value, low, high)."""
    interval = _interval(effect)
    return f"{signed(interval)}{unit}, {relation(*interval[1:])} 0"


def sentences(effects: Mapping[str, Sequence[float]]) -> str:
    """A list of Markdown, "- measure: value [interval], ..." for each effect."""
    return "\n".join(f"- {measure}: {in_words(effect)}." for measure, effect in effects.items())


def over_noise(omega: BootstrapQuality) -> str:
    """Whether each metric, and their mean, falls from each variant to the next; of noise fractions in their order."""
    names = list(omega.values)
    curves = {metric: [float(of[0]) for of in omega.metric(metric).values()] for metric in omega.metrics}
    if len(curves) > 1:
        curves["their mean"] = [float(omega[name][0]) for name in names]
    said = []
    for what, values in curves.items():
        rises = [
            f"from {a} to {b}" for a, b, d in zip(names[:-1], names[1:], np.diff(values), strict=True) if not d < 0
        ]
        said.append(f"{what} " + (f"does not fall {enumerated(rises)}" if rises else "falls at each step"))
    return f"Over the {len(names)} values of omega, by the values alone: {'; '.join(said)}."


class Found:
    """Effects on claims as the sections measure them; `judged` makes the findings of all.

    ``not_judged``: what was measured too little to be judged, or has an objection, with the reason.
    """

    def __init__(self, images: int) -> None:
        """images : the number that an effect is on where nothing else is said."""
        self.images = images
        self.effects: list[dict] = []
        self.not_judged: list[dict] = []

    def add(
        self,
        claim: str,
        effects: Mapping[str, Sequence[float]],
        n: int | None = None,
        unless: str = "",
        fewest: int = FEWEST,
    ) -> str:
        """Note effects on a claim by their measures; returns them as sentences, to be said.

        Parameters
        ----------
        effects : measure, which holds one of the claim's variants word for word (claims.csv) -> draws [m + 1] with the
            value of the data first, or (value, low, high).
        n : images behind them; None: all.
        unless : an objection; with one, or with fewer than ``fewest`` images, the claim gets no verdict from them.
        """
        n = self.images if n is None else int(n)
        why = unless or (f"{n} images are too few for an interval" if n < fewest else "")
        for measure, effect in effects.items():
            if why:
                self.not_judged.append({"claim_id": claim, "measure": measure, "why": why})
            else:
                self.effects.append({"claim": claim, "measure": measure, "interval": _interval(effect), "n": n})
        return sentences(effects)

    def judged(self) -> list[dict]:
        """The findings, as ``run.record(claims=...)`` takes them; margins are the table's."""
        return [
            claims.finding(
                entry["claim"],
                entry["interval"][0],
                entry["interval"][1],
                entry["interval"][2],
                n=entry["n"],
                measure=entry["measure"],
                section=SECTIONS[entry["claim"][:3]],
                note=NOTES.get(entry["claim"][:3], ""),
            )
            for entry in self.effects
        ]


def answer(task: str, modifications: Mapping[str, Sequence[float]], controls: Sequence[Mapping]) -> str:
    """Notebook 06's two questions and what this run answers.

    Parameters
    ----------
    modifications : `d3ad_effects.gains`, what scaling, adaptation and the dynamic step add, each alone.
    controls : `Task.control_row` of D3AD against each control, with ``what``.
    """
    ends = {"above": "helps", "below": "does harm", "not shown to differ from": "is not shown to help or to harm"}
    names = ("scaling without noise", "domain adaptation of the features", "the dynamic step")
    said, measure = [], next(iter(modifications)).partition(", ")[2]
    for name, effect in zip(names, modifications.values(), strict=True):
        value = _interval(effect)
        said.append(f"{name} {ends[relation(*value[1:])]} ({signed(value)})")
    rivals = {row["what"]: (row["difference"], row["low"], row["high"]) for row in controls}
    return (
        f"**Does each of the three help?** On {task}, each alone and by the {measure}: {enumerated(said)}. "
        f"**Is it the diffusion model that finds the defects?** {detects('D3AD', rivals)}. Only what is above the "
        "controls without diffusion can be credited to the diffusion model."
    )


def _interval(effect: Sequence[float]) -> tuple[float, float, float]:
    values = np.asarray(effect, dtype=np.float64)
    mean, low, high = values if len(values) == 3 else bootstrap_percentiles(values)
    return float(mean), float(low), float(high)
