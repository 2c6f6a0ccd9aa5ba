#!/usr/bin/env bash
# kornia 0.9.0: connected_components cuts one long scratch into hundreds of regions.
#
# Behaviour: labels are spread by repeated 3 x 3 maxima, and by default only 100 times.
# A straight scratch of 380 pixels comes back as 280 regions, without a warning.
# An AUPRO over these regions then weighs one scratch as 280 small defects.
# num_iterations must be at least the longest way through a defect, in pixels.
# What to do: scipy.ndimage.label or OpenCV, or as many iterations as the image has pixels on its longer side and more for winding defects.
# Output seen:
#   380 pixels long: 280 regions by default, 1 region with num_iterations=1000
#   90 pixels long: 1 region by default

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 kornia==0.9.0 numpy==2.4.6
venv/bin/python - <<'PY'
import torch
from kornia.contrib import connected_components


def regions(length, **more):
    mask = torch.zeros(1, 1, 32, 400)
    mask[..., 15, 10 : 10 + length] = 1
    return len(connected_components(mask, **more).unique()) - 1


default, long, short = regions(380), regions(380, num_iterations=1000), regions(90)
print(f"380 pixels long: {default} regions by default, {long} region with num_iterations=1000")
print(f"90 pixels long: {short} region by default")
assert default > 100 and long == 1 and short == 1
PY
