#!/usr/bin/env bash
# torchmetrics 1.9.0: an image's SSIM depends on the other images of its batch.
#
# Behaviour: without data_range the range is taken from the whole batch, not from the image and not from
# the type. A dim pair (values up to 0.1) alone gets 0.80, beside a bright pair 0.87, with reduction="none" as
# well. The last, smaller batch of a test set is thus scored by another rule.
# What to do: data_range=1.0 (or what the images can reach) in every call.
# Output seen:
#   alone 0.801, beside a bright pair 0.866, with data_range=1: 0.861 and 0.861

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
venv/bin/python - <<'PY'
import torch
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

random = torch.Generator().manual_seed(0)
dim = torch.rand(1, 1, 64, 64, generator=random) * 0.1
noisy = dim + 0.02 * torch.randn(1, 1, 64, 64, generator=random)
bright = torch.rand(1, 1, 64, 64, generator=random)
both = torch.cat([noisy, bright]), torch.cat([dim, bright])
alone, beside = ssim(noisy, dim, reduction="none")[0], ssim(*both, reduction="none")[0]
fixed = ssim(noisy, dim, reduction="none", data_range=1.0)[0], ssim(*both, reduction="none", data_range=1.0)[0]
print(f"alone {alone:.3f}, beside a bright pair {beside:.3f}, with data_range=1: {fixed[0]:.3f} and {fixed[1]:.3f}")
assert beside - alone > 0.03 and torch.isclose(*fixed, atol=1e-5)
PY
