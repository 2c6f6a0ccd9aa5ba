#!/usr/bin/env bash
# Pillow 13.0.0, OpenCV 5.0.0, tifffile 2026.3.3: a "white is zero" TIFF is turned round or not, by reader and bit depth.
#
# Behaviour: X-ray and line-scan systems store TIFFs whose tag says that 0 is white.
# Pillow and OpenCV turn the values round if the image has 8 bits, and do NOT if it has
# 16 bits. tifffile (and what reads through it) never does. So the 8-bit and the
# 16-bit copy of one image are each other's negative in two of the three readers.
# What to do: read the tag yourself (tifffile: page.photometric) and invert once.
# Output seen:
#   uint8: stored [0, 10, 200, 255], pillow [255, 245, 55, 0], opencv [255, 245, 55, 0], tifffile [0, 10, 200, 255]
#   uint16: stored [0, 10, 200, 255], pillow [0, 10, 200, 255], opencv [0, 10, 200, 255], tifffile [0, 10, 200, 255]

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
import tifffile
from PIL import Image

row = [0, 10, 200, 255]
turned = [255 - value for value in row]
for kind, expected in ((np.uint8, turned), (np.uint16, row)):
    tifffile.imwrite("scan.tif", np.array([row] * 4, kind), photometric="miniswhite")
    pillow = np.array(Image.open("scan.tif"))[0].tolist()
    opencv = cv2.imread("scan.tif", cv2.IMREAD_UNCHANGED)[0].tolist()
    raw = tifffile.imread("scan.tif")[0].tolist()
    print(f"{kind.__name__}: stored {row}, pillow {pillow}, opencv {opencv}, tifffile {raw}")
    assert pillow == opencv == expected and raw == row
PY
