"""The small UNets of the study, as diffusers builds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel


def score_unet(
    channels: int,
    image_size: int,
    block_out_channels: Sequence[int],
    layers_per_block: int = 1,
    attention_levels: Sequence[int] = (),
    out_channels: int | None = None,
    seed: int = 0,
) -> UNet2DModel:
    """A UNet from X_t and t to a tensor of its size, initialised from ``seed`` without touching torch's global
    generator.

    block_out_channels : widths from fine to coarse, each a multiple of 8 (of 32 from 128 on). attention_levels :
        positions in it
    with self-attention. Raises ``ValueError`` if ``image_size`` is no multiple of 2 for each level but the first, or
    for widths that cannot be normalised in groups.
    """
    levels, step = len(block_out_channels), 2 ** (len(block_out_channels) - 1)
    groups = 32 if min(block_out_channels) >= 128 else 8
    if image_size % step:
        raise ValueError(f"{levels} levels need sides that are multiples of {step}, got {image_size}")
    if any(width % groups for width in block_out_channels) or not set(attention_levels) <= set(range(levels)):
        raise ValueError(
            f"block_out_channels must be multiples of {groups} and attention_levels positions in it, got "
            f"{[*block_out_channels]} "
            f"and {[*attention_levels]}"
        )
    kinds = ["Attn" if level in attention_levels else "" for level in range(levels)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=image_size,
            in_channels=channels,
            out_channels=out_channels or channels,
            layers_per_block=layers_per_block,
            norm_num_groups=groups,
            block_out_channels=tuple(block_out_channels),
            add_attention=bool(attention_levels),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        )
