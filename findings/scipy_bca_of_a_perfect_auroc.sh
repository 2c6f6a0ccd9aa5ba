#!/usr/bin/env bash
# scipy 1.17.1: bootstrap's default interval of a perfect AUROC is NaN to NaN.
#
# Behaviour: the default method is BCa. If every resample gives 1.0, as for the many categories
# that strong detectors separate, BCa has no value and returns NaN, with a DegenerateDataWarning.
# "percentile" gives an interval of width 0 that says nothing of the sample's size either (and 2e-16
# below 1). A table of intervals then lacks just the best rows, and a mean over categories is NaN.
# What to do: catch the perfect case and give a bound that knows the sample's size.
# Output seen:
#   BCa: nan to nan, warned of: DegenerateDataWarning
#   percentile: 1.0000 to 1.0000, warned of: nothing
#   one swapped pair, BCa: 0.9876 to 1.0000

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scipy==1.17.1 scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python - <<'PY'
import warnings

import numpy as np
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

labels = np.repeat([0, 1], 30)
scores = np.r_[np.linspace(0.0, 0.4, 30), np.linspace(0.6, 1.0, 30)]
rows = {"normal": np.flatnonzero(labels == 0), "defect": np.flatnonzero(labels == 1)}


def interval(scores, **more):
    def auroc(normal, defect):
        return roc_auc_score(np.r_[np.zeros(len(normal)), np.ones(len(defect))], np.r_[normal, defect])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = bootstrap((scores[rows["normal"]], scores[rows["defect"]]), auroc, vectorized=False,
                          n_resamples=500, rng=0, **more).confidence_interval
    return *found, {w.category.__name__ for w in caught} & {"DegenerateDataWarning"}


low, high, warned = interval(scores)
print(f"BCa: {low} to {high}, warned of: {', '.join(warned) or 'nothing'}")
assert np.isnan(low) and np.isnan(high) and warned
low, high, warned = interval(scores, method="percentile")
print(f"percentile: {low:.4f} to {high:.4f}, warned of: {', '.join(warned) or 'nothing'}")
assert np.isclose([low, high], 1).all() and not warned
worse = scores.copy()
worse[29], worse[30] = scores[30], scores[29]
low, high, warned = interval(worse)
print(f"one swapped pair, BCa: {low:.4f} to {high:.4f}")
assert 0.9 < low < high <= 1
PY
