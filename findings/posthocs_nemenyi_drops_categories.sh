#!/usr/bin/env bash
# scikit-posthocs 0.17.1: one failed run removes its whole category from the Nemenyi test, without a word.
#
# Behaviour: a NaN (a method that failed on one of 15 categories) drops that row for ALL methods. Ten NaN of
# one method leave five categories, and p goes from 0.001 to 0.12 for two methods that have all
# their results. With a single category left a table of p-values still comes back. Friedman's test in scipy, run
# before it by habit, answers NaN for the same table.
# What to do: refuse or fill in missing results before the test, and report the number of rows.
# Output seen:
#   NaN 0: p of methods 1 and 2 0.0008, the same as on the 15 full rows: True
#   NaN 10: p of methods 1 and 2 0.1219, the same as on the 5 full rows: True
#   NaN 14: p of methods 1 and 2 0.9472; scipy's friedmanchisquare: nan

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-posthocs==0.17.1 scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from scikit_posthocs import posthoc_nemenyi_friedman as nemenyi
from scipy.stats import friedmanchisquare

scores = np.random.default_rng(0).random((15, 4))
scores[:, 0] += 1
p = {}
for missing in (0, 10):
    holes = scores.copy()
    holes[:missing, 3] = np.nan
    table = nemenyi(holes).values
    p[missing] = table[0, 1]
    same = np.allclose(table, nemenyi(scores[missing:]).values)
    print(f"NaN {missing}: p of methods 1 and 2 {p[missing]:.4f}, the same as on the {15 - missing} full rows: {same}")
    assert same
holes = scores.copy()
holes[:14, 3] = np.nan
one, friedman = nemenyi(holes).values[0, 1], friedmanchisquare(*holes.T).pvalue
print(f"NaN 14: p of methods 1 and 2 {one:.4f}; scipy's friedmanchisquare: {friedman}")
assert p[0] < 0.01 < 0.05 < p[10] and np.isfinite(one) and np.isnan(friedman)
PY
