#!/usr/bin/env bash
# diffusers 0.42.1: Euler and DPM-Solver ignore the timestep that step() is given, from the second call on.
#
# Behaviour: the first call finds its place by the timestep, every later call just counts on. Three calls with
# the same timestep, sample and noise, as when three test images are denoised from one noise level, give
# three results. DDIM and DDPM look the timestep up each time. So a loop that is right with DDIM is
# wrong after a swap of the scheduler, and only for the second image on.
# What to do: set_timesteps before every image or batch, or one scheduler object for each.
# Output seen:
#   EulerDiscreteScheduler: -0.393, 0.926, 1.454
#   DPMSolverMultistepScheduler: 3.388, 2.634, 2.529
#   DDIMScheduler: 0.759, 0.759, 0.759
#   EulerDiscreteScheduler with set_timesteps before each: -0.393, -0.393, -0.393

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.24.0
venv/bin/python - <<'PY'
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

sample, noise = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 0.5)


def three(kind, again=False):
    scheduler, results = kind(), []
    scheduler.set_timesteps(10)
    for _ in range(3):
        if again:
            scheduler.set_timesteps(10)
        t = scheduler.timesteps[3]
        scheduler.scale_model_input(sample, t)
        results.append(round(scheduler.step(noise, t, sample).prev_sample.mean().item(), 3))
    print(f"{kind.__name__}{' with set_timesteps before each' if again else ''}: {', '.join(map(str, results))}")
    return len(set(results))


assert three(EulerDiscreteScheduler) == 3
assert three(DPMSolverMultistepScheduler) == 3
assert three(DDIMScheduler) == 1
assert three(EulerDiscreteScheduler, again=True) == 1
PY
