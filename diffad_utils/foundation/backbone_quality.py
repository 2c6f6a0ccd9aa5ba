"""What a backbone is worth: nearest-patch detection on procedural pictures, and its model card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from diffad_utils.foundation.backbone import pool_features, random_crop
from diffad_utils.foundation.pictures import FAMILIES, irregularity, picture


@torch.no_grad()
def extract(backbone: nn.Module, images: Tensor, batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """Features for the two banks: images [B, 3, H, W] in [0, 1] -> (patches [B, P, D], pooled [B, G]).

    patches: strides 4, 8 and 16, each averaged over 3 x 3 positions (PatchCore's local neighbourhood), resized to the
    stride-8 grid and joined; P = H / 8 * W / 8. pooled: `pool_features` of all strides.
    """
    patches, pooled = [], []
    for chunk in images.split(batch_size):
        features = backbone(chunk)
        pooled.append(pool_features(features))
        grid = features[2].shape[-2:]
        local = [F.avg_pool2d(f, 3, stride=1, padding=1, count_include_pad=False) for f in features[1:]]
        joined = torch.cat([F.interpolate(f, grid, mode="bilinear", align_corners=False) for f in local], dim=1)
        patches.append(joined.flatten(2).transpose(1, 2))
    return torch.cat(patches), torch.cat(pooled)


def patch_bank_scores(
    train: Tensor, test: Tensor, *, bank_size: int = 2000, top: float = 0.02, scaled: bool = False, seed: int = 0
) -> Tensor:
    """Image scores [N] from patches: train [M, P, D] normal images, test [N, P, D].

    The bank is a random `bank_size` of the normal training patches. Score: mean over the `top` share of an image's
    patches of the Euclidean distance to the nearest one in the bank. The features enter as they are (PatchCore), or
    with `scaled` each channel divided by its standard deviation over the normal training patches.
    """
    from diffad_utils.kernels import knn

    flat = train.flatten(0, 1)
    scale = flat.std(0) + 1e-6 if scaled else torch.ones(flat.shape[1])
    chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:bank_size]
    distances, _ = knn(test.flatten(0, 1) / scale, flat[chosen] / scale, 1)
    return distances.view(test.shape[:2]).topk(max(1, round(top * test.shape[1])), dim=1).values.mean(1)


def global_bank_scores(train: Tensor, test: Tensor, *, k: int = 5) -> Tensor:
    """Image scores [N] from pooled features: train [M, G] normal images, test [N, G]: mean distance to the
    k nearest training images, each channel scaled by its mean and standard deviation over the training images."""
    from diffad_utils.kernels import knn

    mean, std = train.mean(0), train.std(0) + 1e-6
    return knn((test - mean) / std, (train - mean) / std, k)[0].mean(1)


def bank_scores(backbone: nn.Module, train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Both banks' scores: images [M, 3, H, W] and [N, 3, H, W] in [0, 1] -> {"patches": [N], "whole image": [N]}."""
    train_patches, train_pooled = extract(backbone, train)
    test_patches, test_pooled = extract(backbone, test)
    return {
        "patches": patch_bank_scores(train_patches, test_patches),
        "whole image": global_bank_scores(train_pooled, test_pooled),
    }


def procedural_test(
    seed: int, num_train: int = 40, num_test: int = 40, crop: int = 96, size: int = 320
) -> Iterator[tuple]:
    """One small anomaly-detection problem a family, all from pictures that training never saw.

    Yields (family name, train [num_train, 3, crop, crop], test [num_test, ...], labels [num_test]): crops of the
    upper half of one big picture to learn from, crops of its lower half to judge, every other one spoiled.
    """
    for number, name in enumerate(FAMILIES):
        rng = np.random.default_rng([seed, 77, number])
        image = (255 * picture(rng, size, number).image).astype(np.uint8)
        upper, lower = image[: size // 2], image[size // 2 :]
        other = picture(rng, crop).image
        train = np.stack([random_crop(upper, crop, rng) for _ in range(num_train)])
        test = np.stack([random_crop(lower, crop, rng) for _ in range(num_test)])
        for index in range(0, num_test, 2):
            mask = np.zeros(1, bool)
            while not mask.any():
                spoiled, mask = irregularity(test[index], other, rng)
            test[index] = spoiled
        labels = (np.arange(num_test) % 2 == 0).astype(int)
        yield name, *(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (train, test)), labels


MODEL_CARD = """# resnet-mini

A small feature backbone: timm `{architecture}` with channels 24, 32, 56, 160 at strides 2, 4, 8, 16
({parameters:,} parameters, float32). It stands in for EfficientNet-B4 and ResNet-34 where their weights are not at
hand, so that everything runs anywhere. Results obtained with it are not those of the networks it stands in for.

    from diffad_utils.models.backbones import load_backbone
    features = load_backbone("resnet-mini")(images)  # images [B, 3, H, W] in [0, 1]

## Training

- Data: {num_pictures} procedural pictures of {picture_size} pixels in {num_families} families (`diffad_utils/foundation/backbone.py`), nothing
  photographed, nothing from the `textures` data set or any other that it is judged on.
- Task: mark artificial irregularities at strides 4, 8 and 16; name the family; regress scale and direction; tell
  crops of one picture from crops of others under changing exposure.
- Steps: {steps}, each on {crops} crops of {crop} pixels; AdamW, peak rate {learning_rate}, warm-up and cosine.
- Time: {minutes:.0f} minutes. Device: {device}. Seed: {seed}. torch {torch}, timm {timm}.
- The last step's weights, not selected by any score. Made by `notebooks/00_foundation.ipynb`.
- The task was revised once, after a short first trial that regressed brightness and changed the exposure little:
  it marked unseen irregularities badly, and gained little on real images, solar cells (ELPV) among them.
- SHA-256 of model.safetensors: {sha256}

## On pictures that it was not trained on

Family named rightly: {family_accuracy:.0%} of crops (one in {num_families} by chance). Pixel AUROC of the marked irregularities:
{mark_auroc}.

## As a nearest-neighbour feature bank, against the same network with random weights

I-AUROC on real images and on patterns; trained with a 95 % bootstrap interval over images, random as the mean over
{random_seeds} seeds with the lowest and the highest.

{table}

## Known limits

- It has seen no photograph and no object: it knows textures and local irregularities, not what things are.
- It was trained on small crops ({crop} pixels); structure much larger than that is outside its experience.
- {limits}
- Training on another processor or with another number of threads gives slightly different weights.

Licence: MIT, as the rest of the repository.
"""  # noqa: E501


def model_card(folder: str | Path, facts: dict, comparison: Any, limits: str) -> Path:
    """Write README.md beside the model. facts: the fields of `MODEL_CARD`; comparison: data frame with the columns
    set, bank, trained, low, high, random, random_low, random_high; limits: one sentence on where it is no better."""
    rows = ["| data | bank | trained | random |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {r.set} | {r.bank} | {r.trained:.3f} ({r.low:.3f} to {r.high:.3f}) | "
        f"{r.random:.3f} ({r.random_low:.3f} to {r.random_high:.3f}) |"
        for r in comparison.itertuples()
    ]
    file = Path(folder) / "README.md"
    file.write_text(MODEL_CARD.format(**facts, table="\n".join(rows), limits=limits), encoding="utf-8")
    return file


def file_sha256(file: str | Path) -> str:
    """SHA-256 (hex) of one file, as `sha256sum` prints it."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def rows_without_gain(comparison: Any) -> str:
    """One sentence for the card: the rows in which a random network lies within or above the trained one's interval."""
    rows = [f"{r.set} ({r.bank})" for r in comparison.itertuples() if r.low <= r.random_high]
    if not rows:
        return "In every row above it is clearly better than every random network; that is no promise for other data."
    return f"Not clearly better than the best random network (interval over images) on: {', '.join(rows)}."


def compare(
    trained: nn.Module, untrained: list[nn.Module], train: Tensor, test: Tensor, labels: ArrayLike, *, seed: int = 0
) -> list[dict]:
    """I-AUROC of both banks on one data set: list of one dict a bank, with the columns of `model_card`'s comparison
    (without "set"). The interval is a bootstrap over the test images; random_low and random_high are over networks."""
    from diffad_utils.metrics import bootstrap_interval, image_auroc

    scores = {bank: s.numpy() for bank, s in bank_scores(trained, train, test).items()}
    others = [
        {bank: image_auroc(s.numpy(), labels) for bank, s in bank_scores(net, train, test).items()} for net in untrained
    ]
    rows = []
    for bank, values in scores.items():
        low, high = bootstrap_interval(image_auroc, values, labels, seed=seed)
        random = [row[bank] for row in others]
        rows.append(
            {
                "bank": bank,
                "trained": image_auroc(values, labels),
                "low": low,
                "high": high,
                "random": float(np.mean(random)),
                "random_low": min(random),
                "random_high": max(random),
            }
        )
    return rows


def sampled(
    dataset: str, category: str, *, size: int = 128, train_images: int = 150, test_images: int = 150, seed: int = 0
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Images to compare on: (train [M, 3, size, size], test [N, 3, size, size], labels [N]), at most `train_images`
    normal training images and `test_images` of each class of the test split, chosen by the seed."""
    from diffad_utils import data

    index = data.load_index(dataset, category=category, seed=seed)
    test = index[index.split == "test"]
    chosen = [index[index.split == "train"], test[test.label == 0], test[test.label == 1]]
    limits = (train_images, test_images, test_images)
    parts = [part.sample(min(limit, len(part)), random_state=seed) for part, limit in zip(chosen, limits, strict=True)]
    stacked = [data.load_batch(data.ImageDataset(part.reset_index(drop=True), size=size))["image"] for part in parts]
    labels = np.repeat([0, 1], [len(stacked[1]), len(stacked[2])])
    return stacked[0], torch.cat(stacked[1:]), labels
