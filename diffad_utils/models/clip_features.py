"""What detectors take from CLIP: embeddings of images and of patches."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from diffad_utils.models.clip import Clip, load_clip, resize


class ClipFeatures(NamedTuple):
    """Unit features of B images on the CPU: ``image`` float32 [B, D], ``patches`` float32 [B, C, h, w]."""

    image: Tensor
    patches: Tensor


def load_clip_for(name: str, image_size: int, *, device: str = "auto", allow_mini: bool = False) -> Clip:
    """`models.clip.load_clip`, refusing a CLIP that takes larger images than there are.

    Images are made smaller for CLIP where they are larger; enlarging them would only pretend to show it more.
    Raises ``ValueError`` if ``image_size`` is less than the side that this CLIP takes.
    """
    clip = load_clip(name, device=device, allow_mini=allow_mini)
    side = input_side(clip)
    if image_size < side:
        raise ValueError(
            f"{name} takes images of {side} x {side} pixels, but image_size is {image_size}: use image_size={side} or "
            "more, or a CLIP for smaller images such as 'clip-mini'"
        )
    return clip


def input_side(clip: Clip) -> int:
    """The side in pixels of the square that this CLIP takes."""
    size = clip.model.visual.preprocess_cfg["size"]
    return size if isinstance(size, int) else size[0]


def clip_input(clip: Clip, images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] resized and normalised as `Clip.encode_images` does: [B, 3, S, S]."""
    config, images = clip.model.visual.preprocess_cfg, images.to(clip.device, torch.float32)
    images = resize(images, input_side(clip), config["resize_mode"], config["interpolation"])
    mean, std = (images.new_tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


@torch.inference_mode()
def clip_features(clip: Clip, images: Tensor) -> ClipFeatures:
    """Image and patch features of images float [B, 3, H, W] in [0, 1], in one pass.

    Patches are the last tokens of a vision transformer, normalised by its final layer; of a network whose maps shrink,
    the last but one stage's, which is less coarse (PatchCore, section 3.1).
    """
    output = clip.model.visual.forward_intermediates(clip_input(clip, images), normalize_intermediates=True)
    maps = output["image_intermediates"]
    shrinks = len(maps) > 1 and maps[-1].shape[-1] < maps[-2].shape[-1]
    features = output["image_features"], maps[-2] if shrinks else maps[-1]
    return ClipFeatures(*(F.normalize(f.float(), dim=1).cpu() for f in features))


def clip_features_of_both(clip: Clip, x: Tensor, x_hat: Tensor) -> tuple[ClipFeatures, ClipFeatures]:
    """`clip_features` of images and of their reconstructions, both [B, 3, H, W], in one pass."""
    image, patches = (f.chunk(2) for f in clip_features(clip, torch.cat([x, x_hat])))
    return ClipFeatures(image[0], patches[0]), ClipFeatures(image[1], patches[1])


@torch.inference_mode()
def dense_features(clip: Clip, images: Tensor) -> Tensor | None:
    """Unit features of patches in the space of texts, float32 [B, D, h, w] on the CPU; None for other than open_clip's
    own vision transformers and ResNets.

    MaskCLIP's (Zhou et al., ECCV 2022, section 3.1): in the last attention every position keeps its own value
    instead of gathering those of others. Images float [B, 3, H, W] in [0, 1].
    """
    visual, x = clip.model.visual, clip_input(clip, images)
    maps = visual.forward_intermediates(x, intermediates_only=True)["image_intermediates"]
    if isinstance(visual, ModifiedResNet):
        pool = visual.attnpool
        dense = pool.c_proj(pool.v_proj(maps[-1].permute(0, 2, 3, 1)))
    elif isinstance(visual, VisionTransformer) and isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock):
        block, tokens = visual.transformer.resblocks[-1], maps[-2].permute(0, 2, 3, 1)
        width = tokens.shape[-1]
        value = F.linear(block.ln_1(tokens), block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:])
        tokens = tokens + block.ls_1(block.attn.out_proj(value))
        tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        dense = visual.ln_post(tokens) @ visual.proj
    else:
        return None
    return F.normalize(dense.float(), dim=-1).permute(0, 3, 1, 2).cpu()
