"""What the small models are worth: the measurements that stand in their model cards.

Everything is measured on `textures` images, whose materials and random streams training never drew, or on the models'
own samples. Arrays of pictures are uint8 [N, 128, 128, 3] unless said otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image, DiffusionPipeline
from open_clip.model import CLIP
from torch import Tensor, nn

from diffad_utils.data import textures
from diffad_utils.data.captions import caption
from diffad_utils.foundation.backbone_quality import sampled
from diffad_utils.metrics import bootstrap_interval, image_auroc
from diffad_utils.metrics.bootstrap import mean_interval

from . import autoencoder, clip
from .captioned import FAMILIES, to_tensor


def normal_images(category: str, count: int, seed: int = 0, size: int = 128) -> np.ndarray:
    """The first `count` normal test images of a category of `textures`."""
    drawn = [textures.render(category, "test", i, seed=seed, size=size).image for i in range(count)]
    return np.rint(255 * np.stack(drawn)).astype(np.uint8)


def labelled_images(
    category: str, normal: int = 40, anomalous: int = 60, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Test images of a category of `textures` and their labels [N], in the index's proportions of defects."""
    table = textures.index(category, seed=seed, train=0, test_good=normal, test_anomalous=anomalous)
    images = np.stack([textures.load_key(key, 128) for key in table.image])
    return np.rint(255 * images).astype(np.uint8), table.label.to_numpy()


def autoencoder_quality(vae: Any, count: int = 40, tile: int = 64) -> pd.DataFrame:
    """What Dec(Enc(x)) does to normal test images, a row a category.

    psnr: PSNR in dB, mean over images, with low and high, its 95 % interval, and lowest. tiles: the mean PSNR of the
    same images as tiles of `tile` pixels, each a picture of its own; gap: psnr - tiles. red, green, blue: the colour
    cast, the mean of Dec(Enc(x)) - x over all pixels and images, in grey levels of 255. colour: root mean square over
    channels of the error of an image's mean colour, mean over images, in grey levels; unlike the cast it also sees
    errors whose sign changes from image to image.
    """
    rows = []
    for category in FAMILIES:
        images = normal_images(category, count)
        decoded = autoencoder.reconstruct(vae, images)
        values = autoencoder.psnr(images / 255, decoded)
        _, low, high = mean_interval(values, n=2000)
        tiled = autoencoder.psnr(images / 255, as_tiles(images, tile, lambda part: autoencoder.reconstruct(vae, part)))
        row = {"category": category, "psnr": values.mean(), "low": low, "high": high, "lowest": values.min()}
        row |= {"tiles": tiled.mean(), "gap": values.mean() - tiled.mean()}
        rows.append(row | _colour_error(images, decoded))
    return pd.DataFrame(rows)


def autoencoder_by_size(vae: Any, sizes: Sequence[int] = (64, 96, 128, 192, 256), count: int = 10) -> pd.DataFrame:
    """Dec(Enc(x)) of normal test images drawn at other sizes (the scene is the same), a row a size.

    psnr in dB and red, green, blue in grey levels: means over images and categories; largest: the largest absolute
    cast of a category in a channel.
    """
    rows = []
    for size in sizes:
        errors, values = [], []
        for category in FAMILIES:
            images = normal_images(category, count, size=size)
            decoded = autoencoder.reconstruct(vae, images)
            values.append(autoencoder.psnr(images / 255, decoded).mean())
            errors.append(list(_colour_error(images, decoded).values())[:3])
        red, green, blue = np.mean(errors, axis=0)
        largest = np.abs(errors).max()
        rows.append(
            {"size": size, "psnr": np.mean(values), "red": red, "green": green, "blue": blue, "largest": largest}
        )
    return pd.DataFrame(rows)


