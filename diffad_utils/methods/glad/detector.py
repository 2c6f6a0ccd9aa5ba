"""GLAD: training with pasted anomalies, and a denoising step that the image chooses by a criterion of the network.

Source: Yao, Liu, Wang, Yin, Yan, Hong, Zuo, "GLAD: Towards Better Reconstruction with Global and Local Adaptive
Diffusion Models for Unsupervised Anomaly Detection" (ECCV 2024, arXiv 2406.07487), section 3, its three parts by name
(the formulas were checked against the public code, whose places are named, not against the paper's numbered equations),
and the public code (github.com/hyao1/GLAD: ``main.py`` of commit 0ecc036, ``ddim_scheduling.py`` of 79c08c5).

- *Anomaly-oriented training* (ATP): the network sees the noised sample with a pasted anomaly and predicts the noise
  that leads to the normal one (`pasted.with_pasted`; code: ``predict_eps``).
- *Adaptive denoising steps* (ADS): the step of an image is the first, from T_max down, at which the trajectory and the
  image itself, noised by the same noise, say different clean samples (`steps.sample_adaptively`; code:
  ``DDIMScheduler.step``).
- *Spatial-adaptive feature fusion* (SAFF): at that step the two are mixed position by position.

Everything else is D3AD's (`methods.d3ad`): autoencoder, UNet, features, map (eq. 9 there) and score. So the same
network with ``pasted_share`` = 0 and ``step_rule`` = "neighbours" is its plain form, D3AD from noise.

Where paper and public code differ, or ours from both:

- *Strength in training*: the paper's loss has the anomalous sample whole, the code t / T of it and the rest normal, so
  that the target stays bounded for small t. Default: the code's, over the timesteps that training draws (``fade``;
  "none" for the paper's). ``benchmarks.glad --paper`` compares both.
- *What is pasted*: the code pastes Perlin-shaped patches of the textures of DTD or of the image's own shuffled parts,
  inside a foreground mask of the category, anew for every sample (``dataset/dataset.py``). Ours pastes spots from other
  training images (`data.pasted_defects.paste_defect`), as many copies an image as ``pasted_copies``, encoded once
  before training.
- *Threshold*: the code has a number for each category of each data set (0.1 to 0.5), and does not say how it was
  found. Ours is a quantile over held-out normal training images of the largest difference that they reach.
- *Fusion*: the code mixes by sigmoid(distance), which is at least a half everywhere, and does not ask the network again
  about the mixture. Ours does the same; ``fusion=False`` starts anew from the image's own noised latent.
- *Features of the criterion*: the code's are the last layer of DINO, the ten largest of 4096 positions; ours the
  deepest block of the backbone and the same share of its positions, at least one.
- *Map*: the code adds DINO distances of four layers to the nearest position of the reconstruction, blanks what lies
  outside a foreground mask for some categories, and scores by the mean of the 250 highest pixels; ours is D3AD's, so
  that only training and step differ between the forms.
- *Text*: the code guides Stable Diffusion by a prompt; here the network has no text.
- *Steps*: T_max = 750 and ``min_step`` = 350 with 25 DDIM steps for most of MVTec AD in the code. Ours are a third of
  both in 10 steps, as the networks here are trained briefly and on small timesteps. Of T_max = 80, 240 and 390 the
  second separated normal and defective images best by the criterion, on draws of leather that no run of the study uses
  and a network trained on normal images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffad_utils.diffusion import NoisyBatch
from diffad_utils.io import store
from diffad_utils.methods.base import batches, noise_keys
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.d3ad.conditioning import scaled_start
from diffad_utils.methods.glad.pasted import FADES, drawn_differences, pasted_copies, with_pasted
from diffad_utils.methods.glad.steps import nearest_distance, sample_adaptively
from diffad_utils.models.feature_cache import cached_latents

STEP_RULES = ("criterion", "neighbours")


@dataclass(kw_only=True)
class GLAD(D3AD):
    """Training with pasted anomalies and steps by the image; see the module's text for the source.

    Parameters besides those of `D3AD`
    ----------
    pasted_share : of the samples of a training batch that carry a pasted anomaly (public code: a half); 0: D3AD's
        training. pasted_copies : copies of each training image with another anomaly each. fade : `pasted.with_pasted`.
    step_rule : "criterion", GLAD's, or "neighbours", D3AD's nearest-neighbour step.
    threshold : of the criterion; None: the ``threshold_quantile`` of held-out normal training images.
    min_step : the first timestep below it is the step of an image that the criterion does not reach.
    top_share : of the positions of the criterion's map, whose mean is compared with the threshold.
    fusion : mix trajectory and image at the chosen step (SAFF).

    Prediction: the part ``distance`` is the largest difference of the criterion, or with "neighbours" D3AD's. With the
    criterion every image takes all ``num_steps`` evaluations: it saves none.
    """

    name: ClassVar[str] = "glad"
    published_as: ClassVar[str] = "GLAD"
    contract_settings: ClassVar[dict[str, Any]] = D3AD.contract_settings | {"num_steps": 4, "pasted_copies": 1}
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}  # six steps do not teach removing this noise
    RETRAINS: ClassVar[frozenset[str]] = D3AD.RETRAINS | {"pasted_share", "pasted_copies", "fade"}

    noise_fraction: float = 1.0
    adaptation_epochs: int = 0
    t_max: int = 240
    pasted_share: float = 0.5
    pasted_copies: int = 4
    fade: str = "linear"
    step_rule: str = "criterion"
    threshold: float | None = None
    threshold_quantile: float = 0.9
    min_step: int = 112
    top_share: float = 10 / 4096
    fusion: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in {"step_rule": STEP_RULES, "fade": FADES}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        shares = self.pasted_share, self.threshold_quantile, self.top_share
        if not all(0 <= share <= 1 for share in shares) or self.pasted_copies < 1:
            raise ValueError(
                "expected pasted_share, threshold_quantile and top_share in [0, 1] and pasted_copies >= 1, got "
                f"{shares} and {self.pasted_copies}"
            )
        if self.step_rule == "neighbours":
            return
        smallest = int(self._all_timesteps()[-1])
        if not smallest < self.min_step <= self.t_max:
            raise ValueError(
                f"min_step must be above the last timestep {smallest} and at most t_max = {self.t_max}, got "
                f"{self.min_step}"
            )
        if self.guidance_weight or self.stochasticity or self.static_step is not None:
            raise ValueError(
                "the criterion needs guidance_weight = 0, stochasticity = 0 and no static_step, got "
                f"{self.guidance_weight}, {self.stochasticity} and {self.static_step}; use step_rule='neighbours'"
            )

    # -- training ------------------------------------------------------------------------------------------------------

    def _changed_batches(
        self, states: Tensor, draw: Callable[[torch.Generator], NoisyBatch]
    ) -> Callable[[torch.Generator], NoisyBatch]:
        """Rows, timesteps and noise as in D3AD's training; a share of the rows with a pasted anomaly."""
        if not self.pasted_share:
            return draw
        images = torch.cat([self._input(batch["image"]) for batch in batches(self._fitted_images, self.batch_size)])
        pasted = [
            torch.cat([cached_latents(self._space, part) for part in copy.split(self.batch_size)])
            for copy in pasted_copies(images, self.pasted_copies, self.seed)
        ]

        def changed(generator: torch.Generator) -> NoisyBatch:
            batch = draw(generator)
            difference = drawn_differences(states, pasted, batch.rows, self.pasted_share, generator)
            return with_pasted(batch, difference, self.schedule, fade=self.fade, deepest=self.max_train_timestep)

        return changed

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _fit_steps(self, new_extractor: bool) -> None:
        super()._fit_steps(new_extractor)
        self.threshold_ = self.threshold
        if self.step_rule == "criterion" and self.threshold is None:
            self.threshold_ = self._threshold_of_normal_images()

    def _threshold_of_normal_images(self) -> float:
        """Quantile over held-out normal images of the largest difference down to ``min_step``."""
        self.threshold_ = float("inf")  # so that none of them chooses a step before
        reached = [
            self._reconstruct(self._input(batch["image"]), noise_keys(batch["image"], batch["key"])).distances
            for batch in batches(self._held_out_images, self.batch_size)
        ]
        return float(torch.cat(reached).quantile(self.threshold_quantile))

    def _steps(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        if self.step_rule == "neighbours":
            return super()._steps(features)
        return torch.full((len(features[0]),), self.t_max), None  # until the trajectory says more

    def _come_back(
        self, state: Tensor, steps: Tensor, distances: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.step_rule == "neighbours":
            return super()._come_back(state, steps, distances, noise)
        of_start = None if noise is None else noise[0]

        def noised(t: Tensor) -> Tensor:
            return scaled_start(state, t, self.schedule, self.noise_fraction, of_start)

        with store.paused():  # or each comparison on the way would be kept
            found = sample_adaptively(
                self.predict_noise,
                noised,
                noised(steps),
                self.schedule,
                self._all_timesteps(),
                self._difference,
                threshold=self.threshold_,
                min_step=self.min_step,
                top_share=self.top_share,
                fusion=self.fusion,
            )
        return found.state.float(), found.steps, found.differences

    def _difference(self, clean: Tensor, of_image: Tensor) -> Tensor:
        """Distance of the decoded clean latents [n, C, h, w] in the deepest features: [n, h', w']."""
        one, other = (self.features(self.decode(latents))[-1] for latents in (of_image, clean))
        return nearest_distance(one, other)

    def _all_timesteps(self) -> Tensor:
        """Timesteps int64 [num_steps] of the whole way down from T_max."""
        return self._timesteps(torch.tensor([self.t_max]))[:, 0]

    def _evaluations(self, steps: Tensor) -> Tensor:
        if self.step_rule == "neighbours":
            return super()._evaluations(steps)
        return torch.full((len(steps),), len(self._all_timesteps()))

    # -- state ---------------------------------------------------------------------------------------------------------

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super()._state()
        return tensors, values | {"threshold": self.threshold_}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super()._set_state(tensors, values)
        self.threshold_ = values["threshold"]
