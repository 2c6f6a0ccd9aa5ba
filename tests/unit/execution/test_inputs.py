"""What a run lacks is said before it begins."""

from pathlib import Path

import pytest

from diffad_utils import cli, execution, study
from diffad_utils.execution import inputs

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


def test_where_a_small_model_stands_in_absent_weights_are_no_error():
    inputs.check_run(ROOT / "notebooks/01_data.ipynb", PARAMETERS | {"backbone": "dino-vits8"})


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
