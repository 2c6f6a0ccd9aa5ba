"""ESM: explicit score matching with a learnt variance (eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.methods.esm.dual_stream import DualStream
from diffad_utils.methods.esm.equations import (
    MEANS,
    VARIANCE_MIN,
    Observer,
    check_stability,
    esm_loss,
    esm_reverse,
    kl_map,
    step_edges,
    uncertainty_map,
)
from diffad_utils.methods.kept import kept
from diffad_utils.training import TrainingLog


@dataclass(kw_only=True)
class ESM(ScoreMatchingDetector):
    """Explicit score matching: two streams, trained with eq. 10 after the warm-up, sampled with the score of eq. 3 in
    eq. 5.

    Parameters beyond the shared ones
    ---------------------------------
    mean : reading of mu_t, "denoised" or "input" (`equations.MEANS`).
    variance_min : lower bound of sigma_t^2 in the sampler.
    shared : one UNet with two heads in the place of two streams (section 3.3 argues against it).
    """

    name: ClassVar[str] = "esm"
    published_as: ClassVar[str] = "ESM"
    DETECTORS: ClassVar[tuple[str, ...]] = ("cos", "u", "kl", "re")
    STREAMS: ClassVar[int] = 2
    former_names: ClassVar[dict[str, str]] = {"variance_floor": "variance_min"}

    mean: str = "denoised"
    variance_min: float = VARIANCE_MIN
    shared: bool = False

    def __post_init__(self) -> None:
        if self.mean not in MEANS:
            raise ValueError(f"mean must be one of {MEANS}, got {self.mean!r}")
        if self.variance_min <= 0:
            raise ValueError(f"variance_min must be above 0, got {self.variance_min}")
        super().__post_init__()

    def _check_steps(self, noise_timestep: int) -> None:
        super()._check_steps(noise_timestep)
        check_stability(self.schedule_, noise_timestep, self.stride, self.variance_min)

    @property
    def nfe(self) -> int:
        return self.num_steps + 2  # sigma_0^2 of the input and of the reconstruction

    def _build(self, shape: Sequence[int]) -> None:
        network = DualStream(self.schedule_, **self._unet_settings(shape), shared=self.shared, seed=self.seed)
        self.network_ = network.to(self.torch_device).eval()

    def _load_warm_up(self, state: dict[str, Tensor]) -> None:
        own = self.network_.mean_stream.state_dict()
        for name, value in state.items():  # of the two heads of a shared network, the first
            own[name][: len(value)] = value if value.ndim else own[name]
        self.network_.mean_stream.load_state_dict(own)

    def _train(self, x0: Tensor, checkpoint_folder: Path | None) -> TrainingLog:
        alphas = self.schedule_.alphas_cumprod

        def loss(model: DualStream, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
            eps, log_variance = model.predict(x_t, t)
            return esm_loss(eps, noise, log_variance, alphas[t.cpu()])

        return self._match(self.network_, x0, loss, self.train_steps, self.seed + 1, checkpoint_folder, "score, eq. 10")

    def _sample(self, x0: Tensor, keys: Sequence[str], observe: Observer | None) -> Tensor:
        edges = step_edges(self.noise_timestep_, self.stride)
        return esm_reverse(
            self.network_,
            self.noised(x0, keys),
            self.schedule_,
            edges,
            variance_min=self.variance_min,
            anchor=x0 if self.mean == "input" else None,
            observe=observe,
        )

    def _variance_maps(self, x0: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        variance, variance_hat = (self.variance(x, 0) for x in (x0, x_hat))
        return {"u": uncertainty_map(x0, x_hat, variance_hat), "kl": kl_map(x0, variance, x_hat, variance_hat)}

    @kept(state=None)
    @torch.inference_mode()
    def variance(self, x: Tensor, index: int) -> Tensor:
        """sigma_t^2 of X_t [B, C, h, w] at index t - 1 as the network gives it, with no bound: the same shape, on the
        CPU."""
        t = torch.full((len(x),), index, device=self.torch_device)
        with self._autocast():
            return self.network_.variance(x.to(self.torch_device), t).cpu()
