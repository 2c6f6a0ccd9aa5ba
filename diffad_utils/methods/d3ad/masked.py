"""D3AD in two passes: the first finds, the second redraws only there.

One pass of D3AD has one step for the defect and for everything else. Here the first pass is `D3AD` as it is. Where its
anomaly map is high the second pass redraws the latents with the same network, from noise at a larger step; everywhere
else the image is kept. It is `methods.img2img.masked` with a network of normal images only; sources, and where ours
differs from them, are there: RePaint (Lugmayr et al., CVPR 2022, eq. 8) without its resampling, on latents as in
Blended Latent Diffusion (Avrahami et al., ACM TOG 42(4), 2023, Algorithm 1). Neither is a paper on defects, so no
published form of this detector exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from diffad_utils.diffusion import ddim_moves, ddim_step, image_noise
from diffad_utils.methods.base import noise_keys
from diffad_utils.methods.d3ad.conditioning import subsequence_timesteps
from diffad_utils.methods.d3ad.d3ad import D3AD
from diffad_utils.methods.d3ad.maps import Reconstruction
from diffad_utils.methods.img2img.masked import cell_means, pasted, widened
from diffad_utils.methods.kept import kept


@dataclass(kw_only=True)
class D3ADMasked(D3AD):
    """`D3AD` followed by a second pass inside the mask that the first one finds; see the module's text.

    Parameters besides those of `D3AD`, which are the first pass's
    ----------
    second_step : T of the second pass, at whose level the masked latents are drawn from noise. It has to be below
        ``max_train_timestep``. second_steps : its DDIM steps.
    mask_quantile : the threshold, as a quantile of the first pass's map on held-out normal training images, cell by
        cell of the latents' grid, as in `Img2ImgMasked`. No test image is looked at.

    Prediction: ``step`` and ``distance`` are the first pass's; ``evaluations`` and nfe count both passes.
    """

    name: ClassVar[str] = "d3ad_masked"
    published_as: ClassVar[str] = ""
    contract_settings: ClassVar[dict[str, Any]] = D3AD.contract_settings | {"second_steps": 2}
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}  # six steps do not teach drawing from noise

    second_step: int = 240
    second_steps: int = 10
    mask_quantile: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.second_steps <= self.second_step < self.max_train_timestep:
            raise ValueError(
                "expected 1 <= second_steps <= second_step < max_train_timestep, beyond which the network was not "
                f"trained, got {self.second_steps}, {self.second_step} and {self.max_train_timestep}"
            )
        if not 0 < self.mask_quantile < 1:
            raise ValueError(f"mask_quantile must lie between 0 and 1, got {self.mask_quantile}")
        if self.normalisation == "batch":
            raise ValueError("normalisation='batch' would let an image's mask depend on the others: use 'training'")

    @property
    def cell_size(self) -> int:
        """Side of a cell of the latents' grid, pixels."""
        return self._space.downsampling

    def _fit_steps(self, new_extractor: bool) -> None:
        super()._fit_steps(new_extractor)
        self._take_first()
        maps = [self.first_.anomaly_map(*found[1:]) for found in self.first_.held_out_maps_]
        cells = cell_means(torch.cat(maps), self.cell_size).flatten().double()
        self.threshold_ = torch.quantile(cells, self.mask_quantile).item()

    @classmethod
    def of(cls, detector: D3AD, **settings: Any) -> Self:
        """Two passes with the networks, settings and training images of a fitted `D3AD`, without another training.

        settings : of this class alone. Raises ``RuntimeError`` for a detector that was loaded (the training images are
        not saved).
        """
        if not hasattr(detector, "_held_out_images"):
            raise RuntimeError("two passes need the training images that fit had; a loaded detector has none")
        masked = cls(**{field.name: getattr(detector, field.name) for field in fields(D3AD)}, **settings)
        _share(detector, masked)
        masked._fit_steps(new_extractor=False)
        masked._scales = masked._peaks_of_held_out()
        return masked

    def _take_first(self) -> None:
        """The first pass, on the same networks and images; not calibrated yet."""
        self.first_ = D3AD(**{field.name: getattr(self, field.name) for field in fields(D3AD)})
        _share(self, self.first_)

    def find(self, images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """The first pass: where images [B, 3, H, W] are to be redrawn, bool [B, h, w] on the latents' grid."""
        return self._masks_of(self.first_.maps(images, keys)[1:])

    def _masks_of(self, maps: Sequence[Tensor]) -> Tensor:
        """Masks bool [B, h, w] from residual and feature map [B, image_size, image_size] of the first pass."""
        return widened(cell_means(self.first_.anomaly_map(*maps), self.cell_size) > self.threshold_)

    def repaint(
        self, images: Tensor, keys: Sequence[str] | None, masks: Tensor, second_step: int | None = None
    ) -> Tensor:
        """The second pass inside masks bool [B, h, w], before pasting: float32 [B, 3, image_size, image_size], CPU.

        Outside the mask it is what the autoencoder makes of the image. second_step : None takes the detector's.
        """
        state, start = self.encode(self._input(images)), self.second_step if second_step is None else second_step
        return self.decode(self._redrawn(state, noise_keys(images, keys), masks, start))

    @kept(state=None)
    @torch.inference_mode()
    def _redrawn(self, state: Tensor, keys: Sequence[str], masks: Tensor, start: int) -> Tensor:
        """Latents [B, C, h, w] drawn anew inside masks from noise at ``start``, on the CPU. After each step those
        outside are put back to the image's own at that step's level (RePaint, eq. 8), at the end without noise."""
        draws = image_noise((1, *state.shape[1:]), self.seed, [f"{key} second pass" for key in keys], self.noise)
        state, noise = state.to(self.torch_device), draws[:, 0].to(self.torch_device)
        outside = ~masks[:, None].to(self.torch_device)
        timesteps = subsequence_timesteps(torch.tensor([start]), self.second_steps, start)
        alphas = torch.cat([self.schedule.alphas_cumprod[timesteps[:, 0].cpu()], torch.ones(1, dtype=torch.float64)])
        x = ddim_step(state, noise, 1.0, alphas[0])  # from alpha_bar = 1: the forward process
        visited = timesteps.expand(-1, len(state))
        moves = ddim_moves(self.predict_noise, x, visited, alphas[:-1], alphas[1:])
        for alpha, x in zip(alphas[1:], moves, strict=True):
            x.copy_(torch.where(outside, ddim_step(state, noise, 1.0, alpha), x))  # in place: the next move starts here
        return x.float().cpu()

    def _reconstruct(self, x: Tensor, keys: Sequence[str], known: Reconstruction | None = None) -> Reconstruction:
        first, *maps = self.first_.maps(x, keys, known)
        masks = self._masks_of(maps)
        state_hat = self._redrawn(first.state, keys, masks, self.second_step)
        return first._replace(state_hat=state_hat, x_hat=pasted(x, self.decode(state_hat), masks))

    def _evaluations(self, steps: Tensor) -> Tensor:
        return super()._evaluations(steps) + self.second_steps

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super()._state()
        return tensors, values | {"threshold": self.threshold_, "first_scales": list(self.first_.scales_)}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super()._set_state(tensors, values)
        self._take_first()
        self.first_._scales, self.threshold_ = tuple(values["first_scales"]), values["threshold"]


def _share(fitted: D3AD, other: D3AD) -> None:
    """Networks, steps and training images of a fitted detector to another, which is calibrated later."""
    names = ("_frozen", "vae_", "unet_", "extractor_", "dynamic_step_", "training_log_", "adaptation_log_")
    for name in (*names, "_fitted_images", "_held_out_images"):
        if hasattr(fitted, name):  # a detector in pixels has no autoencoder, a loaded one no images
            setattr(other, name, getattr(fitted, name))
    other._scales, other._held_out_maps = None, repeat(None)
