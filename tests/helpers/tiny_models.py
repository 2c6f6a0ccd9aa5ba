"""Networks of the real classes with a few thousand random weights, written to disk in the real formats."""

import json

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.model import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffad_utils.foundation.text_to_image import SCHEDULE, all_captions, new_tokenizer

CLIP_SIDE = 64


def write_stable_diffusion(folder, seed=0):
    """A diffusers folder: Stable Diffusion's classes, 8 x downsampling, 4 latent channels, 16 wide."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer(all_captions())
    special = dict(bos_token_id=len(tokenizer) - 2, eos_token_id=len(tokenizer) - 1, pad_token_id=len(tokenizer) - 1)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
            projection_dim=16,
            **special,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=0.18215,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def write_clip(folder, kind="resnet", seed=0):
    """An open_clip folder for images of CLIP_SIDE pixels: a ResNet (last maps 2 x 2) or a vision transformer (4 x
    4)."""
    torch.manual_seed(seed)
    vision = {
        "resnet": {"image_size": CLIP_SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
        "vit": {"image_size": CLIP_SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    }[kind]
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    preprocess = {"size": CLIP_SIDE, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess | {"resize_mode": "squash"},
    }
    model = CLIP(**config["model_cfg"])
    for module in model.modules():  # open_clip starts every residual branch of a ResNet at 0, which makes it blind
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    if kind == "resnet":
        torch.nn.init.zeros_(model.visual.attnpool.positional_embedding)  # drowns random features
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    assert open_clip.get_tokenizer(f"local-dir:{folder}") is not None
    return folder


def count_rows(module):
    """A list that gets the batch size of every call of a network."""
    sizes = []

    def count(_, args, kwargs, output):
        sizes.append(len((*args, *kwargs.values())[0]))

    module.register_forward_hook(count, with_kwargs=True)
    return sizes
