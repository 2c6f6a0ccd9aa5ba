"""The detector: pixel residual and CLIP distance between an image and what img2img makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import PRECISIONS, check_precision
from diffad_utils.methods.base import Detector, Prediction, at_image_size, batches, check_train_dataset, noise_keys
from diffad_utils.methods.clip_detectors import categories_of, fill_prompt
from diffad_utils.methods.img2img.engine import Img2ImgEngine, Setting, check_prompts
from diffad_utils.models.clip_features import clip_features_of_both, load_clip_for
from diffad_utils.models.stable_diffusion import load_pipeline
from diffad_utils.scoring import residual_parts
from diffad_utils.weights import Resolved


@dataclass(kw_only=True)
class Img2Img(Detector):
    """Reconstruction by Stable Diffusion img2img, with the hybrid score; see `engine` for the source.

    Nothing is trained: ``fit`` loads the networks and calibrates the score on normal training images.

    Parameters
    ----------
    weights : of Stable Diffusion, a name for `models.stable_diffusion.load_pipeline`; "sd15" is the slides'.
    clip : a name for `models.clip.load_clip`; "ViT-B-32/openai" is the slides'. Not loaded with ``alpha`` = 1.
    allow_mini : whether the shipped small models may stand in for both where the real weights are not found.
    image_size : 128 for "sd-mini", 512 for "sd15"; a multiple of 8, and not smaller than what CLIP takes.
    prompt, negative_prompt : templates, or mappings from categories to templates; see `fill_prompt`.
    strength, guidance_scale, num_inference_steps : see `Setting`. The seed is the detector's.
    alpha : weight of the squared error in the hybrid score, `scoring.hybrid_score`; 0.3 to 0.9 in the slides, 0.9 in
        their code (uncalibrated).
    calibrated : scale both parts by held-out normal training images; False is the slides' raw sum.
    calibration_images : how many training images the calibration takes, drawn by the seed.
    low_memory : attention slicing, and slicing and tiling of the autoencoder.
    inference_precision : in which Stable Diffusion's networks are held, "fp32", "bf16" or "fp16"; the latents between
        the steps stay float32. None: fp16 on CUDA, fp32 elsewhere.
    batch_size : images at once, to begin with; halved where memory runs out.

    Prediction: parts ``mse`` (mean over pixels and channels) and ``clip`` (1 - cosine of the image features); score and
    map are their hybrid. The map's parts are the squared error, mean over channels, and 1 - cosine of CLIP's patch
    tokens.
    """

    name: ClassVar[str] = "img2img"
    family: ClassVar[str] = "diffusion"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": 128,
        "num_inference_steps": 4,
        "strength": 0.5,
        "calibration_images": 4,
    }
    # a batch of another size changes the networks' last bits (6e-6 of CLIP's part), and the scale divided by is small
    contract_attributes: ClassVar[dict[str, Any]] = {"trained": False, "tolerance": 5e-5}

    weights: str = "sd-mini"
    clip: str = "clip-mini"
    allow_mini: bool = False
    prompt: str | Mapping[str, str] = "a flawless {noun}"
    negative_prompt: str | Mapping[str, str] = ""
    strength: float = 0.35
    guidance_scale: float = 7.5
    num_inference_steps: int = 30
    alpha: float = 0.5
    calibrated: bool = True
    calibration_images: int = 16
    low_memory: bool = False
    inference_precision: str | None = None

    def __post_init__(self) -> None:
        if self.inference_precision is not None:
            check_precision(self.inference_precision)
        self.setting = Setting(self.strength, self.guidance_scale, self.num_inference_steps, self.seed)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")
        if self.calibration_images < 2:
            raise ValueError(f"calibration needs at least 2 images, got calibration_images={self.calibration_images}")

    def fit(self, train_dataset: ImageDataset) -> Self:
        """Load the networks, fill the prompts of the training categories, calibrate on normal training images."""
        check_train_dataset(train_dataset)
        self._set_prompts(sorted(set(train_dataset.index["category"])))
        self._load_networks()
        dataset = self.calibration_set(train_dataset)
        measured = [
            self._parts(batch["image"], self.reconstruct(batch["image"], batch["key"]))
            for batch in batches(dataset, self.batch_size)
        ]
        parts, maps = ({name: torch.cat([m[i][name] for m in measured]) for name in measured[0][i]} for i in (0, 1))
        self.calibration_ = scoring.Calibration.fit(parts)
        self.map_calibration_ = scoring.Calibration.fit({name: values.flatten() for name, values in maps.items()})
        return self

    def calibration_set(self, train_dataset: ImageDataset) -> ImageDataset:
        """The ``calibration_images`` normal training images, drawn by the seed, that the score is calibrated on."""
        order = torch.randperm(len(train_dataset), generator=torch.Generator().manual_seed(self.seed))
        chosen = order[: self.calibration_images].sort().values.tolist()
        return ImageDataset(train_dataset.index.iloc[chosen], train_dataset.size, cache=False)

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("map_calibration_")
        return self.score(images, self.reconstruct(images, keys))

    def score(self, images: Tensor, x_hat: Tensor) -> Prediction:
        """The prediction for images [B, 3, H, W] whose reconstructions are known: x_hat [B, 3, image_size, image_size],
        as `reconstruct` gives them."""
        size = images.shape[-2:]
        parts, maps = self._parts(images, x_hat)
        score = scoring.hybrid_score(parts, self.alpha, self.calibration_ if self.calibrated else None)
        anomaly_map = scoring.hybrid_score(maps, self.alpha, self.map_calibration_ if self.calibrated else None)
        anomaly_map, x_hat = scoring.upsample_map(anomaly_map, size), at_image_size(x_hat, size)
        return Prediction(score, anomaly_map, x_hat, parts, self.evaluations)

    @property
    def evaluations(self) -> int:
        """UNet evaluations an image."""
        return self.setting.evaluations

    def prompts(self, keys: Sequence[str] | None, count: int) -> tuple[list[str], list[str]]:
        """Prompts and negative prompts of ``count`` images; with several categories their keys name them."""
        categories = categories_of(keys, count, [*self.prompts_])
        return [self.prompts_[c][0] for c in categories], [self.prompts_[c][1] for c in categories]

    def reconstruct(self, images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """img2img of images float [B, 3, H, W] in [0, 1]: float32 [B, 3, image_size, image_size], CPU."""
        texts = [self.engine_.embed(*pair) for pair in zip(*self.prompts(keys, len(images)), strict=True)]
        posterior = self.engine_.encode(self._input(images))
        return self.engine_.decode(
            self.engine_.denoise(posterior, noise_keys(images, keys), texts, [self.setting] * len(images))
        )

    def _parts(self, images: Tensor, x_hat: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parts [B] and maps [B, image_size, image_size] of the score."""
        x = self._input(images)
        features = clip_features_of_both(self.clip_, x, x_hat) if self.clip_ else None
        parts, maps = residual_parts(x, x_hat, features)
        return parts, {name: scoring.upsample_map(values, x.shape[-2:]) for name, values in maps.items()}

    def _set_prompts(self, categories: Sequence[str]) -> None:
        self.prompts_ = {c: (fill_prompt(self.prompt, c), fill_prompt(self.negative_prompt, c)) for c in categories}
        check_prompts([prompt for prompt, _ in self.prompts_.values()], [self.setting])

    def _load_networks(self) -> None:
        if hasattr(self, "engine_"):
            return
        self.clip_ = None
        if self.alpha < 1:
            self.clip_ = load_clip_for(self.clip, self.image_size, device=self.device, allow_mini=self.allow_mini)
        dtype = self._dtype_to_load()
        options = dict(device=self.device, dtype=dtype, allow_mini=self.allow_mini, low_memory=self.low_memory)
        engine = Img2ImgEngine(load_pipeline(self.weights, **options), self.batch_size)
        engine.check_size(self.image_size, self.image_size)
        engine.schedule(self.setting)
        self.engine_ = engine

    def _dtype_to_load(self) -> torch.dtype | None:
        """Of Stable Diffusion's networks; None: `load_pipeline`'s default."""
        return None if self.inference_precision is None else PRECISIONS[self.inference_precision]

    def networks(self) -> list[torch.nn.Module]:
        if not hasattr(self, "engine_"):
            return []
        clip = [self.clip_.model] if self.clip_ else []
        return [self.engine_.unet, self.engine_.vae, self.engine_.pipeline.text_encoder, *clip]

    def resolved_weights(self) -> dict[str, Resolved]:
        found = {"weights": self.engine_.pipeline.resolved}
        return found if self.clip_ is None else found | {"clip": self.clip_.resolved}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("map_calibration_")
        calibrations = {"parts": self.calibration_, "maps": self.map_calibration_}
        values = {
            "categories": [*self.prompts_],
            "calibration": {name: calibration.to_dict() for name, calibration in calibrations.items()},
            "sha256": self._checksums(),
        }
        return {}, values

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._set_prompts(values["categories"])
        self._load_networks()
        self._check_weights(values["sha256"])
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"]["parts"])
        self.map_calibration_ = scoring.Calibration.from_dict(values["calibration"]["maps"])
