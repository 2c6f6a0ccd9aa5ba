#!/usr/bin/env bash
# faiss 1.15.1: an HNSW index that finds every nearest neighbour finds one in six once a hundred rows of the bank are equal.
#
# Behaviour: a thousand different rows, searched near each of them: 1.0 found. Add rows that are all zero (masked background,
# dead pixels, features behind a ReLU). Up to 40 nothing happens; from 64 on, twice the links of a node (M=32), equal rows
# fill all links of one another and nothing leads out. With 1000 equal rows next to nothing is found, in a bank of 2000, and the
# distances that come back are too large, so normal patches get high scores. A flat index finds all.
# What to do: np.unique(rows, axis=0) before add, or a flat index; measure the recall on the bank itself.
# Output seen:
#   equal rows 0: nearest row found 1.000, flat index 1.000
#   equal rows 40: nearest row found 0.998, flat index 1.000
#   equal rows 100: nearest row found 0.154, flat index 1.000
#   equal rows 1000: nearest row found 0.006, flat index 1.000
#   equal rows 1000, after np.unique: nearest row found 1.000

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
venv/bin/python - <<'PY'
import faiss
import numpy as np

faiss.omp_set_num_threads(1)
rng = np.random.default_rng(0)
rows = rng.normal(size=(1000, 32)).astype(np.float32)
queries = (rows + 0.05 * rng.normal(size=rows.shape)).astype(np.float32)


def found(index, bank):
    index.add(bank)
    _, neighbours = index.search(queries, 1)
    return float((bank[neighbours[:, 0]] == rows).all(axis=1).mean())


def hnsw():
    index = faiss.IndexHNSWFlat(32, 32)
    index.hnsw.efSearch = 64
    return index


shares = {}
for equal in (0, 40, 100, 1000):
    bank = np.concatenate([rows, np.zeros((equal, 32), np.float32)])
    shares[equal], flat = found(hnsw(), bank), found(faiss.IndexFlatL2(32), bank)
    print(f"equal rows {equal}: nearest row found {shares[equal]:.3f}, flat index {flat:.3f}")
    assert flat == 1.0
assert shares[0] > 0.99 and shares[40] > 0.99 and shares[100] < 0.5 and shares[1000] < 0.1
different = found(hnsw(), np.unique(bank, axis=0))
print(f"equal rows 1000, after np.unique: nearest row found {different:.3f}")
assert different > 0.99
PY
