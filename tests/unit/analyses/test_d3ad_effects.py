"""Effects of 06 on its claims: the words that claims.csv fixes, the sign, and what gets no verdict."""

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from diffad_utils.analyses import d3ad_effects as effects
from diffad_utils.analyses.d3ad_claims import SECTIONS, Found, in_words, over_noise, sentences
from diffad_utils.analyses.d3ad_study import Faded, Thirds, faded_in_words, not_above
from diffad_utils.analyses.paired_comparison import BootstrapQuality
from diffad_utils.analyses.task import Task
from diffad_utils.io.paths import repository
from diffad_utils.study import claims, verdicts

METRICS = ("I-AUROC", "P-AUROC", "AUPRO")
TASK = Task("textures/leather", None, None, torch.arange(4), {}, bootstrap_samples=40)


def quality(**values):
    """Constant draws of each metric by variant."""
    return BootstrapQuality(
        {name: {metric: np.full(41, value) for metric in METRICS} for name, value in values.items()}, 100
    )


STEPS = quality(**{"T = 20": 0.7, "T = 40": 0.71, "T = 60": 0.72, "T = 80": 0.75, "dynamic": 0.8})
PARTS = quality(**{"neither, T_max": 0.6, "DIC": 0.7, "DIC + DA": 0.72, "DIC + DS": 0.8, "DIC + DS + DA": 0.81})
THIRDS = Thirds(
    {"T = 20": np.linspace(0.6, 0.8, 9), "T = 80": np.linspace(0.5, 0.9, 9), "dynamic": np.linspace(0.6, 0.9, 9)},
    np.linspace(0.01, 0.1, 9),
    np.repeat(["small", "medium", "large"], 3),
)
TRACES = pd.DataFrame(
    {"label": [0, 0, 1, 1], "distance": [1.0, 1.0, 2.0, 2.0], "autoencoder": [0.9, 0.9] + [np.nan] * 2}
    | {"flagged": [0.02, 0.04] + [np.nan] * 2}
)
STRONG = pd.DataFrame(
    [
        {"kind": kind, "T": step, "image": i, "error": error, "nearest": 2 * error}
        for kind, error in (("scaled", 0.1), ("noised", 0.3))
        for step in (80, 240, 320)
        for i in range(3)
    ]
)
SURVIVAL = pd.DataFrame([{"w": w, "image": i, "survival": w / 10} for w in (0.0, 2.0, 4.0) for i in range(5)])
REMOVAL = pd.DataFrame(
    [
        {"method": name, "image": i, "third": "large" if i else "small", "removal": value, "fidelity": 0.9}
        for name, value in (("DDAD", 0.2), ("DDAD on latents", 0.6), ("Dec(Enc(x))", 0.7))
        for i in range(4)
    ]
)
OMEGA = quality(**{"0": 0.9, "0.5": 0.8, "1": 0.7})
SIMULATED = quality(**{"none": 1.0, "smallest half": 0.9, "largest half": 0.8})

CASES = {
    "C42": (effects.inversion(quality(own=0.7, other=0.9), "own", "other"), 0.2),
    "C68": (effects.less_noise(OMEGA), 0.2),
    "C69": (effects.noise_trend(OMEGA), 1.0),
    "C70": (effects.scaling_gains_most(PARTS), 0.08),
    "C71": (effects.adaptation_helps(PARTS), 0.015),
    "C72": (effects.both_are_best(PARTS), 0.01),
    "C73": (effects.dynamic_minus_static(STEPS), 0.1),
    "C74a": (effects.pro_of_steps(STEPS), 0.03),
    "C74b": (effects.static_minus_dynamic(STEPS), -0.1),
    "C75a": (effects.fewer_for_small(THIRDS, TASK), 0.05),
    "C75b": (effects.more_for_large(THIRDS, TASK), 1.0),
    "C76": (effects.dynamic_by_size(THIRDS, "small", TASK), 0.0125 + 0.02),
    "C88": (effects.difference_of_thirds(THIRDS, "large", "small", TASK), -0.175),
    "C79a": (effects.autoencoder_share(TRACES, TASK), 0.4),
    "C79b": (effects.autoencoder_flagged(TRACES, TASK), 0.02),
    "C80": (effects.adaptation_filters(TRACES, TRACES.assign(distance=[0.5, 0.5, 2, 2]), TASK), 0.5),
    "C81": (effects.hallucination(STRONG, 0.4, TASK), 0.5),
    "C66": (effects.survival(SURVIVAL, TASK), 0.4),
    "C78": (effects.latents_remove_more(REMOVAL, TASK), 0.4),
    "C93": (effects.reproduces_or_adds(REMOVAL, "DDAD", "DDAD, w = 4", TASK), 0.5),
    "C96": (effects.outliers_kept(quality(kept=0.8, without=0.7)), 0.1),
    "C97": (effects.pixels_over_latents(np.array([4.0, 8.0, 16.0])), 3.0),
    "C89": (effects.pixels_overestimate(SIMULATED), 0.0),
    "C90": (effects.large_count_more(SIMULATED), 0.0),
    "C91": (effects.both_maps(quality(**{"0": 0.7, "0.85": 0.8, "1": 0.75})), 0.05),
    "C82": (effects.seen_longer({"scaled": np.full(4, 800), "noised": np.full(4, 400)}, TASK), 400),
    "C92a": (effects.slower(np.array([1.5, 2.0, 3.0])), 1.0),
    "C92b": (effects.competitive(np.array([1.5, 2.0, 3.0])), 0.0),
}


