#!/usr/bin/env bash
# safetensors 0.8.0: tensors come back in another order than they were saved, and two ways to read disagree on it.
#
# Behaviour: the file is sorted by type, the widest first, and by name within a type. load_file
# follows the file; keys() of an open file is sorted by name alone. Neither is the order of saving.
# Code that pairs values by position (zip with parameters(), "the first tensor is the stem")
# works with torch.save and mixes layers here, as soon as one counter is int64 or one layer is float16.
# What to do: address by name only.
# Output seen:
#   saved     stem, count, head, low
#   load_file count, head, stem, low
#   keys()    count, head, low, stem

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

weights = {"stem": np.zeros(2, np.float32), "count": np.zeros(2, np.int64),
           "head": np.zeros(2, np.float32), "low": np.zeros(2, np.float16)}
save_file(weights, "w.safetensors")
loaded = list(load_file("w.safetensors"))
with safe_open("w.safetensors", "numpy") as file:
    keys = list(file.keys())
print("saved    ", ", ".join(weights))
print("load_file", ", ".join(loaded))
print("keys()   ", ", ".join(keys))
assert loaded == ["count", "head", "stem", "low"] and keys == ["count", "head", "low", "stem"]
PY
