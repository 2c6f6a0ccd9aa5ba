#!/usr/bin/env bash
# diffusers 0.42.1: after fuse_lora, unload_lora_weights leaves the adapter in the weights.
#
# Behaviour: fusing adds the adapter to the base weights; unloading then removes the adapter's layers but not
# what was added. The pipeline says that no adapter is active and still computes with it. Without fuse_lora the
# unloading is exact. A comparison "before LoRA, after LoRA, before again" measures the LoRA twice.
# What to do: unfuse_lora before unload_lora_weights, or a fresh pipeline.
# Output seen:
#   load, unload: distance from the base 0.0000
#   load, fuse, unload: distance from the base 0.1459, from the adapter 0.0000, active adapters []
#   load, fuse, unfuse, unload: distance from the base 0.0000

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0
venv/bin/python - <<'PY'
import logging
import warnings

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


def small_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))


tuned = small_unet()
tuned.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
adapter = {f"unet.{name}": value
           for name, value in convert_state_dict_to_diffusers(get_peft_model_state_dict(tuned)).items()}
x, words = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)


def after(*steps):
    pipeline = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=small_unet(), safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), requires_safety_checker=False)
    if steps:
        pipeline.load_lora_weights(dict(adapter))
    for step in steps[1:]:
        getattr(pipeline, step)()
    with torch.no_grad():
        return pipeline.unet(x, 10, words).sample, pipeline


def distance(a, b):
    return (a - b).abs().max().item()


base, loaded = after()[0], after("load")[0]
plain = after("load", "unload_lora_weights")[0]
fused, pipeline = after("load", "fuse_lora", "unload_lora_weights")
undone = after("load", "fuse_lora", "unfuse_lora", "unload_lora_weights")[0]
print(f"load, unload: distance from the base {distance(plain, base):.4f}")
print(f"load, fuse, unload: distance from the base {distance(fused, base):.4f}, "
      f"from the adapter {distance(fused, loaded):.4f}, active adapters {pipeline.get_active_adapters()}")
print(f"load, fuse, unfuse, unload: distance from the base {distance(undone, base):.4f}")
assert distance(plain, base) < 1e-4 < 1e-2 < distance(fused, base)
assert distance(fused, loaded) < 1e-4 and distance(undone, base) < 1e-4
PY
