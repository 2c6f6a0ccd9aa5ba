#!/usr/bin/env bash
# scikit-image 0.26.0: structural_similarity is not the mean of its own map, and a defect in the corner costs next to nothing.
#
# Behaviour: the map of full=True has a value for every pixel, the score leaves out half a window at each border (3 pixels, or 5 with
# Gaussian weights). So a changed pixel in the corner, which is in one window that counts instead of 49, costs about 50 times less than the same
# change in the middle, and by the mean of the map it costs about the same. Two detectors, one by score and one by map,
# disagree on parts that touch the border of the crop.
# What to do: full=True and the mean of the map, or say which of the two it is.
# Output seen:
#   corner: 1 - score 0.0000202, 1 - mean of the map 0.0006378
#   middle: 1 - score 0.0010088, 1 - mean of the map 0.0008285

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from skimage.metrics import structural_similarity

image = np.random.default_rng(0).random((64, 64))
loss = {}
for name, place in (("corner", 0), ("middle", 32)):
    changed = image.copy()
    changed[place, place] += 0.8
    score, full = structural_similarity(image, changed, data_range=1, full=True)
    loss[name] = 1 - score, 1 - full.mean()
    print("{}: 1 - score {:.7f}, 1 - mean of the map {:.7f}".format(name, *loss[name]))
    assert abs(score - full[3:-3, 3:-3].mean()) < 1e-12
assert loss["middle"][0] > 20 * loss["corner"][0] and loss["middle"][1] < 2 * loss["corner"][1]
PY
