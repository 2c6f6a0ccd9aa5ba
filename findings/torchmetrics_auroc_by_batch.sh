#!/usr/bin/env bash
# torchmetrics 1.9.0: one score above 1 changes the AUROC, by an amount that depends on the batch size.
#
# Behaviour: update() looks at each batch. If any score of the batch leaves [0, 1] the whole batch goes through a
# sigmoid, the other batches do not. So the order between batches is lost: a score of 0.3 in a squashed batch
# becomes 0.57 and beats 0.5 in another. Anomaly scores (distances, squared errors) often pass 1. With all
# data in one batch, or batches of one, this example is right by luck.
# What to do: exact ranks over all scores, or scale all scores by one rule before update.
# Output seen:
#   scikit-learn 0.7875; batches of 1: 0.7875, 4: 0.7775, 8: 0.7300, 40: 0.7875

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python - <<'PY'
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

random = torch.Generator().manual_seed(0)
labels = torch.tensor([0, 1] * 20)
scores = torch.rand(40, generator=random) * 0.5 + labels * 0.1
scores[0] = 1.2
exact = roc_auc_score(labels, scores)
seen = {}
for size in (1, 4, 8, 40):
    metric = BinaryAUROC()
    for start in range(0, 40, size):
        metric.update(scores[start : start + size], labels[start : start + size])
    seen[size] = metric.compute().item()
print(f"scikit-learn {exact:.4f}; batches of " + ", ".join(f"{size}: {value:.4f}" for size, value in seen.items()))
assert abs(seen[40] - exact) < 1e-4 and abs(seen[8] - exact) > 0.03 and abs(seen[4] - seen[8]) > 0.01
PY
