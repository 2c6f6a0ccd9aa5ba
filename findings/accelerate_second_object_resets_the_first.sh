#!/usr/bin/env bash
# accelerate 1.15.0: making a second Accelerator switches off the gradient accumulation of the first.
#
# Behaviour: the number of steps lives in a state that all Accelerator objects of a process share. The first was made
# with 4; after Accelerator() (in a metric, a second method, a notebook cell that is run again) it says
# 1, and the weights move after every batch instead of every fourth. No warning.
# What to do: one Accelerator for a process, handed on.
# Output seen:
#   one Accelerator: accumulates 4, weights after four batches [0.0, 0.0, 0.0, -1.0]
#   and a second one: accumulates 1, weights after four batches [-1.0, -2.0, -3.0, -4.0]

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


def train(accelerator):
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loader = DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    weights = []
    for (x,) in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(x).mean())
            optimizer.step()
            optimizer.zero_grad()
        weights.append(model.weight.item())
    return accelerator.gradient_accumulation_steps, weights


first = Accelerator(gradient_accumulation_steps=4, cpu=True)
alone = train(first)
print("one Accelerator: accumulates {}, weights after four batches {}".format(*alone))
Accelerator(cpu=True)
after = train(first)
print("and a second one: accumulates {}, weights after four batches {}".format(*after))
assert alone == (4, [0.0, 0.0, 0.0, -1.0]) and after == (1, [-1.0, -2.0, -3.0, -4.0])
PY
