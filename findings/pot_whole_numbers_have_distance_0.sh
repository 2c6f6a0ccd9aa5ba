#!/usr/bin/env bash
# POT 0.9.7.post1: the sliced Wasserstein distance of two images of grey values is 0.0 if these are whole numbers, and 53 as floats.
#
# Behaviour: without weights each sample gets the weight 1/n, in the type of the samples. As a whole number 1/n is 0, so nothing is
# moved: wasserstein_1d, sliced_wasserstein_distance and max_sliced_wasserstein_distance return 0.0 for any two sets of uint8, int16
# or int64, without a warning. emd2_1d and scipy's wasserstein_distance are right. ot.dist, the usual way to emd2, keeps the type as
# well: it is right for int64, but in int16 a square of more than 32767 starts again below 0, and emd2 is far too small.
# What to do: x.astype(float) before any function of POT.
# Output seen:
#   float: sliced 53.5, largest slice 53.5, wasserstein_1d 44.4, emd2_1d 44.4, scipy 44.4, emd2 of ot.dist 2859.8
#   int64: sliced 0.0, largest slice 0.0, wasserstein_1d 0.0, emd2_1d 44.4, scipy 44.4, emd2 of ot.dist 2859.8
#   int16: sliced 0.0, largest slice 0.0, wasserstein_1d 0.0, emd2_1d 44.4, scipy 44.4, emd2 of ot.dist 77.4
#   uint8: sliced 0.0, largest slice 0.0, wasserstein_1d 0.0, emd2_1d 44.4, scipy 44.4

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pot==0.9.7.post1 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import warnings

import numpy as np
import ot
from scipy.stats import wasserstein_distance

warnings.simplefilter("error")
rng = np.random.default_rng(0)
dark = rng.integers(0, 256, (200, 1))
bright = rng.integers(100, 256, (200, 1))
even = np.full(200, 1 / 200)
seen = {}
for kind in (float, np.int64, np.int16, np.uint8):
    a, b = dark.astype(kind), bright.astype(kind)
    seen[kind] = {
        "sliced": float(ot.sliced_wasserstein_distance(a, b, seed=0)),
        "largest slice": float(ot.max_sliced_wasserstein_distance(a, b, seed=0)),
        "wasserstein_1d": float(ot.wasserstein_1d(a[:, 0], b[:, 0])),
        "emd2_1d": float(ot.emd2_1d(a[:, 0], b[:, 0], metric="cityblock")),
        "scipy": float(wasserstein_distance(a[:, 0], b[:, 0])),
    }
    if kind is not np.uint8:
        seen[kind]["emd2 of ot.dist"] = float(ot.emd2(even, even, ot.dist(a, b).astype(float)))
    print(f"{kind.__name__}: " + ", ".join(f"{name} {value:.1f}" for name, value in seen[kind].items()))
right = seen[float]
for kind in (np.int64, np.int16, np.uint8):
    assert seen[kind]["sliced"] == seen[kind]["largest slice"] == seen[kind]["wasserstein_1d"] == 0
    assert abs(seen[kind]["emd2_1d"] - right["emd2_1d"]) < 1e-6 and abs(seen[kind]["scipy"] - right["scipy"]) < 1e-6
assert right["sliced"] > 50 and abs(right["wasserstein_1d"] - right["scipy"]) < 1e-6
assert abs(seen[np.int64]["emd2 of ot.dist"] - right["emd2 of ot.dist"]) < 1e-6
assert seen[np.int16]["emd2 of ot.dist"] < 0.1 * right["emd2 of ot.dist"]
PY
