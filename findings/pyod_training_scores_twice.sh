#!/usr/bin/env bash
# pyod 3.6.7: scoring the training images again gives other scores than those the threshold was set by.
#
# Behaviour: decision_scores_ (and threshold_, labels_) leave a point out of its own neighbours.
# decision_function on the same rows does not, so each row finds itself at distance 0. With one
# neighbour all scores are 0, and of the 10 % that fit() called outliers predict() finds
# none. A threshold from one of the two must not be used with the other's scores.
# What to do: compare new images with decision_scores_, never with decision_function(train).
# Output seen:
#   1 neighbour: largest score 2.44 by fit, 0.00 by decision_function; outliers 20 by fit, 0 by predict
#   5 neighbours: largest score 2.49 by fit, 1.98 by decision_function; outliers 20 by fit, 6 by predict

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pyod==3.6.7 scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from pyod.models.knn import KNN

rows = np.random.default_rng(0).normal(size=(200, 4))
seen = {}
for k in (1, 5):
    knn = KNN(n_neighbors=k, method="mean").fit(rows)
    again = knn.decision_function(rows)
    seen[k] = knn.labels_.sum(), knn.predict(rows).sum(), again.max()
    print(f"{k} neighbour{'s'[: k > 1]}: largest score {knn.decision_scores_.max():.2f} by fit, {again.max():.2f} "
          f"by decision_function; outliers {seen[k][0]} by fit, {seen[k][1]} by predict")
assert seen[1] == (20, 0, 0.0) and seen[5][1] < seen[5][0] == 20
PY
