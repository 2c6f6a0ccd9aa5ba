"""Which claims of the ESM paper notebook 05 judges, by which measure, in which section.

Used by notebook 05; entry points: `Effect`, `esm_findings`, `to_record`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffad_utils.analyses.wording import relation
from diffad_utils.io.paths import repository
from diffad_utils.study import claims


class Effect(NamedTuple):
    """An effect with its 95 % interval over ``n`` images; ``seed`` of the training if it is not the run's."""

    effect: float
    low: float
    high: float
    n: int
    seed: int | None = None
    note: str = ""


SEEDS, INVERSION = "Does it hold with another training?", "The same network, used the other way round"
POWERS, SCHEDULE = "Does the power matter? (section 3.1)", "Which schedule?"
PATHS, STOPPING = "When does the image appear? (the paper's figure 3)", "Stopping early"
SUBSETS, STABILITY = "Which detectors are needed? (the paper's table 5)", "Are the two processes stable?"
TIMESTEPS = "How far into the noise?"
SPACES = "Pixels or latents?"
OBJECTIVES = "Is ESM's objective of use to other detectors?"
STREAMS, COST = "One network or two?", "What does it cost? (the paper's table 4)"

MEASURES: dict[str, tuple[str, str]] = {
    "C42": ("I-AUROC of SGM's network, with inversion minus with its own inference", INVERSION),
    "C44": ("I-AUROC of ESM minus SGM", SEEDS),
    "C45": ("pixel AUROC within an image, ESM minus SGM, mean over images", SEEDS),
    "C46 image": ("I-AUROC of ESM-sigma minus ESM", SEEDS),
    "C46 pixel": ("P-AUROC of ESM-sigma minus ESM, within an image, mean over images", SEEDS),
    "C47a": ("I-AUROC of ESM minus SGM with ESM's four detectors", SEEDS),
    "C47b": ("log2 of the steps that SGM needs over those of ESM for an I-AUROC within 0.02 of its best", TIMESTEPS),
    "C48": ("distance of DSM_3's optimum to the true score, minus DSM_2's (shares of the score's size)", POWERS),
    "C49a": ("t at which the state is within 10 % of the end, ESM minus SGM", PATHS),
    "C49b": ("20 minus the larger distance of the two t to 100 and to 20", PATHS),
    "C50a": ("log10 2 minus the change of log10 max sigma^2 along ESM's path (stable: within a factor of 2)", PATHS),
    "C50b": ("1 - alpha_bar_t of DDPM's linear schedule at t = 200 against the printed 0.341: agreement", SCHEDULE),
    "C51": ("I-AUROC of SGM, full path minus stopped at t = 50", STOPPING),
    "C52": ("I-AUROC of ESM, stopped at t = 50 minus full path", STOPPING),
    "C53": ("growth of log10 of the largest update from bound 0.01 to 0.0001, ESM minus ESM-sigma", STABILITY),
    "C54": ("0.1 minus the mean relative distance of the network's sigma^2 to eq. 12's curve", STABILITY),
    "C55": ("I-AUROC of ESM-sigma with all four detectors minus subset", SUBSETS),
    "C56": ("I-AUROC of all four detectors minus S_Cos and S_RE, ESM-sigma", SUBSETS),
    "C60a": ("300 minus the largest of the printed T_d, largest of 33 categories", COST),
    "C60b": ("seconds an image of a 1000-step method with the same network over ESM's at the mean printed T_d", COST),
    "C61": ("share of a 1000-step method's evaluations that ESM-sigma saves, mean over the printed T_d", COST),
    "C64": ("I-AUROC of two streams minus one network with two heads", STREAMS),
    "C65": ("1e-6 minus the largest relative difference of the gradients of eq. 10 and of the DSM loss", STREAMS),
    "C94 D3AD": ("I-AUROC of D3AD, ESM's objective minus the method's own", OBJECTIVES),
    "C94 pixel DDPM": ("I-AUROC of the pixel DDPM, ESM's objective minus the method's own", OBJECTIVES),
    "C95": ("I-AUROC of ESM, features minus pixels", SPACES),
}
"""What is measured, and the heading in the notebook, by claim; two findings of one claim have a word after its id."""


