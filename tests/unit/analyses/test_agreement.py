"""Two folders of runs against each other: differences, verdicts, reasons, and the command's exit codes."""

import json
import math
import shutil
import subprocess

import pytest

from diffad_utils import cli, study
from diffad_utils.analyses import agreement

RUNS = ("textures/leather/invad/seed-0", "textures/leather/trivial/seed-0", "elpv/mono/invad/seed-0")


@pytest.fixture
def folders(tmp_path):
    """Two copies of three runs of the reference."""
    for name in ("ours", "reference"):
        for run in RUNS:
            source = study.reference_folder() / "smoke" / run
            shutil.copytree(source, tmp_path / name / run, ignore=shutil.ignore_patterns("figures", "*.html"))
    return tmp_path / "ours", tmp_path / "reference"


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_same_runs_agree(folders):
    found = agreement.compare(*folders)
    assert found.holds() and found.largest == 0 and found.verdicts.empty
    assert found.runs["run"].tolist() == sorted(RUNS)
    assert (found.runs["why"] == "the same").all()
    assert "3 runs are in both" in found.sentence()


def test_a_moved_metric_is_named_with_its_reason(folders):
    ours, reference = folders
    change(ours / RUNS[0] / "metrics.json", lambda c: c["metrics"].update({"I-AUROC": c["metrics"]["I-AUROC"] * 0.9}))
    change(ours / RUNS[0] / "manifest.json", lambda c: c["versions"].update({"torch": "9.9"}))
    found = agreement.compare(ours, reference)
    row = found.runs.set_index("run").loc[RUNS[0]]
    assert row["largest relative difference"] == pytest.approx(0.1)
    assert row["metric"] == "I-AUROC" and "torch 9.9 instead of" in row["why"]
    assert found.largest == pytest.approx(0.1) and not found.holds() and found.holds(tolerance=0.2)
    assert "torch 9.9" in found.markdown()


def test_a_metric_that_one_run_lacks_is_no_agreement(folders):
    change(folders[0] / RUNS[1] / "metrics.json", lambda c: c["metrics"].pop("I-AUROC"))
    row = agreement.compare(*folders).runs.set_index("run").loc[RUNS[1]]
    assert row["largest relative difference"] == math.inf and math.isnan(row["ours"])


def test_findings_and_verdicts_that_changed(folders):
    def turn(content):
        for row in content["claims"]:
            row.update(effect=-9.0, interval=[-9.5, -8.5], verdict="not supported")

    for run in (RUNS[0], RUNS[2]):
        change(folders[0] / run / "claims.json", turn)
    found = agreement.compare(*folders)
    assert found.runs.set_index("run").loc[RUNS[0], "findings that changed"] > 0
    assert len(found.verdicts) and not found.holds(tolerance=math.inf)
    assert (found.verdicts["ours"] != found.verdicts["reference"]).all()


def test_a_run_of_one_folder_only_is_listed_and_no_disagreement(folders):
    shutil.rmtree(folders[0] / RUNS[2])
    found = agreement.compare(*folders)
    row = found.runs.set_index("run").loc[RUNS[2]]
    assert row["why"] == "only in the reference" and math.isnan(row["largest relative difference"])
    assert found.holds() and "1 runs are in one folder only" in found.sentence()


def test_reasons_name_settings_code_data_and_machine():
    base = {
        "parameters": {"profile": "smoke", "seed": 0},
        "data": [{"sha256": "a"}],
        "weights": [],
        "git": {"revision": "r", "dirty": False},
        "device": "cpu",
        "device_name": "x86_64",
        "processor": "A",
        "fingerprint": "f",
        "versions": {"torch": "2"},
    }
    assert agreement.reasons(base, base) == []
    assert agreement.reasons(base | {"parameters": {"profile": "smoke", "seed": 1}}, base) == ["other settings: seed"]
    assert agreement.reasons(base | {"fingerprint": "g"}, base) == ["other code"]
    assert agreement.reasons(base | {"fingerprint": ""}, base) == []
    assert agreement.reasons(base | {"data": [{"sha256": "b"}]}, base) == ["other data"]
    assert agreement.reasons(base | {"processor": "B"}, base) == ["other processor"]
    assert agreement.reasons(base | {"device": "cuda", "device_name": "H100"}, base) == ["H100 instead of x86_64"]
    assert agreement.reasons(base | {"versions": {"torch": "3"}}, base) == ["torch 3 instead of 2"]


def test_the_command_writes_tables_and_says_by_its_code(folders, tmp_path, capsys):
    ours, reference = map(str, folders)
    assert cli.main(["compare", ours, reference, "--output", str(tmp_path / "out")]) == 0
    assert "3 runs are in both" in capsys.readouterr().out
    assert (tmp_path / "out" / "agreement.csv").read_text(encoding="utf-8").count("\n") == 4
    change(folders[0] / RUNS[0] / "metrics.json", lambda c: c["metrics"].update({"I-AUROC": 0.1}))
    assert cli.main(["compare", ours, reference, "--csv"]) == 1
    assert capsys.readouterr().out.startswith("run,largest relative difference")
    assert cli.main(["compare", ours, str(tmp_path / "nothing")]) == 2
    assert "no complete run" in capsys.readouterr().err


def test_the_reference_is_not_held_against_itself(tmp_path):
    assert agreement.with_reference(study.reference_folder() / "smoke") is None
    assert agreement.with_reference(tmp_path / "a-profile-without-reference") is None


def test_a_users_runs_are_ignored_by_git_and_the_reference_is_not():
    def ignored(path):
        return subprocess.run(["git", "check-ignore", "-q", path], cwd=study.repository()).returncode == 0

    if not (study.repository() / ".git").exists():
        pytest.skip("not a git checkout")
    run = "textures/leather/invad/seed-0"
    for name in ("index.html", f"{run}/metrics.json", f"{run}/figures/maps.png", ".workflow/x/done", "agreement.md"):
        assert ignored(f"reports/smoke/{name}"), name
    kept = [f"{run}/{name}" for name in ("metrics.json", "map_summary.npz", "example_maps.npz")]
    for name in (*kept, "index.html", "comparison/figures/answer.png", "finished.json"):
        assert not ignored(f"reports/reference/smoke/{name}"), name
    for name in (f"{run}/run.ipynb", f"{run}/maps.npz", f"{run}/figures/scores.png", "agreement.md"):
        assert ignored(f"reports/reference/smoke/{name}"), name


def test_the_command_says_what_is_wrong_with_its_folders(folders, capsys):
    ours, reference = folders
    for wrong in ("-1", "nan", "x"):
        with pytest.raises(SystemExit):
            cli.main(["compare", str(ours), str(reference), f"--tolerance={wrong}"])
    assert cli.main(["compare", str(ours), str(ours)]) == 2
    assert "the same folder" in capsys.readouterr().err
    change(ours / RUNS[0] / "manifest.json", lambda content: content.pop("parameters"))
    assert cli.main(["compare", str(ours), str(reference)]) == 2
    error = capsys.readouterr().err
    assert RUNS[0] in error and "lack 'parameters'" in error
    (ours / RUNS[0] / "metrics.json").write_text("{")
    assert cli.main(["compare", str(ours), str(reference)]) == 2
    assert RUNS[0] in capsys.readouterr().err


def test_the_sentence_names_the_tolerance_that_was_asked_for(folders, capsys):
    assert cli.main(["compare", *map(str, folders), "--tolerance", "0.25"]) == 0
    assert "differ by more than 0.25" in capsys.readouterr().out
