"""The benchmark of simplex noise and inversion: pooling of made-up runs, and its tables on the report's page."""

import json

import pytest
import torch

from benchmarks import harness, new_ground
from diffad_utils.analyses.img2img_two_passes import EDITORS, TwoPassStudy
from diffad_utils.report import benchmarks

TITLE = next(iter(new_ground.TABLES))
WHAT, (OURS, PLAIN) = next(iter(new_ground.TABLES[TITLE].items()))
NAME = f"{TITLE}: {WHAT}"


def made_up(effect: float, masks: bool) -> dict:
    values = {"I-AUROC": [effect, effect - 0.02, effect + 0.02]} | ({"AUPRO": [-effect] * 3} if masks else {})
    methods = {OURS: {"nfe": 5, "ms": 10.0, "I-AUROC": 0.6 + effect}, PLAIN: {"nfe": 5, "ms": 12.0, "I-AUROC": 0.6}}
    return {"train": 80, "test": 40, "methods": methods, "differences": {NAME: values}}


@pytest.fixture
def cells():
    effects = {"textures/leather/0": 0.10, "textures/leather/1": 0.12, "textures/carpet/0": 0.11, "elpv/mono/0": 0.10}
    return {key: made_up(effect, not key.startswith("elpv")) for key, effect in effects.items()}


def test_seeds_are_averaged_first(cells):
    effect, low, high, n = new_ground.pooled(cells, NAME, "I-AUROC")
    assert effect == pytest.approx((0.11 + 0.11 + 0.10) / 3) and n == 3 and 0 < low < effect < high
    assert new_ground.pooled(cells, NAME, "AUPRO")[3] == 2
    assert new_ground.pooled(cells, "never measured", "AUPRO") is None


def test_sentences_follow_the_intervals(cells):
    table, *empty, cost = new_ground.tables(cells)
    assert table["rows"][0]["I-AUROC higher in"] == "4 of 4 runs" and "I-AUROC is higher" in table["note"]
    assert all(not other["rows"] for other in empty)
    cells["textures/carpet/0"] = made_up(-0.3, True)
    assert "I-AUROC is not shown to differ" in new_ground.tables(cells)[0]["note"]
    assert [row["method"] for row in cost["rows"]] == [OURS, PLAIN] and cost["rows"][1]["processor ms"] == 12
    for cell in cells.values():
        cell["methods"][PLAIN]["ms"] = None
    assert new_ground.tables(cells)[-1]["rows"][1]["processor ms"] is None


def test_it_is_a_page_of_the_report_and_a_file_of_its_own(cells, tmp_path):
    found = {"topic": "new_ground", "cells": cells, "tables": new_ground.tables(cells)}
    found["machine"] = harness.machine("cpu")
    (tmp_path / "new_ground-cpu.json").write_text(json.dumps(found))
    assert benchmarks.write(tmp_path, tmp_path) == {benchmarks.PAGE: "Benchmarks"}
    assert WHAT in (tmp_path / benchmarks.PAGE).read_text()
    page = new_ground.page(found)
    assert "elpv/mono, textures/carpet, textures/leather; seeds: 0, 1" in page and f"| {WHAT}" in page


def test_two_passes_on_defects_are_a_table_of_their_own(cells):
    title = next(title for title, pairs in new_ground.TABLES.items() if pairs is new_ground.MASKED)
    for key in list(cells)[:3]:
        edits = {name: [-0.2, -0.21, -0.19] for name in new_ground.EDITS}
        cells[key]["differences"][f"{title}: D3AD in two passes"] = {"I-AUROC": [0.1, 0.0, 0.2]} | edits
    detection, defects = new_ground.tables(cells)[1:3]
    assert detection["title"] == title and set(detection["rows"][0]) == {"comparison", "I-AUROC", "I-AUROC higher in"}
    assert defects["rows"][0]["removal higher in"] == "0 of 3 runs" and "drift is lower" in defects["note"]
    found = {"cells": cells, "tables": new_ground.tables(cells), "machine": harness.machine("cpu")}
    rows = [{"form": "plain", "ms": 40.12345, "difference": [0.1, -0.2, 0.3]}]
    glad = {"title": "Cost and steps", "rows": rows, "note": "One core."}
    page = new_ground.page(found, [glad])
    assert "+0.100 [-0.200, +0.300]" in page
    assert "(image-to-image in two passes)" in page and "(D3AD in two passes)" not in page  # what is not measured
    assert "GLAD (`benchmarks.glad" not in page and "GLAD (`benchmarks.glad" in new_ground.page(found)
    assert "## GLAD: cost and steps" in page and "40.1 " in page and "## Where paper and public code differ" in page


def test_what_two_passes_do_to_defects_is_paired_by_image():
    def measures(survival: float, drift: float) -> dict:
        spread = torch.linspace(-0.1, 0.1, 8)
        values = {"survival": survival + spread, "drift": drift + spread, "removal": 1 - survival - spread}
        return values | {"fidelity": 1 - drift - spread}

    of = dict(zip(EDITORS, [measures(0.6, 0.4), measures(0.5, 0.1), measures(0.2, 0.1)], strict=True))
    study = TwoPassStudy({name: {240: values} for name, values in of.items()}, 8, 50)
    found = new_ground.edit_differences(study, 240)
    assert list(found) == list(new_ground.EDITS)
    assert found["survival"] == pytest.approx([-0.1] * 3, abs=1e-6)  # the spread of the images cancels
    assert found["drift"] == pytest.approx([-0.3] * 3, abs=1e-6)
    assert found["gone and kept"][0] == pytest.approx(0.1, abs=1e-6)
    assert found["the same with the true mask"][0] == pytest.approx(0.4, abs=1e-6)
