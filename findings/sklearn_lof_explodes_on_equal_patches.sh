#!/usr/bin/env bash
# scikit-learn 1.9.1: LocalOutlierFactor scores a difference of 0.001 as 28 million if many training rows are equal.
#
# Behaviour: background patches of a synthetic, masked or clipped image are often exactly equal. If more rows
# than n_neighbors are equal, their density is about 1e10, and whatever lies a hair beside them gets
# a score in the millions: noise in the last digit looks like the worst defect. As
# novelty detector (novelty=True) there is no warning, neither in fit nor in score_samples.
# What to do: np.unique(rows, axis=0) first, or n_neighbors above the largest group of equals.
# Output seen:
#   equal row -1.0, 0.001 away -2.83e+07, warnings: 0
#   after np.unique: 0.001 away -1.0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python - <<'PY'
import warnings

import numpy as np
from sklearn.neighbors import LocalOutlierFactor

random = np.random.default_rng(0)
rows = np.r_[np.zeros((500, 8)), random.normal(size=(50, 8))]
asked = np.array([[0.0] * 8, [0.001] * 8])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    equal, beside = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(rows).score_samples(asked)
print(f"equal row {equal:.1f}, 0.001 away {beside:.2e}, warnings: {len(caught)}")
assert beside < -1e6 and not caught
_, beside = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(np.unique(rows, axis=0)).score_samples(asked)
print(f"after np.unique: 0.001 away {beside:.1f}")
assert beside > -3
PY
