"""The one small UNet of the study, as diffusers builds it: of ESM, DDAD and D3AD, the pixel DDPM, the latent UNet.

What may be touched: nothing that changes the order in which weights are drawn, or every trained network changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel


def small_unet(
    channels: int,
    image_size: int,
    block_out_channels: Sequence[int],
    layers_per_block: int = 1,
    attention_levels: Sequence[int] = (),
    out_channels: int | None = None,
    seed: int = 0,
    *,
    groups: int | None = None,
) -> UNet2DModel:
    """A UNet from x_t and t to a tensor of its size, drawn from ``seed`` without touching torch's global generator.

    Parameters
    ----------
    channels, image_size : of x_t [B, channels, image_size, image_size].
    block_out_channels : widths from fine to coarse, each a multiple of ``groups``.
    attention_levels : positions in it with self-attention; where there are any, the middle block has it, too.
    out_channels : None for ``channels``.
    groups : of the group normalisation; None for 32 where every width is at least 128, else 8.

    Raises ``ValueError`` if ``image_size`` is no multiple of 2 for each level but the first, or for widths that cannot
    be normalised in groups.
    """
    widths, levels = tuple(block_out_channels), len(block_out_channels)
    step = 2 ** (levels - 1)
    groups = groups or (32 if min(widths) >= 128 else 8)
    if image_size % step:
        raise ValueError(f"{levels} levels need sides that are multiples of {step}, got {image_size}")
    if any(width % groups for width in widths) or not set(attention_levels) <= set(range(levels)):
        raise ValueError(
            f"block_out_channels must be multiples of {groups} and attention_levels positions in it, got "
            f"{[*widths]} and {[*attention_levels]}"
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
            block_out_channels=widths,
            add_attention=bool(attention_levels),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        )
