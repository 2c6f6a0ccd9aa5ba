"""Verdicts follow the rule that was fixed in advance."""

import pytest

from diffad_utils import claims

STEPS = [
    {"spacing": "reference", "steps": s, "I-AUROC": a, "low": a - 0.05, "high": a + 0.05} for s, a in ((3, 0.80), (10, 0.81), (25, 0.805))
]


def test_the_published_claims_are_there():
    table = claims.published_claims()
    assert set(claims.INVAD_CLAIMS) <= set(table.index)
    assert table["statement"].str.len().min() > 10


@pytest.mark.parametrize(
    ("signs", "expected"),
    [([1, 1], "supported"), ([-1, -1], "not supported"), ([1, 0], "inconclusive"), ([1, -1], "inconclusive"), ([], "inconclusive")],
)
def test_a_verdict_needs_all_data_sets_to_agree(signs, expected):
    assert claims.verdict(signs) == f"{expected} on this data"


def test_few_steps():
    assert claims.few_steps({"steps": STEPS})[0] == 1
    worse = [{**row, "I-AUROC": 0.6, "low": 0.55, "high": 0.65} if row["steps"] == 3 else row for row in STEPS]
    assert claims.few_steps({"steps": worse})[0] == -1
    unclear = [{**row, "I-AUROC": 0.75, "low": 0.6, "high": 0.85} if row["steps"] == 3 else row for row in STEPS]
    assert claims.few_steps({"steps": unclear})[0] == 0


@pytest.mark.parametrize(
    ("difference", "low", "high", "sign"), [(0.1, 0.05, 0.15, 1), (-0.1, -0.2, -0.05, -1), (0.1, -0.05, 0.2, 0), (0.01, 0.005, 0.015, 0)]
)
def test_inversion_adds(difference, low, high, sign):
    experiments = {"no_diffusion": {"I-AUROC": 0.7, "difference": difference, "low": low, "high": high}}
    measured, text = claims.inversion_adds(experiments)
    assert measured == sign and f"{difference:+.3f}" in text


def test_strength_and_spread():
    rivals = [{"method": f"reconstruction from t = {t}", "I-AUROC": a} for t, a in ((100, 0.8), (800, 0.6))]
    assert claims.strength_matters_less({"rivals": rivals, "steps": STEPS})[0] == 1
    gain = {"difference": 0.1, "low": 0.02, "high": 0.15}
    assert claims.spread_adds({"spread_gain": gain})[0] == 1
    assert claims.spread_adds({"spread_gain": {**gain, "low": -0.01}})[0] == 0


@pytest.mark.parametrize(
    "effect, low, high, margin, expected",
    [
        (0.1, 0.01, 0.2, 0.0, "supported"),
        (0.1, 0.01, 0.2, 0.05, "inconclusive"),
        (-0.1, -0.2, -0.01, 0.0, "not supported"),
        (0.01, 0.001, 0.02, 0.05, "not supported"),
        (-0.01, -0.015, 0.0, -0.02, "supported"),
    ],
)
def test_a_finding_is_judged_by_its_interval_against_the_margin(effect, low, high, margin, expected):
    row = claims.finding("C44", effect, low, high, 80, measure="I-AUROC of ESM minus SGM", section="Accuracy", margin=margin)
    assert row["verdict"] == expected and row["interval"] == [low, high] and row["n"] == 80


@pytest.mark.parametrize("claim, low, high, message", [("C999", 0, 1, "not in data/published"), ("C44", 1, 0, "ordered"), ("C44", 0, float("nan"), "finite")])
def test_findings_are_checked(claim, low, high, message):
    with pytest.raises(ValueError, match=message):
        claims.finding(claim, 0.5, low, high, 10, measure="x", section="y")
