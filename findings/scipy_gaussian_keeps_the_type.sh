#!/usr/bin/env bash
# scipy 1.17.1: gaussian_filter returns the type it was given, so a boolean mask is smoothed away.
#
# Behaviour: the result is cut down to the input's type after EACH axis. A boolean
# square of 100 pixels comes back with no pixel at all, since 0.9999 is cut to False.
# A map in uint8 loses more than a quarter of its mass. float16, a usual type for stored
# maps, is refused with an error. skimage.filters.gaussian turns all of them into floats.
# What to do: convert to float32 or float64 first.
# Output seen:
#   bool: True pixels 100 before, 0 after; uint8: sum 200 before, 145 after, 200.0 as float
#   float16: RuntimeError array type dtype('float16') not supported
#   skimage on the same boolean: float64 with sum 100.0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check scipy==1.17.1 scikit-image==0.26.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.filters import gaussian

square = np.zeros((31, 31), bool)
square[10:20, 10:20] = True
point = np.zeros((31, 31), np.uint8)
point[15, 15] = 200
after, low, right = gaussian_filter(square, 2), gaussian_filter(point, 2), gaussian_filter(point.astype(float), 2)
print(f"bool: True pixels {square.sum()} before, {after.sum()} after; "
      f"uint8: sum {point.sum()} before, {low.sum()} after, {right.sum():.1f} as float")
assert after.dtype == bool and after.sum() == 0
assert low.dtype == np.uint8 and low.sum() < 150 < 199 < right.sum()
try:
    gaussian_filter(np.zeros((31, 31), np.float16), 2)
except RuntimeError as error:
    print("float16: RuntimeError", error)
else:
    raise SystemExit("float16 is accepted now")
smooth = gaussian(square, sigma=2)
print(f"skimage on the same boolean: {smooth.dtype} with sum {smooth.sum():.1f}")
assert smooth.dtype == np.float64 and abs(smooth.sum() - 100) < 0.5
PY
