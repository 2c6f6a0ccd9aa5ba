"""What every training of a profile takes of a GPU's memory, computed without one.

    python workflow/memory.py [kaggle] [--limit 14]

The networks are built on torch's device `meta`, which has shapes and no numbers, with the sizes of the profile, and run
forward once: what autograd keeps for the way back is counted. Added are weights, gradients, AdamW's two moments and the
moving average of what is trained, the frozen networks, the two largest tensors once more as working memory, and 0.7 GB
for CUDA itself. Attention keeps its inputs and its output, as torch's fused kernels do. Half precision counts two bytes
a kept element, and the trained weights twice. One `GB` is 2^30 bytes; a T4 has 14.6 of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffad_utils import study
from diffad_utils.execution import profiles
from diffad_utils.methods.autoencoder import LARGEST_CROP
from diffad_utils.methods.invad.feature_dit import FeatureDiT
from diffad_utils.models.unet import small_unet

CUDA_CONTEXT = 0.7 * 2**30
LIMIT = 14.0  # GB
KL_LEVELS = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    sample_size=512,
)


class _FusedAttention(torch.autograd.Function):
    """Attention as the fused kernels do it: the matrix of all pairs is never kept."""

    @staticmethod
    def forward(context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        context.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _fused_attention():
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, *args, **options: _FusedAttention.apply(q, k, v)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


@dataclass
class Training:
    """One training on device ``meta``: ``forward`` gives the loss, or what it is computed from.

    trained, frozen : the networks. ema : whether a moving average is kept. half : autocast to two bytes.
    """

    forward: Callable[[], Tensor]
    trained: nn.Module
    frozen: list[nn.Module]
    ema: bool = True
    half: bool = False


def training_bytes(training: Training) -> float:
    """Peak bytes of one optimiser step: see the head of this file."""
    trained, frozen, half = training.trained, training.frozen, training.half
    kept: dict[int, Tensor] = {}
    own = {p.untyped_storage()._cdata for module in (trained, *frozen) for p in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with _fused_attention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = training.forward()
    sizes = sorted((tensor.untyped_storage().nbytes() for tensor in kept.values()), reverse=True)
    share = 0.5 if half else 1.0
    every = sum(p.numel() for p in trained.parameters())
    learned = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    weights = (
        4 * every + 4 * learned * (4 if training.ema else 3) + (2 * every if half else 0)
    )  # gradients, two moments, average
    others = sum(p.numel() for module in frozen for p in module.parameters()) * (2 if half else 4)
    del output
    return CUDA_CONTEXT + weights + others + share * (sum(sizes) + 2 * sum(sizes[:1]))


def _meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, device="meta")


def _steps(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64, device="meta")


def latent_unet(p: dict) -> Training:
    """02: the small UNet on the latents, through the frozen decoder."""
    batch, side = p.get("latent_unet_batch_size", 4), p["image_size"] // 8
    widths, blocks = (64, 128), (("DownBlock2D",) * 2, ("UpBlock2D",) * 2)
    unet = _meta(
        lambda: UNet2DModel(
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            add_attention=False,
            block_out_channels=widths,
            down_block_types=blocks[0],
            up_block_types=blocks[1],
        )
    )
    vae = _meta(lambda: AutoencoderKL(**KL_LEVELS)).requires_grad_(False)
    z = _zeros(batch, 4, side, side)
    half = p.get("mixed_precision", "no") != "no"
    return Training(lambda: vae.decode(z + unet(z, 0, return_dict=False)[0]).sample, unet, [vae], half=half)


def pixel_ddpm(p: dict) -> Training:
    """02: Google's DDPM, its inner blocks fine-tuned."""
    batch, side = p.get("pixel_ddpm_batch_size", 8), p["pixel_ddpm_size"]
    kinds = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
    kinds[0][4], kinds[1][1] = "AttnDownBlock2D", "AttnUpBlock2D"
    widths = (128, 128, 256, 256, 512, 512)
    unet = _meta(
        lambda: UNet2DModel(
            block_out_channels=widths,
            layers_per_block=2,
            down_block_types=kinds[0],
            up_block_types=kinds[1],
            norm_num_groups=32,
        )
    ).requires_grad_(False)
    for part in (unet.down_blocks[3], unet.mid_block, unet.up_blocks[2], unet.up_blocks[3]):
        part.requires_grad_(True)
    return Training(lambda: unet(_zeros(batch, 3, side, side), _steps(batch)).sample, unet, [])


def plain_autoencoder(p: dict) -> Training:
    """02: Stable Diffusion's autoencoder, trained as a whole on crops; three a step."""
    side = min(p["image_size"], LARGEST_CROP)
    vae = _meta(lambda: AutoencoderKL(**KL_LEVELS))
    images = _zeros(3, 3, side, side)
    half = p.get("mixed_precision", "no") != "no"
    return Training(lambda: vae.decode(vae.encode(images).latent_dist.mean).sample, vae, [], half=half)


