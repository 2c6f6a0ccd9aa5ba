"""Rules for committed notebooks, checked without running them (`make lint`, and before each commit).

    python workflow/check_notebooks.py notebooks/*.ipynb

A notebook has exactly one cell tagged `parameters`, which papermill fills in; no output of an error; no figure that
`diffad_utils.plots` does not have; at most 1.5 MB, beyond which web pages refuse to show it.

A notebook is read like a lesson, so its cells are short: at most `LIMIT_STATEMENTS` statements and `LIMIT_CHARACTERS`
characters, `MEDIAN_CHARACTERS` in the median, no line above `LIMIT_WIDTH`, and at most `LIMIT_NAMES` names bound
outside functions (imports are not counted). The first picture comes within the first `FIRST_PICTURE` cells, and at
least `FOLLOWED` of the pictures are followed by a sentence: what ``run.say`` displays, or a cell of text that is no
heading. What is shown says what it is made of: the caption of each picture ends with profile, data and weights, as
`run.figure` writes it, and a cell that shows a table does so by `run.table`, which does the same. 00_foundation is held
to some of this only: see `OF_OUTPUTS`.

Exit code 1, and a line for each fault.
"""

import argparse
import ast
import functools
import itertools
import re
import statistics
import sys
from pathlib import Path

import nbformat

PLOTS = Path(__file__).parents[1] / "diffad_utils" / "plots" / "__init__.py"
LIMIT_BYTES = 1_500_000
LIMIT_WIDTH = 100
LIMIT_CHARACTERS = 900
MEDIAN_CHARACTERS = 300
LIMIT_STATEMENTS = 8
LIMIT_NAMES = 60
FIRST_PICTURE = 6
FOLLOWED = 0.9
OF_OUTPUTS = "00_"
"""The notebook that trains the shipped models for hours, so that its outputs are not computed anew for a better layout.
It has the sentences after its pictures and the short cells of the others. It is not held to what would need other
outputs than those of the committed models: its first pictures came before a later stage of training and were left out,
and its tables were shown without `run.table`. Nor to the number of names and the median length: its code is that which
made the models, and a change could not be tried.
"""
CAPTION_END = r"\*\(profile .+ · data .+ · (weights .+|no pretrained weights)\)\*$"
"""Of what `study.Run.figure` and `study.Run.table` display."""


@functools.cache
def figures() -> frozenset[str]:
    """What `diffad_utils.plots` exports, read off without importing it."""
    tree = ast.parse(PLOTS.read_text(encoding="utf-8"))
    return frozenset(alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names)


