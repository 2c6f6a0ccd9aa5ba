"""The workflow on tiny notebooks: what runs, what runs again, what happens when one fails."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image
from small_notebooks import JOIN, PARAMETERS, RECORD, REPOSITORY, START, WORK, write_notebook

from diffad_utils import execution, report, study
from diffad_utils.execution import notebook, saving


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Notebooks 01, 07 and 08 and a profile in a folder of their own; the tests below go through one history."""
    root = tmp_path_factory.mktemp("workflow")
    (root / "notebooks").mkdir()
    (root / "profiles").mkdir()
    for name in ("01_data", "07_invad"):
        cells = [PARAMETERS, START.format(name=name), WORK, RECORD]
        write_notebook(root / "notebooks" / f"{name}.ipynb", cells)
    write_notebook(root / "notebooks" / "08_comparison.ipynb", [PARAMETERS, START.format(name="08_comparison"), JOIN])
    write_profile(root, {})
    return root


RATE = {"grid": [{"dataset": "textures", "category": "carpet"}], "parameters": {"learning_rate": 1e-5}}
"""Section of 01_data with a parameter of its own."""


def write_profile(root: Path, parameters: dict, **sections) -> None:
    """The profile `smoke`: `parameters` for 07_invad, and whole sections in place of the usual ones."""
    grid = [{"dataset": "textures", "category": ["carpet", "grid"]}]
    profile = {
        "01_data": {"grid": [{"dataset": "textures", "category": "carpet"}]},
        "07_invad": {"grid": grid},
        "08_comparison": None,
    }
    if parameters:
        profile["07_invad"]["parameters"] = parameters
    (root / "profiles" / "smoke.yaml").write_text(yaml.safe_dump(profile | sections))


def run(root: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "diffad_utils.cli", "study", "smoke", "-j", "2"]
    for option, folder in {"notebooks": "notebooks", "profiles": "profiles", "output": "out", "state": "."}.items():
        command += [f"--{option}", str(root / folder)]
    command += more
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)


def fingerprints(root: Path) -> dict[str, int]:
    """When each run was last recorded."""
    found = (root / "out" / "smoke").rglob("metrics.json")
    return {path.parent.relative_to(root / "out" / "smoke").as_posix(): path.stat().st_mtime_ns for path in found}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in after if before.get(name) != after[name]}


CARPET, GRID = "textures/carpet/invad/seed-0", "textures/grid/invad/seed-0"


def test_first_run_executes_everything_and_says_where_the_report_is(root):
    done = run(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fingerprints(root)) == {"textures/carpet/trivial/seed-0", CARPET, GRID, "comparison"}
    assert "The report is at out/smoke/index.html" in done.stdout
    assert "07_invad textures/carpet seed 0: cell 4/6 (07_invad)" in done.stdout  # progress, with the heading
    page = (root / "out/smoke/index.html").read_text()
    assert "textures/carpet/invad/seed-0/run.html" in page


def test_runs_use_this_python_their_threads_and_the_summary_came_last(root):
    record = study.load_run(root / "out/smoke" / CARPET)
    assert record.experiments["python"] == sys.executable
    assert record.experiments["threads"] == 1
    assert record.manifest["parameters"]["profile"] == "smoke"
    assert study.load_run(root / "out/smoke/comparison").experiments["count"] == 3
    executed = nbformat.read(root / "out/smoke" / CARPET / "run.ipynb", as_version=4)
    assert str(Path.home()) + "/" not in json.dumps(executed.metadata)


def test_second_run_does_nothing_and_says_so(root):
    before = fingerprints(root)
    for path in (root / "notebooks").iterdir():  # dates alone mean nothing
        path.touch()
    done = run(root)
    assert done.returncode == 0
    assert done.stdout.strip().endswith("nothing to do: out/smoke/index.html is up to date")
    assert "out/smoke against" in done.stdout  # the table of agreement with the reference
    assert fingerprints(root) == before


def test_a_changed_notebook_runs_again_with_what_joins_it(root):
    before = fingerprints(root)
    cells = [PARAMETERS, START.format(name="07_invad"), WORK, RECORD + "\nprint('changed')"]
    write_notebook(root / "notebooks/07_invad.ipynb", cells)
    assert run(root).returncode == 0
    assert changed(before, fingerprints(root)) == {CARPET, GRID, "comparison"}


