"""What DDAD and D3AD share: reconstruction by a diffusion model that is conditioned on the image itself.

Source: Mousakhan, Brox, Tayyub, "Anomaly Detection with Conditioned Denoising Diffusion Models" (DDAD, arXiv
2305.15956) and its public code (settings: ``data/published/hyperparameters.csv``, DDAD-README). A diffusion model of
normal images is started from the noised test image and pulled towards it while it denoises (Algorithm 1;
`diffusion.ddim_sample`); pixels and features of image and reconstruction are compared.

Where the paper and the public code differ, or ours from both:

- *Timesteps* (``plan``): the code noises to t = 250 and first calls the network at t = 225
  (`conditioning.code_timesteps`). By default ours is first called at the level of the start
  (`conditioning.subsequence_timesteps`); both are options.
- *Maps*: the code scales pixel and feature map by their maxima over the batch. Ours uses constants from held-out normal
  training images (``normalisation="batch"`` for theirs).
- *Adaptation*: both public codes sum the loss over every block and keep batch normalisation in training mode; ours
  takes the blocks of the map in evaluation mode (``adaptation_strides``, ``adaptation_batch_statistics`` for theirs).
- *Latent space* (``space="latent"``): the same method on latents of an autoencoder, as D3AD is; DDAD is in pixels.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.data import Subset

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import NoisyBatch, autocast, ddim_sample, draw_noise, epsilon_loss, image_noise, noisy_batch
from diffad_utils.io import store
from diffad_utils.methods.base import Prediction, at_image_size, batches, check_train_dataset, noise_keys
from diffad_utils.methods.d3ad import adaptation
from diffad_utils.methods.d3ad.conditioning import denoising_timesteps, scaled_start
from diffad_utils.methods.d3ad.maps import Maps, Reconstruction, feature_distance, image_score
from diffad_utils.methods.d3ad.settings import ConditionedSettings
from diffad_utils.methods.kept import kept
from diffad_utils.methods.reconstruction import SMOOTHING
from diffad_utils.models.autoencoders import LatentSpace, PixelSpace
from diffad_utils.models.backbones import Backbone, load_backbone
from diffad_utils.models.feature_cache import cached_latents
from diffad_utils.models.stable_diffusion import load_vae
from diffad_utils.models.unet import small_unet
from diffad_utils.training import BatchLoss, TrainingLog
from diffad_utils.weights import Resolved


@dataclass(kw_only=True)
class ConditionedDiffusion(ConditionedSettings):
    """What `DDAD` and `D3AD` do alike; their fields are those of `ConditionedSettings`.

    Prediction: score = maximum of the anomaly map; parts ``residual`` and ``features``, the maxima of the two smoothed
    maps, ``step``, and ``evaluations`` of the network. nfe = the mean of the latter over the images.
    """

    # -- what differs between methods ----------------------------------------------------------------------------------

    @abstractmethod
    def _fit_steps(self, new_extractor: bool) -> None:
        """Learn from the fitted images how far images go, if that is needed with these settings."""

    @abstractmethod
    def _steps(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """T_hat int64 [B] of images with these features, a map [B, C, h, w] a block, and distances [B] if there are
        any."""

    @property
    @abstractmethod
    def deepest_step(self) -> int:
        """T_max of the sub-sequence of DDIM steps."""

    @abstractmethod
    def residual_map(self, x: Tensor, x_hat: Tensor, state: Tensor, state_hat: Tensor) -> Tensor:
        """[B, image_size, image_size], not normalised."""

    @abstractmethod
    def anomaly_map(self, residual: Tensor, feature: Tensor) -> Tensor:
        """The smoothed anomaly map [B, H, W] of the two maps [B, H, W] of one size."""

    PATCHES: ClassVar[bool] = False

    # -- fit -----------------------------------------------------------------------------------------------------------

    def fit(self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None) -> Self:
        """Encode, train the UNet, adapt the features, learn the steps, and take the maps' constants from held-out
        normals.

        With ``checkpoint_folder`` an interrupted training goes on where it was. Leaves ``training_log_`` and
        ``adaptation_log_`` behind.
        """
        check_train_dataset(train_dataset)
        fitted, held_out = scoring.holdout_split(len(train_dataset), self.holdout_fraction, self.seed)
        self._check_count(len(fitted), len(held_out))
        self._load_networks()
        self._remember(train_dataset)
        self._build_unet()
        states = torch.cat(
            [
                cached_latents(self._space, self._input(batch["image"]))
                for batch in batches(self._fitted_images, self.batch_size)
            ]
        )
        self.training_log_ = self._train_unet(states, checkpoint_folder)
        self._adapt()
        self._fit_steps(new_extractor=True)
        self._scales = self._peaks_of_held_out()
        return self

    def _remember(self, train_dataset: ImageDataset) -> None:
        """The images for `with_settings`."""
        fitted, held_out = scoring.holdout_split(len(train_dataset), self.holdout_fraction, self.seed)
        self._fitted_images, self._held_out_images = (
            Subset(train_dataset, rows.tolist()) for rows in (fitted, held_out)
        )
        self._held_out_maps: Iterable[Maps | None] = repeat(None)

    def _check_count(self, fitted: int, held_out: int) -> None:
        """Raise ``ValueError``, before any work, for fewer images than the method needs."""

    def with_settings(self, **changes: Any) -> Self:
        """The same diffusion model with other settings; adapted and calibrated anew on the training images where they
        ask for it.

        Raises ``ValueError`` for a setting that needs another training, ``RuntimeError`` for a detector that was loaded
        (the training images are not saved).
        """
        wrong = sorted(set(changes) & self.RETRAINS)
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} cannot be changed without another training; make a new {type(self).__name__}"
            )
        if not hasattr(self, "_held_out_images"):
            raise RuntimeError("with_settings needs the training images that fit had; a loaded detector has none")
        other = copy.copy(self)
        for name, value in changes.items():
            if name not in {field.name for field in dataclasses.fields(self)}:
                raise ValueError(f"{type(self).__name__} has no setting {name!r}")
            setattr(other, name, value)
        other.__post_init__()
        adapts_anew = any(name.startswith(("adaptation", "distillation")) for name in changes)
        if adapts_anew:
            other._adapt()
        other._fit_steps(new_extractor=adapts_anew or "inference_precision" in changes)
        if not set(changes) <= {"map_weight", "v", "normalisation"}:  # these work on finished maps
            other._scales = None
        if "batch_size" in changes:
            other._held_out_maps = repeat(None)
        return other

    def _train_unet(self, states: Tensor, checkpoint_folder: str | Path | None) -> TrainingLog:
        """DDPM's simplified objective (D3AD eq. 6) on states [n, C, h, w]."""

        def draw(generator: torch.Generator) -> NoisyBatch:
            drawn = self.train_batch_size, generator, self.torch_device, self.max_train_timestep
            return noisy_batch(states, self.schedule, *drawn, kind=self.noise)

        def loss(model: UNet2DModel, *batch: Tensor) -> Tensor:
            return epsilon_loss(lambda x, t: model(x, t, return_dict=False)[0], NoisyBatch(*batch))

        loss_fn = BatchLoss(self.train_batch_size, self._changed_batches(states, draw), loss)
        description = f"{type(self).__name__} UNet"
        return self._optimise(self.unet_, loss_fn, description, checkpoint_folder, weight_decay=self.weight_decay)

    def _changed_batches(
        self, states: Tensor, draw: Callable[[torch.Generator], NoisyBatch]
    ) -> Callable[[torch.Generator], NoisyBatch]:
        """What is drawn for a step of the training, from what DDPM's objective would draw of states [n, C, h, w]."""
        return draw

    def _adapt(self) -> None:
        """Domain adaptation on the fitted images, each from a random tenth of T_max as in the public code."""
        if self.adaptation_epochs == 0:
            self.extractor_, self.adaptation_log_ = self._frozen, adaptation.AdaptationLog()
            return
        images = torch.cat([self._input(batch["image"]) for batch in batches(self._fitted_images, self.batch_size)])
        weights, self.adaptation_log_ = self._adapted(images)
        self.extractor_ = copy.deepcopy(self._frozen)  # the network is one, whichever of its blocks it returns
        self.extractor_.load_state_dict(weights)

    @kept(state=None)
    def _adapted(self, images: Tensor) -> tuple[dict[str, Tensor], adaptation.AdaptationLog]:
        """Weights of the extractor after `adaptation.adapt` on images [n, 3, image_size, image_size]."""
        strides = tuple(self.adaptation_strides or self.strides)
        with store.paused():  # what it sees in between is not needed again
            adapted, log = adaptation.adapt(
                self._frozen if strides == tuple(self.strides) else self._load_backbone(strides),
                images,
                lambda rows, generator: self._adaptation_pair(images, rows, generator),
                epochs=self.adaptation_epochs,
                loss=self.adaptation_loss,
                distillation_weight=self.distillation_weight,
                learning_rate=self.adaptation_rate,
                batch_size=self.train_batch_size,
                batch_statistics=self.adaptation_batch_statistics,
                seed=self.seed,
            )
        return adapted.state_dict(), log

    def _adaptation_pair(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [n, 3, H, W] of these rows and their reconstructions from a random tenth of T_max."""
        x = images[rows].to(self.torch_device)
        tenths = self.deepest_step * int(torch.randint(1, 11, (1,), generator=generator)) // 10
        nearest = (
            max((tenths + self.num_steps // 2) // self.num_steps, 1) * self.num_steps
        )  # what both spacings can take
        steps = torch.full((len(rows),), min(nearest, self.deepest_step // self.num_steps * self.num_steps))
        state = self.encode(x).to(self.torch_device)
        noise = draw_noise((1 + self.num_steps, *state.shape), generator, self.noise)
        return x, self.decode(self._denoise(state, steps, state, self.guidance_weight, noise)).to(self.torch_device)

    @property
    def scales_(self) -> tuple[float, float]:
        """Constants of the residual and the feature map; after `with_settings` taken when first needed."""
        if self._scales is None:
            self._scales = self._peaks_of_held_out()
        return self._scales

    def _peaks_of_held_out(self) -> tuple[float, float]:
        """Mean over held-out normal images of the maximum of each map."""
        known = zip(batches(self._held_out_images, self.batch_size), self._held_out_maps, strict=False)
        self._held_out_maps = [
            self.maps(batch["image"], batch["key"], before and before.reconstruction) for batch, before in known
        ]
        maps = zip(*(done[1:] for done in self._held_out_maps), strict=True)
        pixel, feature = (torch.cat(of_one).flatten(1).amax(dim=1).double().mean() for of_one in maps)
        return max(float(pixel), 1e-8), max(float(feature), 1e-8)

    @property
    def held_out_maps_(self) -> list[Maps]:
        """Maps of the held-out normal training images, a batch each: what `scales_` is taken from."""
        if self._scales is None or not isinstance(self._held_out_maps, list):
            self._scales = self._peaks_of_held_out()
        return list(self._held_out_maps)

    # -- predict -------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("_scales")
        return self.prediction_from_maps(self.maps(images, keys), images.shape[-2:])

    def prediction_from_maps(self, maps: Maps, size: tuple[int, int]) -> Prediction:
        """Scores and anomaly maps for images of ``size`` (H, W), from what `maps` gave."""
        done, residual, feature = maps
        anomaly_map = self.anomaly_map(residual, feature)
        parts = {"residual": residual, "features": feature}
        parts = {name: image_score(scoring.smooth_map(values, self._sigma)) for name, values in parts.items()}
        parts["step"] = done.steps.float()
        parts["evaluations"] = self._evaluations(done.steps).float()
        if done.distances is not None:
            parts["distance"] = done.distances.float()
        score, x_hat = image_score(anomaly_map), at_image_size(done.x_hat, size)
        return Prediction(
            score, scoring.upsample_map(anomaly_map, size), x_hat, parts, float(parts["evaluations"].mean())
        )

    @property
    def _sigma(self) -> float:
        """Standard deviation in pixels of the smoothing of maps."""
        return SMOOTHING * self.image_size

    @torch.inference_mode()
    def maps(self, images: Tensor, keys: Sequence[str] | None = None, known: Reconstruction | None = None) -> Maps:
        """Reconstruction, residual map and feature map of images [B, 3, H, W] in [0, 1].

        ``known`` is a reconstruction of the same images by this detector with other settings. Its features and latents
        are taken over if the same networks saw the images (not after another domain adaptation), and ignored otherwise.
        """
        x = self._input(images)
        done = self._reconstruct(x, noise_keys(images, keys), known)
        with self._timed("features"):
            feature = self.feature_map(done.features, done.x_hat)
        return Maps(done, self.residual_map(x, done.x_hat, done.state, done.state_hat), feature)

    def reconstruct(self, images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] as the model thinks they should be: [B, 3, image_size, image_size], CPU.
        ``keys`` [B] seed what is random."""
        return self.reconstruction(images, keys).x_hat

    def reconstruction(self, images: Tensor, keys: Sequence[str] | None = None) -> Reconstruction:
        """All that belongs to the reconstruction of images [B, 3, H, W] in [0, 1]."""
        self._require_fitted("_scales")
        return self._reconstruct(self._input(images), noise_keys(images, keys))

    @torch.inference_mode()
    def _reconstruct(self, x: Tensor, keys: Sequence[str], known: Reconstruction | None = None) -> Reconstruction:
        """x float32 [B, 3, image_size, image_size] in [0, 1]."""
        seen_by = (self.extractor_, self.posterior, self.inference_precision)
        again = known is not None and known.seen_by == seen_by
        with self._timed("features"):
            features = known.features if again else self.features(x)
        with self._timed("neighbours"):
            steps, distances = self._steps(features)
        shape = self._space.shape(self.image_size)
        with self._timed("encode"):
            drawn = self.posterior == "draw" and self.space == "latent"
            noise = image_noise(shape, self.seed, [f"{key} posterior" for key in keys]) if drawn and not again else None
            state = known.state if again else self.encode(x, noise)
        with self._timed("denoise"):
            noise = None
            if self.noise_fraction or self.stochasticity:
                draws = 1 + self.num_steps * (self.stochasticity > 0)
                noise = image_noise((draws, *shape), self.seed, keys, self.noise).transpose(0, 1)
            state_hat, steps, distances = self._come_back(state.to(self.torch_device), steps, distances, noise)
            state_hat = state_hat.cpu()
        with self._timed("decode"):
            x_hat = self.decode(state_hat)
        return Reconstruction(state, state_hat, x_hat, features, steps, distances, seen_by)

    @kept(state=None)
    @torch.inference_mode()
    def _denoise(self, state: Tensor, steps: Tensor, target: Tensor, weight: float, noise: Tensor | None) -> Tensor:
        """Start from state [B, C, h, w] at steps [B] and come back, pulled towards target; noise [1 + num_steps, B,
        ...], for the start and for each step. All images run together, whatever their steps."""
        start = scaled_start(state, steps, self.schedule, self.noise_fraction, None if noise is None else noise[0])
        timesteps = self._timesteps(steps)
        more = {"eta": self.stochasticity, "noise": noise[-len(timesteps) :]} if self.stochasticity else {}
        return ddim_sample(self.predict_noise, start, self.schedule, timesteps, target, weight, **more).float()

    def _come_back(
        self, state: Tensor, steps: Tensor, distances: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """state [B, C, h, w] from its step and back, with the steps and distances that the prediction is to have."""
        return self._denoise(state, steps, state, self.guidance_weight, noise), steps, distances

    def _timesteps(self, steps: Tensor) -> Tensor:
        """Timesteps int64 [S, B] that images with steps [B] visit, -1 where one waits."""
        deepest = max(self.deepest_step, int(steps.max()))
        return denoising_timesteps(steps, self.num_steps, deepest, self.plan)

    def _evaluations(self, steps: Tensor) -> Tensor:
        """Evaluations of the network int64 [B] of images with steps [B]."""
        return (self._timesteps(steps) >= 0).sum(dim=0)

    def predict_noise(self, x: Tensor, t: Tensor) -> Tensor:
        """The network: noise in states x [B, C, h, w] at timesteps t int64 [B], in the dtype of x."""
        with self._autocast():
            return self.unet_(x, t, return_dict=False)[0].to(x)

    @kept(state=None)
    def feature_map(self, features: Sequence[Tensor], x_hat: Tensor) -> Tensor:
        """Distance of the features of an image to those of x_hat [B, 3, image_size, image_size]: [B, image_size,
        image_size]."""
        return feature_distance(features, self.features(x_hat), x_hat.shape[-2:], self.PATCHES).cpu()

    # -- pieces --------------------------------------------------------------------------------------------------------

    @property
    def _space(self) -> LatentSpace | PixelSpace:
        return PixelSpace() if self.space == "pixel" else LatentSpace(self.vae_, self.inference_precision)

    @kept(state=None)
    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> states float32 [B, C, h, w] of the diffusion model, on the CPU; with
        ``noise`` [B, C, h, w] a latent is drawn from the posterior."""
        return self._space.encode(x, noise)

    @kept(state=None)
    def decode(self, state: Tensor) -> Tensor:
        """States [B, C, h, w] -> images float32 [B, 3, H, W] in [0, 1], on the CPU."""
        return self._space.decode(state)

    @kept(state=None)
    @torch.no_grad()
    def features(self, x: Tensor) -> list[Tensor]:
        """Images [B, 3, image_size, image_size] in [0, 1] -> a map [B, C, h, w] a block, of the adapted extractor."""
        with self._autocast():
            return [block.float() for block in self.extractor_(x.to(self.torch_device))]

    def _autocast(self) -> torch.autocast:
        return autocast(self.torch_device, self.inference_precision)

    def _load_networks(self) -> None:
        if not hasattr(self, "_frozen"):
            self._frozen = self._load_backbone(self.strides)
        if self.space == "latent" and not hasattr(self, "vae_"):
            self.vae_ = load_vae(self.vae, device=self.device, allow_mini=self.allow_mini)
        step = self._space.downsampling * 2 ** (len(self.block_out_channels) - 1)
        if self.image_size % step:
            raise ValueError(f"image_size must be a multiple of {step} with this UNet, got {self.image_size}")

    def _load_backbone(self, strides: Sequence[int]) -> Backbone:
        return load_backbone(self.backbone, allow_mini=self.allow_mini, strides=tuple(strides)).to(self.torch_device)

    def _build_unet(self) -> None:
        channels, side, _ = self._space.shape(self.image_size)
        widths = tuple(self.block_out_channels)
        attention = [level for level in range(len(widths)) if side >> level in self.attention_resolutions]
        unet = small_unet(channels, side, widths, self.layers_per_block, attention, seed=self.seed, groups=8)
        self.unet_ = unet.to(self.torch_device, memory_format=torch.channels_last).eval()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = store.clock()
        yield
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
        self.stage_seconds[stage] += store.clock() - start

    def networks(self) -> list[torch.nn.Module]:
        names = ("unet_", "extractor_", "vae_")  # without the frozen copy of an adapted extractor
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def resolved_weights(self) -> dict[str, Resolved]:
        found = {"backbone": self._frozen.resolved}
        return found | ({"vae": self.vae_.resolved} if self.space == "latent" else {})

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("_scales")
        tensors = {f"unet.{name}": tensor for name, tensor in self.unet_.state_dict().items()}
        if self.extractor_ is not self._frozen:
            tensors |= {f"extractor.{name}": tensor for name, tensor in self.extractor_.state_dict().items()}
        return tensors, {"scales": list(self.scales_), "sha256": self._checksums()}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load_networks()
        self._check_weights(values["sha256"])
        self._build_unet()
        parts = {
            part: {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            for part in ("unet.", "extractor.")
        }
        self.unet_.load_state_dict(parts["unet."])
        self.extractor_ = self._frozen
        if parts["extractor."]:
            self.extractor_ = copy.deepcopy(self._frozen)
            self.extractor_.load_state_dict(parts["extractor."])
        self._scales = tuple(values["scales"])
