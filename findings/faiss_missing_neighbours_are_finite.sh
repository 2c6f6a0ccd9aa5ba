#!/usr/bin/env bash
# faiss 1.15.1: a missing neighbour has a finite distance, 3.4e38.
#
# Behaviour: ask for more neighbours than the index holds (a memory bank after a strict
# coreset, a class with few images) and faiss fills up with index -1 and the largest float32,
# not inf and not NaN. np.isfinite lets it pass; a mean over the k nearest becomes 1.1e38,
# and index -1 silently picks the LAST row of the bank in numpy.
# What to do: k = min(k, index.ntotal), or test for index -1.
# Output seen:
#   distances [0.0, 8.0, 3.4028234663852886e+38], indices [0, 1, -1], all finite: True
#   mean of the three 1.1342744887950962e+38

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
venv/bin/python - <<'PY'
import faiss
import numpy as np

bank = np.array([[0, 0], [2, 2]], np.float32)
index = faiss.IndexFlatL2(2)
index.add(bank)
distances, found = index.search(bank[:1], 3)
print(f"distances {distances[0].tolist()}, indices {found[0].tolist()}, all finite: {np.isfinite(distances).all()}")
print(f"mean of the three {distances[0].astype(float).mean()}")
assert found[0].tolist() == [0, 1, -1]
assert np.isfinite(distances).all() and distances[0, 2] == np.finfo(np.float32).max
PY
