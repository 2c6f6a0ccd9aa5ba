#!/usr/bin/env bash
# statsmodels 0.15.0: a test without a p-value comes back as significant from Holm's correction if all others are.
#
# Behaviour: multipletests with method="holm" goes up through the sorted p until one is too large. NaN stands last and is not larger than
# anything, so where four categories are significant and the fifth has no p (a failed run, no difference anywhere), all five are
# "rejected". Benjamini-Hochberg gives NaN for all five corrected p, yet four stay rejected. No warning. The missing
# test counts as one of the tests, so the other corrected p grow.
# What to do: drop what is NaN before, or compare the corrected p yourself.
# Output seen:
#   holm, four tests: rejected [True, True, True, True], corrected p [0.004, 0.012, 0.02, 0.02]
#   holm, and one NaN: rejected [True, True, True, True, True], corrected p [0.005, 0.016, 0.03, 0.04, nan]
#   fdr_bh, and one NaN: rejected [True, True, True, True, False], corrected p [nan, nan, nan, nan, nan]

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
import warnings

import numpy as np
from statsmodels.stats.multitest import multipletests

warnings.simplefilter("error")
p = [0.001, 0.004, 0.01, 0.02]


def say(name, method, p):
    rejected, corrected = multipletests(p, alpha=0.05, method=method)[:2]
    print(f"{name}: rejected {rejected.tolist()}, corrected p {corrected.round(3).tolist()}")
    return rejected, corrected


rejected, _ = say("holm, four tests", "holm", p)
assert rejected.all()
rejected, corrected = say("holm, and one NaN", "holm", [*p, np.nan])
assert rejected.all() and np.isnan(corrected).tolist() == [False] * 4 + [True]
rejected, corrected = say("fdr_bh, and one NaN", "fdr_bh", [*p, np.nan])
assert rejected.tolist() == [True] * 4 + [False] and np.isnan(corrected).all()
PY
