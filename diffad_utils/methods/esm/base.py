"""Score matching detectors: SGM (denoising), ESM (explicit), and ESM-sigma (variance-guided).

Source: "Continuous Diffusion Models with Explicit Score Matching for Highly Efficient Anomaly Detection" (anonymous,
ICLR 2026 submission 7498). The equations are in `equations`, with what theory says of them; the network is in
`dual_stream`. An image is noised up to T_d, taken back by the reverse process, and compared with what comes out
by up to four detectors (eq. 14): features (S_Cos), uncertainty (S_U), divergence (S_KL) and residual (S_RE).

Where the paper is silent or ambiguous, and what we do:

- *mu_t at test time* is not spelled out: `ESM.mean` has both readings ("denoised" by default, see `equations`).
- *dt of ESM-sigma* is not given: `ESMSigma.dt`, by default `equations.matched_dt`.
- *Lower bound of sigma^2*: it holds for sampling. The detectors take sigma_0^2 as predicted; at the bound S_U and S_KL
  would be S_RE in other units, since sigma_0^2 is less than 1 - alpha_bar_0 = 1e-4 on average, a hundredth of the
  bound.
- *Weights u, v, w, r* of eq. 14 are not given, and the four maps differ in scale by orders of magnitude: each is taken
  in units of its standard deviation over the pixels of held-out normal images (``combination`` =
  "calibrated"), or as it is ("plain sum").
- *T_d* is set by hand for each class: ``noise_timestep``, or chosen on held-out normal images and copies of them with
  pasted defects.
- *Features of S_Cos*: the paper cites the detection transformer DINO for its pretrained DINO; ours is the
  self-supervised one ("dino-vits8"), or the shipped small network. The layers are not given either:
  `models.backbones.load_layers`.
- *Both sigma_0^2*: S_U divides by that of the reconstruction, S_KL is KL(input || reconstruction).
- *Smoothing* of the map is not mentioned; ours is that of all reconstructing methods here, 0 is none.
- *Warm-up*: how long stream 1 begins with denoising score matching is not given. By default it is half of all steps and
  shared by the three methods, which brings them nearer to each other; ``dsm_steps`` = 0 trains by eq. 10 alone.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import add_noise, autocast, image_noise, noisy_batch
from diffad_utils.methods.base import Prediction, at_image_size, check_train_dataset, noise_keys
from diffad_utils.methods.esm.equations import (
    Observer,
    combined_map,
    cosine_map,
    dsm_loss,
    image_score,
    residual_map,
    step_edges,
)
from diffad_utils.methods.esm.noise_level import validate
from diffad_utils.methods.esm.settings import SAMPLING, TRAINING, UNET, ScoreMatchingSettings
from diffad_utils.methods.kept import kept
from diffad_utils.models.autoencoders import LatentSpace, PixelSpace
from diffad_utils.models.backbones import load_layers
from diffad_utils.models.feature_cache import cached_latents
from diffad_utils.models.recent import recent
from diffad_utils.models.stable_diffusion import load_vae
from diffad_utils.models.unet import small_unet
from diffad_utils.training import BatchLoss, TrainingLog
from diffad_utils.weights import Resolved


class ReconstructionMaps(NamedTuple):
    """B images and what a method makes of them: x0, x_hat [B, C, h, w] in the diffusion's space, decoded [B, 3, S, S]
    in [0, 1], and the map of each detector [B, S, S], S = image_size."""

    x0: Tensor
    x_hat: Tensor
    decoded: Tensor
    maps: dict[str, Tensor]


@dataclass(kw_only=True)
class ScoreMatchingDetector(ScoreMatchingSettings):
    """What the three detectors share; see the module's text for the source, `ScoreMatchingSettings` for the parameters.

    Prediction: a part for each detector, the N_a mean of its own map; reconstruction; nfe counts evaluations of the
    network, of one stream or both.
    """

    # --- fitting

    def fit(
        self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None, warm_start: Self | None = None
    ) -> Self:
        """Train on normal images, choose T_d if it is not given, calibrate.

        warm_start : a fitted detector of these three whose DSM warm-up had the same settings; it is then not repeated.
        ``checkpoint_folder`` lets an interrupted training go on. Leaves ``dsm_log_`` and ``training_log_`` behind.
        Raises ``ValueError`` for anomalous training images, or a ``warm_start`` with other settings.
        """
        check_train_dataset(train_dataset)
        self._load()
        images, held_out, held_out_keys = self._fitted_and_held_out(train_dataset, self.holdout_fraction)
        x0 = cached_latents(self._space, images)
        self._build(x0.shape[1:])
        folder = None if checkpoint_folder is None else Path(checkpoint_folder)
        self._warm_up(x0, None if folder is None else folder / "dsm", warm_start)
        self.training_log_ = self._train(x0, None if folder is None else folder / "own")
        self.held_out_ = held_out[: self.calibration_images], held_out_keys[: self.calibration_images]
        self._tune()
        return self

    def with_settings(self, cls: type[ScoreMatchingDetector] | None = None, **settings: Any) -> ScoreMatchingDetector:
        """The same networks with other settings of what follows training (`SAMPLING`), tuned and calibrated anew.

        cls : another class that samples from the same networks (`ESMSigma` from an `ESM`). Raises ``ValueError`` for a
        setting that would need another training, ``RuntimeError`` for a detector from a file, which has no training
        images.
        """
        self._require_fitted("calibration_")
        cls = cls or type(self)
        if not hasattr(self, "held_out_"):
            raise RuntimeError(
                "with_settings calibrates on held-out training images, which saved detectors do not keep: fit it anew"
            )
        if set(settings) - set(SAMPLING) or cls.STREAMS != self.STREAMS:
            got = f"{sorted(settings)} for {cls.name}"
            raise ValueError(f"with_settings may change {SAMPLING}, between classes with the same streams; got {got}")
        known = {field.name for field in dataclasses.fields(cls)}
        mine = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in known}
        other = cls(**mine | {"noise_timestep": self.noise_timestep_} | settings)
        for name in ("network_", "backbone_", "vae_", "held_out_", "dsm_log_", "training_log_", "dsm_state_"):
            if hasattr(self, name):
                setattr(other, name, getattr(self, name))
        other._tune()
        return other

    def _warm_up(self, x0: Tensor, checkpoint_folder: Path | None, warm_start: ScoreMatchingDetector | None) -> None:
        """Denoising score matching of stream 1, or its result from another detector."""
        settings = self._warm_up_settings()
        if warm_start is not None:
            if getattr(warm_start, "dsm_state_", None) is None or warm_start._warm_up_settings() != settings:
                raise ValueError(f"warm_start must be fitted with the warm-up settings {settings}")
            self._load_warm_up(warm_start.dsm_state_)
            self.dsm_log_, self.dsm_state_ = warm_start.dsm_log_, warm_start.dsm_state_
            return
        stream = small_unet(**self._unet_settings(x0.shape[1:]), seed=self.seed).to(self.torch_device)
        self.dsm_log_ = TrainingLog()
        if self.dsm_steps:
            self.dsm_log_ = self._match(
                stream, x0, self._dsm, self.dsm_steps, self.seed, checkpoint_folder, "score, DSM warm-up"
            )
        self.dsm_state_ = {name: value.detach().clone() for name, value in stream.state_dict().items()}
        self._load_warm_up(self.dsm_state_)

    def _warm_up_settings(self) -> dict[str, Any]:
        """Everything that the warm-up's result depends on, as JSON values."""
        names = ["seed", "image_size", "space", "vae", "holdout_fraction", "dsm_steps", *UNET, *TRAINING]
        return {name: list(v) if isinstance(v := getattr(self, name), (tuple, list)) else v for name in names}

    def _unet_settings(self, shape: Sequence[int]) -> dict[str, Any]:
        return {"channels": shape[0], "image_size": shape[-1]} | {name: getattr(self, name) for name in UNET}

    def _match(
        self,
        model: nn.Module,
        x0: Tensor,
        loss: Callable[..., Tensor],
        steps: int,
        seed: int,
        checkpoint_folder: str | Path | None,
        description: str,
    ) -> TrainingLog:
        """``loss(model, x_t, t, noise)`` on random images x0 [n, ...], timesteps and noise."""

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            return noisy_batch(x0, self.schedule_, self.train_batch_size, generator, self.torch_device)[1:]

        loss_fn = BatchLoss(self.train_batch_size, draw, loss)
        changed = {"num_steps": steps, "warmup_steps": min(self.warmup_steps, steps - 1), "seed": seed}
        return self._optimise(model, loss_fn, description, checkpoint_folder, **changed)

    @staticmethod
    def _dsm(model: nn.Module, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return dsm_loss(model(x_t, t, return_dict=False)[0].float(), noise)

    def _tune(self) -> None:
        """Choose T_d if it is open, and calibrate every map on the held-out normal images."""
        self.noise_timestep_ = self.noise_timestep
        if self.noise_timestep is None:
            self.validation_ = validate(self, self.noise_timesteps)
            self.noise_timestep_ = int(self.validation_.loc[self.validation_["selection"].idxmax(), "noise_timestep"])
        self.calibration_ = self._calibrate(*self.held_out_)

    def _calibrate(self, images: Tensor, keys: Sequence[str]) -> scoring.Calibration:
        maps = self.maps(*self._sampled(images, keys))
        return scoring.Calibration.fit({name: values.flatten() for name, values in maps.items()})

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        return self.prediction(self.measure(images, keys), tuple(images.shape[-2:]))

    def measure(self, images: Tensor, keys: Sequence[str] | None = None) -> ReconstructionMaps:
        """Reconstruct images [B, 3, H, W] and compare; `prediction` makes scores of it."""
        self._require_fitted("calibration_")
        x = self._input(images)
        x0, x_hat = self._sampled(x, noise_keys(images, keys))
        decoded = self.decode(x_hat)
        return ReconstructionMaps(x0, x_hat, decoded, self.maps(x0, x_hat, decoded))

    def prediction(self, measured: ReconstructionMaps, size: tuple[int, int]) -> Prediction:
        """Scores, map and reconstruction of images of ``size`` from what `measure` gave."""
        combined = self.combine(measured.maps)
        parts = {name: image_score(values) for name, values in measured.maps.items()}
        reconstruction = at_image_size(measured.decoded, size)
        return Prediction(image_score(combined), scoring.upsample_map(combined, size), reconstruction, parts, self.nfe)

    def reconstruct(self, images: Tensor, keys: Sequence[str] | None = None, observe: Observer | None = None) -> Tensor:
        """Reconstructions float32 [B, 3, image_size, image_size] in [0, 1] of images [B, 3, H, W]; ``observe`` as for
        `sample`."""
        self._require_fitted("calibration_")
        return self.decode(self.sample(self.encode(self._input(images)), noise_keys(images, keys), observe))

    @property
    def _space(self) -> LatentSpace | PixelSpace:
        return PixelSpace() if self.space == "pixel" else LatentSpace(self.vae_, self.inference_precision)

    @kept(state=None)
    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> X_0 float32 [B, C, h, w] on the CPU, in the diffusion's space."""
        return self._once("latents", lambda x: [self._space.encode(x)], images)[0]

    @kept(state=None)
    def decode(self, x: Tensor) -> Tensor:
        """X_0 [B, C, h, w] -> images float32 [B, 3, H, W] in [0, 1] on the CPU."""
        return self._space.decode(x)

    @kept(state=None)
    @torch.inference_mode()
    def sample(self, x0: Tensor, keys: Sequence[str], observe: Observer | None = None) -> Tensor:
        """X_0 [B, C, h, w] noised up to T_d and taken back: X_0_hat of the same shape, on the CPU; ``observe`` sees
        every step."""
        x0 = x0.to(self.torch_device)
        with self._autocast():  # the networks' outputs are float32, and so is all that is made of them
            return self._sample(x0, keys, observe).float().cpu()

    def noised(self, x0: Tensor, keys: Sequence[str], noise_timestep: int | None = None) -> Tensor:
        """X_t of X_0 [B, C, h, w] (eq. 1) at T_d or at another t, with noise seeded by (seed, image key)."""
        noise = image_noise(x0.shape[1:], self.seed, keys).to(x0)
        return add_noise(
            x0, torch.full((len(x0),), (noise_timestep or self.noise_timestep_) - 1), noise, self.schedule_
        )

    def _sampled(self, images: Tensor, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """X_0 and X_0_hat of images [B, 3, image_size, image_size], ``batch_size`` at a time."""
        chunks = enumerate(images.split(self.batch_size))
        parts = [(self.encode(part), keys[i * self.batch_size :][: len(part)]) for i, part in chunks]
        return torch.cat([x0 for x0, _ in parts]), torch.cat([self.sample(x0, some) for x0, some in parts])

    @kept(state=None)
    @torch.inference_mode()
    def maps(self, x0: Tensor, x_hat: Tensor, decoded: Tensor | None = None) -> dict[str, Tensor]:
        """The map of each of ``DETECTORS`` (eq. 14, not weighted), float32 [B, image_size, image_size], for X_0 and
        X_0_hat in the diffusion's space; ``decoded`` is X_0_hat as images where that is known. What needs a variance is
        absent where the method has none."""
        decoded = self.decode(x_hat) if decoded is None else decoded
        chunks = zip(*(values.split(self.batch_size) for values in (x0, x_hat, decoded)), strict=True)
        measured = [self._maps(*chunk) for chunk in chunks]
        return {name: torch.cat([m[name] for m in measured]) for name in self.DETECTORS}

    def _maps(self, x0: Tensor, x_hat: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        size = (self.image_size, self.image_size)
        features = self._once("features", lambda x: self._features(self.decode(x)), x0)
        small = {"re": residual_map(x0, x_hat)} | self._variance_maps(x0, x_hat)
        cosine = cosine_map(features, self._features(decoded), size).cpu()
        return {"cos": cosine} | {name: scoring.upsample_map(values, size) for name, values in small.items()}

    def _features(self, images: Tensor) -> list[Tensor]:
        with self._autocast():
            return [block.float() for block in self.backbone_(images.to(self.torch_device))]

    def _once(self, what: str, extract: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
        """``extract(batch)``, not computed again for other variants of a detector (`models.recent`)."""
        seen_by = [self.space, self.inference_precision, self.torch_device.type, self._checksums()]
        return recent(extract, batch, {"what": what, "seen by": seen_by})

    def _variance_maps(self, x0: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        return {}

    def combine(
        self,
        maps: Mapping[str, Tensor],
        weights: Mapping[str, float] | None = None,
        calibration: scoring.Calibration | None = None,
    ) -> Tensor:
        """Eq. 14: the weighted sum of maps [B, H, W], smoothed; ``weights`` and ``calibration`` in the place of the
        detector's."""
        weights = weights or self.weights or dict.fromkeys(self.DETECTORS, 1.0)
        if self.combination == "calibrated":
            maps = (calibration or self.calibration_).calibrate(maps)
        combined = combined_map(maps, weights)
        sigma = self.smoothing * combined.shape[-1]
        return scoring.smooth_map(combined, sigma) if sigma else combined

    def score(self, combined: Tensor) -> Tensor:
        """Eq. 15 of maps [B, H, W]: [B]."""
        return image_score(combined)

    @property
    def num_steps(self) -> int:
        """Steps of the reverse process."""
        return len(step_edges(self.noise_timestep_, self.stride)) - 1

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Evaluations of the network an image."""

    @abstractmethod
    def _build(self, shape: Sequence[int]) -> None:
        """Make ``network_`` for X_0 of ``shape`` (C, h, w), untrained."""

    @abstractmethod
    def _load_warm_up(self, state: dict[str, Tensor]) -> None:
        """Put a warmed-up stream 1 into ``network_``."""

    @abstractmethod
    def _train(self, x0: Tensor, checkpoint_folder: Path | None) -> TrainingLog:
        """Train ``network_`` with the method's own loss."""

    @abstractmethod
    def _sample(self, x0: Tensor, keys: Sequence[str], observe: Observer | None) -> Tensor:
        """Noise and denoise X_0 on the device."""

    def _autocast(self) -> torch.autocast:
        return autocast(self.torch_device, self.inference_precision)

    def _load(self) -> None:
        if not hasattr(self, "backbone_"):
            self.backbone_ = load_layers(self.backbone, allow_mini=self.allow_mini).to(self.torch_device)
        if self.space == "latent" and not hasattr(self, "vae_"):
            self.vae_ = load_vae(self.vae, device=self.device, allow_mini=self.allow_mini)
        step = self._space.downsampling * 2 ** (len(self.block_out_channels) - 1)
        if self.image_size % step:
            raise ValueError(
                f"image_size must be a multiple of {step} with these levels and this space, got {self.image_size}"
            )

    def resolved_weights(self) -> dict[str, Resolved]:
        found = {"backbone": self.backbone_.resolved}
        return found | ({"vae": self.vae_.resolved} if self.space == "latent" else {})

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        values = {"noise_timestep": self.noise_timestep_, "sha256": self._checksums()}
        return self.network_.state_dict(), values | {"calibration": self.calibration_.to_dict()}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load()
        self._check_weights(values["sha256"])
        self._build(self._space.shape(self.image_size))
        self.network_.load_state_dict(tensors)
        self.network_.eval()
        self.noise_timestep_ = values["noise_timestep"]
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])
