#!/usr/bin/env bash
# ood-metrics 1.1.2: FPR at 95 % TPR is 1.0 instead of 0.0 if exactly 95 % of the defects are found without a false alarm.
#
# Behaviour: the README says that fpr_at_95_tpr is the false positive rate when the true positive rate is at least 95 %.
# The code interpolates the ROC curve at 0.95. Where the number of defects is a multiple of 20, the curve can have a level step at just
# this height. The interpolation then takes the far end of the step, the one with the most false alarms. One defect of 20 that
# no method finds is enough: the number is then 1.0, for the best detector too. With 19 or 21 defects it is right. calc_metrics
# returns the same number. No warning.
# What to do: fpr[np.argmax(tpr >= 0.95)] of scikit-learn's roc_curve.
# Output seen (100 normal images; all but 5 % of the defects lie above them, the rest below):
#   19 defects:  AUROC 1.000, FPR at 95 % TPR 0.00, by the first point of the curve 0.00
#   20 defects:  AUROC 0.950, FPR at 95 % TPR 1.00, by the first point of the curve 0.00
#   21 defects:  AUROC 0.952, FPR at 95 % TPR 0.00, by the first point of the curve 0.00
#   40 defects:  AUROC 0.950, FPR at 95 % TPR 1.00, by the first point of the curve 0.00
#   100 defects: AUROC 0.950, FPR at 95 % TPR 1.00, by the first point of the curve 0.00

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check ood-metrics==1.1.2 numpy==1.26.4 scipy==1.17.1 scikit-learn==1.9.1
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
from ood_metrics import calc_metrics, fpr_at_95_tpr
from sklearn.metrics import roc_curve

rng = np.random.default_rng(0)
seen = {}
for defects in (19, 20, 21, 40, 100):
    missed = defects // 20
    scores = np.r_[rng.random(100), 2 + rng.random(defects - missed), -1 - rng.random(missed)]
    labels = np.r_[np.zeros(100, int), np.ones(defects, int)]
    false, true, _ = roc_curve(labels, scores)
    first = false[np.argmax(true >= 0.95)]
    every = calc_metrics(scores, labels)
    seen[defects] = float(fpr_at_95_tpr(scores, labels))
    print(f"{f'{defects} defects:':<12} AUROC {every['auroc']:.3f}, FPR at 95 % TPR {seen[defects]:.2f}, by the first point of the curve {first:.2f}")
    assert first == 0 and every["fpr_at_95_tpr"] == seen[defects]
assert seen == {19: 0.0, 20: 1.0, 21: 0.0, 40: 1.0, 100: 1.0}
PY
