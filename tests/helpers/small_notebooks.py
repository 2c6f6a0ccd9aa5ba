"""Tiny notebooks that stand for the study's: their cells as text, and how to write them."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

REPOSITORY = Path(__file__).resolve().parents[2]

PARAMETERS = """# Parameters: the smoke profile's values
profile = "smoke"
dataset, category = "textures", "carpet"
seed = 0; device = "cpu"
output_root = ""
data_root = ""
learning_rate = 1e-3  # unitless
fail_on = ""
"""

START = """from diffad_utils import study
run = study.start("{name}", globals())
p = run.parameters"""

WORK = """import sys, types, torch
if p.category == p.fail_on:
    raise ArithmeticError("forced failure")
shift = torch.tensor([0., 0., 0., 2., 2., 2.])
score = torch.rand(6, generator=torch.Generator().manual_seed(p.seed)) + shift
prediction = types.SimpleNamespace(score=score, anomaly_map=torch.rand(6, 8, 8), parts={"a": score}, nfe=3)
batch = {"key": [f"{p.dataset}/{p.category}/test/{'good' if i < 3 else 'hole'}/{i}" for i in range(6)],
         "label": (shift > 0).long()}"""

RECORD = """run.record(prediction, batch, {"I-AUROC": 1.0}, intervals={"I-AUROC": (0.9, 1.0)},
           experiments={"python": sys.executable, "threads": torch.get_num_threads(), "rate": p.learning_rate})"""

JOIN = """found = study.load_runs(run.folder.parent)
run.record(experiments={"methods": [r.method for r in found], "count": len(found)})"""


def write_notebook(path: Path, cells: list[str]) -> None:
    notebook = new_notebook(cells=[new_markdown_cell(f"# {path.stem}")] + [new_code_cell(text) for text in cells])
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
