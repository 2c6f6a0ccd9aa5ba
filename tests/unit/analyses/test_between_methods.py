"""Claims that compare methods of different notebooks."""

import dataclasses

import numpy as np
import pytest
from test_comparison import CONTROL, N, recorded

from diffad_utils import study
from diffad_utils.analyses import between_methods, conclusion, method_results
from diffad_utils.study import claims, verdicts

SECTION = "Claims"


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """InvAD, D3AD and the trivial baseline on two categories."""
    root = tmp_path_factory.mktemp("two")
    for category in ("carpet", "grid"):
        recorded(root, "trivial", 0.1, category, masks=True)
        recorded(root, "invad", 3.0, category, masks=True, experiments={"no_diffusion": CONTROL})
        recorded(root, "d3ad", 2.9, category, masks=True)
    records = study.load_runs(root / "smoke")
    return records, method_results.measure(records, n=100)


def found_in(root, n=200):
    records = study.load_runs(root / "smoke")
    return records, between_methods.findings(records, method_results.measure(records, n), SECTION, n)


def ledger_of(records, found, root):
    return claims.ledger([*records, conclusion.summary_record(records, found, root)]).set_index("claim_id")


@pytest.fixture
def about_everything(monkeypatch):
    """Each claim is about all data sets: there are no runs on VisA, MPDD, BTAD and MVTec AD here."""
    monkeypatch.setattr(between_methods, "is_about", lambda claim, dataset: True)


@pytest.mark.slow
def test_patchcore_minus_img2img(tmp_path):
    recorded(tmp_path, "anomalib:patchcore", 2.0, masks=True)
    recorded(tmp_path, "img2img", 0.2, masks=True)
    records, found = found_in(tmp_path)
    assert [(f["claim_id"], f["category"], f["seed"], f["n"]) for f in found] == [("C30", "carpet", 0, N)] * 2
    assert {f["verdict"] for f in found} == {"supported"} and "AUPRO of anomalib:patchcore minus img2img" in {
        f["measure"] for f in found
    }
    ledger = ledger_of(records, found, tmp_path)
    assert ledger.loc["C30", ["verdict", "data", "notebooks"]].tolist() == [
        "inconclusive",
        "textures/carpet",
        "08_comparison",
    ]
    assert "1 category, a verdict needs 2" in ledger.loc["C30", "reason"]
    assert ledger.loc["C15a", "verdict"] == "not tested here"  # no autoencoder here


def test_a_claim_between_trainings_has_a_finding_a_training(tmp_path):
    """Three trainings of the autoencoder stand beside img2img, which trains nothing and was run once; before, their
    mean was one finding, with which the rule for three seeds could never be met."""
    for category in ("carpet", "grid"):
        recorded(tmp_path, "img2img", 0.2, category)
        for seed in (0, 1, 2):
            recorded(tmp_path, "autoencoder", 2.0, category, seed=seed)
    records, found = found_in(tmp_path)
    of = [f for f in found if f["claim_id"] == "C15a"]
    assert [(f["category"], f["seed"]) for f in of] == [(c, s) for c in ("carpet", "grid") for s in (0, 1, 2)]
    at = {(r.category, r.method, r.seed): r.metrics["I-AUROC"] for r in records}
    for f in of:
        gap = at[f["category"], "autoencoder", f["seed"]] - at[f["category"], "img2img", 0]
        assert f["effect"] == pytest.approx(gap) and f["interval"][0] <= gap <= f["interval"][1]
    row = ledger_of(records, found, tmp_path).loc["C15a"]
    assert row["seeds"] == 3 and "claim between trainings needs" not in row["reason"]


def test_two_trained_methods_are_paired_seed_by_seed(tmp_path):
    for seed in (0, 1):
        recorded(tmp_path, "autoencoder", 2.0, seed=seed)
    for seed in (1, 2):
        recorded(tmp_path, "d3ad", 2.0, seed=seed)
    records = study.load_runs(tmp_path / "smoke")
    assert [(a.seed, b.seed) for a, b in between_methods.pairs(records, "autoencoder", "d3ad")] == [(1, 1)]
    assert between_methods.pairs(records, "autoencoder", "invad") == []
    recorded(tmp_path, "img2img", 0.2, seed=1)
    recorded(tmp_path, "img2img", 0.2, seed=2)  # run twice, as where the split depends on the seed
    records = study.load_runs(tmp_path / "smoke")
    assert [(a.seed, b.seed) for a, b in between_methods.pairs(records, "autoencoder", "img2img")] == [(1, 1)]