def test_a_changed_parameter_runs_its_section_again(root):
    before = fingerprints(root)
    write_profile(root, {}, **{"01_data": RATE})
    assert run(root).returncode == 0
    assert changed(before, fingerprints(root)) == {"textures/carpet/trivial/seed-0", "comparison"}
    assert study.load_run(root / "out/smoke/textures/carpet/trivial/seed-0").experiments["rate"] == 1e-5


def test_a_failure_keeps_the_earlier_run_and_can_be_read(root):
    before = fingerprints(root)
    write_profile(root, {"fail_on": "grid"}, **{"01_data": RATE})
    done = run(root)
    assert done.returncode == 1
    assert changed(before, fingerprints(root)) == {CARPET}  # went on with the others; the old grid run is untouched
    assert "1 run(s) FAILED" in done.stdout and "ArithmeticError: forced failure" in done.stdout
    failed = root / "out/smoke/.workflow/07_invad/textures/grid/seed-0"
    assert "forced failure" in (failed / "run.failed.ipynb").read_text()
    assert "07_invad textures/grid seed 0: FAILED" in (failed / "run.log").read_text()
    assert (failed / "run.log").read_text().count("starting the kernel") <= 2  # two attempts in one log
    assert (failed / "run.log").read_text().count("FAILED") == 2
    page = (root / "out/smoke/index.html").read_text()
    assert "forced failure" in page and "<summary>traceback</summary>" in page
    assert ".workflow/07_invad/textures/grid/seed-0/run.failed.html" in page
    assert "forced failure" in (failed / "run.failed.html").read_text()
    assert "--only 07_invad/textures/grid/seed-0" in done.stdout and "--only 07_invad/textures/grid/seed-0" in page


def test_only_the_run_that_is_named_runs(root):
    before = fingerprints(root)
    write_profile(root, {"fail_on": "carpet"}, **{"01_data": RATE})
    assert run(root, "--only", "07_invad/textures/grid").returncode == 0
    assert changed(before, fingerprints(root)) == {GRID}


def test_after_mending_only_what_failed_runs(root):
    before = fingerprints(root)
    write_profile(root, {"fail_on": "nothing"}, **{"01_data": RATE})
    assert run(root).returncode == 0
    assert changed(before, fingerprints(root)) == {CARPET, GRID, "comparison"}
    assert not list((root / "out/smoke/.workflow").rglob("run.failed.ipynb"))
    assert "forced failure" not in (root / "out/smoke/index.html").read_text()


def test_a_deleted_run_folder_is_made_again(root):
    (root / "out/smoke" / GRID / "metrics.json").unlink()
    before = fingerprints(root)
    assert run(root).returncode == 0
    assert changed(before, fingerprints(root)) == {GRID, "comparison"}


