"""What a run lacks is said before it begins."""

from pathlib import Path

import pytest
import yaml
from data_trees import image, mvtec_tree

from diffad_utils import cli, execution, study
from diffad_utils.execution import inputs, workflow

ROOT = Path(__file__).parents[3]
PARAMETERS = {"dataset": "textures", "category": "leather"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_what_is_there_is_let_through():
    inputs.check_run(
        ROOT / "notebooks/07_invad.ipynb", PARAMETERS | {"backbone": "resnet-mini", "categories": ["tile"]}
    )
    inputs.check_run(ROOT / "notebooks/08_comparison.ipynb", {"profile": "smoke"})  # a summary has no data of its own


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"category": "lether"}, "07_invad: textures has no category 'lether' .did you mean 'leather'.*known: .*wood"),
        ({"categories": ["tile", "til"]}, "no category 'til' .did you mean 'tile'"),
        ({"dataset": "mtd", "data_root": "/nowhere"}, "/nowhere"),
        ({"backbone": "resnet_foo"}, "07_invad: weights: unknown name 'resnet_foo'; known names are .*resnet34"),
        ({"backbone": "/nowhere/net"}, "there is no file or folder /nowhere/net"),
        ({"backbone": "dino-vits8"}, "weights dino-vits8 are not on this machine.*diffad weights where dino-vits8"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(changed, message, monkeypatch):
    monkeypatch.delenv("DIFFAD_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises((ValueError, OSError), match=message):
        inputs.check_run(ROOT / "notebooks/07_invad.ipynb", PARAMETERS | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"category": "tile"}, "04_lora: other_category is tile, the category that is trained on: name another one"),
        ({"other_category": "tle"}, "04_lora: textures has no category 'tle' .did you mean 'tile'"),
        ({"other_dataset": "mtd", "other_category": ""}, None),
        ({"other_category": ""}, None),
    ],
)
def test_the_category_that_may_be_forgotten_is_another_one(changed, message):
    """04 compares it near its end, after minutes of training."""
    notebook = ROOT / "notebooks/04_lora.ipynb"
    parameters = study.notebook_parameters(notebook) | PARAMETERS | changed
    if message is None:
        inputs.check_run(notebook, parameters)
        return
    with pytest.raises(ValueError, match=message):
        inputs.check_run(notebook, parameters)


@pytest.fixture
def nothing_here(monkeypatch):
    monkeypatch.delenv("DIFFAD_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")


def test_a_small_model_stands_in_for_other_backbones_and_for_nothing_else(nothing_here):
    notebook = ROOT / "notebooks/01_data.ipynb"
    inputs.check_run(notebook, PARAMETERS | {"backbone": "resnet-mini", "other_backbones": ["dino-vits8"]})
    with pytest.raises(ValueError, match="unknown name 'resnet_foo'"):
        inputs.check_run(notebook, PARAMETERS | {"other_backbones": ["resnet_foo"]})
    for others in ([], ["dino-vits8"]):
        with pytest.raises(ValueError, match="weights dino-vits8 are not on this machine"):
            inputs.check_run(notebook, PARAMETERS | {"backbone": "dino-vits8", "other_backbones": others})


def write_photos(root, count):
    """`folder/part` with so many normal training images."""
    mvtec_tree(root, "part")
    for i in range(count):
        image(root / "part" / "train" / "good" / f"{i:03d}.png")
    return root


def test_too_few_images_for_the_neighbours_are_refused_with_the_k_that_they_allow(tmp_path):
    """D3AD would say so once its networks are loaded; it holds two images out."""
    notebook = ROOT / "notebooks/06_d3ad.ipynb"
    own = {"dataset": "folder", "category": "part", "data_root": str(write_photos(tmp_path, 22))}
    parameters = study.notebook_parameters(notebook) | own
    with pytest.raises(ValueError, match=r"06_d3ad: folder/part lacks images: .*23 training images.* has 22.*-p k=19"):
        inputs.check_run(notebook, parameters)
    inputs.check_run(notebook, parameters | {"k": 19})
    write_photos(tmp_path, 23)
    inputs.check_run(notebook, parameters)


