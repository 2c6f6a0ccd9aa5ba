"""Stable Diffusion and its autoencoders, loaded from safetensors files on this machine through `weights.resolve`.

The networks and the pipeline are those of diffusers and transformers; nothing is asked of the hub here. The original
single-file format (Rombach et al., CVPR 2022, and Runway's v1.5) needs no configuration beside it either: the numbers
are read from the shapes of its tensors, and CLIP's vocabulary comes with open_clip.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from diffad_utils import weights
from diffad_utils.models.device import pick_device

#: Stable Diffusion v1's noise schedule as DDIM needs it; what a scheduler's own config says comes before it.
SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    prediction_type="epsilon",
)
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
# what a config.json would say of the latents, where only the name does: scaling factor and shift
LATENT_SCALES = {
    "vae:sd15": (0.18215, None),
    "vae:sdxl": (0.13025, None),
    "vae:sd3": (1.5305, 0.0609),
    "vae:flux": (0.3611, 0.1159),
}


def load_pipeline(
    name: str = "sd15",
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    allow_mini: bool = False,
    low_memory: bool = False,
) -> StableDiffusionImg2ImgPipeline:
    """A Stable Diffusion 1.x image-to-image pipeline with DDIM, ready to be called.

    Its attribute `resolved` (`weights.Resolved`) says where the weights come from. No safety checker (it would
    put black pictures in the place of some), no progress bars. Other pipelines take its parts: for text to image,
    `StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)`.

    Parameters
    ----------
    name: for `weights.resolve`: "sd15", "sd-mini", a hub id, a diffusers folder, or a single safetensors file in the
        original format.
    device: "auto" (CUDA, then MPS, then CPU) or a torch device.
    dtype: float16 on CUDA and float32 elsewhere by default.
    allow_mini: take data/mini/sd if the weights of `name` are not on this machine.
    low_memory: attention slicing, and slicing and tiling of the autoencoder: less memory, more time.

    Raises
    ------
    FileNotFoundError: no weights (lists where they were looked for). ValueError: unknown name; other files than those
    of a Stable Diffusion that makes pictures from text and latents alone; tensors missing.
    """
    device = pick_device(device)
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    resolved = weights.resolve(name, allow_mini=allow_mini)
    is_folder = weights.is_pipeline(resolved.path)
    with _no_progress_bars():
        parts = _from_folder(resolved.path) if is_folder else _from_file(_only_file(resolved.path))
    _refuse_misfits(parts, resolved.path)
    pipeline = StableDiffusionImg2ImgPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    if low_memory:
        pipeline.enable_attention_slicing()
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_tiling()
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        _freeze(part, device, dtype)
    pipeline.resolved = resolved
    return pipeline


def load_vae(
    name: str = "vae:sd15", *, device: str = "auto", dtype: torch.dtype = torch.float32, allow_mini: bool = False
) -> AutoencoderKL | AutoencoderTiny:
    """An autoencoder of images in [-1, 1], frozen and in evaluation mode; its attribute `resolved` says where from.

    Parameters
    ----------
    name: "vae:sd15", "vae:sdxl", "vae:sd3", "vae:flux", "vae:taesd" and others of `weights.KNOWN`, or a path or hub id
        (of a pipeline or of an autoencoder alone); "vae:" may be left out.
    device, allow_mini: as for `load_pipeline`.
    dtype: float32 by default on every device: SDXL's autoencoder overflows in float16.

    The class is that of config.json (`_class_name`), or without one that of the tensors. A file without config.json
    takes the scaling factor from its name if that is in `weights.KNOWN`, and else, with 4 channels, Stable Diffusion
    v1's 0.18215.

    Raises
    ------
    FileNotFoundError: no weights. ValueError: unknown name; another class; tensors missing; a 16-channel file by path
    without config.json, which could be SD3's or FLUX's.
    """
    device = pick_device(device)
    resolved = weights.resolve(name if name.startswith("vae:") else f"vae:{name}", allow_mini=allow_mini)
    vae = _freeze(_autoencoder(resolved), device, dtype)
    vae.resolved = resolved
    return vae


def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion 1.x (CLIP ViT-L/14's, 49408 tokens, 77 a text), from open_clip's vocabulary."""
    file = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        # the first line is a comment, and the file goes on after what CLIP uses
        merges = [tuple(line.split()) for line in lines.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=merges,
        model_max_length=77,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )


