"""D3AD: latent diffusion without added noise, from a step that depends on the image.

Source: "D3AD: Dynamic denoising diffusion probabilistic model for anomaly detection" (OpenReview 7jUQHmz4Tq), equations
and algorithms by number; later version Tebbe and Tayyub, "Dynamic Addition of Noise in a Diffusion Model for Anomaly
Detection" (CVPRW 2024, arXiv 2401.04463) with public code (D3AD-code in ``data/published/hyperparameters.csv``).

The latent of the image is scaled down to the level of a step T_hat, *without noise* (Algorithm 1), and denoised along
DDIM steps, pulled towards the latent itself where ``guidance_weight`` (the paper's eta) is above 0. T_hat comes from
the distance to the training features (Algorithm 2, `conditioning.DynamicStep`). The map adds the L1 distance of the
latents and the cosine distance of features (eq. 9, whole in `maps.anomaly_map`).

Where paper and public code differ, or ours from both:

- Line 8 of Algorithm 1 prints sqrt(alpha_bar_{t-1}) z_{0,0}, the clean latent itself, with which nothing would be
  reconstructed; we read the running estimate f of eq. 7, as in DDIM and in the code.
- *Timesteps*: the paper leaves open how ten DDIM steps and a step of the image go together; ``plan``
  (`conditioning.subsequence_timesteps`, `conditioning.code_timesteps`).
- *Training distances*: ``leave_one_out`` (`conditioning.DynamicStep`).
- *Maps*: the paper normalises without saying how; the code takes minimum and maximum over the whole test set. Ours
  divides by constants from held-out normal training images (``normalisation="batch"``: over all images given to
  ``predict``).
- *Latent*: the code draws it from the autoencoder's posterior, ours is the mean (``posterior="draw"`` for theirs).
- *Adaptation*: eq. 10 averages 1 - cosine over positions, the code takes one cosine of the flattened block
  (``adaptation_loss="flattened"``). Both sum over all blocks, ours over those of the map
  (``adaptation_strides=(4, 8, 16)`` for theirs). The code keeps batch normalisation in training mode
  (``adaptation_batch_statistics``). Both find neighbours with the adapted features.
- *Schedule*: 0.0015 to 0.0195, linear in beta as in the code; latent diffusion's own "linear" is linear in sqrt(beta).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffad_utils.methods.base import batches
from diffad_utils.methods.d3ad.conditioned import ConditionedDiffusion
from diffad_utils.methods.d3ad.conditioning import DynamicStep, denoising_timesteps, pooled_features
from diffad_utils.methods.d3ad.maps import anomaly_map, latent_distance, min_max_over_batch


@dataclass(kw_only=True)
class D3AD(ConditionedDiffusion):
    """Dynamic steps, noiseless scaling, domain adaptation; see the module's text for the source.

    Parameters besides those of `ConditionedDiffusion`
    ----------
    t_max, bins, k, minimum_bin, leave_one_out, inliers : of `conditioning.DynamicStep`.
    static_step : one step for every image instead (table 4); None: dynamic.
    map_weight : lambda of eq. 9.

    Prediction: also the part ``distance``, the average distance to the nearest training features.
    """

    name: ClassVar[str] = "d3ad"
    published_as: ClassVar[str] = "D3AD"
    contract_settings: ClassVar[dict[str, Any]] = {
        "block_out_channels": (16, 16),
        "train_steps": 6,
        "train_batch_size": 4,
        "num_steps": 2,
        "k": 3,
    }

    image_size: int = 128
    space: str = "latent"
    block_out_channels: Sequence[int] = (64, 128)
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    noise_fraction: float = 0.0
    adaptation_epochs: int = 1
    t_max: int = 80
    bins: int = 10
    k: int = 20
    minimum_bin: int = 2
    leave_one_out: bool = True
    inliers: float = 1.0
    static_step: int | None = None
    map_weight: float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.map_weight <= 1:
            raise ValueError(f"map_weight must be in [0, 1], got {self.map_weight}")
        dynamic = self._dynamic_step()
        steps = (
            dynamic.step_of(torch.arange(self.bins + 1))
            if self.static_step is None
            else torch.tensor([self.static_step])
        )
        if not 1 <= int(steps.min()) <= int(steps.max()) < self.schedule.T:
            raise ValueError(
                f"steps must be in 1 .. {self.schedule.T - 1}, got t_max = {self.t_max}, static_step = "
                f"{self.static_step}"
            )
        denoising_timesteps(steps, self.num_steps, self.deepest_step, self.plan)  # refuses bad settings before training

    @property
    def deepest_step(self) -> int:
        return self.t_max if self.static_step is None else max(self.t_max, self.static_step)

    def _check_count(self, fitted: int, held_out: int) -> None:
        most = fitted - self.leave_one_out
        if self.k > most:
            raise ValueError(
                f"k = {self.k} nearest neighbours, but {fitted} images are left after {held_out} are held out: "
                f"set k to {most} or less, or give at least {self.k + self.leave_one_out + held_out} training images"
            )

    def _dynamic_step(self) -> DynamicStep:
        return DynamicStep(
            k=self.k,
            bins=self.bins,
            t_max=self.t_max,
            minimum_bin=self.minimum_bin,
            leave_one_out=self.leave_one_out,
            inliers=self.inliers,
        )

    def _fit_steps(self, new_extractor: bool) -> None:
        dynamic = self._dynamic_step()
        if new_extractor:
            images = batches(self._fitted_images, self.batch_size)
            self.dynamic_step_ = dynamic.fit(
                torch.cat([self._pooled(self.features(self._input(b["image"]))) for b in images])
            )
        elif dynamic != self.dynamic_step_:  # other settings, the same features
            self.dynamic_step_ = dynamic.fit(self.dynamic_step_.bank_)

    @staticmethod
    def _pooled(features: Sequence[Tensor]) -> Tensor:
        return pooled_features(features[0]).cpu()

    def _steps(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        distances = self.dynamic_step_.distances(self._pooled(features))
        if self.static_step is not None:
            return torch.full((len(distances),), self.static_step), distances
        return self.dynamic_step_.step_of(self.dynamic_step_.bin_of(distances)), distances

    def residual_map(self, x: Tensor, x_hat: Tensor, state: Tensor, state_hat: Tensor) -> Tensor:
        return latent_distance(state, state_hat, x.shape[-2:])

    def anomaly_map(self, residual: Tensor, feature: Tensor) -> Tensor:
        scales = self.scales_
        if self.normalisation == "batch":
            residual, feature, scales = min_max_over_batch(residual), min_max_over_batch(feature), (1.0, 1.0)
        return anomaly_map(residual, feature, weight=self.map_weight, sigma=self._sigma, scales=scales)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super()._state()
        dynamic = self.dynamic_step_
        return tensors | {"bank": dynamic.bank_, "bank_distances": dynamic.distances_, "edges": dynamic.edges_}, values

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super()._set_state(tensors, values)
        self.dynamic_step_ = self._dynamic_step()
        # `load` maps the file into memory: features of training images are read when a search needs them, not extracted
        # again
        self.dynamic_step_.bank_, self.dynamic_step_.distances_ = tensors["bank"], tensors["bank_distances"]
        self.dynamic_step_.edges_ = tensors["edges"]