def bound_names(tree: ast.AST) -> set[str]:
    """Names that code binds outside functions and comprehensions, imports not counted."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            names |= bound_names(node)
    return names


def pictures(cells: list) -> list[tuple[int, bool]]:
    """Each picture among the outputs: the number of its cell, from 1, and whether a sentence follows it.

    ``run.figure`` displays a picture and its caption, so the sentence is what is displayed after the caption.
    """
    found = []
    for number, cell in enumerate(cells, 1):
        outputs = [o.data for o in cell.get("outputs", []) if o.output_type in ("display_data", "execute_result")]
        kinds = [next((kind for kind in ("image/png", "text/markdown") if kind in data), "") for data in outputs]
        after = cells[number] if number < len(cells) else None
        text_after = after is not None and after.cell_type == "markdown" and not after.source.lstrip().startswith("#")
        shown = [i for i, kind in enumerate(kinds) if kind == "image/png"]
        for this, following in zip(shown, [*shown[1:], None][: len(shown)], strict=True):
            said = "text/markdown" in kinds[this + 2 : following]
            found.append((number, said or (following is None and text_after)))
    return found


def without_source(cells: list) -> list[str]:
    """Cells whose picture or table does not say which data and weights it is made of, a sentence each."""
    found = []
    for number, cell in enumerate(cells, 1):
        outputs = [o.data for o in cell.get("outputs", []) if o.output_type in ("display_data", "execute_result")]
        pairs = itertools.zip_longest(outputs, outputs[1:], fillvalue={})
        captions = [following.get("text/markdown", "") for data, following in pairs if "image/png" in data]
        if not all(re.search(CAPTION_END, text) for text in captions):
            found.append(f"cell {number} shows a picture without its data and weights: use run.figure")
        tables = any(
            re.search(r"<table|dtype: ", data.get("text/html", data.get("text/plain", ""))) for data in outputs
        )
        if tables and "run.table(" not in cell.source:
            found.append(f"cell {number} shows a table without its data and weights: use run.table")
    return found


def code_cells(cells: list) -> list[tuple[int, str, ast.Module]]:
    """Number from 1, source and syntax tree of each cell of code but the parameters; without IPython's magics."""
    return [
        (number, cell.source, ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", cell.source)))
        for number, cell in enumerate(cells, 1)
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]


def long_cells(cells: list) -> list[str]:
    """Cells with too many characters or statements, a sentence each."""
    found = []
    for number, source, tree in code_cells(cells):
        if len(source) > LIMIT_CHARACTERS:
            found.append(f"cell {number} has {len(source)} characters, at most {LIMIT_CHARACTERS}: split it")
        statements = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        if len(statements) > LIMIT_STATEMENTS:
            found.append(f"cell {number} has {len(statements)} statements, at most {LIMIT_STATEMENTS}: split it")
    return found


def faults_of_a_lesson(cells: list) -> list[str]:
    """What makes a notebook hard to read, its long cells aside; a sentence each, empty if nothing does."""
    found = without_source(cells)
    lengths = [len(source) for _, source, _ in code_cells(cells)]
    names = set().union(*(bound_names(tree) for _, _, tree in code_cells(cells)))
    if lengths and statistics.median(lengths) > MEDIAN_CHARACTERS:
        found.append(f"{statistics.median(lengths):.0f} characters a cell in the median, at most {MEDIAN_CHARACTERS}")
    if len(names) > LIMIT_NAMES:
        found.append(f"{len(names)} names are bound, at most {LIMIT_NAMES}: move bookkeeping into the package")
    shown = pictures(cells)
    if shown and shown[0][0] > FIRST_PICTURE:
        found.append(f"the first picture is in cell {shown[0][0]}, expected within the first {FIRST_PICTURE}")
    return found


def silent_pictures(cells: list) -> list[str]:
    """That too many pictures have no sentence after them; empty if they have."""
    shown = pictures(cells)
    silent = [str(number) for number, followed in shown if not followed]
    if len(silent) <= (1 - FOLLOWED) * len(shown):
        return []
    return [f"{len(silent)} of {len(shown)} pictures without a sentence after them: cells {', '.join(silent)}"]


def faults(notebook: Path) -> list[str]:
    """What is wrong with a notebook, a sentence each; empty if nothing is.

    Raises
    ------
    nbformat.reader.NotJSONError: the file is no notebook.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    found = []
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in cells)
    if tagged != 1:
        found.append(f"{tagged} cells have the tag `parameters`, expected exactly one")
    for number, cell in enumerate(cells, 1):
        errors = [output.ename for output in cell.get("outputs", []) if output.output_type == "error"]
        if errors:
            found.append(f"cell {number} ended with {errors[0]}: mend it and run the notebook again (make notebooks)")
        wide = max((len(line) for line in cell.source.splitlines()), default=0) if cell.cell_type == "code" else 0
        for name in sorted(set(re.findall(r"\bplots\.(\w+)", cell.source)) - figures()):
            if cell.cell_type == "code":
                found.append(f"cell {number} uses plots.{name}, which diffad_utils.plots does not have")
        if wide > LIMIT_WIDTH:
            found.append(f"cell {number} has a line of {wide} characters, at most {LIMIT_WIDTH}: break it")
    found += long_cells(cells) + silent_pictures(cells)
    if not notebook.name.startswith(OF_OUTPUTS):
        found += faults_of_a_lesson(cells)
    size = notebook.stat().st_size
    if size > LIMIT_BYTES:
        found.append(f"{size / 1e6:.2f} MB, at most {LIMIT_BYTES / 1e6:.1f} MB: draw fewer or smaller pictures")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    lines = [f"{notebook}: {fault}" for notebook in parser.parse_args().notebooks for fault in faults(notebook)]
    print("\n".join(lines), end="\n" if lines else "", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
