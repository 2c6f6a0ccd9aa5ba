"""Pretraining of the shipped feature backbone, data/mini/resnet, on procedural pictures only.

Three things are here, in the order in which `notebooks/00_foundation.ipynb` uses them:

- pictures: twelve families of random patterns (`picture`) and local irregularities in them (`irregularity`). They
  share no code and no parameters with the `textures` data set, whose categories stay unseen.
- training: one timm network with several small heads. Locally it marks the irregularities at strides 4, 8 and 16
  with one linear layer each, so that what is out of place is linearly visible in the features; globally it names the
  family, regresses scale and direction, and tells two crops of one picture from crops of the others.
- comparison: nearest-neighbour feature banks (`patch_bank_scores`, `global_bank_scores`), the simplest detectors that
  stand on nothing but the features, to hold the trained network against the same network with random weights.

Sources of the ideas: pasted irregularities as a training signal, CutPaste (Li et al., CVPR 2021) and DRAEM (Zavrtanik
et al., ICCV 2021); features from procedural pictures, Baradad et al. ("Learning to see by looking at noise", NeurIPS
2021); the contrastive term, SimCLR (Chen et al., ICML 2020); the patch bank, PatchCore (Roth et al., CVPR 2022).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffad_utils.foundation.pictures import FAMILIES, irregularity, picture
from diffad_utils.io.files import written_whole
from diffad_utils.models.backbones import IMAGENET_MEAN, IMAGENET_STD

STRIDES = (2, 4, 8, 16)


ARCHITECTURE = "resnet10t"


# 24 + 32 + 56 + 160 = 272 channels: the widths of EfficientNet-B4 at the same strides, so that InvAD's denoiser has
# the same shape on either
MODEL_ARGS: dict[str, Any] = dict(
    layers=[2, 2, 2, 1], channels=[32, 56, 160, 160], stem_width=12, stem_type="deep_tiered", avg_down=True
)


@dataclass(frozen=True)
class Pool:
    """Pictures made in advance. images: uint8 [N, S, S, 3]; family: int64 [N]; targets: float32 [N, 3], the scaled log
    period and the direction as (cos 2a, sin 2a); directed: float32 [N], 1 where there is a direction."""

    images: np.ndarray
    family: np.ndarray
    targets: np.ndarray
    directed: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def make_pool(num_pictures: int, size: int = 176, seed: int = 0, progress: bool = True) -> Pool:
    """`num_pictures` pictures, the families in turn; picture i is a function of (seed, i, size) alone."""
    pictures = [
        picture(np.random.default_rng([seed, i]), size, i % len(FAMILIES))
        for i in tqdm(range(num_pictures), desc="pictures", mininterval=5.0, disable=not progress)
    ]
    angles = np.array([p.angle if p.angle is not None else 0.0 for p in pictures])
    scale = np.log([p.period for p in pictures]) - 2.7  # about -1.1 to 1.2
    return Pool(
        np.stack([(255 * p.image).round().astype(np.uint8) for p in pictures]),
        np.array([p.family for p in pictures]),
        np.stack([scale, np.cos(2 * angles), np.sin(2 * angles)], axis=1).astype(np.float32),
        np.array([p.angle is not None for p in pictures], dtype=np.float32),
    )


def draw_batch(pool: Pool, generator: torch.Generator, num_pictures: int, crop: int) -> dict[str, Tensor]:
    """Two crops of each of `num_pictures` pictures, both spoiled (differently) in every other picture.

    Returns images float32 [2B, 3, crop, crop] (first all first crops), mask float32 [2B, crop, crop], and for the
    pictures family int64 [B], targets [B, 3], directed [B], spoiled bool [B]. Crops are not turned,
    since the direction is asked for; their exposure and light change from crop to crop, a nuisance in any inspection.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    chosen = rng.choice(len(pool), num_pictures, replace=False)
    images = np.empty((2, num_pictures, crop, crop, 3), np.float32)
    masks = np.zeros((2, num_pictures, crop, crop), np.float32)
    for row, index in enumerate(chosen):
        for view in range(2):
            cut = random_crop(pool.images[index], crop, rng)
            if row % 2 == 0:
                cut, masks[view, row] = irregularity(
                    cut, random_crop(pool.images[rng.integers(len(pool))], crop, rng), rng
                )
            images[view, row] = _exposure(cut, rng)
    return {
        "images": torch.from_numpy(images.reshape(-1, crop, crop, 3)).permute(0, 3, 1, 2).contiguous(),
        "mask": torch.from_numpy(masks.reshape(-1, crop, crop)),
        "family": torch.from_numpy(pool.family[chosen]),
        "targets": torch.from_numpy(pool.targets[chosen]),
        "directed": torch.from_numpy(pool.directed[chosen]),
        "spoiled": torch.arange(num_pictures) % 2 == 0,
    }


