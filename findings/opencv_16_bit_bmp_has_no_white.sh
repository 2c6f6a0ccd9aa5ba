#!/usr/bin/env bash
# OpenCV 5.0.0, Pillow 13.0.0: white in a 16-bit BMP is (248, 252, 248) in OpenCV and (255, 255, 255) in Pillow.
#
# Behaviour: a BMP with 16 bits for each pixel has five or six bits for each colour. Other readers stretch them to
# 0 .. 255. OpenCV moves them up by two or three bits and leaves the rest 0. The brightest pixel is 248, or 252
# for green in the 5-6-5 form. A search for saturated pixels finds none. Grey gets a tint in the 5-6-5 form: green is up to 4
# brighter than red and blue, never darker. All flags of imread do the same; Pillow, OpenImageIO and imagecodecs agree to one grey value. A difference
# to a reference that was read from a 24-bit file is up to 7 grey values at the bright end. No warning.
# What to do: read 16-bit BMP files with Pillow.
# Output seen (a grey ramp of 32 steps, 32 pixels each):
#   5-6-5   OpenCV white 248 252 248, 0 pixels at 255, up to 7 off, green less red 0 to 4; Pillow white 255 255 255, 32 pixels at 255, up to 2 off, green less red -2 to 2
#   5-5-5   OpenCV white 248 248 248, 0 pixels at 255, up to 7 off, green less red 0 to 0; Pillow white 255 255 255, 32 pixels at 255, up to 1 off, green less red 0 to 0
#   24 bits OpenCV white 255 255 255, 32 pixels at 255, up to 0 off, green less red 0 to 0; Pillow white 255 255 255, 32 pixels at 255, up to 0 off, green less red 0 to 0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0 openimageio==3.2.2.0 imagecodecs==2026.3.6 av==18.1.0 numpy==2.4.6
venv/bin/python - <<'PY'
from fractions import Fraction
from pathlib import Path

import av
import cv2
import imagecodecs
import numpy as np
import OpenImageIO as oiio
from PIL import Image

five = np.tile(np.arange(32), (32, 1))  # a grey ramp in the numbers that five bits can hold, and the nearest ones of six
six = np.round(five * 63 / 31).astype(int)
eight = np.round(five * 255 / 31).astype(int)
pixels = {
    "rgb565le": (five << 11 | six << 5 | five).astype("<u2"),
    "rgb555le": (five << 10 | five << 5 | five).astype("<u2"),
    "bgr24": np.repeat(eight[..., None], 3, axis=2).astype(np.uint8),
}
seen = {}
for name, form in (("5-6-5", "rgb565le"), ("5-5-5", "rgb555le"), ("24 bits", "bgr24")):
    codec = av.CodecContext.create("bmp", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 32, 32, form, Fraction(1)
    frame = av.VideoFrame(32, 32, form)
    row = pixels[form].tobytes()[: pixels[form][0].nbytes]
    frame.planes[0].update(row.ljust(frame.planes[0].line_size, b"\0") * 32)
    Path("ramp.bmp").write_bytes(b"".join(bytes(packet) for packet in codec.encode(frame) + codec.encode(None)))
    every = {
        "OpenCV": cv2.imread("ramp.bmp")[..., ::-1],
        "Pillow": np.asarray(Image.open("ramp.bmp")),
        "OpenImageIO": oiio.ImageBuf("ramp.bmp").get_pixels(oiio.UINT8),
        "imagecodecs": imagecodecs.bmp_decode(Path("ramp.bmp").read_bytes()),
    }
    assert all(values.shape == (32, 32, 3) for values in every.values())
    for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH):
        assert np.array_equal(cv2.imread("ramp.bmp", flag)[..., ::-1], every["OpenCV"])
    for other in ("OpenImageIO", "imagecodecs"):
        assert np.abs(every[other].astype(int) - every["Pillow"]).max() <= 1
    words = []
    for reader in ("OpenCV", "Pillow"):
        values = every[reader].astype(int)
        white = tuple(values[0, -1].tolist())
        gap = int(np.abs(values - eight[..., None]).max())
        tint = values[..., 1] - values[..., 0]
        seen[form, reader] = white, int((values == 255).all(-1).sum()), gap
        words.append(f"{reader} white {' '.join(map(str, white))}, {seen[form, reader][1]} pixels at 255, up to {gap} off, green less red {tint.min()} to {tint.max()}")
    print(f"{name:<7}", "; ".join(words))
assert seen["rgb565le", "OpenCV"] == ((248, 252, 248), 0, 7) and seen["rgb555le", "OpenCV"] == ((248, 248, 248), 0, 7)
assert all(seen[form, "Pillow"][:2] == ((255, 255, 255), 32) and seen[form, "Pillow"][2] <= 2 for form in pixels)
assert seen["bgr24", "OpenCV"] == ((255, 255, 255), 32, 0)
PY
