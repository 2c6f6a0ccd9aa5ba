#!/usr/bin/env bash
# MONAI 1.6.1: a detector that finds all defects without a false alarm can have FROC score 0; one that misses a defect has 0.67.
#
# Behaviour: compute_froc_curve_data goes through the detections' scores as thresholds, but leaves out the lowest. That is
# harmless as long as one defect is missed, since a missed one has score 0 in the list. If none is missed, the weakest hits are
# never counted: all of them if they have one and the same score (masks, boxes and rules have only yes or no), the weakest one
# otherwise. The score then goes down when the last defect is found, and up when a false alarm with a low score is added.
# What to do: append 0 to the scores of the false alarms before the curve is computed. It takes the place of the lowest and counts nothing.
# Output seen (3 images, 3 defects, compute_fp_tp_probs on a mask with the labels 1, 2, 3):
#   finds 2 of 3, all with score 1:                   FROC score 0.667
#   finds 3 of 3, all with score 1:                   FROC score 0.000
#   finds 3 of 3, scores 0.9, 0.8, 0.7:               FROC score 0.667
#   finds 3 of 3, the same and a false alarm with 0.1: FROC score 1.000
#   the first three with 0 appended to the false alarms: 0.667 1.000 1.000

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 monai==1.6.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import numpy as np
from monai.metrics import compute_fp_tp_probs, compute_froc_curve_data, compute_froc_score

mask = np.zeros((60, 20), int)  # three images below each other, one defect in each
for label in (1, 2, 3):
    mask[20 * label - 15 : 20 * label - 10, 5:10] = label
inside, outside = [(7, 7), (27, 7), (47, 7)], (0, 0)


def froc(points, scores, add=()):
    y, x = np.array(points).T
    false, true, defects = compute_fp_tp_probs(np.array(scores, np.float32), y, x, mask)
    false = np.append(false, add)
    return compute_froc_score(*compute_froc_curve_data(false, true, num_targets=defects, num_images=3))


two = froc(inside[:2], [1, 1])
three = froc(inside, [1, 1, 1])
graded = froc(inside, [0.9, 0.8, 0.7])
alarm = froc([*inside, outside], [0.9, 0.8, 0.7, 0.1])
mended = froc(inside[:2], [1, 1], add=[0]), froc(inside, [1, 1, 1], add=[0]), froc(inside, [0.9, 0.8, 0.7], add=[0])
print(f"finds 2 of 3, all with score 1:                   FROC score {two:.3f}")
print(f"finds 3 of 3, all with score 1:                   FROC score {three:.3f}")
print(f"finds 3 of 3, scores 0.9, 0.8, 0.7:               FROC score {graded:.3f}")
print(f"finds 3 of 3, the same and a false alarm with 0.1: FROC score {alarm:.3f}")
print("the first three with 0 appended to the false alarms:", *(f"{score:.3f}" for score in mended))
assert abs(mended[0] - 2 / 3) < 1e-6 and mended[1:] == (1, 1)
assert abs(two - 2 / 3) < 1e-6 and three == 0 and abs(graded - 2 / 3) < 1e-6 and alarm == 1
PY
