"""Stable Diffusion's networks of any size, written to disk in the layouts in which v1.5 was released."""

from __future__ import annotations

import json
import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffad_utils.models.stable_diffusion import clip_tokenizer

LEVELS = 4
KL = dict(
    down_block_types=("DownEncoderBlock2D",) * LEVELS,
    up_block_types=("UpDecoderBlock2D",) * LEVELS,
    block_out_channels=(32, 64, 64, 64),
    layers_per_block=2,
    sample_size=512,
)
V15_UNET = dict(sample_size=64, layers_per_block=2, attention_head_dim=8)
NARROW = dict(block_out_channels=(32, 64, 64, 64), cross_attention_dim=64)
V15_SCHEDULER = dict(  # as released
    _class_name="PNDMScheduler",
    _diffusers_version="0.6.0",
    beta_end=0.012,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    num_train_timesteps=1000,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    trained_betas=None,
    clip_sample=False,
)
V15_INDEX = dict(
    _class_name="StableDiffusionPipeline",
    _diffusers_version="0.6.0",
    vae=["diffusers", "AutoencoderKL"],
    unet=["diffusers", "UNet2DConditionModel"],
    text_encoder=["transformers", "CLIPTextModel"],
    tokenizer=["transformers", "CLIPTokenizer"],
    scheduler=["diffusers", "PNDMScheduler"],
    feature_extractor=["transformers", "CLIPImageProcessor"],
    safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
)
OLD_ATTENTION = [
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".proj_attn."),
]


def rename(name, table):
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name


def write_stable_diffusion(folder, unet_options, vae_options, text_options, dtype=torch.float32):
    """A folder as SD v1.5 was released: old names in the autoencoder, "text_model." in the text encoder, PNDM's
    scheduler, a safety checker in the index and (as after a download of the needed files only) none in the folder."""
    torch.manual_seed(0)
    parts = dict(unet=UNet2DConditionModel(**V15_UNET, **unet_options), vae=AutoencoderKL(**KL | vae_options))
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_act="quick_gelu", **text_options))
    for name, part in parts.items():
        part.to(dtype).save_pretrained(folder / name)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = {rename(name, OLD_ATTENTION): value for name, value in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    text_encoder.to(dtype).save_pretrained(folder / "text_encoder")
    file = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, file, metadata={"format": "pt"})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(V15_SCHEDULER))
    (folder / "tokenizer").mkdir()
    clip_tokenizer().backend_tokenizer.model.save(str(folder / "tokenizer"))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps(
            dict(
                tokenizer_class="CLIPTokenizer",
                model_max_length=77,
                bos_token="<|startoftext|>",
                eos_token="<|endoftext|>",
                unk_token="<|endoftext|>",
                pad_token="<|endoftext|>",
            )
        )
    )
    (folder / "model_index.json").write_text(json.dumps(V15_INDEX))
    return folder


def original_unet_name(name):
    """diffusers' name of a UNet's tensor -> that of the original format."""
    table = [
        (r"^time_embedding\.linear_([12])", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (
            r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)",
            lambda m: f"input_blocks.{3 * int(m[1]) + int(m[3]) + 1}.{int(m[2] == 'attentions')}",
        ),
        (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op"),
        (
            r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)",
            lambda m: f"output_blocks.{3 * int(m[1]) + int(m[3])}.{int(m[2] == 'attentions')}",
        ),
        (r"^up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 if m[1] == '0' else 2}"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    ]
    if re.search(r"\.resnets\.", name):
        table += [
            (r"\.norm1\.", ".in_layers.0."),
            (r"\.conv1\.", ".in_layers.2."),
            (r"\.norm2\.", ".out_layers.0."),
            (r"\.conv2\.", ".out_layers.3."),
            (r"\.time_emb_proj\.", ".emb_layers.1."),
            (r"\.conv_shortcut\.", ".skip_connection."),
        ]
    return rename(name, table)


def original_vae_name(name):
    """diffusers' name of an autoencoder's tensor, with the old attention names -> that of the original format."""
    return rename(
        name,
        [
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
            (r"mid_block\.attentions\.0\.", "mid.attn_1."),
            (r"attn_1\.group_norm", "attn_1.norm"),
            (r"attn_1\.query", "attn_1.q"),
            (r"attn_1\.key", "attn_1.k"),
            (r"attn_1\.value", "attn_1.v"),
            (r"attn_1\.proj_attn", "attn_1.proj_out"),
            (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
            (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
            (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
            (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{LEVELS - 1 - int(m[1])}.block"),
            (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{LEVELS - 1 - int(m[1])}.upsample"),
        ],
    )


def original_vae(state, prefix=""):
    names = {name: original_vae_name(name) for name in state}
    return {
        prefix + names[name]: value[..., None, None]
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", names[name])
        else value.clone()
        for name, value in state.items()
    }


def original_file(folder, file):
    """The diffusers folder as one file in the original format of CompVis and Runway."""
    load = lambda part, name="diffusion_pytorch_model": load_file(folder / part / f"{name}.safetensors")  # noqa: E731
    state = {f"model.diffusion_model.{original_unet_name(name)}": value for name, value in load("unet").items()}
    state |= original_vae(load("vae"), "first_stage_model.")
    state |= {f"cond_stage_model.transformer.{name}": value for name, value in load("text_encoder", "model").items()}
    state["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file
