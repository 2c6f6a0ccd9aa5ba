#!/usr/bin/env bash
# scikit-learn 1.9.1: two 8-bit images that differ by 10 grey values at most have max_error 255; mean_absolute_error of them is right.
#
# Behaviour: max_error and median_absolute_error subtract in the type of the input. In uint8 5 minus 6 is 255, so wherever the image that is
# taken off is the brighter one, a small error counts as 256 minus this error. So the largest error is 255 for nearly every pair of
# 8-bit images, and 65535 for 16 bits. The other regression metrics of the package turn the input into float first
# (mean_squared_error since it was reported for uint8, 28827), and are right. No warning.
# The order counts, too: max_error(5, 8) is 253 and max_error(8, 5) 3, median_absolute_error the other way round.
# What to do: image.astype(float) before these two.
# Output seen:
#   max_error: float 10, int16 10, uint8 255, uint16 65535
#   median_absolute_error: float 2, int16 2, uint8 5, uint16 5
#   mean_absolute_error: float 2.3794, int16 2.3794, uint8 2.3794, uint16 2.3794
#   mean_squared_error: float 8.9873, int16 8.9873, uint8 8.9873, uint16 8.9873
#   wrong for 8 bits: max_error, median_absolute_error

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import warnings

import numpy as np
from sklearn import metrics

warnings.simplefilter("error")
rng = np.random.default_rng(0)
image = rng.integers(60, 200, 4096)
rebuilt = image + rng.normal(0, 3, 4096).round().astype(int)
rebuilt = rebuilt.clip(image - 10, image + 10)
kinds = (float, np.int16, np.uint8, np.uint16)
names = ("max_error", "median_absolute_error", "mean_absolute_error", "mean_squared_error", "root_mean_squared_error",
         "mean_absolute_percentage_error", "mean_squared_log_error", "mean_pinball_loss", "mean_poisson_deviance", "r2_score",
         "explained_variance_score", "d2_absolute_error_score")
wrong = []
for name in names:
    found = [float(getattr(metrics, name)(image.astype(kind), rebuilt.astype(kind))) for kind in kinds]
    if not np.allclose(found, found[0], rtol=1e-3):
        wrong.append(name)
    if name in names[:4]:
        print(f"{name}: " + ", ".join(f"{kind.__name__} {value:.5g}" for kind, value in zip(kinds, found)))
print("wrong for 8 bits:", ", ".join(wrong))
assert wrong == ["max_error", "median_absolute_error"]
assert abs(rebuilt - image).max() == 10
low, high = np.array([5], np.uint8), np.array([8], np.uint8)
assert metrics.max_error(low, high) == metrics.median_absolute_error(high, low) == 253
assert metrics.max_error(high, low) == metrics.median_absolute_error(low, high) == 3
assert metrics.max_error(image.astype(np.uint8), rebuilt.astype(np.uint8)) == 255
assert metrics.max_error(image.astype(np.uint16), rebuilt.astype(np.uint16)) == 65535
PY
