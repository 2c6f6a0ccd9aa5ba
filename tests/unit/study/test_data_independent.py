"""What no data went into lies once in a study, whichever run writes it and however that ends."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import make_batch, make_prediction, session

from diffad_utils import study
from diffad_utils.analyses import score_claims
from diffad_utils.analyses.score_claims import Effect
from diffad_utils.execution.progress import is_current
from diffad_utils.report import pages
from diffad_utils.study import claims, data_independent

TOYS = {"toy_errors": {"Gaussian": [{"t": 100, "sigma^2": 0.125}]}, "powers": [{"l": 1, "distance": 0.25}]}
FOUND = {
    "C48": Effect(0.18, 0.17, 0.19, 400),
    "C61": Effect(0.77, 0.77, 0.77, 33),
    "C65": Effect(9e-7, 9e-7, 9e-7, 4),
    "C44": Effect(0.1, 0.05, 0.15, 8),
}
WITHOUT_DATA = ["C48", "C61"]


def record(root: Path, category: str, seed: int = 0, auroc: float = 0.5) -> study.Run:
    """A run of notebook 05 that found `TOYS`, `FOUND`, and something about its images."""
    run = study.start("05_esm", session(root, f'category = "{category}"\nseed = {seed}'))
    found = FOUND | {"C44": Effect(auroc, auroc, auroc, 8)}
    parts = score_claims.to_record(score_claims.esm_findings(found, "40 steps"), TOYS | {"paths": [auroc]})
    run.record(make_prediction(), make_batch(), {"I-AUROC": auroc}, **parts)
    return run


def shared_file(root: Path) -> Path:
    return root / "smoke" / data_independent.FOLDER / "05_esm.json"


def test_each_finding_stands_in_one_file(tmp_path):
    """Two categories and two seeds: the toys and their claims lie in the study's file, what has to do with images in
    each run's own; read back, every run has both."""
    runs = [record(tmp_path, *which) for which in (("leather", 0, 0.5), ("wood", 0, 0.75), ("wood", 1, 0.25))]
    files = [*tmp_path.rglob("metrics.json"), *tmp_path.rglob("claims.json"), *tmp_path.rglob("05_esm.json")]
    text = {path: path.read_text() for path in files}
    for name in (*TOYS, *WITHOUT_DATA):
        assert [path for path in files if f'"{name}"' in text[path]] == [shared_file(tmp_path)], name
    for name in ("C44", "C65", "paths"):
        assert len([path for path in files if f'"{name}"' in text[path]]) == len(runs)
    records = study.load_runs(tmp_path / "smoke")
    assert [record.experiments for record in records] == [TOYS | {"paths": [value]} for value in (0.5, 0.75, 0.25)]
    assert all({row["claim_id"] for row in record.claims} == set(FOUND) for record in records)
    found = claims.findings(records)
    assert (found["claim_id"] == "C44").sum() == 3
    for name in (*WITHOUT_DATA, "C65"):
        assert found.loc[found["claim_id"] == name, "dataset"].tolist() == ["-"], "the ledger has it once"


def test_the_order_of_the_runs_does_not_matter(tmp_path):
    for root, order in ((tmp_path / "a", ("leather", "wood")), (tmp_path / "b", ("wood", "leather"))):
        for seed, category in enumerate(order):
            record(root, category, seed)
    assert shared_file(tmp_path / "a").read_bytes() == shared_file(tmp_path / "b").read_bytes()


def test_earlier_runs_have_all_in_their_own_files(tmp_path):
    run = study.start("05_esm", session(tmp_path))
    judged = score_claims.esm_findings(FOUND, "40 steps")
    run.record(make_prediction(), make_batch(), {"I-AUROC": 0.5}, experiments=TOYS, claims=judged)
    record(tmp_path, "wood")
    earlier, now = study.load_runs(tmp_path / "smoke")
    assert "data_independent" not in earlier.manifest and earlier.claims == judged and earlier.experiments == TOYS
    assert now.experiments == TOYS | {"paths": [0.5]}
    found = claims.findings([earlier, now])
    assert (found["claim_id"] == "C48").sum() == 1, "of both layouts together, once"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"experiments": {"toy_errors": 1}, "claims": []}, "toy_errors would be recorded twice"),
        ({"experiments": {}, "claims": ["C48"]}, "C48 would be recorded twice"),
        ({"experiments": {}, "claims": ["C44"]}, "C44 is about data by claims.csv"),
        ({"experiments": {}}, "keys experiments and claims, got"),
        ({"experiments": {"toys": float("nan")}, "claims": []}, "05_esm.json.experiments.toys is nan"),
    ],
)
def test_what_does_not_belong_there_is_refused(tmp_path, found, message):
    rows = {row["claim_id"]: row for row in score_claims.esm_findings(FOUND, "")}
    if "claims" in found:
        found = found | {"claims": [rows[name] for name in found["claims"]]}
    run = study.start("05_esm", session(tmp_path))
    with pytest.raises(ValueError, match=message):
        run.record(experiments={"toy_errors": 1}, claims=[rows["C48"]], data_independent=found)
    assert not shared_file(tmp_path).exists() and study.load_runs(tmp_path / "smoke") == []


