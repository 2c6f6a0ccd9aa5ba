#!/usr/bin/env bash
# Pillow 13.0.0, scikit-image 0.26.0, OpenCV 5.0.0: one palette mask, three answers, two shapes.
#
# Behaviour: annotation tools save class numbers with a palette of colours. np.array of
# Pillow's image gives the class numbers. skimage.io.imread gives colours, with a third
# axis. OpenCV in grey, and Pillow after convert("L"), give the colours' brightness. The usual
# test "> 127" then finds no defect in a mask whose classes are dark red, green and yellow.
# What to do: open with Pillow, look at image.mode, and take "P" as numbers.
# Output seen:
#   pillow [0, 1, 2, 3]; pillow in L [0, 38, 75, 113]; opencv in grey [0, 38, 75, 113]
#   skimage has shape (1, 4, 3), class 1 is [128, 0, 0]
#   pixels over 127 in grey: 0 of 3 defect pixels

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==13.0.0 scikit-image==0.26.0 opencv-python-headless==5.0.0.93 pypng==0.20220715.0 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
import png
from PIL import Image
from skimage import io

colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
with open("mask.png", "wb") as file:
    png.Writer(width=4, height=1, palette=colours, bitdepth=2).write(file, [[0, 1, 2, 3]])
numbers = np.array(Image.open("mask.png"))[0].tolist()
grey = np.array(Image.open("mask.png").convert("L"))[0].tolist()
opencv = cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE)[0].tolist()
colour = io.imread("mask.png")
print(f"pillow {numbers}; pillow in L {grey}; opencv in grey {opencv}")
print(f"skimage has shape {colour.shape}, class 1 is {colour[0, 1].tolist()}")
print(f"pixels over 127 in grey: {sum(v > 127 for v in grey)} of 3 defect pixels")
assert numbers == [0, 1, 2, 3] and grey == opencv == [0, 38, 75, 113]
assert colour.shape == (1, 4, 3) and colour[0, 1].tolist() == [128, 0, 0]
PY
