#!/usr/bin/env bash
# pyod 3.6.7: HBOS hardly listens to a feature with large numbers; grey values of 0 .. 255 instead of 0 .. 1 take its vote away.
#
# Behaviour: HBOS builds one histogram for each feature, so a change of unit seems to change nothing (the paper scales the
# highest bar to 1). pyod takes log2(density + alpha) with alpha = 0.1 for all features, and a density goes down as the unit's numbers
# go up: a feature that spreads over hundreds has densities far below 0.1, so that its empty bins look like its
# full ones. A feature with small numbers shouts instead. n_bins="auto" does the same (side run). The
# detector works, without a warning, at chance. Scaling all features alike changes the ranking too.
# What to do: set alpha=1e-6, which makes the units count next to nothing, or scale every feature to the same small spread first.
# Output seen (200 normal rows, 200 whose first of eight features is 5 standard deviations off):
#   first feature times 0.00392: AUROC 0.981; all features times it: 0.904
#     with alpha=1e-6: AUROC 0.905
#   first feature times 1: AUROC 0.821; all features times it: 0.821
#     with alpha=1e-6: AUROC 0.905
#   first feature times 255: AUROC 0.506; all features times it: 0.764
#     with alpha=1e-6: AUROC 0.904

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pyod==3.6.7 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
from pyod.models.hbos import HBOS
from sklearn.metrics import roc_auc_score

rng = np.random.default_rng(0)
train, test = rng.normal(size=(1000, 8)), rng.normal(size=(400, 8))
defect = np.repeat([0, 1], 200)
test[defect == 1, 0] += 5


def auroc(factors, alpha=0.1):
    return roc_auc_score(defect, HBOS(alpha=alpha).fit(train * factors).decision_function(test * factors))


first = {}
for factor in (1 / 255, 1, 255):
    factors = np.ones(8)
    factors[0] = factor
    first[factor], every = auroc(factors), auroc(np.full(8, factor))
    print(f"first feature times {factor:.3g}: AUROC {first[factor]:.3f}; all features times it: {every:.3f}")
    small = auroc(factors, alpha=1e-6)
    print(f"  with alpha=1e-6: AUROC {small:.3f}")
    assert 0.85 < small < 0.95
assert first[1 / 255] > 0.95 and 0.8 < first[1] < 0.85 and first[255] < 0.55
assert every < first[1] - 0.03
PY
