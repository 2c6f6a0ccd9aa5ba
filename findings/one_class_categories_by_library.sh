#!/usr/bin/env bash
# scikit-learn 1.9.1, torchmetrics 1.9.0: a category without any defect image has AUROC NaN in one and 0.0 in the other.
#
# Behaviour: scikit-learn no longer raises an error for a single class (older versions did): it warns and gives NaN,
# so a try/except around it catches nothing. torchmetrics warns and gives 0.0, the worst
# mark there is, and a mean over categories falls without a trace. Average precision without defects is 0.0
# in both; with defects only, both give a perfect 1.0 while AUROC is NaN and 0.0 again.
# What to do: count the classes before you score.
# Output seen:
#   no defect: AUROC scikit-learn nan, torchmetrics 0.0; AP 0.0 and 0.0
#   only defects: AUROC scikit-learn nan, torchmetrics 0.0; AP 1.0 and 1.0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python - <<'PY'
import warnings

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

warnings.simplefilter("ignore")
scores = np.linspace(0.1, 0.9, 8)
for name, label in (("no defect", 0), ("only defects", 1)):
    labels = np.full(8, label)
    pair = torch.from_numpy(scores), torch.from_numpy(labels)
    auroc = roc_auc_score(labels, scores), binary_auroc(*pair).item()
    ap = average_precision_score(labels, scores), abs(binary_average_precision(*pair).item())
    print(f"{name}: AUROC scikit-learn {auroc[0]}, torchmetrics {auroc[1]}; AP {ap[0]} and {ap[1]}")
    assert np.isnan(auroc[0]) and auroc[1] == 0 and ap == (label, label)
PY