def single_file_configs(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict]:
    """Configurations ("unet", "vae", "text_encoder") of a Stable Diffusion 1.x file, from the shapes of its tensors.

    Widths and the number of text layers are read from `shapes`; what shapes do not show is as in Stable Diffusion v1:
    4 levels of 2 blocks, attention with 8 heads on the upper three, groups of 32, text heads 64 wide.

    Raises ValueError when a tensor that tells is not there (another architecture, or an autoencoder or UNet alone).
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(f"expected a Stable Diffusion 1.x file in the original format, got none with {name}")
        return shapes[name]

    context = shape(f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")[1]
    positions, hidden = shape(f"{TEXT}embeddings.position_embedding.weight")
    layer = f"{TEXT}encoder.layers."
    num_layers = len({name.removeprefix(layer).split(".")[0] for name in shapes if name.startswith(layer)})
    return {
        "unet": dict(
            _class_name="UNet2DConditionModel",
            sample_size=64,
            layers_per_block=2,
            attention_head_dim=8,
            in_channels=shape(f"{UNET}input_blocks.0.0.weight")[1],
            out_channels=shape(f"{UNET}out.2.weight")[0],
            block_out_channels=[shape(f"{UNET}input_blocks.{n}.0.out_layers.3.weight")[0] for n in (1, 4, 7, 10)],
            cross_attention_dim=context,
        ),
        "vae": dict(_kl_config(shapes, VAE), scaling_factor=0.18215),
        "text_encoder": dict(
            vocab_size=shape(f"{TEXT}embeddings.token_embedding.weight")[0],
            hidden_size=hidden,
            intermediate_size=shape(f"{layer}0.mlp.fc1.weight")[0],
            max_position_embeddings=positions,
            num_hidden_layers=num_layers,
            num_attention_heads=max(1, hidden // 64),
            hidden_act="quick_gelu",
            projection_dim=hidden,
        ),
    }


def _freeze(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    # not diffusers' own `to`, which warns of half precision whether or not there is anything to warn of
    model = nn.Module.to(model.requires_grad_(False).eval(), device, dtype)
    if isinstance(model, (AutoencoderKL, AutoencoderTiny)):  # convolutions over large maps: faster with channels last
        model.to(memory_format=torch.channels_last)
    return model


def _from_folder(folder: Path) -> dict[str, nn.Module | CLIPTokenizer | DDIMScheduler]:
    """The pipeline's parts in a diffusers folder. Not by the pipeline's own `from_pretrained`, which puts random
    numbers where a file lacks tensors."""
    needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    missing = [part for part in needed if not (folder / part).is_dir()]
    if missing:
        raise ValueError(
            f"stable diffusion: {folder} has no {', '.join(missing)}; expected a whole diffusers folder. Download it "
            "again"
        )
    schedule = DDIMScheduler.load_config(folder / "scheduler", local_files_only=True)
    return dict(
        unet=_from_pretrained(UNet2DConditionModel, folder / "unet"),
        vae=_from_pretrained(_autoencoder_class(folder / "vae"), folder / "vae"),
        text_encoder=_from_pretrained(CLIPTextModel, folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        scheduler=DDIMScheduler.from_config(SCHEDULE | schedule),
    )


def _from_pretrained(cls: type[nn.Module], folder: Path) -> nn.Module:
    """A network of diffusers or transformers from its folder; every one of its tensors must be there."""
    # a folder may hold nothing but half precision files, which have a name of their own
    variant = "fp16" if all(".fp16" in file.name for file in weights.network_files(folder)) else None
    try:
        model, info = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, variant=variant
        )
    except (RuntimeError, TypeError, OSError) as error:
        raise ValueError(f"stable diffusion: {folder} is no {cls.__name__} that can be opened: {error}") from error
    _refuse_missing(info["missing_keys"], cls, folder)
    return model


def _from_file(file: Path) -> dict[str, nn.Module | CLIPTokenizer | DDIMScheduler]:
    """The pipeline's parts in a single file of the original format."""
    try:
        configs = single_file_configs(weights.read_header(file))
    except ValueError as error:
        raise ValueError(f"stable diffusion: {file}: {error}") from error
    state = load_file(file)
    text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    # transformers before version 5.6 has this prefix in the names of its parameters, later versions have not
    prefix = "text_model." if hasattr(text_encoder, "text_model") else ""
    renamed = {prefix + name.removeprefix(TEXT): value for name, value in state.items() if name.startswith(TEXT)}
    _refuse_missing(text_encoder.load_state_dict(renamed, strict=False).missing_keys, CLIPTextModel, file)
    return dict(
        unet=_convert(UNet2DConditionModel, configs["unet"], state, UNET, file),
        vae=_convert(AutoencoderKL, configs["vae"], state, VAE, file),
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(**SCHEDULE),
    )


def _convert(cls: type[nn.Module], config: dict, state: Mapping[str, Tensor], prefix: str, file: Path) -> nn.Module:
    """A network of diffusers from tensors of the original format, by diffusers' own table of names."""
    with tempfile.TemporaryDirectory() as folder:  # diffusers takes a folder, or asks the hub for one
        Path(folder, "config.json").write_text(json.dumps({"_class_name": cls.__name__, **config}), encoding="utf-8")
        part = {name: value for name, value in state.items() if name.startswith(prefix)}
        try:
            return cls.from_single_file(part, config=folder, local_files_only=True)
        except (NotImplementedError, RuntimeError, ValueError, KeyError) as error:  # the first: tensors are missing
            raise ValueError(f"stable diffusion: {file} is not a whole {cls.__name__}: {error}") from error


