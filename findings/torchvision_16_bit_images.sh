#!/usr/bin/env bash
# torchvision 0.29.1: ToTensor turns a 16-bit grey image into negative whole numbers, v2 into 0 .. 1.
#
# Behaviour: ToTensor's promise of floats between 0 and 1 holds for 8 bits only. A 16-bit image (mode I;16) comes out as int16 without scaling:
# all above 32767, the brighter half, is negative. The v2 transforms ToImage and ToDtype(float32, scale=True) read the
# same image as uint16 and scale it right. No warning from either.
# What to do: v2, or divide by 65535 before any transform.
# Output seen:
#   ToTensor: torch.int16 [0, 1000, -25536, -1]
#   v2: torch.float32 [0.0, 0.0153, 0.6104, 1.0]

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PY'
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ToTensor, v2

image = Image.fromarray(np.array([[0, 1000, 40000, 65535]], np.uint16))
old = ToTensor()(image)
new = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(image)
print(f"ToTensor: {old.dtype} {old[0, 0].tolist()}")
print(f"v2: {new.dtype} {[round(value, 4) for value in new[0, 0].tolist()]}")
assert image.mode == "I;16" and old.dtype == torch.int16 and old[0, 0].tolist() == [0, 1000, -25536, -1]
assert new.dtype == torch.float32 and torch.allclose(new[0, 0], torch.tensor([0, 1000, 40000, 65535]) / 65535)
PY
