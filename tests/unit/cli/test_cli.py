"""What the command does before the package does the work."""

import os
import re

import pytest
from data_trees import mvtec_tree

from diffad_utils import cli, execution
from diffad_utils.analyses import agreement


def test_folders_are_relative_to_where_the_user_stands(tmp_path, monkeypatch):
    """A kernel runs in the folder of its notebook."""
    mvtec_tree(tmp_path / "own" / "a", "part")
    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setenv("DIFFAD_DATA", os.pathsep.join(["a", "../b"]))
    monkeypatch.setenv("DIFFAD_REPORTS", "c")
    injected = []
    monkeypatch.setattr(execution, "run_notebook", lambda _, parameters, **__: injected.append(parameters))
    options = ["-p", "dataset=folder", "-p", "category=part", "-p", "data_root=a", "-p", "output_root=../after"]
    assert cli.main(["run", "07", *options]) == 0
    assert injected[0]["data_root"] == str(tmp_path / "own/a") and injected[0]["output_root"] == str(tmp_path / "after")
    assert os.environ["DIFFAD_DATA"].split(os.pathsep) == [str(tmp_path / "own/a"), str(tmp_path / "b")]
    assert os.environ["DIFFAD_REPORTS"] == str(tmp_path / "own/c")


def test_the_help_of_compare_names_every_file_that_it_writes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    said = "".join(capsys.readouterr().out.split())  # lines are broken at dashes, too
    names = re.findall(r"[\w-]+\.\w+", agreement.Agreement.write.__doc__)
    assert len(names) == 3 and all(name in said for name in names)
