"""What the training of an adapter is fed: images drawn for the prior, examples, and the UNet with its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diffad_utils.methods.img2img.engine import Img2ImgEngine, Posterior, Setting


def sample_latents(
    engine: Img2ImgEngine, prompt: str, keys: Sequence[str], setting: Setting, size: int, negative_prompt: str = ""
) -> Tensor:
    """Text to image: latents float32 [N, C, h, w] for a prompt, one a key; decode them with ``engine.decode``.

    ``setting.strength`` must be 1. The image-to-image engine starts from a mixture of two normal draws then, which is a
    normal draw.
    """
    if setting.strength != 1:
        raise ValueError(f"text to image starts from noise alone: expected strength=1, got {setting.strength}")
    side = size // engine.size_factor
    zeros = torch.zeros(len(keys), engine.unet.config.in_channels, side, side)
    text = engine.embed(prompt, negative_prompt)
    return engine.denoise(Posterior(zeros, torch.ones_like(zeros)), keys, [text] * len(keys), [setting] * len(keys))


class PromptedUNet(nn.Module):
    """The UNet, and the text encoder where that is trained, too, as one module for the training loop."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: nn.Module | None = None):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Noisy latents [B, C, h, w], timesteps int64 [B], text features [B, L, D] (or tokens int64 [B, L] where the
        text encoder is here) -> the predicted noise [B, C, h, w]."""
        hidden = text if self.text_encoder is None else self.text_encoder(text)[0]
        return self.unet(noisy, timesteps, encoder_hidden_states=hidden, return_dict=False)[0]


@dataclass(frozen=True)
class Examples:
    """Training images after what is computed once.

    posterior : of n images. text : [P, ...], features or tokens of P prompts. prompt : int64 [n], an image's prompt.
    """

    posterior: Posterior
    text: Tensor
    prompt: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents [count, C, h, w], drawn from the posteriors of images drawn, and their prompts [count, ...]."""
        rows = torch.randint(len(self.prompt), (count,), generator=generator)
        part = self.posterior[rows]
        return part.mean + part.std * torch.randn(part.mean.shape, generator=generator), self.text[self.prompt[rows]]
