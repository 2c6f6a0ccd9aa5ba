"""Training of the small CLIP: an open_clip model of the kind of CLIP's RN50, for 128 pixels, on captioned pictures.

Many pictures share a caption here ("a flawless woven carpet"), and one picture fits several ("a damaged woven carpet",
"a woven carpet with a hole"). So the contrastive loss of Radford et al. (ICML 2021, section 2.3), which takes one
caption to be right and all others wrong, is used with several right answers: UniCL, Yang et al. (CVPR 2022, equations 2
to 4).

From captions alone a tower of this size learns the families in minutes and small defects hardly at all. So the image
tower is helped as the backbone is: one linear layer on each of its feature maps has to mark where a picture differs
from its defect-free twin. Those layers are dropped afterwards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from diffad_utils import training
from diffad_utils.data import textures
from diffad_utils.data.captions import caption
from diffad_utils.io.files import written_whole

from .backbone import marks_loss
from .captioned import FAMILIES, STATES, Pairs, captions_of, draw_said, matches

#: open_clip's own configuration, as it stands in `open_clip_config.json`.
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 128, "layers": [1, 2, 2, 1], "width": 16, "head_width": 64},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "size": 128,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def new_clip(seed: int = 0) -> CLIP:
    """The small CLIP with random weights drawn from a seed."""
    torch.manual_seed(seed)
    return CLIP(**CONFIG["model_cfg"])


def tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's byte-pair tokenizer, at the small model's context length."""
    return open_clip.SimpleTokenizer(context_length=CONFIG["model_cfg"]["text_cfg"]["context_length"])


def preprocess(images: np.ndarray) -> Tensor:
    """uint8 [N, 128, 128, 3] -> float32 [N, 3, 128, 128], as `preprocess_cfg` says."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1))).float().div(255).sub(0.5).div(0.25)


def draw_batch(pairs: Pairs, generator: torch.Generator, num_pairs: int, blurred: float = 0.0) -> dict:
    """Both pictures of `num_pairs` pairs, mirrored at random, with a caption each; a share `blurred` of the pairs is
    blurred by a Gaussian of 0.5 to 3 pixels.

    Returns images float32 [2B, 3, S, S], captions (list of 2B strings), right bool [2B, 2B]: whether caption j is true
    of picture i, and mask float32 [2B, S, S]: 1 where a picture differs from its twin. A twin and its spoiled copy
    differ in the defect alone, so that nothing else tells them apart.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    chosen = rng.choice(len(pairs), num_pairs, replace=False)
    flips = rng.choice([-1, 1], (2, num_pairs))  # the same for both pictures of a pair
    images = np.stack([pairs.images[i, w, ::a, ::b] for w in (0, 1) for i, a, b in zip(chosen, *flips, strict=True)])
    family = np.tile(pairs.family[chosen], 2)
    state = np.concatenate([np.zeros(num_pairs, np.int64), pairs.state[chosen]])
    said = draw_said(state, rng)
    right = matches(*(torch.from_numpy(x) for x in (family, state, family, said)))
    change = np.abs(images[num_pairs:].astype(np.int16) - images[:num_pairs]).max(3) / 255 > textures.THRESHOLD
    mask = torch.from_numpy(np.concatenate([np.zeros_like(change), change])).float()
    for pair in np.flatnonzero(rng.random(num_pairs) < blurred):
        width = np.exp(rng.uniform(np.log(0.5), np.log(3.0)))
        for number in (pair, pair + num_pairs):
            images[number] = ndimage.gaussian_filter(images[number], (width, width, 0))
    return {"images": preprocess(images), "captions": captions_of(family, said), "right": right, "mask": mask}


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor, right: Tensor) -> Tensor:
    """UniCL: image_features, text_features [B, D] of unit length, right bool [B, B] -> scalar.

    The mean, over pictures and over captions, of the cross-entropy between the softmax of the similarities and equal
    shares for all right partners.
    """
    logits = logit_scale.exp().clamp(max=100) * image_features @ text_features.T
    share = right.float() / right.sum(1, keepdim=True)
    share_of_text = right.T.float() / right.T.sum(1, keepdim=True)
    return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share_of_text)) / 2


class ClipWithMarks(nn.Module):
    """The CLIP that is trained, and linear layers that mark defects on its feature maps of strides 4, 8 and 16."""

    def __init__(self, clip: CLIP):
        super().__init__()
        self.clip = clip
        widths = [4 * CONFIG["model_cfg"]["vision_cfg"]["width"] * 2**stage for stage in range(3)]
        self.marks = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """images [B, 3, 128, 128], tokens [M, L] -> unit features [B, D], [M, D] and marks: logits [B, 128/s,
        128/s]."""
        tower, maps = self.clip.visual, []
        x = tower.stem(images)
        for layer in (tower.layer1, tower.layer2, tower.layer3):
            x = layer(x)
            maps.append(x)
        pictures = F.normalize(tower.attnpool(tower.layer4(x)), dim=-1)
        marks = [head(x).squeeze(1) for head, x in zip(self.marks, maps, strict=True)]
        return pictures, self.clip.encode_text(tokens, normalize=True), marks


