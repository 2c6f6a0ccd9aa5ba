#!/usr/bin/env bash
# diffusers 0.42.1: EMAModel(decay=0.9999) averages over 300 steps, not 10,000, in a run of 3,000 steps.
#
# Behaviour: the decay in use is the smaller of the one asked for and (1 + step) / (10 + step), with
# use_ema_warmup=False too. After 100 steps it is 0.92, after 3,000 steps 0.997; 0.9999 is reached after
# 90,000 steps. In the short runs that industrial data allow, the argument has no
# effect at all: 0.999 and 0.9999 give the same weights. The first step copies the weights.
# What to do: for short runs state the decay that was reached (cur_decay_value), or use
# torch.optim.swa_utils.get_ema_multi_avg_fn, which takes the decay as given.
# Output seen:
#   decay in use after step 1: 0.0000, 10: 0.5263, 100: 0.9174, 3000: 0.9970
#   average of the weights, asked for 0.999 and 0.9999: equal True

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0
venv/bin/python - <<'PY'
import torch
from diffusers.training_utils import EMAModel

seen, ends = {}, []
for decay in (0.999, 0.9999):
    weight = torch.nn.Parameter(torch.zeros(1))
    ema = EMAModel([weight], decay=decay)
    for step in range(1, 3001):
        weight.data.fill_(step / 3000)
        ema.step([weight])
        if step in (1, 10, 100, 3000):
            seen[step] = ema.cur_decay_value
    ends.append(ema.shadow_params[0].item())
print("decay in use after step " + ", ".join(f"{step}: {value:.4f}" for step, value in seen.items()))
print(f"average of the weights, asked for 0.999 and 0.9999: equal {ends[0] == ends[1]}")
assert seen[1] == 0 and abs(seen[3000] - 0.997) < 1e-3 and ends[0] == ends[1]
PY
