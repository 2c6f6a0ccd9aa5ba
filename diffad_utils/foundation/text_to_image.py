"""Training of the small Stable Diffusion: a UNet with cross-attention and a text encoder, on the latents of the small
VAE.

The classes, the noise schedule (scaled linear, 1000 steps), the prediction of the noise and the caption dropout for
classifier-free guidance are those of Stable Diffusion v1 (Rombach et al., CVPR 2022; Ho and Salimans, 2022). The text
encoder is trained along with the UNet, since there is no pretrained one to take.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffad_utils import training
from diffad_utils.data.captions import caption
from diffad_utils.models.stable_diffusion import SCHEDULE

from .autoencoder import encode
from .captioned import FAMILIES, SAID, Pairs, captions_of, draw_said

TEXT_LENGTH = 24  # tokens
UNET = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(64, 96, 112),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=96,
    attention_head_dim=4,
    norm_num_groups=16,
)
TEXT_ENCODER = dict(
    hidden_size=96,
    intermediate_size=384,
    projection_dim=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=TEXT_LENGTH,
)


def all_captions() -> list[str]:
    """Every caption that training can draw, sorted."""
    return sorted({caption(family, said) for family, said in product(FAMILIES, SAID)})


def new_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """CLIP's kind of tokenizer with a small vocabulary: all bytes, so that any text can be written, and the byte pairs
    that spell the words of `texts`."""
    merges = byte_pairs(texts)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    distinct = dict.fromkeys([*words, "<|startoftext|>", "<|endoftext|>"])
    vocabulary = {word: number for number, word in enumerate(distinct)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def byte_pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The merges that spell every word of ASCII texts as one token, the most frequent pair first, equally frequent ones
    in alphabetical order (the tokenizers library's own trainer takes those in any order, and so differs from run to
    run).

    Source: byte-pair encoding, Sennrich et al. (ACL 2016), algorithm 1.
    """
    words = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(
        pair for word, parts in spelled.items() for pair in pairwise(parts) for _ in range(words[word])
    ):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelled.values():
            for at in reversed(range(len(parts) - 1)):
                if tuple(parts[at : at + 2]) == best:
                    parts[at : at + 2] = ["".join(best)]
    return merges


class TextToImage(nn.Module):
    """What is trained together: `unet` and `text_encoder`."""

    def __init__(self, vocab_size: int, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.unet = UNet2DConditionModel(**UNET)
        special = dict(bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1, pad_token_id=vocab_size - 1)
        self.text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=vocab_size, **special, **TEXT_ENCODER))

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """noisy latents [B, 4, h, w], timesteps int64 [B], tokens int64 [B, TEXT_LENGTH] -> noise [B, 4, h, w]."""
        return self.unet(noisy, timesteps, self.text_encoder(tokens).last_hidden_state).sample


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 [N, TEXT_LENGTH], padded as diffusers' pipelines do."""
    return tokenizer(
        texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def encode_pairs(vae: AutoencoderKL, pairs: Pairs) -> Tensor:
    """Scaled latents float32 [N, 2, 4, S/8, S/8] of both pictures of each pair, computed in bfloat16: half the time,
    and an error far below the noise of the earliest timestep."""
    with torch.autocast(vae.device.type, torch.bfloat16):
        return torch.stack([encode(vae, pairs.images[:, which]).float() for which in (0, 1)], dim=1)


def train_text_to_image(
    pairs: Pairs,
    latents: Tensor,
    tokenizer: CLIPTokenizer,
    *,
    num_steps: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    caption_dropout: float = 0.12,
    seed: int = 0,
    device: str | torch.device = "cpu",
    mixed_precision: str = "no",
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 500,
    start: TextToImage | None = None,
) -> tuple[TextToImage, training.TrainingLog]:
    """Train UNet and text encoder on latents [N, 2, 4, h, w] of the pairs; resumes from `checkpoint_folder`.

    The loss is the squared error of the predicted noise at uniform timesteps. caption_dropout: share of pictures whose
    caption is left empty. start: weights to go on from.
    """
    model = (start or TextToImage(len(tokenizer), seed)).to(device)
    alphas_cumprod = DDIMScheduler(**SCHEDULE).alphas_cumprod
    said_tokens = {text: tokens_of(tokenizer, [text])[0] for text in [*all_captions(), ""]}

    def loss_fn(current, generator):
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        chosen, which = rng.integers(len(pairs), size=batch_size), rng.integers(2, size=batch_size)
        said = draw_said(np.where(which, pairs.state[chosen], 0), rng)
        texts = np.where(rng.random(batch_size) < caption_dropout, "", captions_of(pairs.family[chosen], said))
        tokens = torch.stack([said_tokens[text] for text in texts])
        clean = latents[torch.from_numpy(chosen), torch.from_numpy(which)]
        timesteps = torch.randint(len(alphas_cumprod), (batch_size,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        level = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        predicted = current(noisy.to(device), timesteps.to(device), tokens.to(device))
        return F.mse_loss(predicted.float(), noise.to(device))

    log = training.train(
        model,
        loss_fn,
        num_steps=num_steps,
        lr=lr,
        seed=seed,
        weight_decay=0.01,
        warmup_steps=min(200, num_steps // 10),
        ema_decay=0.999,
        mixed_precision=mixed_precision,
        checkpoint_folder=checkpoint_folder,
        checkpoint_every=checkpoint_every,
        description="UNet and text encoder",
    )
    return model, log


def assemble(vae: AutoencoderKL, model: TextToImage, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline of the parts, with Stable Diffusion's DDIM scheduler; no safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(pipeline: StableDiffusionPipeline, folder: str | Path) -> Path:
    """Write a diffusers folder of float16 safetensors files in the place of what was there. Returns the folder.

    `StableDiffusionImg2ImgPipeline.from_pretrained(folder)` opens it, in any precision.
    """
    folder = Path(folder)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(temporary, safe_serialization=True)
    pipeline.tokenizer.backend_tokenizer.model.save(
        str(temporary / "tokenizer")
    )  # vocab.json and merges.txt, as SD has
    for config in temporary.rglob("config.json"):  # where a part was opened from is nobody's business
        entries = json.loads(config.read_text(encoding="utf-8"))
        entries.pop("_name_or_path", None)
        config.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    _name_as_released(temporary / "text_encoder" / "model.safetensors")
    pipeline.to(dtype=torch.float32)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder


def _name_as_released(file: Path) -> None:
    """Put "text_model." before the tensors' names, as in Stable Diffusion's released files: every version of
    transformers opens those, while what version 5 writes means nothing to version 4."""
    state = {
        name if name.startswith("text_model.") else f"text_model.{name}": value
        for name, value in load_file(file).items()
    }
    save_file(state, file, metadata={"format": "pt"})
