"""LoRA adapters in the networks of a pipeline: files in diffusers' format, numbers of parameters, checksums.

Training one is `lora`'s. The files are those of diffusers' own scripts, in both directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

ADAPTER = "lora"
"""Name of the adapter in the networks; files do not have it."""


FILE = "pytorch_lora_weights.safetensors"
"""Name of diffusers' file."""


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Attention projections of the UNet, self- and cross-attention, by diffusers' names."""


TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Those of the text encoder, by transformers' names."""


SD15_UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
"""Stable Diffusion v1.5's UNet, where it differs from the defaults of diffusers' class."""


def save_adapter(pipeline: StableDiffusionImg2ImgPipeline, folder: str | Path) -> Path:
    """Write the pipeline's adapter in diffusers' format, for ``load_lora_weights(folder)``: the file's path.

    Rank, alpha and dropout go into the file's metadata, so that an alpha that is not the rank survives.
    """
    layers = {}
    for name in ("unet", "text_encoder"):
        network = getattr(pipeline, name)
        if ADAPTER in getattr(network, "peft_config", {}):
            state = get_peft_model_state_dict(network, adapter_name=ADAPTER)
            layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
            layers[f"{name}_lora_adapter_metadata"] = network.peft_config[ADAPTER].to_dict()
    StableDiffusionImg2ImgPipeline.save_lora_weights(str(folder), **layers)
    return Path(folder) / FILE


def load_adapter(pipeline: StableDiffusionImg2ImgPipeline, path: str | Path) -> None:
    """Put a LoRA into the pipeline's networks: a safetensors file, or a folder with one, of diffusers, peft or kohya.

    Raises ``FileNotFoundError`` if it is absent, ``ValueError`` if it does not fit the networks.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found: give a LoRA's safetensors file, or a folder that holds {FILE}")
    file = path if path.is_file() else next(iter([*path.glob(FILE), *sorted(path.glob("*.safetensors"))]), path / FILE)
    folder, place = file.parent, {"weight_name": file.name}  # named: diffusers before 0.38 does not guess when offline
    try:
        state, alphas, metadata = pipeline.lora_state_dict(
            str(folder), use_safetensors=True, local_files_only=True, return_lora_metadata=True, **place
        )
        parts = {name.partition(".")[0] for name in state}
        if not parts or parts - {"unet", "text_encoder"} or not all("lora" in name for name in state):
            raise ValueError("expected tensors of a LoRA, named unet.... or text_encoder....")
        options = dict(network_alphas=alphas, metadata=metadata, adapter_name=ADAPTER, _pipeline=pipeline)
        if "unet" in parts:
            pipeline.load_lora_into_unet(state, unet=pipeline.unet, **options)
        if "text_encoder" in parts:
            pipeline.load_lora_into_text_encoder(state, text_encoder=pipeline.text_encoder, **options)
    except (RuntimeError, OSError, IndexError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no LoRA for these networks: {error}") from error


class Counts(NamedTuple):
    """Numbers of parameters: of the adapter, and of the network without it."""

    lora: int
    base: int

    @property
    def share(self) -> float:
        """The adapter's parameters over the network's own."""
        return self.lora / self.base


def parameter_counts(network: nn.Module) -> Counts:
    """Parameters of the adapters in a network, and of the network itself."""
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    lora = sum(size for name, size in sizes.items() if ".lora_" in name)
    return Counts(lora, sum(sizes.values()) - lora)


def planned_counts(unet: Mapping[str, Any], rank: int, target_modules: Sequence[str] = ATTENTION) -> Counts:
    """`parameter_counts` of a UNet by its configuration, such as `SD15_UNET`: without its weights or their memory."""
    with torch.device("meta"):
        network = UNet2DConditionModel(**unet)
        network.add_adapter(LoraConfig(r=rank, target_modules=list(target_modules)), adapter_name=ADAPTER)
    return parameter_counts(network)


def base_checksum(network: nn.Module) -> str:
    """SHA-256 over the names, types and bytes of a network's own weights, whether adapters are in it or not."""
    digest = hashlib.sha256()
    state = {
        name.replace(".base_layer", ""): value for name, value in network.state_dict().items() if ".lora_" not in name
    }
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
