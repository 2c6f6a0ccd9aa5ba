#!/usr/bin/env bash
# denoising-diffusion-pytorch 2.3.4: with immiscible=True nearly every image is trained on the noise of another one.
#
# Behaviour: this setting gives each image of a batch the noise that is nearest to it before the two are mixed. The noise that the model is
# asked for stays in the order it was drawn. So the right answer, the noise that is in the image, is punished twice as hard as the
# answer 0 with "pred_noise", and harder than it with "pred_v", the default. Training runs on, and the loss settles near that of the answer 0.
# A small Unet (300 steps with "pred_noise", flat grey images) had a loss of 0.99 after it, and generated noise; without the setting it
# had 0.02, and generated grey images. In small batches some images happen to keep their own noise, in a batch of one the only one does.
# What to do: leave it off, or order the noise before p_losses, which takes images in -1 .. 1:
# noise = noise[diffusion.noise_assignment(images, noise)], then diffusion.p_losses(images, times, noise=noise).
# Output seen (no training: the model is told the clean images, and gives the noise that is in the noisy ones, or v):
#   pred_noise, batch of 16: loss of the right answer 0.00, of the answer 0 0.99, images with their own noise 16
#   pred_noise, batch of 16, immiscible: loss of the right answer 2.02, of the answer 0 0.99, images with their own noise 0
#   pred_noise, batch of 16, ordered by hand: loss of the right answer 0.00, of the answer 0 0.99, images with their own noise 16
#   pred_v, batch of 16: loss of the right answer 0.00, of the answer 0 0.52, images with their own noise 16
#   pred_v, batch of 16, immiscible: loss of the right answer 0.58, of the answer 0 0.52, images with their own noise 0
#   pred_v, batch of 16, ordered by hand: loss of the right answer 0.00, of the answer 0 0.51, images with their own noise 16

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 denoising-diffusion-pytorch==2.3.4 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import torch
from denoising_diffusion_pytorch import GaussianDiffusion


class Answers(torch.nn.Module):
    """Gives the noise (or v) that is in the noisy images exactly, or 0."""

    channels = out_dim = 3
    self_condition = False

    def forward(self, noisy, times, _=None):
        if not self.right:
            return torch.zeros_like(noisy)
        kept = self.kept[times].view(-1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * self.clean) / (1 - kept).sqrt()
        return noise if self.objective == "pred_noise" else kept.sqrt() * noise - (1 - kept).sqrt() * self.clean


def losses(objective, batch, by_hand=False, **options):
    torch.manual_seed(0)
    model = Answers()
    diffusion = GaussianDiffusion(model, image_size=32, objective=objective, **options)
    images, times = torch.rand(batch, 3, 32, 32), torch.randint(0, 1000, (batch,))
    model.objective, model.kept, model.clean = objective, diffusion.alphas_cumprod.double(), 2.0 * images.double() - 1
    found = []
    for model.right in (True, False):
        if by_hand:
            noise = torch.randn_like(images)
            noise = noise[diffusion.noise_assignment(2 * images - 1, noise)]
            each = diffusion.p_losses(2 * images - 1, times, noise=noise, loss_reduction="none")
        else:
            each = diffusion(images, times=times, loss_reduction="none")
        each = each / diffusion.loss_weight[times]
        found.append(each.mean().item())
        own = (each < 1e-3).sum().item() if model.right else own
    print(f"{objective}, batch of {batch}{', ordered by hand' if by_hand else ''}{', immiscible' if options else ''}: "
          f"loss of the right answer {found[0]:.2f}, of the answer 0 {found[1]:.2f}, images with their own noise {own}")
    return found, own


for objective in ("pred_noise", "pred_v"):
    (right, nothing), own = losses(objective, 16)
    assert right < 1e-3 and own == 16
    (right, nothing), own = losses(objective, 16, immiscible=True)
    assert right > nothing and own < 4
    (right, nothing), own = losses(objective, 16, by_hand=True)
    assert right < 1e-3 and own == 16
PY
