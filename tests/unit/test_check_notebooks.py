"""The rules for committed notebooks find each kind of fault, and the repository's notebooks keep them."""

import ast
from pathlib import Path

import check_notebooks
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

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
    ],
)
def test_each_fault_is_named(tmp_path, options, said):
    (fault,) = check_notebooks.faults(write(tmp_path / "a.ipynb", **options))
    assert said in fault


def test_a_figure_that_is_not_there_is_named(tmp_path):
    (fault,) = check_notebooks.faults(write(tmp_path / "a.ipynb", text="plots.means_chart(t)\nplots.means_charts(t)"))
    assert fault == "cell 3 uses plots.means_charts, which diffad_utils.plots does not have"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n" * 9, "cell 2 has 9 statements, at most 8"),
        (f"x = '{'y' * 100}'", "cell 2 has a line of 106 characters, at most 100"),
        ("# some words\n" * 80, "cell 2 has 1040 characters, at most 900"),
        ("# some words\n" * 30, "390 characters a cell in the median, at most 300"),
        (
            "\n".join(", ".join(f"x{10 * i + j}" for j in range(9)) + " = 9 * [0]" for i in range(7)),
            "63 names are bound",
        ),
    ],
)
def test_each_fault_of_a_lesson_is_named(tmp_path, source, said):
    notebook = new_notebook(cells=[new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    assert any(said in fault for fault in check_notebooks.faults(tmp_path / "01_a.ipynb"))


def test_names_in_functions_comprehensions_and_imports_are_not_counted():
    tree = ast.parse("import a\nfrom b import c\ndef f(x):\n    y = x\nz = [i for i in g]\nfor k, m in n: pass")
    assert check_notebooks.bound_names(tree) == {"f", "z", "k", "m"}


def picture_cell(*kinds: str):
    data = {"picture": {"image/png": "", "text/plain": ""}, "text": {"text/markdown": "", "text/plain": ""}}
    return new_code_cell("", outputs=[new_output("display_data", data=data[kind]) for kind in kinds])


def test_a_picture_needs_a_sentence_besides_its_caption():
    cells = [
        picture_cell("picture", "text"),  # a caption only, then a sentence
        new_markdown_cell("The defect lights up."),
        picture_cell("picture", "text", "text"),  # caption and sentence
        picture_cell("picture", "text", "picture", "text", "text"),  # the first has no sentence
        picture_cell("picture", "text"),  # a heading is no sentence
        new_markdown_cell("## The next question"),
    ]
    assert check_notebooks.pictures(cells) == [(1, True), (3, True), (4, False), (4, True), (5, False)]
    (fault,) = check_notebooks.silent_pictures(cells)
    assert fault == "2 of 5 pictures without a sentence after them: cells 4, 5"


def test_pictures_and_tables_name_their_data_and_weights():
    def shown(*outputs, source="x"):
        made = [nbformat.v4.new_output("display_data", data) for data in outputs]
        return check_notebooks.without_source([nbformat.v4.new_code_cell(source, outputs=made)])

    picture, table = {"image/png": "", "text/plain": "<Figure>"}, {"text/html": "<table>", "text/plain": "a"}
    for end in ("data a toy · no pretrained weights", "data a/b, c/d · weights net (path)"):
        assert shown(picture, {"text/markdown": f"What is seen. *(profile smoke · {end})*"}) == []
    for caption in ("What is seen.", "*(profile smoke · data a)*", "*(profile smoke · no pretrained weights)*"):
        assert "picture without its data and weights" in shown(picture, {"text/markdown": caption})[0]
    assert "picture" in shown(picture)[0]
    assert "table without its data and weights" in shown(table, source="table.round(3)")[0]
    assert "table" in shown({"text/plain": "a 1\ndtype: int64"})[0]
    assert shown(table, source="run.table(table, 'All.')") == [] and shown({"text/plain": "3"}) == []


def test_the_first_picture_comes_early():
    cells = [new_code_cell("") for _ in range(6)] + [picture_cell("picture", "text", "text")]
    assert "the first picture is in cell 7, expected within the first 6" in check_notebooks.faults_of_a_lesson(cells)


def test_a_sound_notebook_has_no_fault(tmp_path):
    assert check_notebooks.faults(write(tmp_path / "a.ipynb")) == []


@pytest.mark.parametrize(("source", "faulty"), [("x = 1\n" * 9, True), ("# some words\n" * 30, False)])
def test_the_foundation_has_short_cells_as_well(tmp_path, source, faulty):
    parameters = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[parameters, new_code_cell(source)]), tmp_path / "00_a.ipynb")
    assert bool(check_notebooks.faults(tmp_path / "00_a.ipynb")) == faulty


@pytest.mark.parametrize("name", ["00_a.ipynb", "01_a.ipynb"])
def test_no_notebook_may_leave_its_pictures_without_a_sentence(tmp_path, name):
    parameters = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    picture = picture_cell("picture")
    picture.outputs.append(new_output("display_data", data={"text/markdown": "A. *(data a · no pretrained weights)*"}))
    nbformat.write(new_notebook(cells=[parameters, picture]), tmp_path / name)
    assert any("1 of 1 pictures without a sentence" in fault for fault in check_notebooks.faults(tmp_path / name))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebooks_keep_the_rules(notebook):
    assert check_notebooks.faults(notebook) == []


def test_a_notebook_too_large_for_a_web_page_is_named(tmp_path):
    notebook = write(tmp_path / "a.ipynb", text="#" * 1_500_000)
    assert any("1.50 MB, at most 1.5 MB" in fault for fault in check_notebooks.faults(notebook))


def test_the_committed_summary_shows_what_is_drawn_from_maps():
    """Executed again on a copy of the runs without maps, 08 leaves these pictures out and ends without an error."""
    notebook = nbformat.read(Path(__file__).parents[2] / "notebooks" / "08_comparison.ipynb", as_version=4)
    for name in ("plots.case_strip", "by_defect.recall_by_size"):
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and name in cell.source]
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), name
