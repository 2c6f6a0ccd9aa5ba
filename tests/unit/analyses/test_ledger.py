"""The categories in which a claim holds that needs one part of several."""

import types

import pandas as pd
import pytest

from diffad_utils import study
from diffad_utils.analyses import ledger
from diffad_utils.study import claims


def judged(parts: dict[str, dict[str, float]], margin=0.0):
    """Name of a part -> category -> effect."""
    variants = [
        types.SimpleNamespace(
            name=name, by_category=pd.DataFrame({"dataset_category": [*effects], "effect": [*effects.values()]})
        )
        for name, effects in parts.items()
    ]
    return types.SimpleNamespace(variants=variants, margin=margin)


PARTS = {
    "strength 0.1: removal": {"a": 0.2, "b": 0.1},
    "strength 0.1: fidelity": {"a": -0.3, "b": -0.3},
    "strength 0.5: removal": {"a": -0.1, "b": -0.1},
    "strength 0.5: fidelity": {"a": 0.1, "b": -0.2},
}


@pytest.mark.parametrize(
    ("parts", "combine", "said"),
    [
        (PARTS, "either", "1 of 2 above the margin; "),  # a: by removal, then by fidelity; b has neither at 0.5
        (PARTS, "any", "above the margin in all 2, but by different amounts; "),
        (PARTS | {"strength 0.5: fidelity": {"a": -0.1}}, "either", "none above the margin; "),
        # a setting that b was not run with says nothing about b
        (PARTS | {"strength 0.5: removal": {"a": 0.1}, "strength 0.5: fidelity": {"a": -1}}, "either", "above the "),
    ],
)
def test_one_part_of_each_setting_is_enough(parts, combine, said):
    assert ledger.sides(judged(parts), combine).startswith(said)


def test_the_ledger_differs_in_nothing_but_these_reasons_and_a_column():
    records = ledger.distinct(study.load_runs(study.reference_folder() / "standard"))
    plain, shown = claims.ledger(records), ledger.ledger(records)
    pd.testing.assert_frame_equal(plain.drop(columns="reason"), shown.drop(columns=["reason", "in_every_task"]))
    on_a_side = shown[shown["in_every_task"] != ""]
    decided = on_a_side[on_a_side["verdict"].isin(claims.DECIDED)]
    assert (decided["in_every_task"] == decided["verdict"]).all() and len(on_a_side) > 10
    changed = shown[plain["reason"] != shown["reason"]]
    combine = changed["claim_id"].map(claims.published_claims()["combine"])
    assert (combine.isin(["either", "any"]) | changed["reason"].str.contains("but not clearly in each")).all()
    row = shown.set_index("claim_id").loc["C07"]
    if row["verdict"] == claims.VARIES:
        assert "none above the margin" not in row["reason"]


def test_what_runs_measured_on_all_categories_of_a_data_set_counts_once():
    """02 surveys all nine textures in each of its runs: four runs do not make four categories of it."""
    records = study.load_runs(study.reference_folder() / "standard")
    before, after = claims.findings(records), claims.findings(ledger.distinct(records))
    tasks = [found[found["claim_id"] == "C03"]["dataset_category"].tolist() for found in (before, after)]
    assert len(tasks[0]) > 1 and len(tasks[1]) == 1
    gone = before[~before["claim_id"].isin(["C01", "C02", "C03", "C04"])]
    assert len(gone) == len(after[~after["claim_id"].isin(["C01", "C02", "C03", "C04"])])
    seeds = after[(after["claim_id"] == "C01") & (after["dataset"] == "textures")]["seed"]
    assert sorted(seeds) == [0, 1, 2]  # each seed draws images of its own


def test_a_side_takes_enough_images_on_two_tasks_that_agree():
    row = {"claim_id": "C37", "n": 40, "effect": 0.2, "margin": 0.1, "objection": "", "variant": "v"}
    row |= {"low": 0.15, "high": 0.25}

    def quoted(**changed):
        two = pd.DataFrame([row | {"dataset_category": "a/b"}, row | {"dataset_category": "c/d"} | changed])
        return ledger.side("C37", "supported", two)

    assert quoted() == "supported"
    assert not quoted(n=29) and not quoted(low=0.05) and not quoted(dataset_category="a/b")
    assert not ledger.side("C37", "supported", pd.DataFrame([row | {"dataset_category": "a/b"}]))


def test_a_claim_that_varies_in_size_alone_has_a_side_where_every_task_is_clear():
    """Amounts that differ beyond chance make a claim vary; its side of the margin is known all the same."""
    row = {"claim_id": "C14", "n": 40, "margin": 0.1, "objection": "", "variant": "v", "effect": 0.3, "seed": 0}
    row |= {"low": 0.2, "high": 0.4, "dataset_category": "a/b"}
    other = row | {"dataset_category": "c/d", "effect": 2.0, "low": 1.8, "high": 2.2}

    def quoted(*more):
        return ledger.side("C14", "varies", pd.DataFrame([row, other, *more]))

    assert quoted() == "supported"
    assert quoted(row | {"seed": 1, "low": 0.05}) == "supported"  # its mean over seeds is above
    assert not quoted(row | {"seed": 1, "low": -0.05})
    assert not quoted(row | {"variant": "w", "low": 0.05})  # every part of the claim
    assert not quoted(row | {"dataset_category": "e/f", "effect": 0.0, "low": -0.1, "high": 0.1})
    below = [each | {"effect": -0.5, "low": -0.6, "high": -0.4} for each in (row, other)]
    assert ledger.side("C14", "varies", pd.DataFrame(below)) == "not supported"
    assert not ledger.side("C14", "not supported", pd.DataFrame([row, other]))
    assert not ledger.side("C14", "inconclusive", pd.DataFrame([row, other]))
