"""Profiles by path and on top of others, what a change re-runs, GPUs for one run at a time, the profiles for
clusters."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cost
import pytest
import yaml
from data_trees import mvtec_tree
from small_notebooks import PARAMETERS, RECORD, REPOSITORY, START, WORK, write_notebook

from diffad_utils import cli, execution, study
from diffad_utils.execution import notebook, profiles, workflow

GRID = [{"dataset": "textures", "category": ["carpet", "grid"]}]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "profiles").mkdir()
    for name in ("01_data", "07_invad"):
        write_notebook(tmp_path / f"notebooks/{name}.ipynb", [PARAMETERS, START.format(name=name), WORK, RECORD])
    base = {
        "defaults": {"minutes": 7, "parameters": {"learning_rate": 0.5}},
        "01_data": {"grid": GRID, "memory_mb": 100},
        "07_invad": {"grid": GRID, "parameters": {"fail_on": "x"}},
    }
    (tmp_path / "profiles/base.yaml").write_text(yaml.safe_dump(base))
    return tmp_path


def plan(root: Path, profile: str) -> profiles.RunPlan:
    folders = {"notebooks": root / "notebooks", "profiles": root / "profiles", "output_root": root / "out"}
    return profiles.load_plan(profile, **folders)


def own(root: Path, content: dict, name: str = "mine.yaml") -> str:
    (root / name).write_text(yaml.safe_dump(content))
    return str(root / name)


# --- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_by_path_says_only_what_differs(root):
    changes = {
        "extends": "base",
        "defaults": {"seed": [3]},
        "01_data": False,
        "07_invad": {"parameters": {"learning_rate": 0.1}},
    }
    made = plan(root, own(root, changes))
    assert made.profile == "mine" and made.root == root / "out/mine"
    assert [run.name for run in made.runs] == [
        f"07_invad/textures/{category}/seed-3" for category in ("carpet", "grid")
    ]
    run = made.runs[0]
    assert (run.minutes, run.parameters["learning_rate"], run.parameters["fail_on"]) == (7, 0.1, "x")
    assert run.parameters["profile"] == "mine"


def test_an_entry_of_the_grid_may_have_seeds_of_its_own(root):
    grid = [{"dataset": "textures", "category": ["carpet", "grid"], "seed": 1}]
    grid.append({"dataset": "textures", "category": "wood", "seed": [2, 3]})
    grid.append({"dataset": "textures", "category": "tile"})
    made = plan(root, own(root, {"07_invad": {"grid": grid, "seed": [0, 4]}}))
    found = [(run.parameters["category"], run.parameters["seed"]) for run in made.runs]
    assert found == [("carpet", 1), ("grid", 1), ("wood", 2), ("wood", 3), ("tile", 0), ("tile", 4)]


def test_an_entry_of_the_grid_has_parameters_of_its_own(root):
    grid = [GRID[0] | {"category": "carpet"}, GRID[0] | {"category": "grid", "parameters": {"learning_rate": 0.2}}]
    made = plan(root, own(root, {"07_invad": {"grid": grid, "parameters": {"learning_rate": 0.1}}}))
    assert [(run.name, run.parameters["learning_rate"]) for run in made.runs] == [
        ("07_invad/textures/carpet/seed-0", 0.1),
        ("07_invad/textures/grid/seed-0", 0.2),
    ]


def test_a_profile_extends_another_file_beside_it(root):
    own(root, {"extends": "base", "defaults": {"seed": [1]}}, "first.yaml")
    made = plan(root, own(root, {"extends": "first.yaml", "01_data": {"memory_mb": 200}}))
    assert {run.parameters["seed"] for run in made.runs} == {1} and made.runs[0].memory_mb == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"extends": "smok"}, "no profile 'smok'"),
        ({"extends": 3}, "`extends` is 3"),
        ({"extends": "mine.yaml"}, "extends itself"),
        ({"extends": "base", "07_invad": {"parameters": {"rate": 1}}}, "unknown parameter `rate`"),
        ({"extends": "base", "07_invad": {"gpus": -1}}, "`gpus` is -1"),
        ({"extends": "base", "07_invad": {"parameters": {"device": "cuda"}}}, "set `gpus: 1`"),
    ],
)
def test_a_wrong_profile_of_ones_own(root, content, message):
    with pytest.raises(profiles.ProfileError) as error:
        plan(root, own(root, content))
    assert message in str(error.value)


def test_a_file_with_the_name_of_a_profile_is_refused(root):
    with pytest.raises(profiles.ProfileError, match="already"):
        plan(root, own(root, {"extends": "base"}, "base.yaml"))
    with pytest.raises(profiles.ProfileError, match="there is no profile"):
        plan(root, str(root / "nowhere.yaml"))


# --- status and choice -----------------------------------------------------------------------------------------------


def test_status_tells_missing_failed_running_changed_and_done(root, capsys):
    made = plan(root, "base")
    _first, second, third, fourth = made.runs
    for run in (second, third, fourth):
        made.work(run).mkdir(parents=True)
    (made.work(second) / "failed.json").write_text(json.dumps({"label": "x", "error": "cell 3: no", "traceback": ""}))
    progress = notebook.Progress("x", [""], time.monotonic() + 100, made.work(third) / notebook.RUNNING)
    for run in (fourth,):
        run.folder.mkdir(parents=True)
        (run.folder / "metrics.json").write_text("{}")
        (run.folder / "run.ipynb").write_text("{}")
        manifest = {"parameters": run.parameters, "started": "2026-01-02T03:04:05+00:00", "wall_s": 65.2}
        (run.folder / "manifest.json").write_text(json.dumps(manifest))
    assert [execution.state(made, run) for run in made.runs] == ["missing", "failed", "running", "changed"]
    (made.work(fourth) / "done").write_text(execution.fingerprint(fourth))
    rows = execution.status(made)
    assert [execution.last_seconds(run) for run in made.runs] == [0, 0, 0, 65.2]
    assert rows[3]["state"] == "done" and rows[3]["time"] == "0:01:05" and rows[3]["when"] == "2026-01-02 03:04"
    assert rows[1]["note"] == "cell 3: no" and "starting the kernel" in rows[2]["note"]
    arguments = ["status", "base", "--notebooks", str(root / "notebooks"), "--profiles", str(root / "profiles")]
    assert cli.main([*arguments, "--output", str(root / "out")]) == 0
    assert "4 runs: 1 done, 1 running, 1 failed, 1 missing" in capsys.readouterr().out
    progress.stop()
    assert execution.state(made, third) == "missing"


def test_a_run_that_another_process_is_at_is_not_started_twice(root):
    made = plan(root, "base")
    run = made.runs[0]
    progress = notebook.Progress("x", [""], time.monotonic() + 100, made.work(run) / notebook.RUNNING)
    with pytest.raises(execution.RunFailed, match="is at this run already"):
        execution.run_notebook(run.notebook, run.parameters, work=made.work(run))
    progress.stop()


def test_runs_are_chosen_by_name_beginning_or_pattern(root):
    made = plan(root, "base")

    def names(*patterns):
        return [run.name for run in execution.chosen_runs(made, patterns)]

    assert names() == [run.name for run in made.runs]
    assert names("07") == ["07_invad/textures/carpet/seed-0", "07_invad/textures/grid/seed-0"]
    assert names("*/carpet/*") == ["01_data/textures/carpet/seed-0", "07_invad/textures/carpet/seed-0"]
    with pytest.raises(profiles.ProfileError, match="no run matches '08'"):
        names("08")


# --- what a change re-runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and the notebooks, to change."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("diffad_utils", "notebooks"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        path.stem: execution.notebook_digest(path) + execution.code_digest(path, root / "diffad_utils")
        for path in sorted((root / "notebooks").glob("0[1-9]*.ipynb"))
    }


def changes(root: Path, file: str, change) -> set[str]:
    before, path = digests(root), root / file
    text = path.read_text()
    path.write_text(change(text))
    after = digests(root)
    path.write_text(text)
    return {name for name in after if after[name] != before[name]}


def test_a_comment_reruns_nothing_and_code_what_uses_it(copy):
    assert changes(copy, "diffad_utils/diffusion/ddim.py", lambda text: "# a comment\n" + text) == set()
    diffusion = {path.stem for path in copy.glob("notebooks/0[1-9]*.ipynb")} - {"01_data", "08_comparison"}
    changed = changes(copy, "diffad_utils/diffusion/ddim.py", lambda text: text + "\nNEW = 1\n")
    assert diffusion <= changed
    assert "07_invad" in changes(copy, "diffad_utils/methods/invad/score.py", lambda text: text + "\nNEW = 1\n")


def test_a_notebooks_text_reruns_that_notebook_and_its_outputs_nothing(copy):
    def other_text(text: str) -> str:
        notebook = json.loads(text)
        notebook["cells"][0]["source"] = ["# Another title"]
        return json.dumps(notebook)

    def other_outputs(text: str) -> str:
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], 99
        return json.dumps(notebook)

    assert changes(copy, "notebooks/07_invad.ipynb", other_text) == {"07_invad"}
    assert changes(copy, "notebooks/07_invad.ipynb", other_outputs) == set()


def test_changed_data_files_rerun_what_reads_them(tmp_path):
    for name in ("part", "other"):
        mvtec_tree(tmp_path, name)

    def digest(category: str) -> str:
        execution.data_digest.cache_clear()
        return execution.data_digest("folder", category, str(tmp_path))

    part, other = digest("part"), digest("other")
    image = next((tmp_path / "part" / "train").rglob("*.png"))
    image.touch()
    assert digest("part") == part != "-"
    image.write_bytes(image.read_bytes() + b"0")
    assert digest("part") != part and digest("other") == other
    assert execution.data_digest("textures", "carpet", "") == "-"
    assert execution.data_digest("folder", "nothing", str(tmp_path)) == "-"


# --- GPUs ------------------------------------------------------------------------------------------------------------

CLAIM = """
import sys, time
from diffad_utils import execution
mine = execution.claim_gpus(int(sys.argv[1]))
start = time.time()
time.sleep(0.5)
print(",".join(mine), start, time.time())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
@pytest.mark.parametrize("job", [None, "7"])  # "7": inside an allocation of SLURM that was opened by hand
def test_no_gpu_is_given_to_two_runs_at_once(tmp_path, job):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n")
    tool.chmod(0o755)
    script = tmp_path / "claim.py"
    script.write_text(textwrap.dedent(CLAIM))
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(tmp_path),
    }
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        environment.pop(name, None)
    if job:
        environment["SLURM_JOB_ID"] = job
    counts = ("1", "2", "1", "1")
    started = [
        subprocess.Popen([sys.executable, str(script), count], env=environment, stdout=subprocess.PIPE, text=True)
        for count in counts
    ]
    uses = []
    for count, process in zip(counts, started, strict=True):
        devices, begin, end = process.communicate(timeout=60)[0].split()
        assert len(devices.split(",")) == int(count)
        uses += [(device, float(begin), float(end)) for device in devices.split(",")]
    for i, (device, begin, end) in enumerate(uses):
        for other, other_begin, other_end in uses[i + 1 :]:
            assert device != other or end <= other_begin or other_end <= begin
    none = subprocess.run(
        [sys.executable, str(script), "0"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert len(none.stdout.split()) == 2  # no device
    over = subprocess.run(
        [sys.executable, str(script), "3"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "needs 3 GPUs, this machine has 2" in over.stderr


# --- clusters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_the_cluster_profiles_are_what_snakemake_and_its_plugin_know(name, tmp_path):
    pytest.importorskip(f"snakemake_executor_plugin_{name}")
    from snakemake.cli import parse_args

    _, options = parse_args(["--profile", str(REPOSITORY / "workflow" / "cluster" / name)])
    assert options.executor == name
    settings = yaml.safe_load((REPOSITORY / "workflow" / "cluster" / name / "config.yaml").read_text())
    for key, value in settings.items():
        if key.startswith(f"{name}-") and not isinstance(value, list):
            assert str(getattr(options, key.replace("-", "_"))) == str(value)
    if name == "kubernetes":
        from snakemake_executor_plugin_kubernetes import parse_persistent_volumes

        (volume,) = parse_persistent_volumes(settings["kubernetes-persistent-volumes"])
        assert (volume.name, str(volume.path)) == ("diffad", "/study")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | {f"{name}-nonsense": 1}))
    with pytest.raises(SystemExit):
        parse_args(["--profile", str(tmp_path)])


def test_a_cluster_folder_without_a_profile_is_refused(tmp_path):
    with pytest.raises(profiles.ProfileError, match="no config.yaml"):
        workflow._cluster_arguments(tmp_path)


def test_memory_and_gpus_are_limits_for_snakemake():
    arguments = workflow._local_arguments(4, ["0", "1"])
    assert arguments[:2] == ["--cores", "4"] and "gpu=2" in arguments
    assert any(int(text.partition("=")[2]) > 100 for text in arguments if text.startswith("mem_mb="))
    assert study.repository() == REPOSITORY


# --- cost ------------------------------------------------------------------------------------------------------------


def test_the_cost_is_jobs_times_measured_time(tmp_path):

    for name, method, category, seconds in (
        ("07_invad", "invad", "a", 100.0),
        ("07_invad", "invad", "b", 300.0),
        ("07_invad", "other", "a", 999.0),
        ("08_comparison", None, "", 36.0),
    ):
        folder = tmp_path / category / str(method)
        folder.mkdir(parents=True)
        manifest = {
            "notebook": name,
            "method": method,
            "wall_s": seconds,
            "device": "cpu",
            "device_name": "x",
            "parameters": {"profile": "smoke"},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "metrics.json").write_text("{}")
    text = cost.estimate(tmp_path, categories=15, seeds=3, workers=[1, 8], overhead=20.0, faster=1.0)
    assert "| 07_invad | CPU | 2 | 200 (100 to 300) | 45 | 2.5 |" in text
    assert "| 1 | 2.5 | 0.01 |" in text  # 45 x 200 s and the comparison
    assert "| 8 | 0.4 | 0.01 |" in text  # six rounds of 220 s and the comparison
    assert cost.makespan([3, 3, 2, 2, 2], 2) == 7  # longest first is not always the best
