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


def test_the_ledger_differs_in_nothing_but_these_reasons():
    records = study.load_runs(study.reference_folder() / "standard")
    plain, shown = claims.ledger(records), ledger.ledger(records)
    pd.testing.assert_frame_equal(plain.drop(columns="reason"), shown.drop(columns="reason"))
    changed = shown["claim_id"][plain["reason"] != shown["reason"]].tolist()
    combine = claims.published_claims()["combine"]
    assert all(combine[name] in ("either", "any") for name in changed)
    row = shown.set_index("claim_id").loc["C07"]
    if row["verdict"] == claims.VARIES:
        assert "none above the margin" not in row["reason"]
