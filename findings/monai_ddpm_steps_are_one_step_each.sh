#!/usr/bin/env bash
# MONAI 1.6.1: DDPMScheduler with 50 steps instead of 1000 takes 50 small steps and returns noise, without a word.
#
# Behaviour: set_timesteps(50) picks 50 of the 1000 timesteps, 999, 979, 958 and so on to 0, and the model is told these. But
# step() always goes from t to t - 1, whatever comes next. So the image is at noise level 998 when the model is told 979, and 50 of
# the 1000 steps of denoising are done. The last one, at t = 0, takes what is left for an image. DiffusionInferer.sample calls step(),
# and so does the same. 500 steps are too few already. Scheduler and loop are the ones that make a right image with DDIM, and
# diffusers' DDPMScheduler of the same name and method goes from one chosen timestep to the next.
# What to do: with DDPMScheduler as many steps as in training; DDIMScheduler for fewer.
# Output seen (images whose pixels have mean 0.3 and spread 0.1, and the exact noise predictor for them):
#   DDPMScheduler, 1000 steps: mean 0.30, spread 0.10
#   DDPMScheduler, 500 steps: mean 0.28, spread 0.17
#   DDPMScheduler, 250 steps: mean 0.22, spread 0.34
#   DDPMScheduler, 50 steps: mean 0.05, spread 0.64
#   DDIMScheduler, 50 steps: mean 0.30, spread 0.08
#   DDPMScheduler, 50 steps, one of them: told 489, left at level 488, next told 469

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 monai==1.6.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

MEAN, SPREAD = 0.3, 0.1


class ExactModel(torch.nn.Module):
    """The best possible noise predictor for images whose pixels are normal with this mean and spread."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def forward(self, image, timesteps, context=None):
        kept = self.kept[timesteps.long()].view(-1, 1, 1, 1)
        return (1 - kept).sqrt() * (image - kept.sqrt() * MEAN) / (kept * SPREAD**2 + 1 - kept)


def generate(kind, steps):
    torch.manual_seed(0)
    scheduler = kind(num_train_timesteps=1000)
    scheduler.set_timesteps(steps)
    images = DiffusionInferer(scheduler).sample(
        input_noise=torch.randn(4, 1, 32, 32), diffusion_model=ExactModel(scheduler.alphas_cumprod), scheduler=scheduler, verbose=False)
    print(f"{kind.__name__}, {steps} steps: mean {images.mean():.2f}, spread {images.std():.2f}")
    return images.std().item()


assert generate(DDPMScheduler, 1000) < 0.12
assert generate(DDPMScheduler, 500) > 0.14
assert generate(DDPMScheduler, 250) > 0.25
assert generate(DDPMScheduler, 50) > 0.5
assert generate(DDIMScheduler, 50) < 0.12

# A white image (all 1) and no noise but what step() adds: the mean says how far the image is.
scheduler = DDPMScheduler(num_train_timesteps=1000)
scheduler.set_timesteps(50)
told, then = scheduler.timesteps[25:27].tolist()
share = scheduler.alphas_cumprod.sqrt()
image, _ = scheduler.step(torch.zeros(1, 1, 1024, 1024), told, share[told].expand(1, 1, 1024, 1024))
left = (image.mean() - share).abs().argmin().item()
print(f"DDPMScheduler, 50 steps, one of them: told {told}, left at level {left}, next told {then}")
assert abs(left - (told - 1)) <= 1 and then < told - 15
PY
