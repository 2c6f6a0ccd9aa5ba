"""The published claims are fixed in advance, notebooks keep to them, and findings are read from old and new runs."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffad_utils import study
from diffad_utils.study import claims, verdicts

ROOT = Path(__file__).parents[3]


def run(*findings, dataset="textures", category="leather", seed=0, notebook="05_esm", mini=True, setting=None):
    weights = [{"name": "resnet-mini", "is_mini": mini}]
    return SimpleNamespace(
        dataset=dataset,
        category=category,
        seed=seed,
        method="esm",
        folder="x",
        claims=list(findings),
        experiments={} if setting is None else {"setting": setting},
        manifest={"notebook": notebook, "weights": weights},
    )


def found(claim="C44", low=0.05, high=0.1, measure="I-AUROC of ESM minus SGM", n=100, **more):
    return claims.finding(claim, (low + high) / 2, low, high, n, measure=measure, section="Accuracy", **more)


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_claim_is_fixed_in_advance():
    table = claims.published_claims()
    assert table.index.is_unique and table["statement"].str.len().min() > 10
    assert set(table["kind"]) == set(claims.KINDS) and set(table["combine"]) == {"all", "any", "either", "bounds"}
    assert set(table["own_tables"]) == {"yes", "no", "no numbers"}
    for name, claim in table.iterrows():
        assert float(claim["margin"]) == pytest.approx(float(claim["margin"])) and claim["margin_reason"], name
        assert claim["scope"] and claim["measure"] and claim["family"] and int(claim["min_n"]) >= 1, name
        assert verdicts.phrases(claim), name
        assert (claim["datasets"] == "none") == (claim["kind"] in ("arithmetic", "mathematical")), name
        assert claim["kind"] != "arithmetic" or claim["own_tables"] != "no numbers", name
        assert claim["combine"] != "bounds" or len(verdicts.phrases(claim)) == 2, name
        says_some = re.search(r"\b(some|sometimes)\b", claim["statement"].lower())
        assert not says_some or claim["kind"] in ("existential", "arithmetic"), name
        assert claim["kind"] != "existential" or says_some, name


def test_every_claim_of_the_sources_is_there():
    """C01 to C93 and those that had no row; one that is two statements is two rows."""
    numbers = claims.published_claims().index.str.extract(r"^C(\d+)([a-c]?)$")
    assert sorted(set(numbers[0].astype(int))) == list(range(1, 99))
    halves = numbers[numbers[1] != ""].groupby(0)[1].agg("".join)
    assert set(halves) <= {"ab", "abc"} and halves["24"] == "abc"
    assert set(numbers[numbers[1] == ""][0]).isdisjoint(halves.index)


def test_scope_names_data_sets_that_exist():
    from diffad_utils.data import DATASETS

    named = {name for text in claims.published_claims()["datasets"] for name in text.split()} - {"any", "none"}
    assert named <= set(DATASETS)


AVERAGES = {
    "C44": [("ESM", "SGM", "I-AUROC")],
    "C45": [("ESM", "SGM", "P-AUROC")],
    "C46": [("ESM-sigma", "ESM", "I-AUROC"), ("ESM-sigma", "ESM", "P-AUROC")],
    "C57": [("ESM-sigma", "GLAD", "I-AUROC"), ("ESM-sigma", "GLAD", "P-AUROC")],
    "C58a": [("ESM-sigma", "GLAD", "I-AUROC")],
    "C58b": [("GLAD", "ESM-sigma", "P-AUROC")],
    "C87a": [("D3AD", "DRAEM", "P-AUROC"), ("D3AD", "DRAEM", "PRO")],
    "C87b": [("DRAEM", "D3AD", "I-AUROC")],
}


@pytest.mark.parametrize("claim", AVERAGES)
def test_printed_averages_say_what_the_table_says(claim):
    """ "better than" in its own tables: the printed average is higher on every data set of the claim."""
    table, row = pd.read_csv(ROOT / "data/published/results.csv", dtype=str), claims.published_claims().loc[claim]
    source = table[(table["source_id"] == row["source_id"]) & (table["category"] == "average")]
    source = source.assign(dataset=source["dataset"].replace("mvtec", "mvtec_ad"), value=source["value"].astype(float))
    names = set(source["dataset"]) if row["datasets"] == "any" else set(row["datasets"].split())
    value = source.drop_duplicates(["dataset", "method", "metric"]).set_index(["dataset", "method", "metric"])["value"]
    holds = all(value[name, a, m] > value[name, b, m] for name in names for a, b, m in AVERAGES[claim])
    assert row["own_tables"] == ("yes" if holds else "no")


def test_printed_counts_and_differences():
    table = pd.read_csv(ROOT / "data/published/results.csv", dtype=str)
    first = table[(table["source_id"] == "D3AD2023") & (table["table"] == "Table 1")]
    first = first.assign(value=first["value"].astype(float))
    own = claims.published_claims()["own_tables"]
    best = {}
    for metric, part in first[first["category"] != "average"].groupby("metric"):
        wide = part.pivot_table(index="category", columns="method", values="value")
        best[metric] = int((wide["D3AD"] == wide.max(axis=1)).sum())
    assert best == {"PRO": 8, "I-AUROC": 3} and own["C84a"] == own["C84b"] == "yes"
    pro = first[(first["category"] == "average") & (first["metric"] == "PRO")].set_index("method")["value"]
    lead = round(pro["D3AD"] - pro.drop("D3AD").max(), 1)
    assert lead == 2.9 and own["C83a"] == "yes" and own["C83b"] == "no"
    steps = pd.read_csv(ROOT / "data/published/hyperparameters.csv", dtype=str)
    steps = steps[(steps["source_id"] == "ESM2025") & steps["name"].str.startswith("T_d[")]["value"].astype(float)
    assert steps.max() <= 300 and round(steps.mean(), 1) == 76.7 and own["C60a"] == "yes"
    assert steps.nunique() > 1 and own["C62"] == "yes"
    assert f"{steps.min():.0f} to {steps.max():.0f}" in claims.published_claims().loc["C62", "own_tables_note"]


def test_printed_numbers_of_invad():
    """C40: about twice as fast as the fastest. C41: the highest I-AUROC of the unified setting, where it is printed."""
    table = pd.read_csv(ROOT / "data/published/results.csv", dtype=str)
    chart = table[(table["source_id"] == "InvAD-page") & table["table"].str.startswith("benchmark chart")]
    chart = chart.assign(value=chart["value"].astype(float)).pivot_table(
        index="method", columns=["metric", "dataset"], values="value"
    )
    of = claims.published_claims()
    for name, label in (("mvtec", "MVTec AD"), ("visa", "VisA"), ("mpdd", "MPDD")):
        fps, auroc = chart["FPS", name].dropna(), chart["I-AUROC", name].dropna()
        diffusion = fps[["DiAD", "OmiAD"]].max()
        assert (
            f"{label} {fps['InvAD']:g} / {diffusion:g} = {fps['InvAD'] / diffusion:.1f}" in of["own_tables_note"]["C40"]
        )
        assert auroc.idxmax() == "InvAD" and auroc.drop("InvAD").idxmax() == "OmiAD"
        assert f"{label} ({auroc['InvAD']}, " in of["own_tables_note"]["C41"]
    assert of["own_tables"]["C40"] == "yes" and of["own_tables"]["C41"] == "no" and "bmad" not in set(table["dataset"])


# --- findings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim, measure, row",
    [
        ("C24", "scoring: I-AUROC, LoRA minus base, base's prompt for both", "C24a"),
        ("C24", "texture adaptation: denoising loss", "C24b"),
        ("C24a", "anything", "C24a"),
        ("C05", "share of the defect that survives at strength 0.1", "C05b"),
        ("C49", "t at which the state is within 10 % of the end", "C49a"),
        ("C44", "I-AUROC of ESM minus SGM", "C44"),
    ],
)
def test_an_earlier_id_goes_to_the_half_that_is_measured(claim, measure, row):
    assert claims.claim_row(claim, measure) == row


@pytest.mark.parametrize(
    "low, high, margin, expected",
    [
        (0.01, 0.2, None, "supported"),
        (0.01, 0.2, 0.05, "inconclusive"),
        (-0.2, -0.01, None, "not supported"),
        (0.001, 0.02, 0.05, "not supported"),
        (-0.015, 0.0, -0.02, "supported"),
    ],
)
def test_a_run_says_its_own_verdict(low, high, margin, expected):
    row = found(low=low, high=high, margin=margin)
    assert row["verdict"] == expected and row["interval"] == [low, high] and row["n"] == 100


def test_the_margin_comes_from_the_table():
    assert found("C82", 300, 500, "last t at which the SSIM of Dec(z_t)")["margin"] == 100
    assert found("C52", 0, 1, "I-AUROC of ESM, stopped at t = 50 minus full path")["margin"] == -claims.MARGIN


@pytest.mark.parametrize(
    "claim, low, high, message",
    [("C999", 0, 1, "not in data/published"), ("C44", 1, 0, "ordered"), ("C44", 0, float("nan"), "finite")],
)
def test_findings_are_checked(claim, low, high, message):
    with pytest.raises(ValueError, match=message):
        claims.finding(claim, 0.5, low, high, 10, measure="x", section="y")


def test_findings_of_earlier_runs_are_read():
    """The committed ones hold no standard error and the ids of before."""
    old = found() | {"claim_id": "C17", "measure": "colour shift outside the mask, LoRA minus base, ΔE, LoRA's prompt"}
    table = claims.findings([run(old, found("C48", measure="distance of DSM_3's optimum")) for _ in range(2)])
    assert list(table["claim_id"]) == ["C17a", "C17a", "C48"]  # what does not depend on data is there once
    assert table["standard_error"].iloc[0] == pytest.approx(0.05 / 3.92, rel=1e-3)
    assert list(table["dataset_category"]) == ["textures/leather"] * 2 + ["-"] and table["weights"].iloc[2] == "none"
    assert table["objection"].eq("").all() and table["variant"].iloc[0].endswith("LoRA's prompt")
    renamed = claims.findings([run(found("C39", measure="I-AUROC of NLL + spread minus NLL"))])
    assert renamed["variant"].tolist() == ["I-AUROC of NLL + value range minus NLL"]


def test_a_finding_knows_what_its_network_was_trained_on():
    alone, unified = run(found()), run(found(), category="wood", setting={"name": "unified", "categories": ["wood"]})
    table = claims.findings([alone, unified, run(found() | {"training": "textures, three of them"}, category="brick")])
    assert table["training"].tolist() == ["textures, three of them", "textures/leather", "textures, unified"]


def test_findings_without_runs_are_an_empty_table():
    assert claims.findings([]).empty and "effect" in claims.findings([])
    arithmetic = claims.published_claims()["kind"] == "arithmetic"
    ledger = claims.ledger([]).set_index("claim_id")
    assert set(ledger.loc[~arithmetic, "verdict"]) == {"not tested here", "out of scope here"}
    assert set(ledger.loc[arithmetic, "verdict"]) == {"supported", "not supported"}


def test_the_ledger_has_a_row_for_every_claim_and_stands_beside_the_printed_numbers():
    runs = [
        run(found(low=0.04 + i / 500, high=0.06 + i / 500), category=name, seed=seed)
        for i, name in enumerate(("leather", "wood", "brick", "carpet"))
        for seed in range(3)
    ]
    ledger = claims.ledger(runs)
    assert list(ledger["claim_id"]) == list(claims.published_claims().index)
    row = ledger.set_index("claim_id").loc["C44"]
    assert row["verdict"] == "supported" and row["findings"] == 12 and (row["categories"], row["seeds"]) == (4, 3)
    assert row["low"] > 0.045 and row["effect"] == pytest.approx(0.053) and row["weights"] == "resnet-mini (mini)"
    beside = claims.beside_printed(ledger)
    ours = beside[beside["claim"].str.startswith("C44:")].iloc[0]
    assert ours["printed"].startswith("yes: averages 97.4 / 94.8") and ours["ours"].startswith("supported: +0.053 [")
    assert ours["why they differ"] == "they agree" and "lower than measured" in ours["what would change the verdict"]
    assert not beside["claim"].str.startswith("C94:").any()  # neither measured nor printed


def test_a_forest_has_a_row_for_each_run_category_and_the_pooled_effect():
    runs = [
        run(found(low=0.02, high=0.06), category=name, seed=seed) for name in ("leather", "wood") for seed in (0, 1)
    ]
    rows = claims.forest_rows(claims.judgements(runs)["C44"], claims.findings(runs))
    assert rows["level"].tolist() == ["seed", "seed", "category"] * 2 + ["pooled"]
    assert rows["label"].iloc[[0, 2, 6]].tolist() == [
        "textures/leather, seed 0",
        "textures/leather (2 seeds, n = 100)",
        "2 categories together",
    ]
    assert rows["effect"].tolist() == pytest.approx([0.04] * 7) and np.isfinite(rows["high"]).all()
    assert claims.forest_rows(claims.judgements([])["C44"], claims.findings([])).empty


# --- notebooks keep to the table --------------------------------------------------------------------------------------


def test_the_runs_judge_by_the_fixed_measures_and_margins():
    """Every finding of the committed runs, however its measure was put together. Another measure is no evidence, and a
    margin is not chosen beside its result."""
    table = claims.published_claims()
    records = [study.load_run(path.parent) for path in sorted((ROOT / "reports/reference/smoke").rglob("claims.json"))]
    found = claims.findings(records)
    assert found["claim_id"].nunique() > 60
    other = found[found["objection"].str.startswith("another measure")]
    assert other[["notebook", "claim_id", "measure"]].drop_duplicates().values.tolist() == []
    fixed = found["claim_id"].map(table["margin"].astype(float))
    margins = found[(found["margin"] - fixed).abs() > 1e-12]
    assert margins[["notebook", "claim_id", "margin"]].drop_duplicates().values.tolist() == []
