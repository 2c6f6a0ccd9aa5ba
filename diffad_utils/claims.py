"""Verdicts on published claims from recorded runs: evidence in numbers, a rule fixed in advance, no judgement by eye."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from diffad_utils.study import RunRecord, repository

MARGIN = 0.02
"""I-AUROC differences below this are treated as no difference."""


def published_claims(path: str | Path | None = None) -> pd.DataFrame:
    """The falsifiable claims of the sources, indexed by claim_id (columns source_id, statement, how_to_test, supported_by)."""
    return pd.read_csv(path or repository() / "data" / "published" / "claims.csv", dtype=str).set_index("claim_id")


SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"


def finding(
    claim: str, effect: float, low: float, high: float, n: int, *, measure: str, section: str, margin: float = 0.0, note: str = ""
) -> dict:
    """What one run says about one claim, as a row of ``claims.json``.

    The rule is the same for every claim. ``effect`` is signed so that larger speaks for the claim, ``low`` and ``high``
    are the ends of its 95 % interval, and the margin is stated with the measure: *supported* if the whole interval lies
    above the margin, *not supported* if all of it lies below, *inconclusive* otherwise. A claim of "better" has margin
    0 or the smallest difference that matters, a claim of "no worse" a negative margin.

    Parameters
    ----------
    claim : id in ``data/published/claims.csv``.
    n : number of images (or pairs, defects, ...) behind the interval.
    measure : what the effect is, with its unit: "I-AUROC of ESM minus SGM".
    section : heading of the notebook's section that computes it, for the link.
    note : a restriction the reader must know, such as "a small model trained for a minute".

    Raises ``ValueError`` for an unknown claim, a value that is not finite, or an interval that is not ordered.
    """
    if claim not in published_claims().index:
        raise ValueError(f"claim {claim!r} is not in data/published/claims.csv")
    effect, low, high, margin = float(effect), float(low), float(high), float(margin)
    if not all(math.isfinite(value) for value in (effect, low, high, margin)) or low > high:
        raise ValueError(f"{claim}: effect {effect}, interval [{low}, {high}], margin {margin}: must be finite and ordered")
    judged = SUPPORTED if low > margin else NOT_SUPPORTED if high < margin else INCONCLUSIVE
    return {
        "claim_id": claim, "verdict": judged, "effect": effect, "interval": [low, high], "margin": margin, "n": int(n),
        "measure": measure, "section": section, "note": note,
    }  # fmt: skip


def verdict(signs: Sequence[int]) -> str:
    """One sign a data set: +1 speaks for the claim, -1 against it, 0 neither. A verdict needs all of them to agree."""
    if signs and all(sign > 0 for sign in signs):
        return "supported on this data"
    if signs and all(sign < 0 for sign in signs):
        return "not supported on this data"
    return "inconclusive on this data"


def _sign(difference: float, low: float, high: float) -> int:
    """+1 if the interval lies above 0, -1 if below, 0 if it contains 0 or the difference is below `MARGIN`."""
    if abs(difference) < MARGIN:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def few_steps(experiments: dict) -> tuple[int, str]:
    """C33: three inversion steps reach the accuracy of the largest number tried (the recorded spacing's sweep)."""
    rows = pd.DataFrame(experiments["steps"])
    rows = rows[rows["spacing"] == "reference"].set_index("steps")
    three, most = rows.loc[3], rows.loc[rows.index.max()]
    behind = most["I-AUROC"] - three["I-AUROC"]
    sign = 1 if behind < MARGIN else -1 if three["high"] < most["low"] else 0
    return sign, f"I-AUROC {three['I-AUROC']:.3f} with 3 steps, {most['I-AUROC']:.3f} with {rows.index.max()}"


def strength_matters_less(experiments: dict) -> tuple[int, str]:
    """C34: I-AUROC varies more over the reconstruction's noise level than over the inversion's number of steps."""
    rivals, steps = pd.DataFrame(experiments["rivals"]), pd.DataFrame(experiments["steps"])
    noise = rivals.loc[rivals["method"].str.startswith("reconstruction"), "I-AUROC"]
    inversion = steps.loc[steps["spacing"] == "reference", "I-AUROC"]
    difference = float((noise.max() - noise.min()) - (inversion.max() - inversion.min()))
    text = f"range over noise levels {noise.max() - noise.min():.3f}, over inversion steps {inversion.max() - inversion.min():.3f}"
    return (0 if abs(difference) < MARGIN else 1 if difference > 0 else -1), text


def inversion_adds(experiments: dict) -> tuple[int, str]:
    """C37: the score on the final latent beats the same score on the features without any diffusion."""
    control = experiments["no_diffusion"]
    text = f"InvAD minus no diffusion {control['difference']:+.3f} [{control['low']:+.3f}, {control['high']:+.3f}]"
    return _sign(control["difference"], control["low"], control["high"]), text


def spread_adds(experiments: dict) -> tuple[int, str]:
    """C39: NLL + spread separates better than NLL alone."""
    gain = experiments["spread_gain"]
    text = f"NLL + spread minus NLL {gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    return _sign(gain["difference"], gain["low"], gain["high"]), text


INVAD_CLAIMS: dict[str, Callable[[dict], tuple[int, str]]] = {
    "C33": few_steps,
    "C34": strength_matters_less,
    "C37": inversion_adds,
    "C39": spread_adds,
}


def invad_evidence(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a claim about InvAD: claim, statement, evidence on each data set, verdict."""
    statements = published_claims()["statement"]
    rows = []
    for claim, measure in INVAD_CLAIMS.items():
        measured = {f"{r.dataset}/{r.category}": measure(r.experiments) for r in records}
        evidence = "; ".join(f"{where}: {text}" for where, (_, text) in measured.items())
        rows.append(
            {"claim": claim, "statement": statements[claim], "evidence": evidence, "verdict": verdict([s for s, _ in measured.values()])}
        )
    return pd.DataFrame(rows)
