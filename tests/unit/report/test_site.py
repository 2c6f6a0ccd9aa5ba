"""A report to pass on."""

import dataclasses
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import finished

from diffad_utils import cli, report, study
from diffad_utils.analyses import example_cases, map_summaries
from diffad_utils.report import site


@pytest.fixture
def runs(tmp_path):
    """Two notebooks on carpet, one of them with two seeds, and one on grid; each has maps and a hidden file."""
    folders = [finished(tmp_path, "07_invad", {"I-AUROC": 0.9}, seed=seed) for seed in (0, 1)]
    folders.append(finished(tmp_path, "06_d3ad", {"I-AUROC": 0.8}))
    folders.append(finished(tmp_path, "07_invad", {"I-AUROC": 0.7}, category="grid"))
    for folder in folders:
        keys = study.load_run(folder).scores()["key"].to_numpy(str)
        np.savez(folder / "maps.npz", key=keys, anomaly_map=np.arange(256.0).reshape(4, 8, 8).astype(np.float32))
        (folder / ".hidden").write_text("x")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["from_store"] = [{"key": "4007dbad", "kind": "fitted", "seconds": 2.0, "trainings": 1}]
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path / "smoke"


def test_a_site_has_the_numbers_of_every_run_and_as_many_pages_as_asked_for(runs, tmp_path):
    front = report.write_site(runs, tmp_path / "out" / "smoke", 2)
    target = front.parent
    assert [record.metrics for record in study.load_runs(target)] == [r.metrics for r in study.load_runs(runs)]
    pages = sorted(path.parent.relative_to(target).as_posix() for path in target.rglob("run.html"))
    assert pages == ["textures/carpet/d3ad/seed-0", "textures/carpet/invad/seed-0"]
    assert not [path for path in target.rglob("*") if path.name in (".hidden", "run.ipynb")]
    assert not list(target.rglob("maps.npz"))
    with_maps = sorted(path.parent.relative_to(target).as_posix() for path in target.rglob(example_cases.EXAMPLE_MAPS))
    assert with_maps == ["textures/carpet/invad/seed-0", "textures/grid/invad/seed-0"]  # examples are drawn from them
    assert len(list(target.rglob(map_summaries.FILE))) == 4
    for manifest in target.rglob("manifest.json"):
        original = json.loads((runs / manifest.relative_to(target)).read_text(encoding="utf-8"))
        assert original["from_store"][0].pop("key") == "4007dbad"  # the store's own name for it is left out
        assert json.loads(manifest.read_text(encoding="utf-8")) == original
        assert len(manifest.read_text(encoding="utf-8").splitlines()) == len(original) + 2
    tables = sorted(path.relative_to(runs) for path in runs.rglob("*.parquet"))
    assert tables and tables == sorted(path.relative_to(target) for path in target.rglob("*.parquet"))
    for table in tables:
        pd.testing.assert_frame_equal(pd.read_parquet(target / table), pd.read_parquet(runs / table))
        assert (target / table).stat().st_size < (runs / table).stat().st_size
    text = front.read_text(encoding="utf-8")
    assert "textures/carpet/invad/seed-0/run.html" in text and "textures/carpet/invad/seed-1/run.html" not in text
    assert [path.name for path in target.parent.iterdir()] == ["smoke"]
    report.write_site(runs, target)  # once more, with all pages, in its place
    assert len(list(target.rglob("run.html"))) == 4 and len(list(runs.rglob("run.ipynb"))) == 4


def test_a_run_that_was_taken_from_a_site_keeps_its_examples_in_the_next(runs, tmp_path):
    def kept(target):
        return {path.relative_to(target): dict(np.load(path)) for path in target.rglob("*.npz")}

    target = report.write_site(runs, tmp_path / "out" / "smoke").parent
    before = kept(target)
    assert {path.name for path in before} == {example_cases.EXAMPLE_MAPS, map_summaries.FILE}
    for folder in [path.parent for path in runs.rglob("maps.npz")]:  # as `diffad study --take` leaves it
        (folder / "maps.npz").unlink()
    for path in before:
        (runs / path).write_bytes((target / path).read_bytes())
    report.write_site(runs, target)
    after = kept(target)
    assert after.keys() == before.keys()
    for path, arrays in before.items():
        np.testing.assert_equal(after[path], arrays)


def test_a_table_of_any_columns_keeps_its_values_and_types(tmp_path):
    """A detector of one's own may record parts of other types."""
    table = pd.DataFrame({"key": ["a", "b"], "score": [0.1, np.nan], "half": np.float32([1, 2]), "label": [0, 1]})
    table = table.assign(flag=[True, False], step=np.int8([3, -4]), gone=[None, "x"])
    table.to_parquet(tmp_path / "scores.parquet")
    site._shorten_table(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), table)


