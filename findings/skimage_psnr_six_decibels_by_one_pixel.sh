#!/usr/bin/env bash
# scikit-image 0.26.0: one pixel of -1e-9 in the true image lifts the PSNR of a float reconstruction by 6 dB.
#
# Behaviour: without data_range the range is guessed from the true image: 1 if none of its pixels is below 0, otherwise 2. The
# documentation says that the type decides. So among images scaled to -1 .. 1, as diffusion models take them, one of a
# bright part without a dark pixel gets 6.02 dB less for the same error than its neighbour, and among images scaled to 0 .. 1 a
# rounding error below 0 (a cubic zoom, a blur by FFT) gives 6.02 dB more. The tested image is not looked at, so exchanging
# the two images changes the result too. No warning, and a ranking by PSNR follows it.
# What to do: always give data_range (1 or 2, by the scale the images were given).
# Output seen:
#   scaled to 0 .. 1: 25.98 dB; with one pixel of -1e-9 in the true image: 32.00 dB
#   scaled to 0 .. 1, the pixel of -1e-9 in the tested image: 25.98 dB
#   scaled to -1 .. 1, dark image: 32.00 dB, bright image: 25.98 dB, the same error in both
#   with data_range=2 both: 32.00 dB and 32.00 dB

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
import numpy as np
from skimage.metrics import peak_signal_noise_ratio as psnr

rng = np.random.default_rng(0)
image = rng.random((64, 64))
error = 0.05 * rng.normal(size=image.shape)
error[0, 0] = 0
image[0, 0] = 0
below = image.copy()
below[0, 0] = -1e-9
plain, lifted, other = psnr(image, image + error), psnr(below, below + error), psnr(image, below + error)
print(f"scaled to 0 .. 1: {plain:.2f} dB; with one pixel of -1e-9 in the true image: {lifted:.2f} dB")
print(f"scaled to 0 .. 1, the pixel of -1e-9 in the tested image: {other:.2f} dB")
dark, bright = image - 1, image  # two images of one data set that is scaled to -1 .. 1
scores = psnr(dark, dark + error), psnr(bright, bright + error)
print(f"scaled to -1 .. 1, dark image: {scores[0]:.2f} dB, bright image: {scores[1]:.2f} dB, the same error in both")
given = psnr(dark, dark + error, data_range=2), psnr(bright, bright + error, data_range=2)
print(f"with data_range=2 both: {given[0]:.2f} dB and {given[1]:.2f} dB")
six = 20 * np.log10(2)
assert abs(lifted - plain - six) < 1e-6 and abs(other - plain) < 1e-6
assert abs(scores[0] - scores[1] - six) < 1e-6 and abs(given[0] - given[1]) < 1e-6
PY
