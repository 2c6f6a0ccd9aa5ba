"""SGM: denoising score matching, the baseline of the ESM paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.methods.esm.equations import Observer, sgm_reverse, step_edges
from diffad_utils.models.unet import small_unet
from diffad_utils.training import TrainingLog


@dataclass(kw_only=True)
class SGM(ScoreMatchingDetector):
    """The baseline: one network, denoising score matching (eq. 4) in both phases of training, eq. 5. No variance, so no
    S_U, S_KL."""

    name: ClassVar[str] = "sgm"
    published_as: ClassVar[str] = "SGM"
    STREAMS: ClassVar[int] = 1

    @property
    def nfe(self) -> int:
        return self.num_steps

    def _build(self, shape: Sequence[int]) -> None:
        self.network_ = small_unet(**self._unet_settings(shape), seed=self.seed).to(self.torch_device).eval()

    def _load_warm_up(self, state: dict[str, Tensor]) -> None:
        self.network_.load_state_dict(state)

    def _train(self, x0: Tensor, checkpoint_folder: Path | None) -> TrainingLog:
        return self._match(
            self.network_, x0, self._dsm, self.train_steps, self.seed + 1, checkpoint_folder, "score, DSM"
        )

    def predict_noise(self, x: Tensor, t: Tensor) -> Tensor:
        """The network: noise in states x [B, C, h, w] at timesteps t int64 [B], float32."""
        with self._autocast():
            return self.network_(x, t, return_dict=False)[0].float()

    def _sample(self, x0: Tensor, keys: Sequence[str], observe: Observer | None) -> Tensor:
        edges = step_edges(self.noise_timestep_, self.stride)
        return sgm_reverse(self.predict_noise, self.noised(x0, keys), self.schedule_, edges, observe)