def test_a_study_goes_on_from_a_copy_of_it(root, tmp_path):
    """What is finished there and fits code, cells and parameters is taken with its page; the rest runs."""
    write_profile(root, {})
    assert run(root).returncode == 0
    copy = report.write_site(root / "out" / "smoke", root / "copies" / "smoke").parent
    (root / "out" / "smoke").rename(root / "before")
    first = run(root, "--take", str(copy))
    assert first.returncode == 0 and "3 of 4 runs were taken from copies/smoke" in first.stdout, first.stdout
    there, here = fingerprints(root), root / "out" / "smoke"
    assert (here / CARPET / "metrics.json").read_bytes() == (root / "before" / CARPET / "metrics.json").read_bytes()
    assert f"{CARPET}/run.html" in (here / "index.html").read_text(encoding="utf-8")
    second = run(root, "--take", str(copy))
    assert (
        second.returncode == 0 and "0 of 4 runs were taken" in second.stdout and not changed(there, fingerprints(root))
    )
    again = report.write_site(here, tmp_path / "smoke").parent
    assert (again / CARPET / "run.html").is_file() and (again / execution.FINISHED).read_bytes() == (
        copy / execution.FINISHED
    ).read_bytes()
    write_profile(root, {"seed": 0}, **{"01_data": RATE})
    assert str(tmp_path) not in (here / CARPET / execution.TAKEN).read_text(encoding="utf-8")
    (root / "out" / "smoke").rename(root / "taken")
    third = run(root, "--take", str(copy))
    assert third.returncode == 0 and "2 of 4 runs were taken" in third.stdout, "one has another parameter now"
    wrong = run(root, "--take", str(root))
    assert wrong.returncode == 2 and "is no copy of smoke to go on from" in wrong.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"learning_rat": 1.0}}, "unknown parameter `learning_rat` (did you mean `learning_rate`?)"),
        ({"parameters": {"learning_rate": "fast"}}, "expected number"),
        ({"parameters": {"learning_rate": -1.0}}, "allowed: above 0 and at most 1"),
        ({"parameters": ["learning_rate"]}, "`parameters` is ['learning_rate'], expected names with values"),
        (
            {"07_invad": {"grid": [{"dataset": "textures", "category": "carpet", "parameters": 3}]}},
            "grid[0]: `parameters` is 3",
        ),
        (
            {
                "07_invad": {
                    "grid": [{"dataset": "textures", "category": "carpet", "parameters": {"learning_rate": "fast"}}]
                }
            },
            "expected number",
        ),
        ({"09_more": {}}, "unknown key `09_more`"),
        ({"07_invad": {"gird": []}}, "unknown key `gird` (did you mean `grid`?)"),
        ({"07_invad": {"grid": [{"dataset": "textures"}]}}, "needs both dataset and category"),
        ({"07_invad": {"grid": [{"dataset": "textures", "category": ["carpet", "carpet"]}]}}, "listed twice"),
        ({"08_comparison": {"grid": []}}, "takes no `grid`"),
        ({"defaults": {"seed": [-1]}}, "parameter `seed` is -1"),
        ({"defaults": {"minutes": 0}}, "expected a whole number of at least 1"),
    ],
)
def test_a_wrong_profile_stops_before_anything_runs(root, tmp_path, change, message):
    (tmp_path / "profiles").mkdir()
    change = dict(change)
    write_profile(tmp_path, change.pop("parameters", {}), **change)
    with pytest.raises(execution.ProfileError) as error:
        execution.load_plan("smoke", notebooks=root / "notebooks", profiles=tmp_path / "profiles")
    assert message in str(error.value)


def test_an_unknown_category_stops_before_anything_runs(root, tmp_path):
    (tmp_path / "profiles").mkdir()
    write_profile(tmp_path, {}, **{"07_invad": {"grid": [{"dataset": "textures", "category": "carpets"}]}})
    plan = execution.load_plan("smoke", notebooks=root / "notebooks", profiles=tmp_path / "profiles")
    with pytest.raises(ValueError, match="carpets"):
        execution.check_data(plan.runs)


def test_a_dying_kernel_is_reported_and_both_attempts_are_in_the_log(tmp_path):
    write_notebook(tmp_path / "99_dies.ipynb", [PARAMETERS, "import os; os._exit(3)"])
    for _ in range(2):
        with pytest.raises(execution.RunFailed, match="kernel died in cell 4/4"):
            execution.run_notebook(tmp_path / "99_dies.ipynb", {"output_root": str(tmp_path)}, work=tmp_path / "work")
    assert (tmp_path / "work/run.log").read_text().count("FAILED: the kernel died") == 2


def test_what_a_failed_notebook_measured_is_kept(tmp_path):
    keeps = "run.keep(prediction, batch, {'I-AUROC': 1.0})"
    write_notebook(tmp_path / "07_invad.ipynb", [PARAMETERS, START.format(name="07_invad"), WORK, keeps, "1 / 0"])
    with pytest.raises(execution.RunFailed, match="ZeroDivisionError"):
        execution.run_notebook(tmp_path / "07_invad.ipynb", {"output_root": str(tmp_path)}, work=tmp_path / "work")
    (left,) = tmp_path.glob("*/*/*/*/seed-*")
    assert left.name == "seed-0.incomplete" and (left / "scores.parquet").is_file()


def test_the_time_limit_stops_a_run(tmp_path, monkeypatch):
    write_notebook(tmp_path / "99_slow.ipynb", [PARAMETERS, "import time; time.sleep(100)"])
    with pytest.raises(execution.RunFailed, match="time limit"):
        notebook._execute(tmp_path / "99_slow.ipynb", tmp_path / "out.ipynb", {"profile": "smoke"}, "slow", seconds=5)


