#!/usr/bin/env bash
# scikit-image 0.26.0: unchanged code with min_size=4 now also removes regions of exactly 4 pixels.
#
# Behaviour: up to 0.25.2 remove_small_objects(min_size=4) kept a region of 4 pixels. 0.26.0 deprecates
# min_size for max_size, which removes "smaller than or equal", and its warning says that only the NEW
# name does so. In fact the old name is passed on as the new one, so old code changes too, as does
# the call without a size (a region of exactly 64 pixels was kept, and is removed).
# Post-processing that drops specks therefore drops the smallest real defects after an update.
# What to do: max_size = old min_size - 1.
# Output seen:
#   0.25.2: a region of 4 after min_size=4: 4 pixels; of 64 after the default: 64 pixels
#   0.26.0: a region of 4 after min_size=4: 0 pixels; of 64 after the default: 0 pixels

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6
venv/bin/python - <<'PY'
import subprocess
import sys

code = """
import warnings
warnings.simplefilter("ignore")
import numpy as np, skimage
from skimage.morphology import remove_small_objects
mask = np.zeros((20, 20), bool)
mask[1, 1:5] = True
big = np.zeros((20, 20), bool)
big[2:10, 2:10] = True
four, default = remove_small_objects(mask, min_size=4).sum(), remove_small_objects(big).sum()
print(f"{skimage.__version__}: a region of 4 after min_size=4: {four} pixels; of 64 after the default: {default} pixels")
"""
seen = []
for version in ("0.25.2", "0.26.0"):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                    f"scikit-image=={version}"], check=True)
    seen.append(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    print(seen[-1])
assert "min_size=4: 4 pixels" in seen[0] and "default: 64 pixels" in seen[0]
assert "min_size=4: 0 pixels" in seen[1] and "default: 0 pixels" in seen[1]
PY
