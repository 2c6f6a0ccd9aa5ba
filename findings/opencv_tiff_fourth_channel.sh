#!/usr/bin/env bash
# tifffile 2026.3.3, OpenCV 5.0.0: OpenCV multiplies the colours of a TIFF with four channels by the fourth, of a PNG not.
#
# Behaviour: tifffile writes an array [H, W, 4] as red, green, blue and transparency, and cv2.imread returns the colours times
# transparency / 255: black where the fourth channel is 0. If that is near infrared, height or a defect mask, each pixel's colour
# now depends on it. IMREAD_UNCHANGED is exact with 16 bits and not with 8. tifffile and Pillow read all of the files as they are, and
# Pillow writes such a TIFF too. OpenImageIO does the same to PNG as well (side run, 3.2.2).
# What to do: tifffile.imwrite(..., photometric="rgb", extrasamples=["unspecified"]), or read with tifffile.
# Output seen (red, green, blue of a pixel 200, 150, 100, whose fourth channel is 51):
#   PNG 8 bit, from Pillow: OpenCV colour [200, 150, 100], OpenCV unchanged [200, 150, 100], Pillow [200, 150, 100]
#   TIFF 8 bit, from Pillow: OpenCV colour [40, 30, 20], OpenCV unchanged [40, 30, 20], Pillow [200, 150, 100]
#   TIFF 8 bit, from tifffile: OpenCV colour [40, 30, 20], OpenCV unchanged [40, 30, 20], Pillow [200, 150, 100]
#   TIFF 16 bit, from tifffile: OpenCV colour [40, 30, 20], OpenCV unchanged [200, 150, 100], Pillow [200, 150, 100]
#   TIFF 8 bit, "unspecified": OpenCV colour [200, 150, 100], OpenCV unchanged [200, 150, 100], Pillow [200, 150, 100]

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check tifffile==2026.3.3 opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
import tifffile
from PIL import Image

image = np.zeros((32, 32, 4), np.uint8)
image[:] = 200, 150, 100, 51  # red, green, blue, near infrared
Image.fromarray(image).save("pillow.png")
Image.fromarray(image).save("pillow.tif")
tifffile.imwrite("8.tif", image)
tifffile.imwrite("16.tif", image.astype(np.uint16) * 257)
tifffile.imwrite("unspecified.tif", image, photometric="rgb", extrasamples=["unspecified"])


def colours(array):
    return (array[5, 5, :3] // (257 if array.dtype == np.uint16 else 1)).tolist()


exact, times = [200, 150, 100], [40, 30, 20]
for name, what, colour, unchanged in (
    ("pillow.png", "PNG 8 bit, from Pillow", exact, exact),
    ("pillow.tif", "TIFF 8 bit, from Pillow", times, times),
    ("8.tif", "TIFF 8 bit, from tifffile", times, times),
    ("16.tif", "TIFF 16 bit, from tifffile", times, exact),
    ("unspecified.tif", 'TIFF 8 bit, "unspecified"', exact, exact),
):
    seen = colours(cv2.imread(name, cv2.IMREAD_COLOR_RGB)), colours(cv2.imread(name, cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]])
    pillow = colours(np.array(Image.open(name)))
    print(f"{what}: OpenCV colour {seen[0]}, OpenCV unchanged {seen[1]}, Pillow {pillow}")
    assert seen == (colour, unchanged) and pillow == exact
    if name.endswith(".tif"):
        assert colours(tifffile.imread(name)) == exact
        assert np.array_equal(cv2.imread(name)[..., ::-1][5, 5], colour)  # the default flag does the same
PY
