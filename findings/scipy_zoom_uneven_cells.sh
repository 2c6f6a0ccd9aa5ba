#!/usr/bin/env bash
# scipy 1.17.1: ndimage.zoom with order=0 does not repeat the cells, it narrows those at the border.
#
# Behaviour: a row of four patches made eight times wider should give four blocks of
# eight pixels. zoom gives 6, 10, 10, 6: by default it aligns the CENTRES of the first
# and last cell with the first and last pixel. A patch's score then lies up to two
# pixels away from the patch, more with coarser grids, and pixel AUROC changes.
# grid_mode=True with mode="nearest" gives the even blocks.
# What to do: np.repeat / np.kron for blocks, or grid_mode=True.
# Output seen:
#   default [6, 10, 10, 6], grid_mode [8, 8, 8, 8]
#   28 patches to 224 pixels, first and last blocks: 5 and 5 pixels

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from scipy.ndimage import zoom


def widths(n, by, **more):
    row = np.tile(np.arange(n, dtype=float), (n, 1))
    return np.bincount(zoom(row, by, order=0, **more)[0].astype(int)).tolist()


default, even = widths(4, 8), widths(4, 8, grid_mode=True, mode="nearest")
print(f"default {default}, grid_mode {even}")
assert default == [6, 10, 10, 6] and even == [8] * 4
wide = widths(28, 8)
print(f"28 patches to 224 pixels, first and last blocks: {wide[0]} and {wide[-1]} pixels")
assert wide[0] < 8 and wide[-1] < 8
PY
