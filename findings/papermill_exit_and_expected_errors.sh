#!/usr/bin/env bash
# papermill 2.7.0: a notebook that stops half way by sys.exit() is a success, one whose expected error is marked as such fails at its end.
#
# Behaviour: sys.exit() or sys.exit(0) in a cell ends the run there: the cells below are not run, papermill returns normally and exits with 0.
# A cell with the tag raises-exception, which nbclient, nbconvert and
# Jupyter pass over (to show an error on purpose), makes papermill run on to the last cell, and then raise.
# What to do: look for cells without an execution count after a run; no error on purpose in notebooks that papermill runs.
# Output seen:
#   sys.exit() in the middle: success, last cell run: False
#   an error with the tag raises-exception: nbclient success, last cell run: True
#   an error with the tag raises-exception: papermill PapermillExecutionError, last cell run: True

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check papermill==2.7.0 nbclient==0.11.0 ipykernel==7.4.0
venv/bin/python - 2>/dev/null <<'PY'
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import papermill

subprocess.run([sys.executable, "-m", "ipykernel", "install", "--sys-prefix"], check=True, capture_output=True)
done = Path("done")


def run(name, middle, by=papermill, tags=()):
    cells = [nbformat.v4.new_code_cell("import sys"), nbformat.v4.new_code_cell(middle, metadata={"tags": list(tags)}),
             nbformat.v4.new_code_cell("open('done', 'w').close()")]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, "in.ipynb")
    done.unlink(missing_ok=True)
    result = "success"
    try:
        if by is papermill:
            papermill.execute_notebook("in.ipynb", "out.ipynb", progress_bar=False)
        else:
            nbclient.NotebookClient(book, kernel_name="python3").execute()
    except papermill.PapermillExecutionError as error:
        result = type(error).__name__
    print(f"{name}{result}, last cell run: {done.exists()}")
    return result == "success", done.exists()


assert run("sys.exit() in the middle: ", "sys.exit()") == (True, False)
tagged = "an error with the tag raises-exception: "
assert run(tagged + "nbclient ", "1 / 0", by=nbclient, tags=["raises-exception"]) == (True, True)
assert run(tagged + "papermill ", "1 / 0", tags=["raises-exception"]) == (False, True)
PY
