#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors with the same two metadata entries give different files from save to save.
#
# Behaviour: the metadata are written in the order of a hash map that is seeded anew each time. With
# one entry or none the bytes are always the same. With two or more they are not, even within
# one process. A checksum of the file then says "changed" for equal weights. The order of
# the tensors does not vary.
# What to do: compare the tensors or one JSON text in ONE entry, never the file's checksum.
# Output seen:
#   distinct files of 40: no entry 1, one entry 1, two entries 2, four entries more than 2: True

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PY'
import hashlib

import numpy as np
from safetensors.numpy import save

weights = {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}


def distinct(entries):
    metadata = {str(i): "text" for i in range(entries)} or None
    return len({hashlib.sha256(save(weights, metadata=metadata)).hexdigest() for _ in range(40)})


none, one, two, four = (distinct(entries) for entries in (0, 1, 2, 4))
print(f"distinct files of 40: no entry {none}, one entry {one}, two entries {two}, four entries more than 2: {four > 2}")
assert none == one == 1 and two == 2 and four > 2
PY