def autoencoder_on_photographs(vae: Any, count: int = 40) -> dict[str, float]:
    """psnr, red, green, blue and colour of `autoencoder_quality` on normal test images of ELPV's monocrystalline solar
    cells, at most `count`: grey photographs, unlike anything in training."""
    _, test, labels = sampled("elpv", "mono", train_images=1, test_images=count)
    images = np.rint(255 * test[labels == 0].permute(0, 2, 3, 1).numpy()).astype(np.uint8)
    decoded = autoencoder.reconstruct(vae, images)
    return {"psnr": autoencoder.psnr(images / 255, decoded).mean()} | _colour_error(images, decoded)


def statistics_of_tiles(vae: Any, count: int = 8, tile: int = 64) -> pd.DataFrame:
    """Whether group normalisation makes what comes out depend on the size of the picture, a row a category.

    whole, tiles: mean PSNR in dB of Dec(Enc(x)) on normal test images and on the same as tiles. borrowed: of whole
    images, but every normalisation takes mean and variance from the tiles of the same image instead of from the image.
    """
    rows = []
    for category in FAMILIES:
        images = normal_images(category, count)
        taken: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def keep(norm, inputs, output, taken=taken):
            groups = inputs[0].reshape(count, -1, norm.num_groups, inputs[0][0].numel() // norm.num_groups)
            taken[norm] = groups.mean((1, 3)), groups.var((1, 3), unbiased=False)

        def use(norm, inputs, output, taken=taken):
            mean, var = (value[..., None] for value in taken[norm])
            normal = (inputs[0].reshape(count, norm.num_groups, -1) - mean) / torch.sqrt(var + norm.eps)
            return normal.reshape(inputs[0].shape) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)

        def decoded(part, hook=None):
            norms = [module for module in vae.modules() if isinstance(module, nn.GroupNorm)]
            handles = [norm.register_forward_hook(hook) for norm in norms if hook]
            out = autoencoder.reconstruct(vae, part, batch_size=len(part))
            for handle in handles:
                handle.remove()
            return out

        tiled = as_tiles(images, tile, functools.partial(decoded, hook=keep))
        ways = {"whole": decoded(images), "tiles": tiled, "borrowed": decoded(images, use)}
        row = {name: autoencoder.psnr(images / 255, out).mean() for name, out in ways.items()}
        rows.append({"category": category} | row)
    return pd.DataFrame(rows)