def test_a_run_without_its_shared_file_says_so(tmp_path):
    run = record(tmp_path, "leather")
    shared_file(tmp_path).unlink()
    with pytest.raises(ValueError, match=r"05_esm\.json.*run its notebook again"):
        study.load_run(run.folder)


def test_a_run_without_its_shared_file_is_not_current(tmp_path):
    """The workflow computes it again."""
    run = record(tmp_path, "leather")
    (run.folder / "run.ipynb").write_text("{}")
    planned = SimpleNamespace(folder=run.folder, notebook=Path("05_esm.ipynb"), parameters=dict(run.parameters))
    assert is_current(planned)
    shared_file(tmp_path).unlink()
    assert not is_current(planned)


def test_the_report_is_written_anew_when_the_reference_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "reference_folder", lambda: tmp_path)
    record(tmp_path, "leather")
    before = pages.code_digest()
    path = shared_file(tmp_path)
    path.write_text(path.read_text().replace("0.125", "0.25"))
    assert pages.code_digest() != before


WRITER = """
import sys
from pathlib import Path
from diffad_utils.study import data_independent
for _ in range(30):
    found = {"experiments": {"toys": list(range(int(sys.argv[2])))}, "claims": []}
    data_independent.share(Path(sys.argv[1]), "05_esm", found, {}, [])
"""


@pytest.mark.slow
def test_two_writers_at_once_and_a_reader(tmp_path):
    """With other settings, so that the contents differ: each reading is one of the two, whole, and nothing is left."""
    sizes = (2_000, 3_000)
    path = data_independent.share(
        tmp_path, "05_esm", {"experiments": {"toys": list(range(2_000))}, "claims": []}, {}, []
    )
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(size)]) for size in sizes]
    while any(writer.poll() is None for writer in writers):
        toys = data_independent.read(path)[0]["toys"]
        assert len(toys) in sizes and toys == list(range(len(toys)))
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import os, sys
sys.path[:0] = [{tests!r}, {helpers!r}]
from pathlib import Path
from diffad_utils import study
from diffad_utils.io import files
import test_data_independent as these
these.TOYS["powers"] = "of the run that is killed"
if {moment!r} == "while the file is written":
    files.os.replace = lambda *_: os._exit(9)
else:
    study.Run._publish = lambda self: os._exit(9)
these.record(Path({root!r}), "wood", auroc=0.9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while the file is written", "before the run's folder is in place"])
def test_a_kill_leaves_whole_files(tmp_path, moment):
    """The earlier runs are read as before, with the file of before or that of the run that was killed; the run that
    was killed counts as missing, and its next attempt is complete."""
    record(tmp_path, "leather")
    run = record(tmp_path, "wood")
    here = Path(__file__).parent
    script = KILLED.format(tests=str(here), helpers=str(here.parents[1] / "helpers"), moment=moment, root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    records = study.load_runs(tmp_path / "smoke")
    assert [record.category for record in records] == ["leather", "wood"]
    assert records[1].metrics["I-AUROC"] == 0.5, "of the earlier run"
    expected = TOYS["powers"] if "written" in moment else "of the run that is killed"
    assert all(record.experiments["powers"] == expected for record in records)
    record(tmp_path, "wood", auroc=0.9)
    assert json.loads(shared_file(tmp_path).read_text())["experiments"] == TOYS
    assert study.load_run(run.folder).metrics["I-AUROC"] == 0.9


def test_a_kaggle_session_takes_it_over(tmp_path, monkeypatch):
    """With the runs of an attached output; what the session has already stays."""
    from diffad_utils import kaggle
    from diffad_utils.io import paths

    output, here = tmp_path / "input" / "earlier" / "reports", tmp_path / "working"
    record(output, "leather")
    monkeypatch.setattr(paths, "KAGGLE", tmp_path)
    monkeypatch.setenv("DIFFAD_REPORTS", str(here))
    assert kaggle.session.take_over("smoke") == 1
    assert shared_file(here).read_bytes() == shared_file(output).read_bytes()
    [taken] = study.load_runs(here / "smoke")
    assert taken.experiments == TOYS | {"paths": [0.5]}
    shared_file(here).write_text('{"experiments": {"toy_errors": {}}, "claims": []}')
    assert kaggle.session.take_over("smoke") == 0
    assert study.load_run(taken.folder).experiments["toy_errors"] == {}