def test_findings_say_where_img2img_is_not_above_the_baseline(tmp_path):
    recorded(tmp_path, "trivial", 0.1, "carpet")
    recorded(tmp_path, "autoencoder", 2.0, "carpet")
    recorded(tmp_path, "img2img", -0.2, "carpet")
    recorded(tmp_path, "autoencoder", 2.0, "grid")
    recorded(tmp_path, "img2img", 0.2, "grid")
    _, found = found_in(tmp_path)
    notes = {f["category"]: f["note"] for f in found if f["claim_id"] == "C15a"}
    assert notes == {"carpet": "img2img is not shown to be above the trivial baseline here", "grid": ""}


def test_a_gan_and_draem_are_compared_with_what_their_claims_name(tmp_path, about_everything):
    for method, strength in (("anomalib:ganomaly", 2.0), ("img2img", 0.2), ("anomalib:draem", 0.3), ("d3ad", 2.0)):
        recorded(tmp_path, method, strength, masks=True)
    records, found = found_in(tmp_path)
    table = claims.published_claims()
    named = {f["claim_id"]: verdicts.variant_of(table.loc[f["claim_id"]], f["measure"]) for f in found}
    assert named["C15b"] == "GANomaly minus" and named["C87b"] == "I-AUROC of DRAEM minus D3AD"
    assert [f["measure"] for f in found if f["claim_id"] == "C87a"] == [
        "P-AUROC of D3AD minus DRAEM",
        "AUPRO of D3AD minus DRAEM",
    ]
    ledger = ledger_of(records, found, tmp_path)
    assert ledger.loc["C15b", "verdict"] != "not tested here"
    assert set(ledger.loc[["C87a", "C87b"], "verdict"]) == {"out of scope here"}  # statements about MVTec AD


def test_glad_and_all_others_are_compared_with_what_their_claims_name(tmp_path, about_everything):
    for method in ("trivial", "esm_sigma", "glad", "d3ad", "d3ad_inversion"):
        recorded(tmp_path, method, 1.0, masks=True)
    _, found = found_in(tmp_path)
    said = {}
    for f in found:
        said.setdefault(f["claim_id"], []).append(f["measure"])
    assert said["C57"] == said["C59"] == ["I-AUROC of ESM-sigma minus GLAD", "P-AUROC of ESM-sigma minus GLAD"]
    assert said["C58a"] == said["C57"][:1] and said["C58b"] == ["P-AUROC of GLAD minus ESM-sigma"]
    assert said["C86"] == ["AUPRO of D3AD minus ESM-sigma", "AUPRO of D3AD minus GLAD"]  # no variant of this study
    table = claims.published_claims()
    assert all(verdicts.variant_of(table.loc[f["claim_id"]], f["measure"]) for f in found)


def test_claims_about_other_data_have_no_finding(tmp_path):
    assert between_methods.is_about("C86", "btad") and between_methods.is_about("C58a", "mpdd")
    assert between_methods.is_about("C15a", "textures") and not between_methods.is_about("C57", "textures")
    for method in ("esm_sigma", "glad", "d3ad"):
        recorded(tmp_path, method, 1.0, masks=True)
    assert found_in(tmp_path)[1] == []


