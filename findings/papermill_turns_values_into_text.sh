#!/usr/bin/env bash
# papermill 2.7.0: a tuple reaches the notebook as text, and numpy's False as a text that is true.
#
# Behaviour: papermill writes Python code for the types it knows (numbers, text, list, dict, None). Every other value
# becomes its text in quotes, without a warning: a tuple (256, 256) has then length 10 and first element "(",
# np.int64(3) is "3", and np.bool_(False) is "False", which counts as true in an if. np.float64 is safe,
# since it is a Python float too; np.float32 is not. Inside a list or dict the same happens.
# What to do: list(...), int(...), bool(...) before execute_notebook.
# Output seen:
#   (256, 256) -> "(256, 256)"
#   np.int64(3) -> "3"
#   np.float32(0.5) -> "0.5"
#   np.False_ -> "False"
#   np.float64(0.5) -> 0.5
#   {'size': (1, 2)} -> {"size": "(1, 2)"}

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check papermill==2.7.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from papermill.translators import papermill_translators

translate = papermill_translators.find_translator("python3", "python").translate
expected = [((256, 256), '"(256, 256)"'), (np.int64(3), '"3"'), (np.float32(0.5), '"0.5"'),
            (np.bool_(False), '"False"'), (np.float64(0.5), "0.5"), ({"size": (1, 2)}, '{"size": "(1, 2)"}')]
for value, code in expected:
    print(f"{value!r} -> {translate(value)}")
    assert translate(value) == code, f"expected {code}"
PY