def train_clip(
    pairs: Pairs,
    *,
    num_steps: int,
    num_pairs: int = 64,
    lr: float = 1e-3,
    marks_weight: float = 2.0,
    blurred: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    mixed_precision: str = "no",
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 250,
    start: CLIP | None = None,
) -> tuple[CLIP, training.TrainingLog]:
    """Train the small CLIP on the contrastive loss plus `marks_weight` times `backbone.marks_loss`, mean over the
    strides.

    blurred: see `draw_batch`. Resumes from `checkpoint_folder`. start: weights to go on from.
    """
    if start is not None:
        torch.manual_seed(seed)  # of the marks' layers; `new_clip` does so itself
    model, tokenize = ClipWithMarks(start or new_clip(seed)).to(device), tokenizer()

    def loss_fn(current, generator):
        batch = draw_batch(pairs, generator, num_pairs, blurred)
        images, texts, marks = current(batch["images"].to(device), tokenize(batch["captions"]).to(device))
        scale, mask = current.clip.logit_scale, batch["mask"].to(device)
        contrast = contrastive_loss(images.float(), texts.float(), scale, batch["right"].to(device))
        return contrast + marks_weight * torch.stack([marks_loss(logits.float(), mask) for logits in marks]).mean()

    log = training.train(
        model,
        loss_fn,
        num_steps=num_steps,
        lr=lr,
        seed=seed,
        weight_decay=0.02,
        warmup_steps=min(200, num_steps // 10),
        mixed_precision=mixed_precision,
        checkpoint_folder=checkpoint_folder,
        checkpoint_every=checkpoint_every,
        description="CLIP",
    )
    return model.clip, log


def train_in_two_stages(
    pairs: Pairs,
    *,
    num_steps: int,
    blurred_steps: int,
    blurred: float = 0.5,
    blurred_lr: float = 5e-4,
    seed: int = 0,
    checkpoint_folder: str | Path | None = None,
    **options: Any,
) -> tuple[CLIP, training.TrainingLog]:
    """`num_steps` of `train_clip` on the pictures as they are, then `blurred_steps` with a share `blurred` of them
    blurred.

    After the first stage alone the model calls gravel a carpet as soon as its finest texture is gone, and so could
    judge neither what a VAE returns nor what is sampled through one.
    """
    folders = (
        (None, None) if checkpoint_folder is None else (Path(checkpoint_folder, "1"), Path(checkpoint_folder, "2"))
    )
    first = None if folders[0] is None else folders[0] / "finished.safetensors"
    model, log = new_clip(seed), training.TrainingLog()
    if first is not None and first.is_file():
        model.load_state_dict(load_file(first))
        log = training.TrainingLog(**json.loads(first.with_suffix(".json").read_text(encoding="utf-8")))
    else:
        model, log = train_clip(pairs, num_steps=num_steps, seed=seed, checkpoint_folder=folders[0], **options)
        if first is not None:
            first.parent.mkdir(parents=True, exist_ok=True)
            first.with_suffix(".json").write_text(json.dumps(vars(log)), encoding="utf-8")
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, first)
    options = options | dict(lr=blurred_lr, blurred=blurred, seed=seed + 1, checkpoint_folder=folders[1])
    model, second = train_clip(pairs, num_steps=blurred_steps, start=model, **options)
    return model, training.TrainingLog(log.losses + second.losses, log.seconds + second.seconds)


@torch.no_grad()
def image_features(model: CLIP, images: np.ndarray, batch_size: int = 64) -> Tensor:
    """Unit features float32 [N, D] of pictures uint8 [N, 128, 128, 3]."""
    device = model.logit_scale.device
    chunks = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    return torch.cat([model.encode_image(preprocess(chunk).to(device), normalize=True).cpu() for chunk in chunks])


@torch.no_grad()
def text_features(model: CLIP, texts: list[str]) -> Tensor:
    """Unit features float32 [N, D] of texts."""
    return model.encode_text(tokenizer()(texts).to(model.logit_scale.device), normalize=True).cpu()


def name_families(model: CLIP, images: np.ndarray) -> np.ndarray:
    """Zero-shot family of each picture, index into `FAMILIES`: the nearest of "a woven carpet", "a wire mesh", ..."""
    texts = text_features(model, [caption(family) for family in FAMILIES])
    return (image_features(model, images) @ texts.T).argmax(1).numpy()


def zero_shot_scores(model: CLIP, images: np.ndarray, category: str) -> np.ndarray:
    """Zero-shot anomaly scores [N]: log of how much more probable "with a <defect>" (any of all defects, whether the
    category can have them or not) is than "a flawless <category>"."""
    texts = text_features(model, [caption(category, state) for state in STATES])
    logits = model.logit_scale.exp().clamp(max=100).item() * image_features(model, images) @ texts.T
    return (logits[:, 1:].logsumexp(1) - logits[:, 0]).numpy()


def save_clip(model: CLIP, folder: str | Path) -> Path:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` (float16). Returns the folder.

    `open_clip.create_model_and_transforms("local-dir:<folder>")` and `open_clip.get_tokenizer("local-dir:<folder>")`
    open it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().half() if value.is_floating_point() else value.detach().cpu()
        for name, value in model.state_dict().items()
    }
    with written_whole(folder / "open_clip_model.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    return folder
