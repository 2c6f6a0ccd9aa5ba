#!/usr/bin/env bash
# diffusers 0.42.1: img2img with num_images_per_prompt pairs images with prompts of other images.
#
# Behaviour: with two images and two prompts, prompts are repeated one by one (1 1 2 2), images as a whole (A B A B).
# So image B is denoised under prompt 1 and image A under prompt 2, and the results come in an order that neither
# list has. The only hint is a FutureWarning about "duplicating". One image, or one picture per prompt, is safe.
# What to do: repeat images yourself (repeat_interleave) and leave num_images_per_prompt at 1.
# Output seen:
#   pairs in the denoiser: image A prompt 1, image B prompt 1, image A prompt 2, image B prompt 2

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.24.0
venv/bin/python - <<'PY'
import logging
import warnings

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
unet = UNet2DConditionModel(
    sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=32, attention_head_dim=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
pipeline = StableDiffusionImg2ImgPipeline(
    vae=AutoencoderKL(block_out_channels=(32,)), text_encoder=None, tokenizer=None, unet=unet, safety_checker=None,
    scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), feature_extractor=None, requires_safety_checker=False)
pipeline.set_progress_bar_config(disable=True)
pairs = []


def note(module, args, kwargs):
    for latent, prompt in zip(args[0], kwargs["encoder_hidden_states"]):
        pairs.append(("A" if latent.mean() < 0 else "B", int(prompt.mean())))


unet.register_forward_pre_hook(note, with_kwargs=True)
images = torch.stack([torch.full((4, 8, 8), -5.0), torch.full((4, 8, 8), 5.0)])  # four channels: taken as latents
prompts = torch.stack([torch.full((4, 32), 1.0), torch.full((4, 32), 2.0)])
pipeline(image=images, prompt_embeds=prompts, num_images_per_prompt=2, strength=0.1, num_inference_steps=10,
         guidance_scale=1.0, output_type="latent", generator=torch.Generator().manual_seed(0))
print("pairs in the denoiser: " + ", ".join(f"image {image} prompt {prompt}" for image, prompt in pairs[:4]))
assert pairs[:4] == [("A", 1), ("B", 1), ("A", 2), ("B", 2)]
PY
