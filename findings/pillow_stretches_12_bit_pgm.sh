#!/usr/bin/env bash
# Pillow 13.0.0, OpenCV 5.0.0: a 12-bit camera's PGM has other grey values in each reader.
#
# Behaviour: a PGM states its largest value, 4095 for a 12-bit camera. Pillow stretches
# the values to 0 .. 65535 when it opens the file; OpenCV hands over the numbers that
# the file holds. A scale of 4095 (or a threshold) that fits one reader is sixteen times
# off in the other. The same happens in 8 bits: a largest value of 100 becomes 255.
# What to do: one reader for the whole data set, or divide by the reader's own full scale.
# Output seen:
#   12 bit: in the file [0, 1, 100, 2048, 4095], pillow [0, 16, 1600, 32776, 65535], opencv [0, 1, 100, 2048, 4095]
#   largest value 100: in the file [0, 1, 50, 100], pillow [0, 3, 128, 255], opencv [0, 1, 50, 100]

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
from PIL import Image


def both(values, largest, kind):
    with open("camera.pgm", "wb") as file:
        file.write(b"P5\n%d 1\n%d\n" % (len(values), largest) + np.array(values, kind).tobytes())
    pillow = np.array(Image.open("camera.pgm"))[0].tolist()
    return pillow, cv2.imread("camera.pgm", cv2.IMREAD_UNCHANGED)[0].tolist()


deep, low = [0, 1, 100, 2048, 4095], [0, 1, 50, 100]
pillow, opencv = both(deep, 4095, ">u2")
print(f"12 bit: in the file {deep}, pillow {pillow}, opencv {opencv}")
assert opencv == deep and pillow == [0, 16, 1600, 32776, 65535]
pillow, opencv = both(low, 100, "u1")
print(f"largest value 100: in the file {low}, pillow {pillow}, opencv {opencv}")
assert opencv == low and pillow == [0, 3, 128, 255]
PY
