#!/usr/bin/env bash
# ADEval 1.1.0: one outlier pixel makes a good pixel AUROC 0.5 and a good AUPRO chance.
#
# Behaviour: the accumulating evaluator sorts pixels into 1000 equal strips between the bounds that it is given, here
# the maps' true minimum and maximum. One pixel of 10,000 among 32,768 (a dead sensor pixel, a division by a small
# norm) leaves all other pixels in one strip. An outlier of 20 or 100 does almost no harm. The exact AUROC moves in the fifth digit.
# The package calls np.trapz, so numpy must be older than 2.4.
# What to do: exact ranks, or bounds from robust quantiles after clipping the maps.
# Output seen:
#   outlier none: AUROC 0.8621, AUPRO 0.6284, exact AUROC 0.8622
#   outlier 100: AUROC 0.8623, AUPRO 0.6285, exact AUROC 0.8621
#   outlier 10000: AUROC 0.5000, AUPRO 0.1500, exact AUROC 0.8621

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check adeval==1.1.0 torch==2.13.0 numpy==2.2.6 scikit-learn==1.9.1
venv/bin/python - <<'PY'
import warnings

import numpy as np
from adeval import EvalAccumulator
from sklearn.metrics import roc_auc_score

warnings.simplefilter("ignore")
masks = np.zeros((8, 64, 64), np.uint8)
masks[4:, 20:30, 20:30] = 1
clean = np.random.default_rng(0).normal(size=masks.shape) + 1.5 * masks


def evaluate(outlier):
    maps = clean.copy()
    if outlier:
        maps[0, 0, 0] = outlier
    low, high = float(maps.min()), float(maps.max())
    evaluator = EvalAccumulator(low, high, low, high)
    for number, (one, mask) in enumerate(zip(maps, masks)):
        evaluator.add_anomap(one, mask)
        evaluator.add_image(float(one.max()), int(mask.max()))
    found = evaluator.summary()
    exact = roc_auc_score(masks.ravel(), maps.ravel())
    print(f"outlier {outlier or 'none'}: AUROC {found['p_auroc']:.4f}, AUPRO {found['p_aupro']:.4f}, "
          f"exact AUROC {exact:.4f}")
    return found["p_auroc"], found["p_aupro"], exact


none, some, much = evaluate(0), evaluate(100), evaluate(10_000)
assert abs(none[0] - none[2]) < 0.01 and abs(some[0] - some[2]) < 0.01
assert abs(much[0] - 0.5) < 0.01 and much[1] < 0.2 and much[2] > 0.86
PY
