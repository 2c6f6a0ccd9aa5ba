"""The dual-stream network of ESM: one UNet architecture twice, for the noise and for its variance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.methods.esm.equations import Moments
from diffad_utils.models.unet import small_unet

LOG_RATIO = (-8.0, 3.0)
"""Bounds of log sigma_t^2 - log(1 - alpha_bar_t): no exponential of it overflows, and one element in a million never
rules a loss."""


class DualStream(nn.Module):
    """Stream 1 predicts eps_t, stream 2 log sigma_t^2 for each element (ESM paper, section 3.2, eq. 8).

    Stream 2 gives log(sigma_t^2 / (1 - alpha_bar_t)), which is log Var[eps | X_t] at the optimum of eq. 10 and of order
    one at every t, and its last layer begins at zero: then sigma_t^2 = 1 - alpha_bar_t and eq. 10 is the DSM loss.

    Parameters
    ----------
    schedule : gives 1 - alpha_bar_t.
    shared : one UNet with two heads in the place of two UNets (what section 3.3 argues against).
    channels, image_size, block_out_channels, layers_per_block, attention_levels, seed : see `small_unet`.

    forward(x [B, C, H, W], t int64 [B]) -> `Moments` (eps, variance).
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        channels: int,
        image_size: int,
        block_out_channels: Sequence[int],
        layers_per_block: int = 1,
        attention_levels: Sequence[int] = (),
        shared: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()

        def unet(out_channels: int, offset: int) -> UNet2DModel:
            sizes = channels, image_size, block_out_channels, layers_per_block, attention_levels
            return small_unet(*sizes, out_channels, seed + offset)

        self.channels = channels
        self.mean_stream = unet(2 * channels if shared else channels, 0)
        self.variance_stream = None if shared else unet(channels, 1)
        head = (self.variance_stream or self.mean_stream).conv_out
        with torch.no_grad():
            for parameter in (head.weight, head.bias):
                parameter[-channels:] = 0
        self.register_buffer("noise_level", (1 - schedule.alphas_cumprod).float(), persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Moments:
        eps, log_variance = self.predict(x, t)
        return Moments(eps, log_variance.exp())

    def predict(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(eps_t, log sigma_t^2), each [B, C, H, W], as the loss takes them."""
        out = self.mean_stream(x, t, return_dict=False)[0].float()
        ratio = (
            out[:, self.channels :]
            if self.variance_stream is None
            else self.variance_stream(x, t, return_dict=False)[0].float()
        )
        return out[:, : self.channels], self._log_variance(ratio, t)

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        """eps_t alone: one evaluation of stream 1."""
        return self.mean_stream(x, t, return_dict=False)[0].float()[:, : self.channels]

    def variance(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma_t^2 alone: one evaluation of stream 2 (of the whole network if it is shared)."""
        if self.variance_stream is None:
            return self(x, t).variance
        return self._log_variance(self.variance_stream(x, t, return_dict=False)[0].float(), t).exp()

    def _log_variance(self, ratio: Tensor, t: Tensor) -> Tensor:
        return ratio.clamp(*LOG_RATIO) + self.noise_level[t].log()[:, None, None, None]