def _autoencoder(resolved: weights.Resolved) -> AutoencoderKL | AutoencoderTiny:
    path = resolved.path
    folder = path if path.is_dir() else path.parent
    # of several files in an autoencoder's folder, config.json describes the one of diffusers
    if (folder / "config.json").is_file() and (path.is_dir() or path.name == "diffusion_pytorch_model.safetensors"):
        return _from_pretrained(_autoencoder_class(folder), folder)
    file = _only_file(path)
    shapes = weights.read_header(file)
    if "decoder.layers.0.weight" in shapes:
        return _from_tensors(AutoencoderTiny, dict(latent_channels=shapes["decoder.layers.0.weight"][1]), file)
    prefix = VAE if f"{VAE}decoder.conv_in.weight" in shapes else ""
    if f"{prefix}decoder.conv_in.weight" not in shapes:
        raise ValueError(
            f"autoencoder: the tensors in {file} are not those of an AutoencoderKL or AutoencoderTiny: expected "
            "decoder.conv_in.weight or decoder.layers.0.weight"
        )
    config = _kl_config(shapes, prefix)
    config |= _latent_scale(resolved.name, config["latent_channels"], file)
    if f"{prefix}decoder.mid.block_1.conv1.weight" in shapes:
        return _convert(AutoencoderKL, config, load_file(file), prefix, file)
    return _from_tensors(AutoencoderKL, config, file)


def _autoencoder_class(folder: Path) -> type[nn.Module]:
    name = weights.read_json(folder / "config.json").get("_class_name")
    if name not in AUTOENCODERS:
        raise ValueError(f"autoencoder: {folder / 'config.json'} says {name!r}, expected {' or '.join(AUTOENCODERS)}")
    return AUTOENCODERS[name]


def _kl_config(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict:
    """Configuration of an AutoencoderKL with 2 blocks a level and groups of 32, by its original or diffusers' names."""
    blocks = [
        f"{prefix}encoder.{block}.conv2.weight"
        for level in range(8)
        for block in (f"down.{level}.block.0", f"down_blocks.{level}.resnets.0")
    ]
    widths = [shapes[block][0] for block in blocks if block in shapes]
    return dict(
        block_out_channels=widths,
        layers_per_block=2,
        sample_size=512,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        latent_channels=shapes[f"{prefix}decoder.conv_in.weight"][1],
        use_quant_conv=f"{prefix}quant_conv.weight" in shapes,
        use_post_quant_conv=f"{prefix}post_quant_conv.weight" in shapes,
    )


def _latent_scale(name: str, channels: int, file: Path) -> dict[str, float | None]:
    scaling, shift = LATENT_SCALES.get(name, (0.18215, None))
    if channels != 4 and name not in LATENT_SCALES:
        raise ValueError(
            f"autoencoder: {file} has {channels} latent channels and no config.json, which would say how they are "
            f"scaled. Put config.json beside it, or give the file under a name: {', '.join(LATENT_SCALES)}"
        )
    return dict(scaling_factor=scaling, shift_factor=shift)


def _from_tensors(cls: type[nn.Module], config: dict, file: Path) -> nn.Module:
    """A network from a file with diffusers' names."""
    model = cls.from_config(config)
    _refuse_missing(model.load_state_dict(_new_attention_names(load_file(file)), strict=False).missing_keys, cls, file)
    return model


def _new_attention_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Autoencoders that were saved before diffusers 0.14 have other names for the parts of their attention."""
    new = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    return {re.sub(r"\.(query|key|value|proj_attn)\.", lambda old: new[old[0]], name): state[name] for name in state}


def _only_file(path: Path) -> Path:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(
            f"stable diffusion: expected a diffusers folder or a single .safetensors file in {path}, found {names}. "
            "Give the path of the file"
        )
    return files[0]


def _refuse_missing(missing: Collection[str], cls: type[nn.Module], path: Path) -> None:
    if missing:
        raise ValueError(
            f"stable diffusion: {path} is not a whole {cls.__name__}: {len(missing)} tensors missing, such as "
            f"{', '.join(sorted(missing)[:3])}. Download it again"
        )


def _refuse_misfits(parts: Mapping[str, nn.Module], path: Path) -> None:
    """Networks that make pictures from something else as well (inpainting, SDXL) open, and fail only when called."""
    unet, vae, text_encoder = (parts[name].config for name in ("unet", "vae", "text_encoder"))
    if (unet.in_channels, unet.cross_attention_dim) != (vae.latent_channels, text_encoder.hidden_size):
        raise ValueError(
            f"stable diffusion: the UNet in {path} takes {unet.in_channels} channels and text features of width "
            f"{unet.cross_attention_dim}, expected {vae.latent_channels} and {text_encoder.hidden_size} as its "
            "autoencoder and text encoder give; an inpainting model or SDXL does not fit here"
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for the second that loading takes."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
