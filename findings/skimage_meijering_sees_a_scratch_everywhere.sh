#!/usr/bin/env bash
# scikit-image 0.26.0: meijering answers noise as strongly as the clearest scratch: image AUROC 0.5, with sato 1.0.
#
# Behaviour: the filter for lines divides its answer by the largest of the image, for each sigma. So the maximum of every image is
# exactly 1, be it noise alone, and a scratch is worth what it is beside the strongest line: twice the contrast changes nothing,
# one bright line elsewhere in the image (the outline of the part) makes it vanish. Images cannot be compared by it, nor one
# threshold set for all. The documentation does not say so, and there is no warning. sato, listed beside it, does nothing of the kind.
# frangi does it half way, by its default gamma (half of the largest norm in the image): its answer ends near 0.87 at any contrast.
# What to do: sato; or frangi with a gamma of one's own. meijering's own answer before the division cannot be had.
# Output seen (noise with a standard deviation of 1, a bright scratch 3 pixels wide, sigmas=[2]; largest answer on the scratch):
#                                        meijering   frangi   frangi, gamma=1   sato
#   no scratch, whole image:             1.000       0.691    0.009             0.565
#   contrast 5:                          1.000       0.865    0.193             2.617
#   contrast 10:                         1.000       0.865    0.533             4.935
#   contrast 40:                         1.000       0.865    1.000             18.840
#   contrast 5 and a line of 200 beside: 0.028       0.002    0.193             2.617
#   AUROC of 20 images with a scratch and 20 without, by the maximum: meijering 0.500, frangi 0.910, frangi, gamma=1 1.000, sato 1.000

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
from skimage.filters import frangi, meijering, sato
from sklearn.metrics import roc_auc_score

FILTERS = {"meijering": (meijering, {}), "frangi": (frangi, {}), "frangi, gamma=1": (frangi, {"gamma": 1}),
           "sato": (sato, {})}
SCRATCH, LINE = (slice(20, 108), slice(30, 33)), (slice(20, 108), slice(90, 93))


def answer(name, contrast, seed, line=0):
    """The filter's answer to a noisy image with a scratch."""
    image = np.random.default_rng(seed).normal(100, 1, (128, 128))
    image[SCRATCH] += contrast
    image[LINE] += line
    function, options = FILTERS[name]
    return function(image, sigmas=[2], black_ridges=False, **options)


print(" " * 36, "   ".join(FILTERS))
seen = {}
for text, contrast, line in (("no scratch, whole image:", 0, 0), ("contrast 5:", 5, 0), ("contrast 10:", 10, 0),
                             ("contrast 40:", 40, 0), ("contrast 5 and a line of 200 beside:", 5, 200)):
    answers = [answer(name, contrast, 0, line) for name in FILTERS]
    values = seen[contrast, line] = [one[SCRATCH].max() if contrast else one.max() for one in answers]
    print(f"{text:<36}", *(f"{value:<{len(name) + 2}.3f}" for name, value in zip(FILTERS, values)))
aurocs = {}
for name in FILTERS:
    normal = [answer(name, 0, seed).max() for seed in range(20)]
    bad = [answer(name, contrast, seed).max() for seed, contrast in enumerate(np.linspace(5, 40, 20), 20)]
    aurocs[name] = roc_auc_score([0] * 20 + [1] * 20, normal + bad)
print("AUROC of 20 images with a scratch and 20 without, by the maximum:",
      ", ".join(f"{name} {value:.3f}" for name, value in aurocs.items()))
assert all(seen[contrast, 0][0] == 1 for contrast in (0, 5, 10, 40)) and seen[5, 200][0] < 0.1 and seen[5, 200][1] < 0.1
assert 3 * seen[5, 0][3] < seen[40, 0][3] and abs(seen[5, 200][3] - seen[5, 0][3]) < 0.01
assert aurocs["meijering"] == 0.5 and aurocs["sato"] == 1
PY
