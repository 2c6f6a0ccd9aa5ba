#!/usr/bin/env bash
# prdc 0.2: if the real images are there six times, generated images have precision, density and coverage 0, exact copies too.
#
# Behaviour: the radius round a real image is the distance to its fifth neighbour among the real ones. With six equal rows it is
# 0, and a generated image counts only if it is nearer than that ("<"). A training set that was repeated, as few-shot training
# does with a handful of defects, so gives 0.00 where the same images once give 0.81, while recall stays. Fewer
# repeats make all radii smaller instead: five times give 0.48.
# What to do: measure against the distinct real images (np.unique(features, axis=0)).
# Output seen:
#   each real image 1 times: other images precision 0.81, density 0.96, coverage 0.97, recall 0.88; copies precision 1.00, coverage 1.00
#   each real image 5 times: other images precision 0.48, density 1.09, coverage 0.57, recall 0.88; copies precision 1.00, coverage 1.00
#   each real image 6 times: other images precision 0.00, density 0.00, coverage 0.00, recall 0.88; copies precision 0.00, coverage 0.00

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check prdc==0.2 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
import contextlib
import io

import numpy as np
from prdc import compute_prdc

rng = np.random.default_rng(0)
real, generated = rng.normal(size=(2, 100, 64))  # features of two sets of images from one distribution


def measure(real, generated):
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in compute_prdc(real, generated, nearest_k=5).items()}


seen = {}
for times in (1, 5, 6):
    repeated = np.repeat(real, times, axis=0)
    other, copies = measure(repeated, generated), measure(repeated, real.copy())
    print(f"each real image {times} times: other images precision {other['precision']:.2f}, density {other['density']:.2f}, "
          f"coverage {other['coverage']:.2f}, recall {other['recall']:.2f}; "
          f"copies precision {copies['precision']:.2f}, coverage {copies['coverage']:.2f}")
    seen[times] = other, copies
assert seen[1][0]["precision"] > 0.7 and seen[1][1]["precision"] == seen[5][1]["precision"] == 1.0
assert 0.4 < seen[5][0]["precision"] < 0.6
for found in seen[6]:
    assert found["precision"] == found["density"] == found["coverage"] == 0.0 and found["recall"] > 0.8
PY