def test_speed_is_judged_against_the_fastest_that_is_not_worse(two_tasks):
    """C40: InvAD's time is recorded as 30 ms, D3AD's as 25 ms (5 ms a letter and one)."""
    _, measured = two_tasks
    found = between_methods.speed_findings(measured, SECTION)
    assert [row["claim_id"] for row in found] == ["C40", "C40"] and "(d3ad)" in found[0]["measure"]
    assert found[0]["effect"] == pytest.approx(25 / 30)
    assert found[0]["n"] == 6  # times of three methods on two tasks, not images
    assert between_methods.timing_error(measured) == pytest.approx((0, 6))  # the same time on every task
    alone = next(row for row in measured if row.method == "trivial")
    lonely = dataclasses.replace(alone, method="lora", values=alone.values | {"ms an image": 1.0})
    assert between_methods.timing_error([*measured, lonely])[1] == 6  # one task says nothing about the spread
    slower = [dataclasses.replace(row, values=dict(row.values)) for row in measured]
    for row in slower:
        row.values["ms an image"] *= 2 if row.category == "grid" else 1
    assert between_methods.timing_error(slower)[0] == pytest.approx(np.log(2) / np.sqrt(2))
    low, high = between_methods.speed_findings(slower, SECTION)[0]["interval"]
    assert low < 25 / 30 / 2 and high > 25 / 30 * 2
    assert between_methods.timing_error([row for row in measured if row.category == "grid"]) == (None, 0)
    assert between_methods.speed_findings([row for row in measured if row.method != "trivial"], SECTION) == []


@pytest.mark.parametrize("variant", ["d3ad_inversion", "d3ad_masked"])
def test_a_variant_of_this_study_is_no_rival(two_tasks, variant):
    """Its time says nothing on C40."""
    _, measured = two_tasks
    own = [row for row in measured if row.method == "d3ad"]
    fast = [dataclasses.replace(row, method=variant, values=dict(row.values)) for row in own]
    for row in fast:
        row.values["ms an image"] /= 10
    found = between_methods.speed_findings([*measured, *fast], SECTION)
    assert [row["measure"] for row in found] == [
        row["measure"] for row in between_methods.speed_findings(measured, SECTION)
    ]
    assert all("(d3ad)" in row["measure"] for row in found)


def test_c85_is_judged_on_visa_alone_seed_by_seed(tmp_path):
    recorded(tmp_path, "trivial", 0.1, masks=True)
    for seed in (0, 1):
        recorded(tmp_path, "invad", 3.0, seed=seed, masks=True)
        recorded(tmp_path, "ddad", 0.1, seed=seed, masks=True)  # not above the baseline, so no rival
        recorded(tmp_path, "d3ad", 2.9, seed=seed, masks=True)
    records = study.load_runs(tmp_path / "smoke")
    measured = method_results.measure(records, n=100)

    def one(record):
        return method_results.measure([record], n=100)[0]

    assert between_methods.localisation_findings(records, measured, SECTION, one) == []
    found = between_methods.localisation_findings(records, measured, SECTION, one, datasets=("textures",))
    assert [row["seed"] for row in found] == [0, 1]
    for row in found:
        assert row["measure"].endswith("D3AD minus the best other diffusion method (invad)")
        assert row["interval"][0] <= row["effect"] <= row["interval"][1]


def test_the_identity_error_stands_beside_the_rivals_of_img2img(tmp_path):
    """As notebook 03 records it; the first seed's, which has the most images."""
    for seed in (1, 0):
        row = {"measure": between_methods.IDENTITY, "log2": 0.6 + seed, "low": 0.5, "high": 0.7 + seed}
        other = {"measure": "growth of a pasted defect", "log2": -1.0, "low": -2.0, "high": 0.0}
        recorded(tmp_path, "img2img", 0.2, seed=seed, experiments={"identity": [other, row]})
    recorded(tmp_path, "autoencoder", 2.0)
    records = study.load_runs(tmp_path / "smoke")
    table = between_methods.slides_table(method_results.measure(records, 100), records).set_index("compared")
    assert table.loc["log2 of img2img's squared error over the autoencoder's", ["value", "low", "high"]].tolist() == [
        0.6,
        0.5,
        0.7,
    ]
    assert "I-AUROC: autoencoder minus img2img" in table.index and table["value"].notna().all()


@pytest.mark.parametrize("profile", ["smoke", "standard"])
def test_the_reference_runs_have_the_identity_error_by_that_name(profile):
    records = [r for r in study.load_runs(study.reference_folder() / profile) if r.method == "img2img"]
    assert records
    table = between_methods.slides_table([], records)
    assert len(table) == len({(r.dataset, r.category) for r in records})
