#!/usr/bin/env bash
# tifffile 2026.3.3: two anomaly maps make a stack of two pages, three make one colour image, five make pages again.
#
# Behaviour: imwrite guesses from the shape. A batch of three maps of uint8 is written as ONE
# RGB page, a batch of four as RGBA with the fourth map as transparency. Other readers then
# show one colour picture: Pillow finds one frame, not three. tifffile warns that this
# will change, but only as a DeprecationWarning, which notebooks and scripts may hide.
# What to do: photometric="minisblack" in every call.
# Output seen:
#   2 maps: 2 pages, Pillow mode L, 2 frames
#   3 maps: 1 page, Pillow mode RGB, 1 frame
#   4 maps: 1 page, Pillow mode RGBA, 1 frame
#   5 maps: 5 pages, Pillow mode L, 5 frames
#   3 maps with photometric="minisblack": 3 pages, Pillow mode L, 3 frames

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check tifffile==2026.3.3 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY'
import warnings

import numpy as np
import tifffile
from PIL import Image

warnings.simplefilter("ignore")


def written(count, **more):
    tifffile.imwrite("maps.tif", np.zeros((count, 16, 16), np.uint8), **more)
    with tifffile.TiffFile("maps.tif") as file, Image.open("maps.tif") as image:
        return len(file.pages), image.mode, image.n_frames


for count, expected in {2: (2, "L", 2), 3: (1, "RGB", 1), 4: (1, "RGBA", 1), 5: (5, "L", 5)}.items():
    pages, mode, frames = written(count)
    print(f"{count} maps: {pages} page{'s'[: pages > 1]}, Pillow mode {mode}, {frames} frame{'s'[: frames > 1]}")
    assert (pages, mode, frames) == expected
pages, mode, frames = written(3, photometric="minisblack")
print(f'3 maps with photometric="minisblack": {pages} pages, Pillow mode {mode}, {frames} frames')
assert (pages, mode, frames) == (3, "L", 3)
PY
