#!/usr/bin/env bash
# MONAI 1.6.1: GaussianSmooth darkens the border: an anomaly map that is 1 everywhere has 0.48 in its corners after it.
#
# Behaviour: the filter counts all that is outside the image as 0. scipy, scikit-image, OpenCV and torchvision repeat or mirror the
# image there, so that a constant image stays constant. Distances to a memory bank are never near 0, so an anomaly map has a
# level of its own, and loses up to three quarters of it in a corner: a defect there can come out below the normal pixels in the
# middle. RandGaussianSmooth, as augmentation, draws a dark frame round the part, and GaussianSharpen a bright one. Its documentation
# does not say what happens at the border, and there is no option for it. MedianSmooth keeps a constant image.
# What to do: smooth anomaly maps with scipy, or pad the map by 4 sigma with its own border first and cut it off afterwards.
# Output seen:
#   constant map of 1, sigma 1: middle 1.000, edge 0.691, corner 0.478 (scipy 1.000)
#   constant map of 1, sigma 4: middle 1.000, edge 0.550, corner 0.302 (scipy 1.000)
#   normal pixels 2, defect of 8 x 8 pixels 3, sigma 4: AUROC 1.000 in the middle, 0.384 in the corner (scipy 1.000, 1.000)
#   GaussianSharpen of the constant map: middle 1.000, corner 4.188

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 monai==1.6.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import numpy as np
from monai.transforms import GaussianSharpen, GaussianSmooth, MedianSmooth
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

flat = np.ones((1, 64, 64), np.float32)
for sigma in (1, 4):
    ours, theirs = np.asarray(GaussianSmooth(sigma)(flat))[0], gaussian_filter(flat[0], sigma)
    print(f"constant map of 1, sigma {sigma}: middle {ours[32, 32]:.3f}, edge {ours[0, 32]:.3f}, corner {ours[0, 0]:.3f} "
          f"(scipy {theirs[0, 0]:.3f})")
    assert abs(ours[32, 32] - 1) < 1e-3 and ours[0, 0] < 0.5 and abs(ours[0, 0] - ours[0, 32] ** 2) < 1e-3
    assert np.allclose(theirs, 1)

area = {}
for place, start in (("middle", 28), ("corner", 0)):
    defect = np.zeros((64, 64), bool)
    defect[start : start + 8, start : start + 8] = True
    scores = np.where(defect, 3, 2).astype(np.float32)
    area[place] = [roc_auc_score(defect.ravel(), smooth.ravel())
                   for smooth in (np.asarray(GaussianSmooth(4)(scores[None]))[0], gaussian_filter(scores, 4))]
print(f"normal pixels 2, defect of 8 x 8 pixels 3, sigma 4: AUROC {area['middle'][0]:.3f} in the middle, {area['corner'][0]:.3f} in the "
      f"corner (scipy {area['middle'][1]:.3f}, {area['corner'][1]:.3f})")
sharp = np.asarray(GaussianSharpen()(flat))[0]
print(f"GaussianSharpen of the constant map: middle {sharp[32, 32]:.3f}, corner {sharp[0, 0]:.3f}")
assert area["middle"][0] > 0.95 and area["corner"][0] < 0.5 and min(area["middle"][1], area["corner"][1]) > 0.95
assert abs(sharp[32, 32] - 1) < 0.1 and sharp[0, 0] > 2
assert np.allclose(MedianSmooth(1)(flat), 1)
PY