# --- a study


@pytest.fixture
def started(monkeypatch):
    """The targets that the workflow was started with, one list a start; nothing runs."""
    starts = []
    monkeypatch.setattr(workflow, "_snakemake", lambda arguments, *_, **__: starts.append(arguments) or 0)
    return starts


def write_profile(folder, **sections):
    (folder / "mine.yaml").write_text(yaml.safe_dump(sections))
    return str(folder / "mine.yaml")


LEATHER = [{"dataset": "textures", "category": "leather"}]


def test_a_study_without_its_weights_starts_on_a_cluster_alone(nothing_here, started, tmp_path, monkeypatch):
    real = {"grid": LEATHER, "parameters": {"backbone": "dino-vits8"}}
    profile = write_profile(tmp_path, **{"01_data": {"grid": LEATHER}, "07_invad": real, "08_comparison": None})
    own = {"write_report": lambda root: None, "output_root": tmp_path / "out"}
    for only in ((), ("07",), ("08",)):
        with pytest.raises(ValueError, match="07_invad/textures/leather/seed-0: the weights dino-vits8 are not on"):
            execution.run_study(profile, only=only, **own)
    assert not started
    assert execution.run_study(profile, only=("01",), **own) == 0
    assert execution.run_study(profile, cluster=ROOT / "workflow/cluster/slurm", **own) == 0
    assert len(started) == 2
    monkeypatch.setattr(inputs, "state", lambda plan, run: "done")  # a finished run needs none
    assert execution.run_study(profile, **own) == 0


def test_only_the_runs_that_were_asked_for_need_their_data(started, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DIFFAD_DATA", raising=False)
    absent = {"grid": [{"dataset": "mvtec_ad", "category": "carpet"}]}
    profile = write_profile(tmp_path, **{"01_data": {"grid": LEATHER}, "07_invad": absent, "08_comparison": None})
    own = {"write_report": lambda root: None, "output_root": tmp_path / "out"}
    assert execution.run_study(profile, only=("01",), **own) == 0
    for only in (("07",), ("08",)):
        with pytest.raises(FileNotFoundError, match="mvtec_ad"):
            execution.run_study(profile, only=only, **own)
    assert len(started) == 1
    # what Snakemake did may leave no page, as its option -n
    assert "There is no report yet at" in capsys.readouterr().out


# --- relative folders: a kernel runs in the folder of its notebook


def test_a_profiles_folders_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "more").mkdir()
    grid = [{"dataset": "folder", "category": "part"}]
    write_profile(tmp_path, **{"defaults": {"parameters": {"data_root": "photos"}}, "07_invad": {"grid": grid}})
    (tmp_path / "more" / "other.yaml").write_text("extends: ../mine.yaml")
    monkeypatch.chdir(ROOT)
    for profile in ("mine.yaml", "more/other.yaml"):
        (run,) = execution.load_plan(str(tmp_path / profile)).runs
        assert run.parameters["data_root"] == str(tmp_path / "photos")
    inputs.check_data([run])


def test_the_command_refuses_before_it_makes_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFAD_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setattr(execution, "run_notebook", lambda *_, **__: pytest.fail("the notebook was run"))
    assert cli.main(["run", "07", "-p", "category=lether"]) == 2
    assert "did you mean 'leather'?" in capsys.readouterr().err and not (tmp_path / "reports").exists()


@pytest.mark.parametrize("profile", execution.profile_names())
def test_every_profile_names_weights_that_are_known(profile):
    for run in execution.load_plan(profile).runs:
        parameters = study.notebook_parameters(run.notebook) | run.parameters
        inputs.check_weights(run.name, parameters, here=False)
        if "other_category" in parameters:
            other = [parameters["other_dataset"], parameters["other_category"]]
            assert other != [parameters["dataset"], parameters["category"]], run.name
