#!/usr/bin/env bash
# MLstatkit 0.1.91: DeLong's test of two detectors that rank all images alike says that they differ, with p = 0.
#
# Behaviour: where two detectors have the same ROC curve, the variance of the difference is 0, and Delong_test goes over to a
# bootstrap. All its differences are 0, none is above 0, so twice the smaller share is 0. The z beside it is 0 as well, which would
# be a p of 1. No warning. It happens to two detectors that are both perfect, as on the easy categories of MVTec AD, to a
# score and its exponential, and to a detector beside itself. A correction over categories then counts each of them as a difference.
# What to do: take p = 1 where the returned method is "bootstrap" and both AUROCs are equal.
# Output seen:
#   a score and its exponential: AUROC 0.741 and 0.741, z 0.000, p 0.000 (bootstrap)
#   two perfect detectors: AUROC 1.000 and 1.000, z 0.000, p 0.000 (bootstrap)
#   a score and itself with a hair of noise: AUROC 0.741 and 0.739, z -1.650, p 0.099 (delong)

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check MLstatkit==0.1.91 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
venv/bin/python - <<'PY'
import numpy as np
from MLstatkit import Delong_test

rng = np.random.default_rng(0)
defect = np.repeat([0, 1], 50)
score = rng.normal(size=100) + defect
noisy = score + 0.01 * rng.normal(size=100)


def compare(name, one, other):
    z, p, _, _, auroc, auroc_other, info = Delong_test(defect, one, other, random_state=0)
    print(f"{name}: AUROC {auroc:.3f} and {auroc_other:.3f}, z {z:.3f}, p {p:.3f} ({info['method']})")
    return p, info["method"]


assert compare("a score and its exponential", score, np.exp(score)) == (0.0, "bootstrap")
perfect, also_perfect = defect + rng.random(100) / 2, defect + rng.random(100) / 2
assert compare("two perfect detectors", perfect, also_perfect) == (0.0, "bootstrap")
p, method = compare("a score and itself with a hair of noise", score, noisy)
assert abs(p - 0.099) < 0.001 and method == "delong"
PY