def _exposure(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another exposure of a crop [H, W, 3]: contrast, brightness, gamma, and light that falls off to one side."""
    ramp = np.linspace(-1, 1, image.shape[0], dtype=np.float32)
    light = rng.normal(0, 0.08) * ramp[:, None, None] + rng.normal(0, 0.08) * ramp[None, :, None]
    changed = (image - 0.5) * rng.uniform(0.6, 1.3) + 0.5 + rng.uniform(-0.15, 0.15)
    return np.clip(changed * (1 + light), 0, 1) ** rng.uniform(0.8, 1.25)


def random_crop(image: np.ndarray, crop: int, rng: np.random.Generator) -> np.ndarray:
    y, x = rng.integers(0, image.shape[0] - crop + 1), rng.integers(0, image.shape[1] - crop + 1)
    return image[y : y + crop, x : x + crop].astype(np.float32) / 255


class FoundationModel(nn.Module):
    """The backbone with the heads that train it; only `net` is shipped."""

    def __init__(self):
        super().__init__()
        self.net = timm.create_model(
            ARCHITECTURE, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3), **MODEL_ARGS
        )
        channels = self.net.feature_info.channels()
        pooled = 2 * sum(channels)
        self.marks = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in channels[1:])
        self.norm = nn.BatchNorm1d(pooled)
        self.family = nn.Linear(pooled, len(FAMILIES))
        self.targets = nn.Linear(pooled, 3)
        self.projection = nn.Sequential(nn.Linear(pooled, 128), nn.ReLU(), nn.Linear(128, 64))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """images [B, 3, H, W] in [0, 1] -> marks (logits [B, H/s, W/s] at strides 4, 8, 16), family logits [B, 12],
        targets [B, 3] (the pool's), projection [B, 64]."""
        features = self.net((images - self.mean) / self.std)
        pooled = self.norm(pool_features(features))
        return {
            "marks": [head(f).squeeze(1) for head, f in zip(self.marks, features[1:], strict=True)],
            "family": self.family(pooled),
            "targets": self.targets(pooled),
            "projection": F.normalize(self.projection(pooled), dim=1),
        }


def pool_features(features: list[Tensor]) -> Tensor:
    """Mean and standard deviation over the positions of each map: list of [B, C_i, H_i, W_i] -> [B, 2 sum C_i]."""
    means = [f.mean(dim=(2, 3)) for f in features]
    deviations = [(f.var(dim=(2, 3), correction=0) + 1e-5).sqrt() for f in features]
    return torch.cat(means + deviations, dim=1)


def loss_terms(model: FoundationModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of the training loss on a batch of `draw_batch`, each a scalar; their sum is what is minimised.

    marks: binary cross-entropy, irregular cells weighted 4 to 1, mean over the three strides; a cell's target is
    the share of its pixels that changed, cut at 1 after being multiplied by 4 (a thin line fills little of a cell).
    family: cross-entropy. targets: mean squared error, the direction only where there is one.
    contrast: InfoNCE at temperature 0.2 between the two crops of a picture, over pictures with both crops sound.
    """
    out = model(batch["images"])
    marks = torch.stack([marks_loss(logits, batch["mask"]) for logits in out["marks"]]).mean()
    family = F.cross_entropy(out["family"], batch["family"].repeat(2))
    directed = batch["directed"].repeat(2)[:, None]
    weight = torch.cat([torch.ones_like(directed), directed, directed], dim=1)
    targets = (weight * (out["targets"] - batch["targets"].repeat(2, 1)) ** 2).sum() / weight.sum()
    first, second = out["projection"].chunk(2)
    sound = ~batch["spoiled"]
    similarity = first[sound] @ second[sound].T / 0.2
    same = torch.arange(len(similarity), device=similarity.device)
    contrast = (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2
    return {"marks": 4 * marks, "family": 0.5 * family, "targets": targets, "contrast": 0.2 * contrast}


def marks_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of marks: logits [B, h, w], mask float [B, H, W] of 0 and 1. See `loss_terms`."""
    share = F.adaptive_avg_pool2d(mask[:, None], logits.shape[-2:]).squeeze(1)
    target = (4 * share).clamp(max=1)
    return F.binary_cross_entropy_with_logits(logits, target, weight=1 + 3 * target)


@dataclass
class History:
    """terms: one dict of loss terms a step. validation: one dict of `validate` each time it was asked for, with its
    step. seconds: wall time of the training alone."""

    terms: list[dict[str, float]]
    validation: list[dict[str, float]]
    seconds: float


def train_foundation(
    pool: Pool,
    held_out: Pool,
    *,
    num_steps: int,
    lr: float = 2e-3,
    num_pictures: int = 32,
    crop: int = 96,
    seed: int = 0,
    validate_every: int = 250,
    device: str | torch.device = "cpu",
) -> tuple[FoundationModel, History]:
    """Train a new `FoundationModel` from its seed; the last step's weights are the result.

    pool, held_out: pictures to train on and to watch the loss on (from different seeds). num_steps: optimiser steps
    of two crops of `crop` pixels from each of `num_pictures` pictures. lr: peak of warm-up and cosine (AdamW, weight
    decay 0.02). Nothing is selected by the validation numbers; they show whether it learns the task or the pool.
    """
    from diffad_utils import training  # here, so that the pictures and the comparison need no accelerate

    torch.manual_seed(seed)
    model = FoundationModel().to(device, memory_format=torch.channels_last)
    history = History([], [], 0.0)

    def loss_fn(current: nn.Module, generator: torch.Generator) -> Tensor:
        if validate_every and len(history.terms) % validate_every == 0:
            history.validation.append({"step": len(history.terms), **validate(model, held_out, crop=crop)})
        batch = _to(draw_batch(pool, generator, num_pictures, crop), device)
        terms = loss_terms(current, batch)
        history.terms.append({name: term.item() for name, term in terms.items()})
        return sum(terms.values())

    log = training.train(
        model,
        loss_fn,
        num_steps=num_steps,
        lr=lr,
        seed=seed,
        weight_decay=0.02,
        warmup_steps=min(100, num_steps // 10),
        max_grad_norm=3.0,
        description="resnet-mini",
    )
    history.validation.append({"step": num_steps, **validate(model, held_out, crop=crop)})
    history.seconds = log.seconds
    return model, history


def obtain_foundation(
    folder: str | Path, pool: Pool, held_out: Pool, *, device: str | torch.device = "cpu", **settings: Any
) -> tuple[FoundationModel, History]:
    """The network with its heads from `folder`, trained by `train_foundation(..., **settings)` and kept there unless it
    is there already. Raises ValueError where the folder holds one of other settings."""
    weights, record = Path(folder, "with_heads.safetensors"), Path(folder, "history.json")
    if not record.is_file():
        model, history = train_foundation(pool, held_out, device=device, **settings)
        record.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, weights)
        record.write_text(json.dumps({"settings": settings, **asdict(history)}) + "\n", encoding="utf-8")
    kept = json.loads(record.read_text(encoding="utf-8"))
    if kept.pop("settings") != settings:
        raise ValueError(f"{folder} holds a network of other settings than {settings}; remove the folder to train anew")
    model = FoundationModel()
    model.load_state_dict(load_file(weights))
    return model.to(device, memory_format=torch.channels_last).eval(), History(**kept)


def _to(batch: dict[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    batch = {name: value.to(device) for name, value in batch.items()}
    batch["images"] = batch["images"].contiguous(memory_format=torch.channels_last)
    return batch


@torch.no_grad()
def validate(model: FoundationModel, held_out: Pool, *, crop: int = 96, num_batches: int = 4) -> dict[str, float]:
    """Loss terms, family accuracy and pixel AUROC of the marks at each stride, on fixed batches of unseen pictures.

    The model is in evaluation mode here and in the mode it was in afterwards.
    """
    from diffad_utils.metrics import pixel_auroc

    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    results: list[dict[str, float]] = []
    for number in range(num_batches):
        generator = torch.Generator().manual_seed(10_000 + number)
        batch = _to(draw_batch(held_out, generator, min(32, len(held_out)), crop), device)
        out = model(batch["images"])
        row = {name: term.item() for name, term in loss_terms(model, batch).items()}
        row["loss"] = sum(row.values())
        row["family_accuracy"] = (out["family"].argmax(1) == batch["family"].repeat(2)).float().mean().item()
        for stride, logits in zip(STRIDES[1:], out["marks"], strict=True):
            maps = F.interpolate(logits[:, None], (crop, crop), mode="bilinear").squeeze(1)
            row[f"mark_auroc_{stride}"] = pixel_auroc(maps.cpu().numpy(), batch["mask"].bool().cpu().numpy())
        results.append(row)
    model.train(was_training)
    return {name: float(np.mean([row[name] for row in results])) for name in results[0]}


def save_backbone(model: FoundationModel, folder: str | Path) -> Path:
    """Write `net` as a timm folder: model.safetensors and config.json. Returns the folder.

    `timm.create_model("local-dir:<folder>", pretrained=True, features_only=True, out_indices=(0, 1, 2, 3))` opens it,
    and so does `models.backbones.load_backbone`. The stage after stride 16 and the classifier are not in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(FAMILIES),
        "num_features": MODEL_ARGS["channels"][-1],
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "procedural",
            "input_size": [3, 128, 128],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": len(FAMILIES),
            "pool_size": [4, 4],
            "first_conv": "conv1.0",
            "classifier": "fc",
            "license": "mit",
        },
    }
    with written_whole(folder / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