def test_a_notebook_that_records_nothing_is_a_failure(tmp_path):
    write_notebook(tmp_path / "99_silent.ipynb", [PARAMETERS, "1 + 1"])
    with pytest.raises(execution.RunFailed, match="recorded nothing"):
        execution.run_notebook(tmp_path / "99_silent.ipynb", {"output_root": str(tmp_path)}, work=tmp_path / "work")


def test_a_notebook_that_ends_early_is_a_failure(tmp_path):
    """papermill calls this a success (findings/papermill_exit_and_expected_errors.sh)."""
    cells = [PARAMETERS, START.format(name="07_invad"), WORK, RECORD, "import sys; sys.exit()", "1 + 1"]
    write_notebook(tmp_path / "07_invad.ipynb", cells)
    with pytest.raises(execution.RunFailed, match="ended the notebook early"):
        execution.run_notebook(tmp_path / "07_invad.ipynb", {"output_root": str(tmp_path)}, work=tmp_path / "work")


def test_the_repositorys_profiles_expand():
    for profile in execution.profile_names():
        plan = execution.load_plan(profile)
        assert plan.runs and plan.runs[-1].is_summary


def test_saved_notebooks_have_no_progress_bars(tmp_path):
    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": [text]}

    outputs = [stream("stderr", "\rtraining:  10%"), stream("stderr", "a warning"), stream("stdout", "kept")]
    cell = {"cell_type": "code", "metadata": {}, "source": [], "outputs": outputs}
    (tmp_path / "run.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}}))
    text = saving.published_form(tmp_path / "run.ipynb", Path("07_invad.ipynb"))
    assert json.loads(text)["cells"][0]["outputs"] == outputs[1:]


PICTURE = """import io, numpy as np, PIL.Image, IPython.display
pixels = np.random.default_rng(0).normal(128, 20, (80, 80, 3)).clip(0, 255).astype("uint8")
PIL.Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
IPython.display.Image(data=file.getvalue())"""


def test_of_a_large_notebook_photographs_lose_pixels_and_charts_keep_their_colours(monkeypatch):
    """With fewer colours, small coloured marks of a chart turned grey."""

    def output(pixels):
        Image.fromarray(pixels.astype("uint8")).save(file := io.BytesIO(), "PNG")
        data = {"image/png": base64.b64encode(file.getvalue()).decode()}
        return nbformat.v4.new_output("display_data", data=data)

    photograph = np.random.default_rng(0).integers(0, 256, (200, 200, 3))
    chart = np.repeat(np.linspace(120, 255, 300)[:, None], 3, 1)[None].repeat(300, 0)  # greys, and three small marks
    chart[:4, :4], chart[8:12, :4], chart[16:20, :4] = (200, 0, 0), (0, 120, 0), (0, 0, 200)
    cell = nbformat.v4.new_code_cell(outputs=[output(photograph), output(chart)])
    content = nbformat.v4.new_notebook(cells=[cell])
    monkeypatch.setattr(saving, "LARGE_NOTEBOOK", 100)
    saving.fit_pictures(content)
    large, small = (
        Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB") for output in cell.outputs
    )
    assert large.width < 80 and small.size == (300, 300)
    red, green, blue = (small.getpixel((1, y)) for y in (1, 9, 17))
    assert red[0] > 150 > 50 > max(red[1:]) and green[1] > 80 > 50 > green[0] and blue[2] > 150 > 50 > blue[0]


def test_large_notebooks_are_saved_with_smaller_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAD_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes, pictures = [], []
    for limit in (10**9, 100):
        monkeypatch.setattr(saving, "LARGE_NOTEBOOK", limit)
        write_notebook(tmp_path / "99_picture.ipynb", [PARAMETERS, PICTURE])
        execution.reexecute([tmp_path / "99_picture.ipynb"], threads=1)
        content = nbformat.read(tmp_path / "99_picture.ipynb", as_version=4).cells[-1].outputs[0].data["image/png"]
        sizes.append(len(content))
        pictures.append(Image.open(io.BytesIO(base64.b64decode(content))))
    assert sizes[1] < sizes[0] and pictures[1].mode == "P"
    difference = np.abs(np.asarray(pictures[0], dtype=int) - np.asarray(pictures[1].convert("RGB"), dtype=int))
    assert difference.mean() < 8
