"""DDAD, and what D3AD shares with it: reconstruction by a diffusion model that is conditioned on the image itself.

Source: Mousakhan, Brox, Tayyub, "Anomaly Detection with Conditioned Denoising Diffusion Models" (DDAD, arXiv
2305.15956) and its public code (settings: ``data/published/hyperparameters.csv``, DDAD-README). A diffusion model of
normal images is started from the noised test image and pulled towards it while it denoises (Algorithm 1;
`diffusion.ddim_sample`); pixels and features of image and reconstruction are compared.

Where the paper and the public code differ, or ours from both:

- *Plan*: the code noises to t = 250 and first calls the network at t = 225 (`conditioning.code_plan`). By default ours
  is first called at the level of the start (`conditioning.paper_plan`); both are options.
- *Maps*: the code scales pixel and feature map by their maxima over the batch. Ours uses constants from held-out normal
  training images (``normalisation="batch"`` for theirs).
- *Latent space* (``space="latent"``): the same method on latents of an autoencoder, as D3AD is; DDAD is in pixels.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.data import Subset

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import NoiseSchedule, add_noise, autocast, check_precision, ddim_sample, image_noise
from diffad_utils.methods.base import (
    Detector,
    Prediction,
    batches,
    check_images,
    check_train_dataset,
    noise_keys,
    resize_images,
)
from diffad_utils.methods.d3ad import adaptation
from diffad_utils.methods.d3ad.conditioning import PLANS, denoising_plan, scaled_start
from diffad_utils.methods.d3ad.maps import feature_distance
from diffad_utils.methods.reconstruction import SMOOTHING
from diffad_utils.models import autoencoders
from diffad_utils.models.backbones import load_backbone
from diffad_utils.models.stable_diffusion import load_vae
from diffad_utils.training import TrainingLog, train

OPTIONS = {
    "space": ("pixel", "latent"),
    "posterior": ("mean", "draw"),
    "plan": PLANS,
    "normalisation": ("training", "batch"),
    "adaptation_loss": tuple(adaptation.LOSSES),
}


class Reconstruction(NamedTuple):
    """state, state_hat: what the diffusion model works on and what it made of it, [B, C, h, w]; x_hat: [B, 3, H, W] in
    [0, 1]; features: of the image, a map a block; steps: int64 [B]; distances: float64 [B] or None without DIC;
    seen_by: what features and state depend on besides the images."""

    state: Tensor
    state_hat: Tensor
    x_hat: Tensor
    features: list[Tensor]
    steps: Tensor
    distances: Tensor | None
    seen_by: tuple[torch.nn.Module, str, str]


class Maps(NamedTuple):
    """reconstruction, and the two maps of its difference to the image: residual and feature [B, image_size,
    image_size], neither normalised nor smoothed."""

    reconstruction: Reconstruction
    residual: Tensor
    feature: Tensor

    def rows(self, chosen: Sequence[int]) -> Maps:
        """Those of some of the images."""
        of = {name: value[chosen] for name, value in self.reconstruction._asdict().items() if isinstance(value, Tensor)}
        features = [block[chosen] for block in self.reconstruction.features]
        return Maps(self.reconstruction._replace(**of, features=features), self.residual[chosen], self.feature[chosen])


@dataclass(kw_only=True)
class ConditionedDiffusion(Detector):
    """What `DDAD` and `methods.d3ad.D3AD` share.

    Parameters
    ----------
    space : "pixel" or "latent". vae : for "latent", a name for `models.stable_diffusion.load_vae`. posterior : the
        latent of an image is the "mean" of the autoencoder's posterior, or a "draw" from it (the public code of D3AD),
        one an image and seed. Training takes the mean.
    backbone : of the feature map, a name for `models.backbones.load_backbone`; strides : its blocks that are used. 8
        and 16 are blocks 2 and 3 of a ResNet.
    allow_mini : whether the shipped small models may stand in for both where the real weights are not found.
    block_out_channels, layers_per_block, attention_resolutions : of the UNet; widths are multiples of 8, attention is
        on the levels whose side in cells is in the last.
    beta_start, beta_end : linear schedule with T = 1000.
    max_train_timestep : training draws t below it; 1000 is DDPM's (and the papers'). The reconstruction only visits
        t up to its start, so a short training may spend itself there.
    train_steps, train_batch_size, learning_rate, weight_decay, warmup_steps, ema_decay, mixed_precision : training of
        the UNet with DDPM's epsilon objective (D3AD eq. 6), AdamW, cosine.
    num_steps : DDIM steps. plan : "paper" or "code", see `conditioning`.
    noise_fraction : omega, how much noise the start is given (D3AD eq. 11): 1 in DDAD, 0 in D3AD.
    guidance_weight : DDAD's w, D3AD's eta: pull towards the image.
    stochasticity : DDIM's eta; noise in every step for values above 0.
    normalisation : of the maps before they are added, "training" or "batch" (the public codes'; an image's score then
        depends on what else is predicted with it).
    adaptation_epochs, adaptation_loss, distillation_weight, adaptation_rate : see `adaptation.adapt`.
    holdout_fraction : share of the training images held out for the constants of the maps.
    inference_precision : of all networks outside training, the constants of the maps included, "fp32", "bf16" or "fp16"
        (autocast; the state stays float32).

    Prediction: score = maximum of the anomaly map; parts ``residual`` and ``features``, the maxima of the two smoothed
    maps, and ``step``. nfe = ``num_steps``, the most an image takes.
    """

    space: str = "pixel"
    vae: str = "sd-mini"
    posterior: str = "mean"
    backbone: str = "resnet-mini"
    strides: Sequence[int] = (8, 16)
    allow_mini: bool = False
    block_out_channels: Sequence[int] = (16, 32, 64, 96)
    layers_per_block: int = 1
    attention_resolutions: Sequence[int] = (8,)
    beta_start: float = 1e-4
    beta_end: float = 0.02
    max_train_timestep: int = 1000
    train_steps: int = 200
    train_batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 20
    ema_decay: float | None = 0.98
    mixed_precision: str = "no"
    num_steps: int = 10
    plan: str = "paper"
    noise_fraction: float = 1.0
    guidance_weight: float = 0.0
    stochasticity: float = 0.0
    normalisation: str = "training"
    adaptation_epochs: int = 0
    adaptation_loss: str = "places"
    distillation_weight: float = 0.0
    adaptation_rate: float = 1e-4
    holdout_fraction: float = 0.1
    inference_precision: str = "fp32"

    RETRAINS: ClassVar[frozenset[str]] = frozenset(
        [
            "image_size",
            "seed",
            "device",
            "space",
            "vae",
            "backbone",
            "strides",
            "allow_mini",
            "block_out_channels",
            "layers_per_block",
            "beta_start",
            "beta_end",
            "attention_resolutions",
            "max_train_timestep",
            "train_steps",
            "train_batch_size",
            "learning_rate",
            "weight_decay",
            "warmup_steps",
            "ema_decay",
            "mixed_precision",
            "holdout_fraction",
        ]
    )
    """Fields that `with_settings` cannot change, because they need another training."""

    def __post_init__(self) -> None:
        check_precision(self.inference_precision)
        for name, known in OPTIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if not 0 <= self.noise_fraction <= 1 or self.guidance_weight < 0 or not 0 <= self.stochasticity <= 1:
            got = f"{self.noise_fraction}, {self.guidance_weight}, {self.stochasticity}"
            raise ValueError(f"expected noise_fraction and stochasticity in [0, 1] and guidance_weight >= 0, got {got}")
        if any(width < 8 or width % 8 for width in self.block_out_channels):
            raise ValueError(f"block_out_channels must be multiples of 8, got {list(self.block_out_channels)}")
        self.schedule = NoiseSchedule.linear(1000, self.beta_start, self.beta_end)
        self.stage_seconds: Counter[str] = Counter()  # wall time of `predict` by stage since this was last cleared

    # -- what differs between methods ----------------------------------------------------------------------------------

    @abstractmethod
    def _fit_steps(self, new_extractor: bool) -> None:
        """Learn from the fitted images how far images go, if that is needed with these settings."""

    @abstractmethod
    def _steps(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """That int64 [B] of images with these features, a map [B, C, h, w] a block, and distances [B] if there are
        any."""

    @property
    @abstractmethod
    def deepest_step(self) -> int:
        """T_max of the sub-sequence of DDIM steps."""

    @abstractmethod
    def residual_map(self, x: Tensor, x_hat: Tensor, state: Tensor, state_hat: Tensor) -> Tensor:
        """[B, image_size, image_size], not normalised."""

    @abstractmethod
    def _combine(self, residual: Tensor, feature: Tensor) -> Tensor:
        """The anomaly map before smoothing, of maps [B, H, W]."""

    PATCHES: ClassVar[bool] = False

    # -- fit -----------------------------------------------------------------------------------------------------------

    def fit(self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None) -> Self:
        """Encode, train the UNet, adapt the features, learn the steps, and take the maps' constants from held-out
        normals.

        With ``checkpoint_folder`` an interrupted training goes on where it was. Leaves ``training_log_`` and
        ``adaptation_log_`` behind.
        """
        check_train_dataset(train_dataset)
        self._load_networks()
        fitted, held_out = scoring.holdout_split(len(train_dataset), self.holdout_fraction, self.seed)
        self._fitted_images, self._held_out_images = (
            Subset(train_dataset, rows.tolist()) for rows in (fitted, held_out)
        )
        self._held_out_maps: Iterable[Maps | None] = repeat(None)
        self._build_unet()
        states = torch.cat(
            [self.encode(self._input(batch["image"])) for batch in batches(self._fitted_images, self.batch_size)]
        )
        self.training_log_ = self._train_unet(states, checkpoint_folder)
        self._adapt()
        self._fit_steps(new_extractor=True)
        self._scales = self._peaks_of_held_out()
        return self

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

        def loss_fn(model: UNet2DModel, generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(states), (self.train_batch_size,), generator=generator)
            t = torch.randint(self.max_train_timestep, (self.train_batch_size,), generator=generator)
            noise = torch.randn(states[chosen].shape, generator=generator)
            x_t = add_noise(states[chosen], t, noise, self.schedule)
            predicted = model(x_t.to(self.torch_device), t.to(self.torch_device), return_dict=False)[0]
            return F.mse_loss(predicted.float(), noise.to(self.torch_device))

        return train(
            self.unet_,
            loss_fn,
            num_steps=self.train_steps,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            ema_decay=self.ema_decay,
            seed=self.seed,
            mixed_precision=self.mixed_precision,
            checkpoint_folder=checkpoint_folder,
            description=f"{type(self).__name__} UNet",
        )

    def _adapt(self) -> None:
        """Domain adaptation on the fitted images, each from a random tenth of T_max as in the public code."""
        if self.adaptation_epochs == 0:
            self.extractor_, self.adaptation_log_ = self._frozen, adaptation.AdaptationLog()
            return
        images = torch.cat([self._input(batch["image"]) for batch in batches(self._fitted_images, self.batch_size)])
        self.extractor_, self.adaptation_log_ = adaptation.adapt(
            self._frozen,
            images,
            lambda rows, generator: self._adaptation_pair(images, rows, generator),
            epochs=self.adaptation_epochs,
            loss=self.adaptation_loss,
            distillation_weight=self.distillation_weight,
            learning_rate=self.adaptation_rate,
            batch_size=self.train_batch_size,
            seed=self.seed,
        )

    def _adaptation_pair(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [n, 3, H, W] of these rows and their reconstructions from a random tenth of T_max."""
        x = images[rows].to(self.torch_device)
        tenths = self.deepest_step * int(torch.randint(1, 11, (1,), generator=generator)) // 10
        nearest = max((tenths + self.num_steps // 2) // self.num_steps, 1) * self.num_steps  # what every plan can take
        steps = torch.full((len(rows),), min(nearest, self.deepest_step // self.num_steps * self.num_steps))
        state = self.encode(x).to(self.torch_device)
        noise = torch.randn(1 + self.num_steps, *state.shape, generator=generator)
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

    # -- predict -------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("_scales")
        return self.prediction_from_maps(self.maps(images, keys), images.shape[-2:])

    def prediction_from_maps(self, maps: Maps, size: tuple[int, int]) -> Prediction:
        """Scores and anomaly maps for images of ``size`` (H, W), from what `maps` gave."""
        done, residual, feature = maps
        sigma = SMOOTHING * self.image_size
        anomaly_map = scoring.smooth_map(self._combine(residual, feature), sigma)
        parts = {"residual": residual, "features": feature}
        parts = {name: scoring.smooth_map(values, sigma).flatten(1).amax(dim=1) for name, values in parts.items()}
        parts["step"] = done.steps.float()
        if done.distances is not None:
            parts["distance"] = done.distances.float()
        x_hat = F.interpolate(done.x_hat, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)
        score = anomaly_map.flatten(1).amax(dim=1)
        return Prediction(score, scoring.upsample_map(anomaly_map, size), x_hat, parts, self.num_steps)

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
        factor = autoencoders.downsampling(self.vae_) if self.space == "latent" else 1
        shape = (self._channels, x.shape[-2] // factor, x.shape[-1] // factor)
        with self._timed("encode"):
            drawn = self.posterior == "draw" and self.space == "latent"
            noise = image_noise(shape, self.seed, [f"{key} posterior" for key in keys]) if drawn and not again else None
            state = known.state if again else self.encode(x, noise)
        with self._timed("denoise"):
            noise = None
            if self.noise_fraction or self.stochasticity:
                noise = image_noise((1 + self.num_steps * (self.stochasticity > 0), *shape), self.seed, keys).transpose(
                    0, 1
                )
            state_hat = self._denoise(
                state.to(self.torch_device), steps, state.to(self.torch_device), self.guidance_weight, noise
            ).cpu()
        with self._timed("decode"):
            x_hat = self.decode(state_hat.to(self.torch_device)).cpu()
        return Reconstruction(state, state_hat, x_hat, features, steps, distances, seen_by)

    @torch.inference_mode()
    def _denoise(self, state: Tensor, steps: Tensor, target: Tensor, weight: float, noise: Tensor | None) -> Tensor:
        """Start from state [B, C, h, w] at steps [B] and come back, pulled towards target; noise [1 + num_steps, B,
        ...], for the start and for each step. All images run together, whatever their steps."""
        start = scaled_start(state, steps, self.schedule, self.noise_fraction, None if noise is None else noise[0])
        plan = denoising_plan(steps, self.num_steps, max(self.deepest_step, int(steps.max())), self.plan)
        more = {"eta": self.stochasticity, "noise": noise[-len(plan) :]} if self.stochasticity else {}
        return ddim_sample(self._eps, start, self.schedule, plan, target, weight, **more).float()

    def _eps(self, x: Tensor, t: Tensor) -> Tensor:
        with self._autocast():
            return self.unet_(x, t, return_dict=False)[0].to(x)

    def feature_map(self, features: Sequence[Tensor], x_hat: Tensor) -> Tensor:
        """Distance of the features of an image to those of x_hat [B, 3, image_size, image_size]: [B, image_size,
        image_size]."""
        return feature_distance(features, self.features(x_hat), x_hat.shape[-2:], self.PATCHES).cpu()

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _input(self, images: Tensor) -> Tensor:
        return resize_images(check_images(images), self.image_size).clamp(0, 1)

    @torch.inference_mode()
    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> states [B, C, h, w] of the diffusion model, on the CPU; with ``noise`` [B,
        C, h, w] a latent is drawn from the posterior."""
        if self.space == "pixel":
            return 2 * x.cpu() - 1
        parts = [slice(i, i + autoencoders.AT_ONCE) for i in range(0, len(x), autoencoders.AT_ONCE)]
        draws = [None if noise is None else noise[part] for part in parts]
        with self._autocast():
            return torch.cat(
                [
                    autoencoders.encode(self.vae_, x[part], draw).float().cpu()
                    for part, draw in zip(parts, draws, strict=True)
                ]
            )

    @torch.inference_mode()
    def decode(self, state: Tensor) -> Tensor:
        """States [B, C, h, w] on the detector's device -> images [B, 3, H, W] in [0, 1]."""
        if self.space == "pixel":
            return (state / 2 + 0.5).clamp(0, 1)
        with self._autocast():
            return torch.cat(
                [autoencoders.decode(self.vae_, part).float().clamp(0, 1) for part in state.split(autoencoders.AT_ONCE)]
            )

    @torch.no_grad()
    def features(self, x: Tensor) -> list[Tensor]:
        """Images [B, 3, image_size, image_size] in [0, 1] -> a map [B, C, h, w] a block, of the adapted extractor."""
        with self._autocast():
            return [block.float() for block in self.extractor_(x.to(self.torch_device))]

    def _autocast(self) -> torch.autocast:
        return autocast(self.torch_device, self.inference_precision)

    def _load_networks(self) -> None:
        if not hasattr(self, "_frozen"):
            self._frozen = load_backbone(self.backbone, allow_mini=self.allow_mini, strides=tuple(self.strides)).to(
                self.torch_device
            )
        factor = 1
        if self.space == "latent":
            if not hasattr(self, "vae_"):
                self.vae_ = load_vae(self.vae, device=self.device, allow_mini=self.allow_mini)
            factor = autoencoders.downsampling(self.vae_)
        step = factor * 2 ** (len(self.block_out_channels) - 1)
        if self.image_size % step:
            raise ValueError(f"image_size must be a multiple of {step} with this UNet, got {self.image_size}")
        self._cells, self._channels = self.image_size // factor, self.vae_.config.latent_channels if factor > 1 else 3

    def _build_unet(self) -> None:
        widths = tuple(self.block_out_channels)
        attention = [self._cells >> level in self.attention_resolutions for level in range(len(widths))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            unet = UNet2DModel(
                sample_size=self._cells,
                in_channels=self._channels,
                out_channels=self._channels,
                layers_per_block=self.layers_per_block,
                block_out_channels=widths,
                norm_num_groups=8,
                add_attention=any(attention),
                down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
                up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            )
        self.unet_ = unet.to(self.torch_device, memory_format=torch.channels_last).eval()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
        self.stage_seconds[stage] += time.perf_counter() - start

    def networks(self) -> list[torch.nn.Module]:
        names = ("unet_", "extractor_", "vae_")  # without the frozen copy of an adapted extractor
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def _checksums(self) -> dict[str, str]:
        sha256 = {"backbone": self._frozen.resolved.sha256}
        return sha256 | ({"vae": self.vae_.resolved.sha256} if self.space == "latent" else {})

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("_scales")
        tensors = {f"unet.{name}": tensor for name, tensor in self.unet_.state_dict().items()}
        if self.extractor_ is not self._frozen:
            tensors |= {f"extractor.{name}": tensor for name, tensor in self.extractor_.state_dict().items()}
        return tensors, {"scales": list(self.scales_), "sha256": self._checksums()}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load_networks()
        if self._checksums() != values["sha256"]:
            raise ValueError(
                f"this detector was fitted with the weights {values['sha256']}, but found {self._checksums()} here"
            )
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
