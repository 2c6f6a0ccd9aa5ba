#!/usr/bin/env bash
# torchmetrics 1.9.0: VisualInformationFidelity of a noisy image from 0 to 1 is 0.96, of the same image from 0 to 255 it is 0.25.
#
# Behaviour: the metric supposes a visual noise of variance 2 in grey values of 8 bits (sigma_n_sq=2.0). It has no data_range, takes
# any, and its documentation does not name one. Images from 0 to 1, as PSNR and SSIM beside it get them, have next to no variance
# against that 2. Then noise costs next to nothing, and the order turns round: a noisy reconstruction is better than a blurred one,
# and the one of half the contrast, the best from 0 to 255, is the worst. All values look right, and there is no warning.
# vifp of sewar 0.4.10 does the same; vif_p of piq 0.8.0 scales by its data_range, which is 1 by default.
# What to do: images times 255; or sigma_n_sq=2 / 255**2; or piq.
# Output seen (a texture of 128 x 128 pixels, and reconstructions of it):
#                            0 to 255   0 to 1   0 to 1, sigma_n_sq=2/255**2   sewar, 0 to 1   piq, 0 to 1
#   the same:                1.000      1.000    1.000                         1.000           1.000
#   noise of 0.02:           0.658      0.996    0.658                         0.996           0.658
#   noise of 0.1:            0.250      0.959    0.250                         0.959           0.250
#   blurred by a pixel:      0.586      0.642    0.586                         0.642           0.586
#   half the contrast:       0.774      0.251    0.774                         0.251           0.774

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 torchmetrics==1.9.0 \
    piq==0.8.0 sewar==0.4.10 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import numpy as np
import piq
import torch
from scipy.ndimage import gaussian_filter
from sewar.full_ref import vifp
from torchmetrics.image import VisualInformationFidelity

random = np.random.default_rng(0)
texture = gaussian_filter(random.normal(size=(128, 128)), 1.5)
true = (0.5 + 0.15 * texture / texture.std()).clip(0, 1)
images = {"the same": true, "noise of 0.02": true + random.normal(0, 0.02, true.shape),
          "noise of 0.1": true + random.normal(0, 0.1, true.shape),
          "blurred by a pixel": gaussian_filter(true, 1), "half the contrast": (true + 0.5) / 2}


def vif(image, scale=1.0, **options):
    pair = [torch.tensor(one * scale)[None, None].float() for one in (image, true)]
    return VisualInformationFidelity(**options)(*pair).item()


print(" " * 24, "0 to 255   0 to 1   0 to 1, sigma_n_sq=2/255**2   sewar, 0 to 1   piq, 0 to 1")
seen = {}
for name, image in images.items():
    image = image.clip(0, 1)
    pair = [torch.tensor(one)[None, None].float() for one in (image, true)]
    values = (vif(image, 255), vif(image), vif(image, sigma_n_sq=2 / 255**2), float(vifp(true, image)), piq.vif_p(*pair).item())
    seen[name] = values
    print(f"{name + ':':<24}", f"{values[0]:<10.3f} {values[1]:<8.3f} {values[2]:<29.3f} {values[3]:<15.3f} {values[4]:.3f}")
    assert abs(values[0] - values[2]) < 0.01 and abs(values[0] - values[4]) < 0.01
eight, unit = ({name: values[column] for name, values in seen.items()} for column in (0, 1))
assert eight["half the contrast"] > eight["blurred by a pixel"] > eight["noise of 0.1"]
assert unit["noise of 0.1"] > 0.9 > unit["blurred by a pixel"] > unit["half the contrast"]
PY
