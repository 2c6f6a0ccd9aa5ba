#!/usr/bin/env bash
# scipy 1.17.1: the distance to the background is measured to a point outside the image if there is no background.
#
# Behaviour: distance_transform_edt on a mask of only ones (a defect that fills a crop, or a
# tile without a defect, turned round) gives plain, finite numbers: the distances to the
# point one row above the first pixel. They grow towards the lower right corner and nothing
# tells that they mean nothing. OpenCV gives 1.8e19 everywhere. One zero anywhere heals both.
# What to do: test mask.all() before every boundary or distance score.
# Output seen:
#   scipy, first column [1.0, 2.0, 3.0, 4.0], last of the first row 4.12
#   opencv, smallest value 1.8446742974197924e+19

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check scipy==1.17.1 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

mask = np.ones((4, 5))
far = distance_transform_edt(mask)
print(f"scipy, first column {far[:, 0].tolist()}, last of the first row {far[0, -1]:.2f}")
rows, columns = np.mgrid[:4, :5]
assert np.allclose(far, np.hypot(rows + 1, columns)), "the point outside has moved"
smallest = float(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).min())
print(f"opencv, smallest value {smallest}")
assert smallest > 1e18
PY