def test_what_came_from_the_store_is_said_once_a_run(runs, tmp_path):
    """`workflow/cost.py` reads it from the manifest of the notebook's own method."""
    entry = {"kind": "results", "seconds": 2.5, "trainings": 1, "what": "toy", "written": "2026-11-29T18:39:35+00:00"}
    for file in runs.rglob("manifest.json"):
        manifest = json.loads(file.read_text(encoding="utf-8")) | {"from_store": [entry | {"key": "ab" * 32}]}
        file.write_text(json.dumps(manifest), encoding="utf-8")
    beside = runs / "textures" / "carpet" / "invad" / "seed-1"
    manifest = json.loads((beside / "manifest.json").read_text(encoding="utf-8"))
    (beside / "manifest.json").write_text(json.dumps(manifest | {"method": "another"}), encoding="utf-8")
    target = report.write_site(runs, tmp_path / "out" / "smoke").parent
    said = {
        file.parent.relative_to(target).as_posix(): json.loads(file.read_text(encoding="utf-8"))["from_store"]
        for file in target.rglob("manifest.json")
    }
    assert said.pop("textures/carpet/invad/seed-1") == []
    assert len(said) == 3 and all(entries == [entry] for entries in said.values())


def test_figures_of_the_comparison_are_palette_pictures(runs, tmp_path):
    """The colours of a plot, in a third of the bytes."""
    picture = np.zeros((40, 60, 4), np.uint8)
    picture[..., 3], picture[8:20, :30, 0], picture[20:, 30:, 2] = 255, 200, 120
    figures = runs / "comparison" / "figures"
    figures.mkdir(parents=True)
    Image.fromarray(picture).save(figures / "answer.png")
    Image.fromarray(picture).save(figures / "claim_C01.png")
    target = report.write_site(runs, tmp_path / "out" / "smoke").parent
    with Image.open(target / "comparison" / "figures" / "answer.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture[..., :3])
    assert Image.open(figures / "answer.png").mode == "RGBA"  # the run's own stays
    kept = sorted(path.name for path in (target / "comparison" / "figures").iterdir())
    assert kept == ["answer.png"] and (figures / "claim_C01.png").is_file()  # forests.html has them


def test_what_is_no_site_is_left_alone(runs, tmp_path):
    """Other runs of one's own have a front page, too, and maps that a copy has not."""
    report.write(runs)
    other = finished(tmp_path / "other", "07_invad", {"I-AUROC": 0.9}).parents[3]
    report.write(other)
    (tmp_path / "link").symlink_to(runs)
    (tmp_path / "mine").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for target in (runs, runs / "inside", tmp_path, tmp_path / "link", other, tmp_path / "mine"):
        with pytest.raises(FileExistsError, match="give another"):
            report.write_site(runs, target)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(FileNotFoundError, match="no complete run"):
        report.write_site(tmp_path / "mine", tmp_path / "new")


def test_a_site_keeps_its_pages_and_an_earlier_one_outlives_a_failure(runs, tmp_path, monkeypatch):
    target = report.write_site(runs, tmp_path / "out" / "smoke").parent
    with pytest.raises(FileExistsError, match="make it anew from the runs"):
        report.write(target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    monkeypatch.setattr(site.pages, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        report.write_site(runs, target)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert [path.name for path in target.parent.iterdir()] == ["smoke"]


def test_a_site_says_what_is_not_finished(runs, tmp_path):
    (runs / "textures/wood/invad/.seed-0.partial-x").mkdir(parents=True)
    assert study.unfinished_runs(runs)
    text = report.write_site(runs, tmp_path / "out" / "smoke").read_text(encoding="utf-8")
    assert study.unfinished_runs(runs)[0] in text


def test_a_site_agrees_with_the_runs_that_it_was_made_from(runs, tmp_path, capsys):
    command = ["site", "smoke", "--output", str(runs.parent), "--to", str(tmp_path / "out"), "--zip"]
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


def test_shown_runs_alternate_between_data_sets(runs):
    records = study.load_runs(runs)
    cells = [r for r in records if r.category == "grid"]
    cells = [dataclasses.replace(r, dataset="elpv", category="mono") for r in cells]
    chosen = [(r.dataset, r.category) for r in site.shown_runs([*records, *cells], 4)]
    assert chosen == [("elpv", "mono"), ("textures", "carpet"), ("textures", "carpet"), ("textures", "grid")]


def test_a_number_of_pages_is_checked(runs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["site", "smoke", "--output", str(runs.parent), "--to", str(tmp_path / "out"), "--pages", "-1"])
    assert "no whole number" in capsys.readouterr().err