MAIN = {"C44": "ESM minus SGM", "C46 image": "ESM-sigma minus ESM", "C47a": "ESM minus SGM, four detectors for both"}
"""The comparisons of I-AUROC that are shown for every training, by key of `MEASURES`."""

WITHOUT_DATA = ("C48", "C50b", "C60a", "C61", "toy_errors", "toy_ends", "printed objectives", "powers")
"""Claims and experiments of toys and printed numbers. C65 says nothing of data, but is measured on a trained network.
"""


def esm_findings(found: Mapping[str, Effect | list[Effect]], note: str) -> list[dict]:
    """Rows for ``claims.json`` from what the sections of notebook 05 found.

    Parameters
    ----------
    found : by key of `MEASURES`; "C55 cos+re" stands for one subset of C55. A list has an effect for each training's
        seed, each of which is a finding.
    note : how the networks were trained; it is added to each finding that depends on them.

    Raises
    ------
    ValueError
        A key that is not in `MEASURES`, and not a word on its own, which is no finding and left out.
    """
    rows, table = [], claims.published_claims()
    for key, effects in found.items():
        claim, _, word = key.partition(" ")
        if not claim.startswith("C"):
            continue
        subset = claim == "C55"
        if (name := claim if subset else key) not in MEASURES:
            raise ValueError(f"{key!r} is no claim of this notebook: expected one of {', '.join(MEASURES)}")
        measure, section = MEASURES[name]
        of_data = table.loc[claims.claim_row(claim, measure, table), "datasets"] != "none"
        for effect in [effects] if isinstance(effects, Effect) else effects:
            more = "; ".join(part for part in (note if of_data else "", effect.note) if part)
            row = claims.finding(
                claim, *effect[:4], measure=f"{measure} {word}" if subset else measure, section=section, note=more
            )
            rows.append(row if effect.seed is None else row | {"seed": effect.seed})
    return rows


def identity(gap: float, allowed: float, n: int) -> Effect:
    """Are two things the same? ``gap`` is their largest difference relative to their size; less than ``allowed`` is
    rounding, and gives an effect above 0. ``n`` : images."""
    differ = f"they differ by {gap:.0e} of their size at most" if gap else "no digit differs"
    off = allowed - gap
    return Effect(off, off, off, n, note=f"{claims.EQUAL if gap < allowed else 'not equal'}: {differ}")


def to_record(findings: Sequence[dict], experiments: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `study.Run.record`: what `WITHOUT_DATA` names is for the study, the rest for the run."""
    parts: dict[bool, dict[str, Any]] = {}
    for shared in (True, False):
        parts[shared] = {
            "experiments": {key: value for key, value in experiments.items() if (key in WITHOUT_DATA) == shared},
            "claims": [row for row in findings if (row["claim_id"] in WITHOUT_DATA) == shared],
        }
    return parts[False] | {"data_independent": parts[True]}


def compared(effect: Effect | Sequence[float], reference: float = 0.0) -> str:
    """ "above", "below" or "not shown to differ from" by the whole of the interval (effect, low, high, ...)."""
    low, high = effect[1:3]
    return relation(low, high, reference)


def printed_timesteps() -> np.ndarray:
    """T_d of the paper's tables 6 to 8, one a category: float64 [33]."""
    table = pd.read_csv(repository() / "data" / "published" / "hyperparameters.csv", dtype=str)
    rows = table[(table["source_id"] == "ESM2025") & table["name"].str.startswith("T_d[")]
    return rows["value"].astype(float).to_numpy()


def printed_digits(table: pd.DataFrame, printed: Mapping[int, float]) -> Effect:
    """Claim C50b: half of the last digit of 0.341 minus how far 1 - alpha_bar_t is off it; above 0 if it fits.

    ``table`` : `score_toys.schedule_candidates`.
    """
    off = 5e-4 - abs(float(table.iloc[199, 1]) - printed[200])
    return Effect(off, off, off, 1)