@pytest.mark.parametrize("claim", CASES)
def test_measures_are_the_fixed_ones_and_values_have_the_right_sign(claim):
    table, (found, first) = claims.published_claims(), CASES[claim]
    for measure in found:
        row = claims.claim_row(claim, measure, table)
        assert verdicts.variant_of(table.loc[row], measure), measure
        assert row.startswith(claim)
    value = next(iter(found.values()))
    assert float(value[0]) == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("claim", ["C70", "C72", "C73", "C91"])
def test_better_than_every_has_an_effect_for_each_rival(claim):
    row = claims.published_claims().loc[claim]
    named = {verdicts.variant_of(row, measure) for measure in CASES[claim][0]}
    assert named == set(verdicts.phrases(row))


def test_pairs_of_steps_and_an_unknown_contrast():
    assert len(CASES["C74a"][0]) == 12 and len(CASES["C88"][0]) == 2 and len(CASES["C73"][0]) == 4
    unknown = effects.hallucination(STRONG, float("nan"), TASK)
    assert all("in grey values" in measure for measure in unknown)
    assert next(iter(unknown.values()))[0] == pytest.approx(0.2)


def test_steps_below_those_of_the_claim_are_another_measure():
    """A run with few steps goes on, and its finding is no evidence."""
    near = effects.hallucination(STRONG[STRONG["T"] < 240], 0.4, TASK)
    assert next(iter(near.values()))[0] == pytest.approx(0.2)
    row = claims.published_claims().loc["C81"]
    assert all("T >= 80" in measure and verdicts.variant_of(row, measure) is None for measure in near)


def test_what_is_judged_and_what_is_not():
    found = Found(100)
    text = found.add("C73", effects.dynamic_minus_static(STEPS))
    assert text.count("above 0") == 4 and text.startswith("- mean of I-AUROC")
    found.add("C66", CASES["C66"][0], 5)
    found.add("C78", CASES["C78"][0], 40, unless="DDAD as trained here is not above the trivial baseline")
    found.add("C92a", CASES["C92a"][0], 5, fewest=5)
    judged = found.judged()
    assert [row["claim_id"] for row in judged] == ["C73"] * 4 + ["C92a"]
    assert judged[0]["n"] == 100 and judged[0]["verdict"] == "supported" and judged[-1]["n"] == 5
    assert found.not_judged[0]["why"] == "5 images are too few for an interval"
    assert found.not_judged[1]["why"].startswith("DDAD as trained here")


def test_words_of_an_effect():
    assert in_words((0.1, 0.05, 0.2)) == "+0.100 [+0.050, +0.200], above 0"
    assert in_words((0.1, -0.05, 0.2), " s").endswith("s, not shown to differ from 0")
    assert sentences({"a": (-0.1, -0.2, -0.05)}) == "- a: -0.100 [-0.200, -0.050], below 0."
    assert not_above({"low": 0.01, "what": "trivial baseline"}, "DDAD") == ""
    assert not_above({"low": -0.01, "what": "trivial baseline"}, "DDAD") == "DDAD is not above the trivial baseline"


def test_words_of_a_sweep_a_pair_and_a_fading():
    assert "3 values of omega, by the values alone: I-AUROC falls at each step; P-AUROC falls at" in over_noise(OMEGA)
    rising = quality(**{"0": 0.7, "0.5": 0.8, "1": 0.6})
    assert "AUPRO does not fall from 0 to 0.5; their mean does not fall from 0 to 0.5." in over_noise(rising)
    assert "their mean" not in over_noise(
        BootstrapQuality({"0": {"I-AUROC": np.ones(2)}, "1": {"I-AUROC": np.zeros(2)}}, 9)
    )
    ((measure, draws),) = effects.between_thirds(THIRDS, "large", "small", TASK).items()
    assert measure.endswith("large minus small defects") and draws[0] == pytest.approx(0.225)
    ssim = {"scaled": np.array([[0.8, 0.6], [0.5, 0.3]]), "noised": np.array([[0.8, 0.6], [0.1, 0.1]])}
    assert "At t = 1 and t = 900 its mean is: scaled 0.70 and 0.40; noised 0.70 and 0.10." in faded_in_words(
        Faded({}, ssim, {}, ["t = 1", "t = 900"])
    )


def test_every_section_is_a_heading_of_the_notebook():
    cells = nbformat.read(repository() / "notebooks/06_d3ad.ipynb", as_version=4).cells
    headings = {line[3:] for cell in cells for line in cell.source.splitlines() if line.startswith("## ")}
    assert set(SECTIONS.values()) <= headings
