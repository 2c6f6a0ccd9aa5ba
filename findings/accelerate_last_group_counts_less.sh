#!/usr/bin/env bash
# accelerate 1.15.0: with gradient accumulation the last, incomplete group of an epoch moves the weights less.
#
# Behaviour: backward() divides every loss by gradient_accumulation_steps. At the end of the data loader a step is
# made with what is there: of 6 batches in groups of 4, the last 2 are still divided by 4, so they count
# half. With 5 batches the last would count a quarter. Training sets of this field are small (50 to
# 300 images), so a large share of all steps is made this way.
# What to do: a number of batches that the groups divide, or drop_last by groups.
# Output seen:
#   weight after each batch: [0.0, 0.0, 0.0, -1.0, -1.0, -1.5]; equal groups would end at -2.0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
venv/bin/python - <<'PY'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
model = torch.nn.Linear(1, 1, bias=False)
model.weight.data.zero_()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loader = DataLoader(TensorDataset(torch.ones(6, 1)), batch_size=1)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
weights = []
for (x,) in loader:
    with accelerator.accumulate(model):
        accelerator.backward(model(x).mean())
        optimizer.step()
        optimizer.zero_grad()
    weights.append(model.weight.item())
print(f"weight after each batch: {weights}; equal groups would end at -2.0")
assert weights == [0.0, 0.0, 0.0, -1.0, -1.0, -1.5]
PY
