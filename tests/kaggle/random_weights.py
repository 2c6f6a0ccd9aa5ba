"""Write random weights in the layouts in which the real ones are released: python random_weights.py FOLDER.

Real classes and tensor names. Backbones are whole; Stable Diffusion's networks and CLIP have the released widths where
these are what they are recognised by, and fewer layers or channels elsewhere, so that a CPU runs them in seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import open_clip
import timm
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DModel
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from released_layouts import original_file, write_stable_diffusion

UNET = dict(block_out_channels=(320, 64, 64, 64), cross_attention_dim=768)
KL = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 32, 32, 512),
    layers_per_block=2,
    sample_size=512,
)
TEXT = dict(hidden_size=768, intermediate_size=768, num_hidden_layers=2, num_attention_heads=12)
CLIP = dict(
    embed_dim=512,
    quick_gelu=True,
    vision_cfg=dict(image_size=128, layers=2, width=768, patch_size=32),  # WinCLIP's windows take 3 x 3 patches
    text_cfg=dict(context_length=77, vocab_size=49408, width=512, heads=8, layers=2),
)


def save_timm(folder: Path, architecture: str, tag: str) -> None:
    model = timm.create_model(architecture, pretrained=False)
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    saved = {"tag": tag, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    config = {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": saved}
    (folder / "config.json").write_text(json.dumps(config))


def save_stable_diffusion(folder: Path) -> None:
    """The released folder, in half precision under plain names; the same under fp16 names only; one original file."""
    write_stable_diffusion(folder, UNET, KL, TEXT, dtype=torch.float16)
    fp16 = folder.with_name("sd-fp16")
    shutil.copytree(folder, fp16, copy_function=os.link)
    for file in fp16.rglob("*.safetensors"):
        file.rename(file.with_name(file.stem + ".fp16.safetensors"))
    original_file(folder, folder.with_name("sd-file") / "v1-5-pruned-emaonly.safetensors")


def save_clip(folder: Path, quick_gelu: bool) -> None:
    """OpenAI's networks have another activation than LAION's, which only the config says."""
    config = CLIP | {"quick_gelu": quick_gelu}
    folder.mkdir(parents=True)
    model = open_clip.CLIP(**config)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    preprocess = dict(mean=[0.48, 0.46, 0.41], std=[0.27, 0.26, 0.28], interpolation="bicubic", resize_mode="shortest")
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    save_timm(folder / "a-resnet50", "resnet50", "a1_in1k")
    save_timm(folder / "resnet34", "resnet34", "a1_in1k")
    save_timm(folder / "efficientnet-b4", "tf_efficientnet_b4", "ns_jft_in1k")
    save_timm(folder / "dino-vits8", "vit_small_patch8_224", "dino")
    save_stable_diffusion(folder / "sd")
    save_clip(folder / "clip-vit-b32", quick_gelu=True)
    save_clip(folder / "clip-laion2b", quick_gelu=False)
    AutoencoderKL(**KL).save_pretrained(folder / "autoencoders/sd-vae-ft-mse")
    AutoencoderTiny(latent_channels=4).save_pretrained(folder / "autoencoders/taesd")
    AutoencoderTiny(latent_channels=16).save_pretrained(folder / "autoencoders/taef1")
    unet = UNet2DModel(
        sample_size=256,
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        norm_num_groups=8,
    )
    unet.save_pretrained(folder / "ddpm-celebahq-256")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
