"""The same maps through several implementations, and the page made of what that leaves."""

import json

import numpy as np
import pytest

from benchmarks import evaluation
from diffad_utils.report import benchmarks


def case(method: str, gain: float, images: int = 12, side: int = 32) -> evaluation.Case:
    """Noise with squares and diagonal scratches that are ``gain`` brighter."""
    masks = np.zeros((images, side, side), dtype=bool)
    masks[images // 2 :, 8:16, 4:12] = True
    masks[images // 2 :, range(18, 30), range(18, 30)] = True
    maps = (np.random.default_rng(0).random(masks.shape) + gain * masks).astype(np.float32)
    scores = maps.max(axis=(1, 2)).astype(float)
    return evaluation.Case("textures/leather", method, maps, masks, scores, masks.any(axis=(1, 2)))


@pytest.fixture(scope="module")
def values():
    return evaluation.measure([case("a", 0.2), case("b", 0.3)], None)


@pytest.mark.parametrize(("metric", "libraries"), [("P-AUROC", ("scikit-learn", "anomalib")), ("AUPRO", ("anomalib",))])
def test_exact_implementations_agree_on_clean_maps(values, metric, libraries):
    first = evaluation.agreeing(values, metric, "as recorded")[0]
    assert {evaluation.OURS, *libraries} <= set(first)


def test_what_libraries_do_not_take_shows(values):
    table = evaluation.rows(values)

    def row(metric, inputs, name):
        (found,) = [r for r in table if r["metric"] == metric and r["inputs"] == inputs and name in r["implementation"]]
        return found

    assert abs(row("P-AUROC", "maps as 8-bit pictures", evaluation.OURS)["difference, median"]) < 1e-3
    assert row("P-AUROC", "maps as 8-bit pictures", "anomalib")["difference, median"] < -0.05  # a sigmoid of 0 to 255
    assert row("AUPRO", "one outlier pixel", "compute_pro")["difference, median"] < -0.2  # 200 even thresholds
    assert abs(row("AUPRO", "one outlier pixel", evaluation.OURS)["difference, median"]) < 1e-3
    assert row("AUPRO", "as recorded", "four neighbours")["difference, median"] != 0


def test_pairs_of_methods_that_turn_round():
    ours = {("t", "a"): 0.9, ("t", "b"): 0.8, ("u", "a"): 0.1}
    assert evaluation.turned_pairs(ours, {("t", "a"): 0.7, ("t", "b"): 0.8, ("u", "a"): 0.9}) == (1, 1)
    assert evaluation.turned_pairs(ours, ours) == (0, 1)


def test_the_page_is_separate_from_times(tmp_path, values):
    machine = dict(device="cpu", date="d", cpu="c", cores=1, threads=1, load_average=0.1, python="3", packages={})
    tables = [{"title": "Same inputs", "rows": evaluation.rows(values), "note": "two runs"}]
    (tmp_path / "evaluation-cpu.json").write_text(
        json.dumps({"topic": "evaluation", "machine": machine, "tables": tables})
    )
    assert benchmarks.write(tmp_path, tmp_path) == {benchmarks.EVALUATION: "Where evaluation differs"}
    page = (tmp_path / benchmarks.EVALUATION).read_text()
    assert "<h1>Where evaluation differs</h1>" in page and "compute_pro, 200 thresholds" in page
    assert all(f"<b>{word}</b>" in page for word in ("Ties", "Soft masks", "Neighbours", "Batch size", "Outliers"))
