"""The ledger as readers see it."""

import numpy as np
import pandas as pd
import pytest

from diffad_utils.analyses import conclusion, shown_ledger
from diffad_utils.study import claims, numbers


@pytest.fixture(scope="module")
def ledger():
    """Claims over one, two (undecided and decided) and three categories."""
    rows = claims.ledger([]).head(4).drop(columns=["effect", "low", "high", "margin", "categories", "findings"])
    return rows.assign(
        effect=0.5,
        low=[-np.inf, -21.0, 0.4, -21.0],
        high=[np.inf, 22.0, 0.6, 22.0],
        margin=0.0,
        categories=[1, 2, 2, 3],
        findings=2,
        reason="steps: +0.000 on a/b and +1.000 on c/d",
    )


def test_only_what_is_exactly_zero_reads_zero():
    for value in (0.0, -0.0, 1e-7, -0.0004, 0.04, 10.0, 100.0, 1.0):
        text = numbers.number(value, sign="+")
        assert (shown_ledger.zeros(text) == "0") == (value == 0)
        assert value == 0 or shown_ledger.zeros(text) == text
    kept = "0.05 at 0.0%, +10.000, v0.0.1, 0.0004"
    assert shown_ledger.zeros(kept) == kept


def test_the_ledger_says_which_intervals_tell_nothing_and_keeps_their_numbers(ledger):
    shown = shown_ledger.for_readers(ledger)
    assert shown["interval"].tolist() == [shown_ledger.ONE, shown_ledger.FEW, "", ""]
    assert shown["low"].equals(ledger["low"]) and shown["high"].equals(ledger["high"])
    assert (shown["reason"] == "steps: 0 on a/b and +1.000 on c/d").all()
    assert "interval" not in ledger and list(shown.columns).index("interval") == list(shown.columns).index("high") + 1


def test_beside_printed_numbers_such_an_interval_is_left_out_with_a_word(ledger):
    one, two, decided, three = shown_ledger.beside_printed(ledger)["ours"]
    assert one.endswith(f"({shown_ledger.ONE})") and "[" not in one
    assert two.endswith(f"+0.500, margin 0 ({shown_ledger.FEW})")
    assert "[+0.400, +0.600]" in decided and "[-21.000, +22.000]" in three and "useful" not in decided + three


def test_a_forest_draws_no_interval_that_tells_nothing(monkeypatch):
    rows = pd.DataFrame(
        {
            "variant": ["a", "a", "b", "c", "d"],
            "label": ["x (n = 60)", *(f"{k} categories together" for k in (2, 2, 3, 12))],
            "effect": 0.5,
            "low": [0.1, -21.0, 0.4, -21.0, -21.0],
            "high": [0.9, 22.0, 0.6, 22.0, 22.0],
            "level": ["category", *["pooled"] * 4],
        }
    )
    monkeypatch.setattr(claims, "forest_rows", lambda judgement, found: rows)
    shown = shown_ledger.forest_rows(shown_ledger.Judgement("C01", 0.0), pd.DataFrame())
    assert shown["low"].tolist() == [0.1, 0.5, 0.4, -21.0, -21.0] and shown["high"][1] == 0.5
    assert shown["label"][1] == "2 categories together:\nno useful interval"
    assert shown["label"].drop(1).equals(rows["label"].drop(1))


def _forest(variants: int, categories: int, seeds: int) -> pd.DataFrame:
    """The rows of a forest plot: of each variant a row a seed, a category, and the pooled effect."""
    levels = ((["seed"] * seeds if seeds > 1 else []) + ["category"]) * categories + ["pooled"]
    rows = [(f"variant {i}", level, level) for i in range(variants) for level in levels]
    return pd.DataFrame(rows, columns=["variant", "label", "level"])


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((1, 9, 3), {"seed", "category", "pooled"}),  # 37 rows
        ((1, 11, 3), {"category", "pooled"}),  # 45, then 12
        ((4, 11, 3), {"pooled"}),  # 180, then 48
    ],
)
def test_a_forest_plot_drops_seeds_and_then_categories_before_it_is_too_long_to_read(shape, levels):
    rows = _forest(*shape)
    drawn = conclusion.drawn_rows(rows)
    assert set(drawn["level"]) == levels and len(drawn) <= conclusion.FOREST_ROWS
    if levels == {"pooled"}:
        assert drawn["label"].tolist() == [f"variant {i}" for i in range(shape[0])]
        assert set(drawn["variant"]) == {"all categories together"}  # one panel