def lora(p: dict) -> Training:
    """04: an adapter of Stable Diffusion's UNet; without gradient checkpointing, so the profile's takes less."""
    from peft import LoraConfig

    batch, side = p["train_batch_size"], p["image_size"] // 8
    unet = _meta(lambda: UNet2DConditionModel(cross_attention_dim=768, sample_size=64)).requires_grad_(False)
    targets = p["target_modules"]
    unet.add_adapter(LoraConfig(r=max([p["rank"], *p["ranks"]]), target_modules=targets, init_lora_weights=False))
    vae = _meta(lambda: AutoencoderKL(**KL_LEVELS)).requires_grad_(False)
    text = _zeros(batch, 77, 768)
    half = p["mixed_precision"] != "no"
    return Training(
        lambda: unet(_zeros(batch, 4, side, side), _steps(batch), text).sample, unet, [vae], ema=False, half=half
    )


def esm(p: dict) -> Training:
    """05: both streams of ESM in pixel space."""
    batch, side = p["train_batch_size"], p["image_size"]
    shape = (3, side, p["block_out_channels"], p["layers_per_block"], p["attention_levels"])
    streams = _meta(lambda: nn.ModuleList([small_unet(*shape), small_unet(*shape)]))
    x = _zeros(batch, 3, side, side)
    half = p.get("mixed_precision", "no") != "no"
    return Training(
        lambda: sum(stream(x, _steps(batch), return_dict=False)[0] for stream in streams), streams, [], half=half
    )


def _conditioned_unet(
    p: dict, channels: int, side: int, widths: list[int], attention: list[int], layers: int
) -> Training:
    is_attended = [side // 2**level in attention for level in range(len(widths))]
    unet = _meta(
        lambda: UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=tuple(widths),
            norm_num_groups=8,
            add_attention=any(is_attended),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in is_attended),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(is_attended)),
        )
    )
    batch = p["train_batch_size"]
    return Training(lambda: unet(_zeros(batch, channels, side, side), _steps(batch)).sample, unet, [])


def d3ad(p: dict) -> Training:
    """06: the UNet on latents."""
    side = p["image_size"] // 8
    return _conditioned_unet(p, 4, side, p["block_out_channels"], p["attention_resolutions"], p["layers_per_block"])


def ddad(p: dict) -> Training:
    """06: DDAD's UNet on pixels."""
    return _conditioned_unet(p, 3, p["ddad_size"], p["ddad_channels"], [], 1)


def adaptation(p: dict) -> Training:
    """06: domain adaptation of the feature extractor, through images and their reconstructions."""
    batch, side = p["train_batch_size"], p["image_size"]
    net = _meta(lambda: timm.create_model("resnet34", features_only=True))
    images = _zeros(2 * batch, 3, side, side)
    return Training(lambda: sum(f.sum() for f in net(images)), net, [net], ema=False)


def invad(p: dict) -> Training:
    """07: the denoiser of features."""
    batch, grid = p["train_batch_size"], p["grid"]
    channels = {"efficientnet-b4": 272, "efficientnet-lite0": 192}.get(p["backbone"], 512)
    net = _meta(lambda: FeatureDiT(channels, grid, p["width"], p["depth"], p["num_heads"]))
    return Training(lambda: net(_zeros(batch, channels, grid, grid), _steps(batch)), net, [])


TRAININGS = {
    "02_vae_bottleneck": (latent_unet, pixel_ddpm, plain_autoencoder),
    "04_lora": (lora,),
    "05_esm": (esm,),
    "06_d3ad": (d3ad, ddad, adaptation),
    "07_invad": (invad,),
}


def table(profile: str) -> list[tuple[str, str, float]]:
    """(notebook, training, GB) of every training of a profile, with its largest sizes over the grid."""
    plan = profiles.load_plan(profile)
    largest: dict[tuple[str, str], float] = {}
    for run in plan.runs:
        parameters = study.notebook_parameters(run.notebook) | run.parameters
        sizes = str(sorted((k, str(v)) for k, v in parameters.items() if k not in ("category", "seed", "dataset")))
        for training in TRAININGS.get(run.notebook.stem, ()):
            key = (run.notebook.stem, training.__name__, sizes)
            if key not in largest:
                largest[key] = training_bytes(training(parameters)) / 2**30
    found: dict[tuple[str, str], float] = {}
    for (notebook, training, _), size in largest.items():
        found[notebook, training] = max(found.get((notebook, training), 0.0), size)
    return [(notebook, training, size) for (notebook, training), size in found.items()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="kaggle")
    parser.add_argument("--limit", type=float, default=LIMIT, help="GB that a training may take (default %(default)g)")
    options = parser.parse_args(arguments)
    print("| notebook | training | GB |\n| --- | --- | --- |")
    rows = table(options.profile)
    for notebook, training, size in rows:
        print(f"| {notebook} | {training} | {size:.1f}{' **too much**' if size > options.limit else ''} |")
    return 1 if any(size > options.limit for _, _, size in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
