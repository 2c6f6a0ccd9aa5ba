#!/usr/bin/env bash
# Pillow 13.0.0, OpenCV 5.0.0, OpenImageIO 3.2.2, netpbmfile 2026.1.29: a height of 4 in a PFM file is 4, 16 or 1, by the reader.
#
# Behaviour: the third line of a PFM file, the format of many stereo and height maps, holds a number. Its sign is the byte
# order, its size is called the scale. OpenCV divides all values by the scale, OpenImageIO multiplies them by it,
# Pillow and netpbmfile leave them alone. None of the four hands the scale over with the array or warns. A file with scale 1 is
# the same in all of them, and OpenCV, Pillow and OpenImageIO write nothing else. A test with one's own files sees nothing.
# The rows are another matter: OpenImageIO and netpbmfile return the bottom row first, OpenImageIO for its own files too.
# What to do: read the third line oneself, and use Pillow's values, with the scale multiplied in where the device's manual says so.
# Output seen (heights 4 in the top row, 8 below):
#   scale 1:    Pillow 4 8, OpenCV 4 8, OpenImageIO 8 4, netpbmfile 8 4
#   scale 0.25: Pillow 4 8, OpenCV 16 32, OpenImageIO 2 1, netpbmfile 8 4
#   scale 4:    Pillow 4 8, OpenCV 1 2, OpenImageIO 32 16, netpbmfile 8 4
#   written and read by OpenImageIO: 8 4

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 openimageio==3.2.2.0 netpbmfile==2026.1.29 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import netpbmfile
import numpy as np
import OpenImageIO as oiio
from PIL import Image

heights = np.array([[4, 4, 4], [8, 8, 8]], np.float32)
readers = {
    "Pillow": lambda path: np.asarray(Image.open(path)),
    "OpenCV": lambda path: cv2.imread(path, cv2.IMREAD_UNCHANGED),
    "OpenImageIO": lambda path: oiio.ImageBuf(path).get_pixels(oiio.FLOAT)[..., 0],
    "netpbmfile": lambda path: np.squeeze(netpbmfile.imread(path)),
}
seen = {}
for scale in ("1", "0.25", "4"):
    with open("height.pfm", "wb") as file:  # a minus for little endian; the bottom row comes first
        file.write(f"Pf\n3 2\n-{scale}\n".encode() + heights[::-1].astype("<f4").tobytes())
    for name, read in readers.items():
        values = read("height.pfm")
        assert values.shape == (2, 3) and values.dtype == np.float32
        seen[scale, name] = values[:, 0].tolist()
    print(f"{f'scale {scale}:':<11}", ", ".join("{} {:g} {:g}".format(name, *seen[scale, name]) for name in readers))

oiio.ImageBuf(heights[..., None]).write("own.pfm")
own = readers["OpenImageIO"]("own.pfm")[:, 0].tolist()
print("written and read by OpenImageIO: {:g} {:g}".format(*own))
assert [seen[scale, "Pillow"] for scale in ("1", "0.25", "4")] == [[4, 8]] * 3
assert [seen[scale, "OpenCV"] for scale in ("1", "0.25", "4")] == [[4, 8], [16, 32], [1, 2]]
assert [seen[scale, "OpenImageIO"] for scale in ("1", "0.25", "4")] == [[8, 4], [2, 1], [32, 16]]
assert [seen[scale, "netpbmfile"] for scale in ("1", "0.25", "4")] == [[8, 4]] * 3 and own == [8, 4]
PY