def as_tiles(images: np.ndarray, tile: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`change` of the square tiles of pictures [N, S, S, 3], put together again; S is a multiple of `tile`."""
    n, size = images.shape[:2]
    grid = (n, size // tile, tile, size // tile, tile, 3)
    tiles = images.reshape(grid).swapaxes(2, 3).reshape(-1, tile, tile, 3)
    changed = change(tiles).reshape(n, size // tile, size // tile, tile, tile, 3)
    return changed.swapaxes(2, 3).reshape(images.shape)


def _colour_error(images: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """red, green, blue and colour of `autoencoder_quality`: pictures uint8 and float in [0, 1], [N, S, S, 3]."""
    error = (255 * decoded - images).mean((1, 2))
    red, green, blue = error.mean(0).tolist()
    return {"red": red, "green": green, "blue": blue, "colour": np.sqrt(np.square(error).mean(1)).mean()}


def latent_std(vae: Any, count: int = 40) -> list[float]:
    """Standard deviation of each scaled latent channel over the normal test images of all categories."""
    images = np.concatenate([normal_images(category, count) for category in FAMILIES])
    return autoencoder.encode(vae, images).std((0, 2, 3)).tolist()


def clip_quality(model: CLIP, normal: int = 40, anomalous: int = 60) -> pd.DataFrame:
    """Zero-shot CLIP on test images, a row a category: share of normal images whose family is named rightly, and
    I-AUROC of "with a <defect>" against "flawless" with its 95 % interval."""
    rows = []
    for number, category in enumerate(FAMILIES):
        images, labels = labelled_images(category, normal, anomalous)
        named = clip.name_families(model, images[labels == 0])
        scores = clip.zero_shot_scores(model, images, category)
        low, high = bootstrap_interval(image_auroc, scores, labels, seed=0)
        rows.append(
            {
                "category": category,
                "family_accuracy": (named == number).mean(),
                "I-AUROC": image_auroc(scores, labels),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


@torch.no_grad()
def sample(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    *,
    guidance_scale: float = 5.0,
    num_inference_steps: int = 30,
    seed: int = 0,
    batch_size: int = 16,
) -> np.ndarray:
    """One picture a prompt by text-to-image; sample i starts from noise drawn from (seed, i) alone."""
    text_to_image = _quiet(AutoPipelineForText2Image.from_pipe(pipeline))
    channels, side = pipeline.unet.config.in_channels, pipeline.unet.config.sample_size
    noise = [
        torch.randn(channels, side, side, generator=torch.Generator().manual_seed(1000 * seed + i))
        for i in range(len(prompts))
    ]
    parts = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        parts.append(
            text_to_image(
                prompt=prompts[part],
                latents=torch.stack(noise[part]).to(pipeline.unet.device, pipeline.unet.dtype),
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                output_type="np",
                height=8 * side,
                width=8 * side,
            ).images
        )
    return np.rint(255 * np.concatenate(parts)).astype(np.uint8)


def _quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_families(
    pipeline: Any, model: CLIP, per_family: int = 10, **options: Any
) -> tuple[np.ndarray, pd.DataFrame]:
    """`per_family` samples of "a flawless <family>" for each family, and how many CLIP names rightly.

    Returns the pictures, family by family, and a table with family, accuracy and similarity, the mean cosine between
    the pictures and their prompt.
    """
    prompts = [caption(family, "good") for family in FAMILIES for _ in range(per_family)]
    images = sample(pipeline, prompts, **options)
    named = clip.name_families(model, images).reshape(-1, per_family)
    cosine = (clip.image_features(model, images) * clip.text_features(model, prompts)).sum(1).reshape(-1, per_family)
    right = (named == np.arange(len(FAMILIES))[:, None]).mean(1)
    return images, pd.DataFrame({"family": FAMILIES, "accuracy": right, "similarity": cosine.mean(1).numpy()})


@torch.no_grad()
def image_to_image(
    pipeline: Any,
    images: np.ndarray,
    prompts: list[str],
    *,
    strength: float,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 30,
    seed: int = 0,
    batch_size: int = 16,
) -> np.ndarray:
    """img2img of each picture; picture i gets noise drawn from (seed, i) alone. float32 [N, S, S, 3] in [0, 1]."""
    img2img = _quiet(AutoPipelineForImage2Image.from_pipe(pipeline))
    parts = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        numbers = range(start, min(start + batch_size, len(images)))
        parts.append(
            img2img(
                prompt=prompts[part],
                image=to_tensor(images[part]).add(1).div(2),
                strength=strength,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                output_type="np",
                generator=[torch.Generator().manual_seed(1000 * seed + i) for i in numbers],
            ).images
        )
    return np.concatenate(parts)


def strength_sweep(
    pipeline: Any, model: CLIP, strengths: Sequence[float], per_family: int = 4, **options: Any
) -> pd.DataFrame:
    """img2img of normal test images over strengths, a row each: psnr to the input (mean, 95 % interval), psnr to the
    VAE's own reconstruction, and the share of pictures whose family CLIP still names rightly."""
    images = np.concatenate([normal_images(family, per_family) for family in FAMILIES])
    prompts = [caption(family, "good") for family in FAMILIES for _ in range(per_family)]
    family = np.repeat(np.arange(len(FAMILIES)), per_family)
    decoded = autoencoder.reconstruct(pipeline.vae, images)
    rows = []
    for strength in strengths:
        changed = image_to_image(pipeline, images, prompts, strength=strength, **options)
        values = autoencoder.psnr(images / 255, changed)
        _, low, high = mean_interval(values, n=2000)
        named = clip.name_families(model, np.rint(255 * changed).astype(np.uint8))
        rows.append(
            {
                "strength": strength,
                "psnr": values.mean(),
                "low": low,
                "high": high,
                "psnr_to_vae": autoencoder.psnr(decoded, changed).mean(),
                "family_kept": (named == family).mean(),
                "n": len(images),
            }
        )
    return pd.DataFrame(rows)
