#!/usr/bin/env bash
# Pillow 13.0.0, OpenCV 5.0.0, imagecodecs 2026.3.6: WebP and JPEG 2000 lose pixels or do not, the other way round in two libraries.
#
# Behaviour: saved without options, WebP is exact in OpenCV and lossy in Pillow; JPEG 2000 is exact in Pillow and lossy in OpenCV. imagecodecs (and
# tifffile through it) is exact in both. So "we store masks as JPEG 2000, it is lossless" is true in one half of a pipeline, and maps in 8 bits
# lose their ties and their order in the other. The file's name does not tell.
# What to do: PNG or TIFF; or read the file back once and compare.
# Output seen:
#   webp: Pillow differs in 99 % of the values, OpenCV is exact, imagecodecs is exact
#   jp2: Pillow is exact, OpenCV differs in 99 % of the values, imagecodecs is exact

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 imagecodecs==2026.3.6 numpy==2.4.6
venv/bin/python - <<'PY'
import io

import cv2
import imagecodecs
import numpy as np
from PIL import Image

image = (np.random.default_rng(0).random((64, 64, 3)) * 255).astype(np.uint8)


def pillow(suffix):
    file = io.BytesIO()
    Image.fromarray(image).save(file, {"webp": "WEBP", "jp2": "JPEG2000"}[suffix])
    return np.array(Image.open(file))


def opencv(suffix):
    _, code = cv2.imencode(f".{suffix}", image[..., ::-1])
    return cv2.imdecode(code, cv2.IMREAD_UNCHANGED)[..., ::-1]


def codecs(suffix):
    name = {"webp": "webp", "jp2": "jpeg2k"}[suffix]
    return getattr(imagecodecs, f"{name}_decode")(getattr(imagecodecs, f"{name}_encode")(image))


seen = {}
for suffix in ("webp", "jp2"):
    share = [float((f(suffix) != image).mean()) for f in (pillow, opencv, codecs)]
    words = [f"{n} differs in {s:.0%} of the values".replace("%", " %") if s else f"{n} is exact"
             for n, s in zip(("Pillow", "OpenCV", "imagecodecs"), share)]
    print(f"{suffix}: {', '.join(words)}")
    seen[suffix] = [s == 0 for s in share]
assert seen == {"webp": [False, True, True], "jp2": [True, False, True]}
PY
