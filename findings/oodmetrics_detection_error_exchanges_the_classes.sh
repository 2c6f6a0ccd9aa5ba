#!/usr/bin/env bash
# ood-metrics 1.1.2: the detection error of a detector that is wrong for 72 % of the images is 0.03: the two classes' shares are exchanged.
#
# Behaviour: detection_error is, by its documentation, the probability of a wrong answer at a true positive rate of 95 % or more.
# It multiplies the share of missed defects by the share of normal images, and the share of false alarms by the share of defects.
# It should be the other way round. With as many defects as normal images nothing is wrong. With few defects false
# alarms count next to nothing. Of two detectors the worse one can have the smaller error. calc_metrics returns the same number. The
# README's own example says 0.05 where one answer of five is wrong. No warning.
# What to do: take scikit-learn's roc_curve, share * (1 - tpr) + (1 - share) * fpr with the share of defects, and its minimum where tpr >= 0.95.
# Output seen (in the first three rows the defects are one standard deviation above the normal images, in the next two there are 20):
#   500 normal images,  20 defects: detection error 0.029, wrong answers in truth 0.719
#   500 normal images, 500 defects: detection error 0.388, wrong answers in truth 0.388
#    20 normal images, 500 defects: detection error 0.818, wrong answers in truth 0.038
#   20 false alarms of 100, no miss: detection error 0.033, wrong answers in truth 0.167
#   no false alarm, 1 miss of 20:    detection error 0.042, wrong answers in truth 0.008
#   the README's example:           detection error 0.050, wrong answers in truth 0.200

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check ood-metrics==1.1.2 numpy==1.26.4 scipy==1.17.1 scikit-learn==1.9.1
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
from ood_metrics import calc_metrics, detection_error
from sklearn.metrics import roc_curve


def wrong(labels, scores):
    """The smallest share of wrong answers at a threshold that finds 95 % of the defects or more."""
    share = np.mean(labels)
    false, true, _ = roc_curve(labels, scores)
    return np.min((share * (1 - true) + (1 - share) * false)[true >= 0.95])


rng = np.random.default_rng(0)
seen = []
for normal, defects in ((500, 20), (500, 500), (20, 500)):
    scores = np.r_[rng.normal(size=normal), rng.normal(size=defects) + 1]
    labels = np.r_[np.zeros(normal, int), np.ones(defects, int)]
    seen.append((float(detection_error(scores, labels)), float(wrong(labels, scores))))
    print(f"{normal:>3} normal images, {defects:>3} defects: detection error {seen[-1][0]:.3f}, wrong answers in truth {seen[-1][1]:.3f}")
    assert calc_metrics(scores, labels)["detection_error"] == seen[-1][0]

# one detector with many false alarms and no miss, one with a single miss and no false alarm
labels = np.r_[np.zeros(100, int), np.ones(20, int)]
alarms = np.r_[np.full(80, 0.1), np.full(20, 0.9), np.full(20, 0.9)]
miss = np.r_[np.full(100, 0.1), np.full(19, 0.9), 0.05]
pair = [(float(detection_error(scores, labels)), float(wrong(labels, scores))) for scores in (alarms, miss)]
print("20 false alarms of 100, no miss: detection error {:.3f}, wrong answers in truth {:.3f}".format(*pair[0]))
print("no false alarm, 1 miss of 20:    detection error {:.3f}, wrong answers in truth {:.3f}".format(*pair[1]))

scores, labels = [0.1, 0.3, 0.6, 0.9, 1.3], [0, 0, 0, 1, 0]
readme = float(detection_error(scores, labels)), float(wrong(labels, scores))
print("the README's example:           detection error {:.3f}, wrong answers in truth {:.3f}".format(*readme))
assert seen[0][0] < 0.05 and seen[0][1] > 0.6 and abs(seen[1][0] - seen[1][1]) < 1e-9
assert seen[2][0] > 0.7 and seen[2][1] < 0.05 and abs(readme[0] - 0.05) < 1e-9 and abs(readme[1] - 0.2) < 1e-9
assert pair[0][0] < pair[1][0] and pair[0][1] > 10 * pair[1][1]
PY
