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
    records = study.load_runs(study.reference_folder() / "standard")
    plain, shown = claims.ledger(records), ledger.ledger(records)
    pd.testing.assert_frame_equal(plain.drop(columns="reason"), shown.drop(columns=["reason", "in_every_task"]))
    decided = shown[shown["verdict"].isin(claims.DECIDED) & (shown["in_every_task"] != "")]
    assert (decided["in_every_task"] == decided["verdict"]).all() and (shown["in_every_task"] != "").sum() > 10
    changed = shown["claim_id"][plain["reason"] != shown["reason"]].tolist()
    combine = claims.published_claims()["combine"]
    assert all(combine[name] in ("either", "any") for name in changed)
    row = shown.set_index("claim_id").loc["C07"]
    if row["verdict"] == claims.VARIES:
        assert "none above the margin" not in row["reason"]


def test_a_side_takes_enough_images_on_two_tasks_that_agree():
    row = {"claim_id": "C37", "n": 40, "effect": 0.2, "margin": 0.1, "objection": "", "variant": "v"}

    def quoted(**changed):
        two = pd.DataFrame([row | {"dataset_category": "a/b"}, row | {"dataset_category": "c/d"} | changed])
        return ledger.side("C37", "supported", two)

    assert quoted() == "supported"
    assert not quoted(n=29) and not quoted(effect=0.05) and not quoted(dataset_category="a/b")
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
    assert not ledger.side("C14", "inconclusive", pd.DataFrame([row, other]))
