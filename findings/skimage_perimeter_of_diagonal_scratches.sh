#!/usr/bin/env bash
# scikit-image 0.26.0: the perimeter of a diagonal scratch is 100 if it is 2 pixels wide, 10 if it is 3, and 145 if it is 4.
#
# Behaviour: perimeter() (and regionprops' perimeter) gives each border pixel a weight by the pattern of its border neighbours. Patterns that are not in the
# table weigh 0, and on a staircase almost all border pixels have such patterns. A straight scratch of one pixel has 48 instead of about
# 100, a region of one or two pixels 0, so that circularity (4 pi area / perimeter^2) divides by zero. Filters by shape then sort
# scratches by their width and angle. perimeter_crofton is steady.
# What to do: perimeter_crofton.
# Output seen:
#   straight, width 1 to 4: perimeter [48.0, 100.0, 102.0, 104.0], crofton [95.6, 97.5, 99.4, 101.3]
#   diagonal, width 1 to 4: perimeter [67.9, 100.4, 9.7, 144.6], crofton [106.9, 136.0, 137.9, 139.8]
#   two pixels: perimeter 0.0, crofton 4.6

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from skimage.measure import perimeter, perimeter_crofton


def scratch(width, step, length=50):
    mask = np.zeros((70, 70), np.uint8)
    for i in range(length):
        if step:
            mask[5 + i, 5 + i : 5 + i + width] = 1
        else:
            mask[5 : 5 + width, 5 + i] = 1
    return mask


seen = {}
for name, step in (("straight", 0), ("diagonal", 1)):
    masks = [scratch(width, step) for width in (1, 2, 3, 4)]
    plain, crofton = ([round(float(f(m)), 1) for m in masks] for f in (perimeter, perimeter_crofton))
    print(f"{name}, width 1 to 4: perimeter {plain}, crofton {crofton}")
    seen[name] = plain
    assert max(crofton) < 1.4 * min(crofton)
two = scratch(1, 0, length=2)
print(f"two pixels: perimeter {perimeter(two)}, crofton {perimeter_crofton(two):.1f}")
assert seen["straight"][0] < 50 < 99 < seen["straight"][1] and perimeter(two) == 0
assert seen["diagonal"][2] < 10 and min(seen["diagonal"][1], seen["diagonal"][3]) > 100
PY
