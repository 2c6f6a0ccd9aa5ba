#!/usr/bin/env bash
# papermill 2.7.0: the learning rate 1e-4 is a number with -p and a text with -y or -f; 010 is 10 or 8.
#
# Behaviour: -p turns values into numbers by Python's own rules. -y (YAML text) and -f (YAML file) go by YAML 1.1, where a number in powers of
# ten needs a dot: 1e-4 is text, 1.0e-4 a number. 010 is octal there, 8, and a bare no is False. So a
# parameter file does not do what the same options did, and a text as a learning rate fails late or compares wrongly.
# What to do: a dot in every such number in YAML, and a check of types in the notebook's first cell.
# Output seen:
#   -p: lr 0.0001, seed 10, category 'no'
#   -y: lr '1e-4', seed 8, category False
#   -f: lr '1e-4', seed 8, category False

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check papermill==2.7.0 ipykernel==7.4.0
venv/bin/python - <<'PY'
import subprocess
import sys
from pathlib import Path

import nbformat

cells = [nbformat.v4.new_code_cell("lr = seed = category = None", metadata={"tags": ["parameters"]}),
         nbformat.v4.new_code_cell("print(f'lr {lr!r}, seed {seed!r}, category {category!r}')")]
book = nbformat.v4.new_notebook(cells=cells)
book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(book, "in.ipynb")
subprocess.run([sys.executable, "-m", "ipykernel", "install", "--sys-prefix"], check=True, capture_output=True)


def run(*options):
    subprocess.run([Path(sys.executable).with_name("papermill"), "in.ipynb", "out.ipynb", *options],
                   check=True, capture_output=True)
    return nbformat.read("out.ipynb", 4).cells[-1].outputs[0].text.strip()


bare = run("-p", "lr", "1e-4", "-p", "seed", "010", "-p", "category", "no")
print("-p:", bare)
yaml = run("-y", "{lr: 1e-4, seed: 010, category: no}")
print("-y:", yaml)
Path("parameters.yaml").write_text("lr: 1e-4\nseed: 010\ncategory: no\n")
file = run("-f", "parameters.yaml")
print("-f:", file)
assert bare == "lr 0.0001, seed 10, category 'no'"
assert yaml == file == "lr '1e-4', seed 8, category False"
PY
