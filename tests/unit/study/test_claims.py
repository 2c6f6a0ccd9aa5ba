"""Verdicts follow the rule that was fixed in advance."""

from types import SimpleNamespace

import pytest

from diffad_utils.study import claims


def run(*findings, dataset="textures", category="leather", notebook="05_esm", mini=True):
    weights = [{"name": "resnet-mini", "is_mini": mini}]
    return SimpleNamespace(
        dataset=dataset,
        category=category,
        seed=0,
        method="esm",
        folder="x",
        claims=list(findings),
        manifest={"notebook": notebook, "weights": weights},
    )


def found(claim, low, high, margin=0.0):
    return claims.finding(
        claim, (low + high) / 2, low, high, 40, measure="I-AUROC of ESM minus SGM", section="Accuracy", margin=margin
    )


def test_the_published_claims_are_there():
    table = claims.published_claims()
    assert table.index.is_unique and table["statement"].str.len().min() > 10


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["supported", "supported"], "supported"),
        (["not supported", "not supported"], "not supported"),
        (["supported", "inconclusive"], "inconclusive"),
        (["supported", "not supported"], "inconclusive"),
        (["inconclusive"], "inconclusive"),
        ([], "not tested here"),
    ],
)
def test_a_claim_needs_all_its_findings_to_agree(verdicts, expected):
    assert claims.pool(verdicts) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["not supported", "supported"], "supported"),
        (["not supported", "not supported"], "not supported"),
        (["not supported", "inconclusive"], "inconclusive"),
        ([], "not tested here"),
    ],
)
def test_one_case_is_enough_for_a_claim_that_says_some(verdicts, expected):
    assert claims.pool(verdicts, existential=True) == expected
    assert all("some" in claims.published_claims().loc[claim, "statement"].lower() for claim in claims.EXISTENTIAL)


def test_the_ledger_has_a_row_for_every_claim():
    records = [
        run(found("C44", 0.01, 0.1), found("C46", -0.1, 0.1)),
        run(found("C44", 0.02, 0.1), found("C46", 0.01, 0.1), dataset="elpv", category="mono"),
    ]
    table = claims.ledger(records).set_index("claim_id")
    assert list(table.index) == list(claims.published_claims().index)
    assert table.loc["C44", "verdict"] == "supported" and table.loc["C44", "findings"] == 2
    assert (
        table.loc["C44", "data"] == "elpv/mono, textures/leather"
        and table.loc["C44", "weights"] == "resnet-mini (mini)"
    )
    assert table.loc["C46", "verdict"] == "inconclusive"
    untested = table.drop(["C44", "C46"])
    assert (untested["verdict"] == "not tested here").all() and (untested["notebooks"] == "").all()


def test_findings_without_runs_are_an_empty_table():
    assert claims.findings([]).empty and "effect" in claims.findings([])
    assert set(claims.ledger([])["verdict"]) == {"not tested here"}


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
    row = claims.finding(
        "C44", effect, low, high, 80, measure="I-AUROC of ESM minus SGM", section="Accuracy", margin=margin
    )
    assert row["verdict"] == expected and row["interval"] == [low, high] and row["n"] == 80


@pytest.mark.parametrize(
    "claim, low, high, message",
    [("C999", 0, 1, "not in data/published"), ("C44", 1, 0, "ordered"), ("C44", 0, float("nan"), "finite")],
)
def test_findings_are_checked(claim, low, high, message):
    with pytest.raises(ValueError, match=message):
        claims.finding(claim, 0.5, low, high, 10, measure="x", section="y")
