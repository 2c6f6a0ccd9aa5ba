#!/usr/bin/env bash
# imbalanced-learn 0.14.2: SMOTE makes new defects with grey values from 0 to 255 between two 8-bit ones of 138 and 141.
#
# Behaviour: a new row is to lie between a row of the rare class and one of its neighbours. The difference of the two is taken in the
# type of the input. In uint8 3 less is 253, so the new row is the first one plus a part of 253, and what passes 255 starts again at
# 0. SMOTE, BorderlineSMOTE and ADASYN do so, and with uint16 too. Shape, type and class counts look right, and no warning comes.
# Signed types and floats are right. The neighbours themselves are found in float.
# What to do: give it X.astype("float32").
# Output seen:
#   two defects of 138 and 141 grey values: new rows from float32 have 138 to 141, from int16 138 to 140, from uint8 0 to 255
#   patches of 8 x 8, share of new pixels outside the range of all defects of the class:
#   SMOTE: float32 0.000, int16 0.000, uint16 0.478, uint8 0.305
#   BorderlineSMOTE: float32 0.000, int16 0.000, uint16 0.383, uint8 0.256
#   ADASYN: float32 0.000, int16 0.000, uint16 0.415, uint8 0.280

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check imbalanced-learn==0.14.2 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import warnings

import numpy as np
from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE

warnings.simplefilter("error")
rng = np.random.default_rng(0)

two = np.vstack([np.full((400, 4), 60), [[138] * 4, [141] * 4]])
label = np.r_[np.zeros(400, int), 1, 1]
ends = {}
for kind in (np.float32, np.int16, np.uint8):
    rows, labels = SMOTE(k_neighbors=1, random_state=0).fit_resample(two.astype(kind), label)
    new = rows[len(two):]
    assert rows.dtype == kind and len(new) == 398 and labels[len(two):].all()
    ends[kind] = int(np.floor(new.min())), int(np.ceil(new.max()))
print("two defects of 138 and 141 grey values: new rows from float32 have {} to {}, from int16 {} to {}, from uint8 {} to {}".format(
    *ends[np.float32], *ends[np.int16], *ends[np.uint8]))
assert ends[np.float32][0] >= 138 and ends[np.float32][1] <= 141
assert ends[np.int16][0] >= 138 and ends[np.int16][1] <= 141
assert ends[np.uint8][0] < 20 and ends[np.uint8][1] > 235

# brighter and darker patches, so that some of the rare class have neighbours in the other
level = np.r_[rng.normal(100, 10, 300), rng.normal(125, 10, 30)]
patches = np.round(level[:, None] + rng.normal(0, 8, (330, 64))).clip(0, 255)
label = np.r_[np.zeros(300, int), np.ones(30, int)]
low, high = patches[300:].min(), patches[300:].max()
print("patches of 8 x 8, share of new pixels outside the range of all defects of the class:")
for method in (SMOTE, BorderlineSMOTE, ADASYN):
    outside = {}
    for kind in (np.float32, np.int16, np.uint16, np.uint8):
        rows, _ = method(random_state=0).fit_resample(patches.astype(kind), label)
        new = rows[330:].astype(float)
        assert len(new) > 200
        outside[kind] = float(((new < low) | (new > high)).mean())
    print(f"{method.__name__}: " + ", ".join(f"{kind.__name__} {share:.3f}" for kind, share in outside.items()))
    assert outside[np.float32] == 0 and outside[np.int16] == 0
    assert outside[np.uint16] > 0.1 and outside[np.uint8] > 0.1
PY
