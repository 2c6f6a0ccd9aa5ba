"""A report to pass on."""

import json
import zipfile

import pytest
from test_report import finished

from diffad_utils import cli, report, study
from diffad_utils.report import site


@pytest.fixture
def runs(tmp_path):
    """Two notebooks on carpet, one of them with two seeds, and one on grid; each has maps and a hidden file."""
    folders = [finished(tmp_path, "07_invad", {"I-AUROC": 0.9}, seed=seed) for seed in (0, 1)]
    folders.append(finished(tmp_path, "06_d3ad", {"I-AUROC": 0.8}))
    folders.append(finished(tmp_path, "07_invad", {"I-AUROC": 0.7}, category="grid"))
    for folder in folders:
        (folder / "maps.npz").write_bytes(b"x" * 1000)
        (folder / ".hidden").write_text("x")
    return tmp_path / "smoke"


def test_a_site_has_the_numbers_of_every_run_and_as_many_pages_as_asked_for(runs, tmp_path):
    front = report.write_site(runs, tmp_path / "out" / "smoke", 2)
    target = front.parent
    assert [record.metrics for record in study.load_runs(target)] == [r.metrics for r in study.load_runs(runs)]
    pages = sorted(path.parent.relative_to(target).as_posix() for path in target.rglob("run.html"))
    assert pages == ["textures/carpet/d3ad/seed-0", "textures/carpet/invad/seed-0"]
    assert not [path for path in target.rglob("*") if path.name in ("maps.npz", ".hidden", "run.ipynb")]
    text = front.read_text(encoding="utf-8")
    assert "textures/carpet/invad/seed-0/run.html" in text and "textures/carpet/invad/seed-1/run.html" not in text
    assert [path.name for path in target.parent.iterdir()] == ["smoke"]
    report.write_site(runs, target)  # once more, with all pages, in its place
    assert len(list(target.rglob("run.html"))) == 4 and len(list(runs.rglob("run.ipynb"))) == 4


def test_a_folder_that_is_no_site_is_left_alone(runs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="give another folder"):
        report.write_site(runs, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(FileNotFoundError, match="no complete run"):
        report.write_site(tmp_path / "mine", tmp_path / "other")


def test_a_site_agrees_with_the_runs_that_it_was_made_from(runs, tmp_path, capsys):
    command = ["site", "smoke", "--output", str(runs.parent), "--to", str(tmp_path / "out" / "smoke"), "--zip"]
    assert cli.main(command) == 0
    assert cli.main(["compare", str(runs), str(tmp_path / "out" / "smoke")]) == 0
    assert "smoke.zip" in capsys.readouterr().out
    names = zipfile.ZipFile(tmp_path / "out" / "smoke.zip").namelist()
    assert "smoke/index.html" in names and "smoke/textures/grid/invad/seed-0/metrics.json" in names
    manifest = json.loads((tmp_path / "out/smoke/textures/grid/invad/seed-0/manifest.json").read_text())
    assert manifest["parameters"]["category"] == "grid"


def test_shown_runs_come_from_first_seeds_and_full_tasks_first(runs):
    chosen = [(r.category, r.method, r.seed) for r in site.shown_runs(study.load_runs(runs), None)]
    assert chosen == [("carpet", "d3ad", 0), ("carpet", "invad", 0), ("grid", "invad", 0), ("carpet", "invad", 1)]
