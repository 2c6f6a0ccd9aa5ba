#!/usr/bin/env bash
# scikit-image 0.26.0, scipy 1.17.1, OpenCV 5.0.0: three libraries count the regions of one mask differently.
#
# Behaviour: skimage.measure.label joins only pixels of EQUAL value, so one defect with
# a grey edge becomes two regions (with a smooth edge, hundreds). scipy and OpenCV join
# everything that is not zero. On a diagonal scratch skimage and OpenCV join through
# corners, scipy does not. AUPRO and any score per region follow these counts.
# What to do: threshold first, and name the neighbourhood in every call.
# Output seen:
#   soft square: skimage 2, scipy 1, opencv 1
#   square smoothed over 3 pixels: skimage 595, scipy 1, opencv 1
#   diagonal line: skimage 1, scipy 5, opencv 1

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 scipy==1.17.1 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
from scipy import ndimage
from skimage.measure import label


def regions(mask):
    return label(mask).max(), ndimage.label(mask)[1], cv2.connectedComponents(mask)[0] - 1


soft = np.zeros((12, 12), np.uint8)
soft[2:10, 2:10] = 128
soft[4:8, 4:8] = 255
square = np.zeros((40, 40))
square[12:28, 12:28] = 255
smooth = np.round(ndimage.gaussian_filter(square, 3)).astype(np.uint8)
diagonal = np.eye(5, dtype=np.uint8)
seen = {}
for name, mask in {"soft square": soft, "square smoothed over 3 pixels": smooth, "diagonal line": diagonal}.items():
    seen[name] = regions(mask)
    print("{}: skimage {}, scipy {}, opencv {}".format(name, *seen[name]))
assert seen["soft square"] == (2, 1, 1)
assert seen["square smoothed over 3 pixels"][0] > 20 and seen["square smoothed over 3 pixels"][1:] == (1, 1)
assert seen["diagonal line"] == (1, 5, 1)
PY
