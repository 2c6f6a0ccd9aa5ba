#!/usr/bin/env bash
# tifffile 2026.3.3: a boolean defect mask saved by imwrite is turned round for Pillow, OpenCV and two more: its IoU with itself is 0.
#
# Behaviour: imwrite stores a boolean array with one bit for each pixel and the entry "white is zero". The bits are not turned, so
# by the entry True is black. Its documentation says that the entry is inferred from shape and type, not that booleans alone
# get this one. tifffile, and so imageio and imagecodecs, do not look at the entry when they read, and give the mask back right. Pillow,
# OpenCV, OpenImageIO and SimpleITK obey it: the whole background is the defect. imageio.imwrite to a ".tif" does the same, since it
# uses tifffile. The same mask as uint8 of 0 and 255, or saved by Pillow, is right everywhere. No warning.
# (tiff_white_is_zero_by_depth.sh is about readers that disagree on grey images whose writer asked for this entry.)
# What to do: imwrite(path, mask, photometric="minisblack"), or mask.astype("uint8") * 255.
# Output seen:
#   tifffile, boolean (MINISWHITE): IoU of the mask with itself tifffile 1, imageio 1, imagecodecs 1, Pillow 0, OpenCV 0, OpenImageIO 0, SimpleITK 0
#   imageio, boolean (MINISWHITE): IoU of the mask with itself tifffile 1, imageio 1, imagecodecs 1, Pillow 0, OpenCV 0, OpenImageIO 0, SimpleITK 0
#   tifffile, "minisblack" (MINISBLACK): IoU of the mask with itself tifffile 1, imageio 1, imagecodecs 1, Pillow 1, OpenCV 1, OpenImageIO 1, SimpleITK 1
#   tifffile, uint8 (MINISBLACK): IoU of the mask with itself tifffile 1, imageio 1, imagecodecs 1, Pillow 1, OpenCV 1, OpenImageIO 1, SimpleITK 1
#   Pillow, boolean (MINISBLACK): IoU of the mask with itself tifffile 1, imageio 1, imagecodecs 1, Pillow 1, OpenCV 1, OpenImageIO 1, SimpleITK 1

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check tifffile==2026.3.3 imageio==2.38.1 imagecodecs==2026.3.6 pillow==13.0.0 opencv-python-headless==5.0.0.93 openimageio==3.2.2.0 simpleitk==2.5.7 numpy==2.4.6
venv/bin/python - <<'PY'
import cv2
import imagecodecs
import imageio.v3 as imageio
import numpy as np
import OpenImageIO as oiio
import SimpleITK as sitk
import tifffile
from PIL import Image

mask = np.zeros((64, 64), bool)
mask[10:20, 30:50] = True
writers = {
    "tifffile, boolean": lambda: tifffile.imwrite("mask.tif", mask),
    "imageio, boolean": lambda: imageio.imwrite("mask.tif", mask),
    'tifffile, "minisblack"': lambda: tifffile.imwrite("mask.tif", mask, photometric="minisblack"),
    "tifffile, uint8": lambda: tifffile.imwrite("mask.tif", mask.astype(np.uint8) * 255),
    "Pillow, boolean": lambda: Image.fromarray(mask).save("mask.tif"),
}
readers = {
    "tifffile": lambda: tifffile.imread("mask.tif"),
    "imageio": lambda: imageio.imread("mask.tif"),
    "imagecodecs": lambda: imagecodecs.imread("mask.tif"),
    "Pillow": lambda: np.asarray(Image.open("mask.tif")),
    "OpenCV": lambda: cv2.imread("mask.tif", cv2.IMREAD_GRAYSCALE),
    "OpenImageIO": lambda: oiio.ImageInput.open("mask.tif").read_image(oiio.UINT8),
    "SimpleITK": lambda: sitk.GetArrayFromImage(sitk.ReadImage("mask.tif")),
}
seen = {}
for writer, write in writers.items():
    write()
    with tifffile.TiffFile("mask.tif") as file:
        entry = file.pages[0].photometric.name
    for reader, read in readers.items():
        found = np.asarray(read()).reshape(64, 64, -1)[..., 0] > 0  # SimpleITK gives four equal channels with an alpha
        seen[writer, reader] = float((found & mask).sum() / (found | mask).sum())
    print(f"{writer} ({entry}): IoU of the mask with itself", ", ".join(f"{reader} {seen[writer, reader]:.0f}" for reader in readers))
obey = ("Pillow", "OpenCV", "OpenImageIO", "SimpleITK")
for writer in writers:
    turned = writer in ("tifffile, boolean", "imageio, boolean")
    assert all(seen[writer, reader] == (0 if turned and reader in obey else 1) for reader in readers)
PY
