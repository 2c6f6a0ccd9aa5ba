"""A diffusion transformer on a grid of backbone features (InvAD's denoiser).

The blocks are DiT's (Peebles & Xie 2023, section 3.2, adaLN-Zero) with one token a grid cell (patch size 1), as in
InvAD's configuration. diffusers' own ``DiTTransformer2DModel`` always wants class labels and image patches, so the
wiring is ours; attention and MLP are timm's, the embeddings diffusers'.
"""

from __future__ import annotations

from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_2d_sincos_pos_embed
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm: x [B, N, D] * (1 + scale [B, D]) + shift [B, D]."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Transformer block with adaLN-Zero conditioning: x [B, N, D], condition [B, D] -> [B, N, D]."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, num_heads=num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=lambda: nn.GELU(approximate="tanh"))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FeatureDiT(nn.Module):
    """Predicts the noise in noisy feature grids.

    Parameters
    ----------
    channels : number of feature channels C.
    grid : side of the square feature grid, in cells.
    width, depth, num_heads : transformer size; ``width`` must be divisible by ``num_heads`` and by 4.
    linear_skip : sqrt(1 - alpha_bar_t) for every timestep, [T], or None. With it the network predicts what is left of
        the noise after the best linear guess for standardised features, E[eps | x_t] = sqrt(1 - alpha_bar_t) x_t for
        x_0 ~ N(0, 1). An untrained network then inverts like a standard normal, instead of predicting no noise at all.

    ``forward(x [B, C, grid, grid], t int64 [B]) -> eps [B, C, grid, grid]``: unconditional, as the paper's.
    """

    def __init__(
        self,
        channels: int,
        grid: int,
        width: int = 192,
        depth: int = 4,
        num_heads: int = 4,
        linear_skip: Tensor | None = None,
    ):
        super().__init__()
        if width % num_heads or width % 4:
            raise ValueError(f"width must be divisible by num_heads and by 4, got width={width}, num_heads={num_heads}")
        self.channels, self.grid = channels, grid
        skip = None if linear_skip is None else linear_skip.float()
        self.register_buffer("linear_skip", skip, persistent=False)
        self.embed = nn.Linear(channels, width)
        positions = get_2d_sincos_pos_embed(width, grid, base_size=grid, output_type="pt")
        self.register_buffer("positions", positions.float().reshape(1, grid * grid, width), persistent=False)
        self.timesteps = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(256, width)
        self.blocks = nn.ModuleList(DiTBlock(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.project = nn.Linear(width, channels)
        for layer in (self.modulation[1], self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if x.shape[1:] != (self.channels, self.grid, self.grid):
            raise ValueError(f"expected features [B, {self.channels}, {self.grid}, {self.grid}], got {tuple(x.shape)}")
        tokens = self.embed(x.flatten(2).transpose(1, 2)) + self.positions
        condition = self.time_embedding(self.timesteps(t).to(tokens.dtype))
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        tokens = self.project(modulate(self.norm(tokens), shift, scale))
        eps = tokens.transpose(1, 2).reshape(x.shape)
        return eps if self.linear_skip is None else eps + self.linear_skip[t][:, None, None, None] * x
