"""The rules for committed notebooks find each kind of fault, and the repository's notebooks keep them."""

from pathlib import Path

import check_notebooks
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def write(path: Path, *, tagged: int = 1, error: bool = False, text: str = "") -> Path:
    cells = [new_code_cell("seed = 0") for _ in range(2)]
    for cell in cells[:tagged]:
        cell.metadata["tags"] = ["parameters"]
    if error:
        cells[1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
    nbformat.write(new_notebook(cells=[*cells, new_code_cell(text)]), path)
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tagged": 0}, "0 cells have the tag"),
        ({"tagged": 2}, "2 cells have the tag"),
        ({"error": True}, "cell 2 ended with ValueError"),
        ({"text": "#" * 1_500_000}, "1.50 MB, at most 1.5 MB"),
    ],
)
def test_each_fault_is_named(tmp_path, options, said):
    (fault,) = check_notebooks.faults(write(tmp_path / "a.ipynb", **options))
    assert said in fault


def test_a_sound_notebook_has_no_fault(tmp_path):
    assert check_notebooks.faults(write(tmp_path / "a.ipynb")) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebooks_keep_the_rules(notebook):
    assert check_notebooks.faults(notebook) == []
