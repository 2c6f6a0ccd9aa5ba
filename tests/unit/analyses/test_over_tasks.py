"""Figures of 08 with many tasks: means over all, and the tasks with the most methods."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffad_utils import plots
from diffad_utils.analyses import in_words, over_tasks
from diffad_utils.study import RunRecord


def against(tasks: int) -> pd.DataFrame:
    """Method "a" on all tasks, 0.2 above its control, whose I-AUROC differs between tasks; "b" on all but one."""
    rows = []
    for t in range(tasks):
        control = 0.5 + 0.02 * t
        for method, family, gain in (("a", "diffusion", 0.2), ("b", "classical", np.nan), ("c", "diffusion", np.nan)):
            if method == "b" and t == 0:
                continue
            value = control + 0.2 if method == "a" else 0.85
            rows.append(
                {
                    "task": f"textures/t{t:02d}",
                    "method": method,
                    "family": family,
                    "I-AUROC": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                    "control": value - gain,
                    "control low": value - gain - 0.03,
                    "control high": value - gain + 0.03,
                    "baseline": 0.6,
                    "baseline low": 0.5,
                    "baseline high": 0.7,
                    "above both": method == "a",
                }
            )
    return pd.DataFrame(rows)


def test_few_tasks_are_drawn_as_they_are():
    table = against(over_tasks.MANY)
    assert over_tasks.left_out(table) == "" and "the 6 of 11 tasks" in over_tasks.left_out(against(11))
    assert over_tasks.answer_rows(table) is table and "first panel" not in in_words.of_answer(table)


def test_of_many_tasks_the_mean_comes_first():
    table = against(11)
    shown = over_tasks.answer_rows(table)
    tasks = list(dict.fromkeys(shown["task"]))
    assert tasks[0] == "mean of 11 tasks" and len(tasks) == 1 + over_tasks.BESIDE_MEAN and "textures/t00" not in tasks
    mean = shown[shown["task"] == tasks[0]].set_index("method")
    assert [*mean.index] == ["c", "a"], "b is not on every task"
    a = mean.loc["a"]
    assert a["I-AUROC"] == pytest.approx(table.loc[table["method"] == "a", "I-AUROC"].mean())
    assert a["low"] < a["I-AUROC"] - 0.03, "tasks differ, and the interval has it"
    assert a["control"] == pytest.approx(a["I-AUROC"] - 0.2)
    assert a["control low"] == pytest.approx(2 * a["control"] - a["control high"])
    assert 0 < a["control high"] - a["control"] < 0.03, "the gain is the same on every task: its interval is of images"
    assert a["baseline"] == pytest.approx(0.6) and np.isnan(mean.loc["c", "control"])
    figure = plots.answer_chart(shown)
    assert any(axis.get_title(loc="left") == "mean of 11 tasks" for axis in figure.axes)
    assert "first panel is the mean over 11 tasks" in in_words.of_answer(table)


def test_many_controls_are_averaged_over_tasks():
    rows = [
        {"task": f"t{t}", "method": f"m{m}", "kind": "no_diffusion", "what": "w", "I-AUROC": 0.7}
        | {"difference": 0.1 * m, "low": 0.1 * m - 0.05, "high": 0.1 * m + 0.05}
        for t in range(11)
        for m in range(6)
    ]
    table = pd.DataFrame([*rows, rows[0] | {"method": "once", "difference": 0.9, "low": 0.8, "high": 1.0}])
    shown = over_tasks.control_rows(table)
    assert over_tasks.control_rows(table.head(60)).equals(table.head(60))
    assert shown["method"].tolist() == ["once", "m5", "m4", "m3", "m2", "m1", "m0"]
    assert shown["task"].tolist() == ["t0", *["mean of 11 tasks"] * 6]
    assert shown["difference"].tolist() == pytest.approx([0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert ((shown["high"] - shown["low"]).iloc[1:] < 0.06).all()
    said = in_words.of_controls(table)
    assert "Of 67 comparisons" in said and "the mean, with Student's intervals over tasks" in said


def test_image_sizes_are_said_of_all_methods():
    def record(method, size):
        return RunRecord(Path(), "", "", method, 0, {}, {}, {}, {}, {"parameters": {"image_size": size}}, [], [])

    records = [record("trivial", 256), record("esm", 128), record("sgm", 128), record("invad", 256)]
    assert "have 256 pixels a side for most methods" in in_words.of_image_sizes([*records, record("patchcore", 256)])
    said = in_words.of_image_sizes([*records, record("d3ad", 128)])
    assert "128 pixels a side for most methods, 256 for invad and trivial." in said
    assert in_words.of_image_sizes(records[1:3]) == "All methods see images of 128 pixels a side."
    assert in_words.of_image_sizes([]) == ""


def test_a_network_for_several_categories_is_said():
    def record(*categories):
        setting = {"name": "s", "categories": list(categories), "training images": 200 * len(categories)}
        return RunRecord(Path(), "", "", "invad", 0, {}, {}, {}, {"setting": setting}, {}, [], [])

    assert in_words.of_training([record("a"), record()]) == ""
    said = in_words.of_training([record("a", "b"), record("a", "b", "c")])
    assert said.startswith(
        "invad learns one network from the normal images of up to 3 categories together (600 images)"
    )
