#!/usr/bin/env bash
# miseval 1.3.0: the Hausdorff distance of a defect that is found by half is 0, and so is that of one found 100 pixels too low.
#
# Behaviour: "HD" gives the two masks to a package that wants lists of points. That package takes each row of a mask for one point with
# as many coordinates as the image has columns. So it compares which rows occur, not where: a defect whose lower half is missed, or
# that is found far above or below, has distance 0. "AHD", the average Hausdorff distance by its name, returns the largest
# distance, so the true Hausdorff distance. "BD", the distance of the boundaries, is the mean over all pairs of boundary points: it is
# not 0 for a mask and itself, and less if half is missed. No warning.
# What to do: take "AHD" as the Hausdorff distance, or scipy, MedPy or surface-distance; leave out "HD" and "BD".
# Output seen:
#   found exactly: true distance 0.0, average 0.0, miseval HD 0.00, AHD 0.0, BD 21.0
#   lower half missed: true distance 5.0, average 1.5, miseval HD 0.00, AHD 5.0, BD 20.2
#   100 pixels too low: true distance 100.0, average 95.5, miseval HD 0.00, AHD 100.0, BD 102.7
#   1 pixel too far right: true distance 1.0, average 0.0, miseval HD 1.41, AHD 1.0, BD 21.0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check miseval==1.3.0 hausdorff==0.2.6 dictances==1.5.3 scikit-image==0.26.0 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
from miseval import evaluate
from scipy.ndimage import distance_transform_edt

truth = np.zeros((200, 200), int)
truth[50:60, 50:100] = 1
half = truth.copy()
half[55:] = 0
cases = {
    "found exactly": truth,
    "lower half missed": half,
    "100 pixels too low": np.roll(truth, 100, axis=0),
    "1 pixel too far right": np.roll(truth, 1, axis=1),
}
seen = {}
for name, found in cases.items():
    there = distance_transform_edt(truth == 0)[found == 1]
    back = distance_transform_edt(found == 0)[truth == 1]
    exact = max(there.max(), back.max())
    average = max(there.mean(), back.mean())
    seen[name] = exact, *(float(evaluate(truth, found, metric=metric)) for metric in ("HD", "AHD", "BD"))
    print(f"{name}: true distance {exact:.1f}, average {average:.1f}, miseval HD {seen[name][1]:.2f}, AHD {seen[name][2]:.1f}, BD {seen[name][3]:.1f}")
for name in ("found exactly", "lower half missed", "100 pixels too low"):
    assert seen[name][1] == 0
assert 1.4 < seen["1 pixel too far right"][1] < 1.5
assert all(exact == largest for exact, _, largest, _ in seen.values())
assert seen["found exactly"][3] > 20 and seen["lower half missed"][3] < seen["found exactly"][3]
PY
