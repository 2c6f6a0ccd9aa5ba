"""Stable Diffusion adapted to normal images by LoRA, DreamBooth's way, and then used for image-to-image.

Source: Madan, Srivastava, Raghuvanshi, "A Critical Evaluation of Diffusion Models" (slides, IIT (BHU) Varanasi, 2025),
"LoRA - Parameter-Efficient Fine-Tuning" and "Three Reconstruction Pipelines" (3); the settings of their code
(codes/finetune_lora.ipynb) are in data/published/hyperparameters.csv.

- *LoRA* (Hu et al., ICLR 2022, section 4.1, eq. 3): a weight W stays as it is, and W x + (alpha / r) B A x is computed,
  with A [r, k] drawn and B [d, r] zero at the start, so that training starts from the base model. Only A and B are
  trained, here those of the UNet's attention projections, which is also the default of diffusers' training script.
- *DreamBooth* (Ruiz et al., CVPR 2023, section 3.1): the images are tied to a prompt with a rare token, "a sks leather
  hide". With prior preservation (section 3.2, eq. 2) the loss of images that the base model itself draws for the class
  prompt is added, so that the model keeps what it knows of the class.

Their code runs diffusers' script, which encodes every image and prompt anew at every step. Here latents and text
features are computed once, and a latent is drawn from the autoencoder's posterior at each step, as there. The prior's
images stay latents: they are not decoded and encoded in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import Tensor, nn

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import PRECISIONS, NoiseSchedule, add_noise
from diffad_utils.methods.base import check_train_dataset, resize_images
from diffad_utils.methods.clip_detectors import fill_prompt
from diffad_utils.methods.img2img.adapter_training import Examples, PromptedUNet, sample_latents
from diffad_utils.methods.img2img.adapters import (
    ADAPTER,
    ATTENTION,
    SD15_UNET,
    TEXT_ATTENTION,
    Counts,
    base_checksum,
    load_adapter,
    parameter_counts,
    planned_counts,
    save_adapter,
)
from diffad_utils.methods.img2img.detector import Img2Img
from diffad_utils.methods.img2img.engine import Img2ImgEngine, Posterior, Setting, check_prompts
from diffad_utils.models.device import generators_kept
from diffad_utils.training import OPTIMIZERS, BatchLoss, TrainingLog, train

__all__ = [
    "SD15_UNET",
    "Counts",
    "Examples",
    "LoRA",
    "PromptedUNet",
    "base_checksum",
    "load_adapter",
    "parameter_counts",
    "planned_counts",
    "sample_latents",
    "save_adapter",
]

PRIOR_SAMPLING = Setting(strength=1.0, guidance_scale=7.5, num_inference_steps=50)
"""How the images of the prior are drawn: the defaults of diffusers' pipeline, which its training script keeps."""


@dataclass(kw_only=True)
class LoRA(Img2Img):
    """Image-to-image with a LoRA trained on normal images; see the module's text for the sources.

    Parameters
    ----------
    weights, clip, allow_mini, image_size, negative_prompt, strength, guidance_scale, num_inference_steps, alpha,
    calibrated, low_memory, batch_size : as in `Img2Img`; the defaults are those of the seed project's evaluation.
    instance_prompt : template (`fill_prompt`) or mapping; the training images' prompt, with a rare token.
    prompt : of image-to-image; empty: the instance prompt.
    rank, lora_alpha, lora_dropout : LoRA's; an alpha of 0 stands for the rank, which leaves B A unscaled.
    target_modules : endings of the names of the UNet's layers that are adapted.
    train_text_encoder : adapt the attention projections of the text encoder, too.
    prior_weight : weight of the prior's loss; 0: no prior preservation. DreamBooth has 1.
    class_prompt : template of the prior's prompt. class_images : how many images are drawn for it; 200 in DreamBooth.
    train_steps, train_batch_size, gradient_accumulation_steps, learning_rate, ema_decay : training with AdamW at a
        constant rate, so that a run's state at step k is the result of a run of k steps.
    mixed_precision : "no", "fp16" or "bf16", of the training. On a GPU the base weights are held in that precision, the
        trained ones in float32 until training is over. On a CPU all are held in float32, and "fp16" trains in float32,
        with a warning (see `training.check_mixed_precision`).
    inference_precision : in which the networks are held once training is over, "fp32", "bf16" or "fp16". None: that of
        ``mixed_precision``, but for bf16 on a CPU, which is float32 there.
    gradient_checkpointing : less memory, more time.
    optimizer : "adamw", or "adamw8bit" of bitsandbytes.
    adapter : a LoRA to use instead of training one, see `load_adapter`; with "" one is trained.
    holdout_fraction : share of the training images that are not trained on; the score is calibrated on them.
    calibration_images : of these at most.

    Prediction: as `Img2Img`'s.
    """

    name: ClassVar[str] = "lora"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": 128,
        "num_inference_steps": 4,
        "strength": 0.5,
        "guidance_scale": 1.0,
        "rank": 2,
        "train_steps": 3,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "holdout_fraction": 0.3,
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"tolerance": 5e-5}  # as of img2img

    prompt: str | Mapping[str, str] = ""
    strength: float = 0.25
    guidance_scale: float = 7.5
    num_inference_steps: int = 100
    alpha: float = 0.7
    instance_prompt: str | Mapping[str, str] = "a sks {noun}"
    rank: int = 8
    lora_alpha: float = 0
    lora_dropout: float = 0.0
    target_modules: Sequence[str] = ATTENTION
    train_text_encoder: bool = False
    prior_weight: float = 0.0
    class_prompt: str | Mapping[str, str] = "a {noun}"
    class_images: int = 200
    train_steps: int = 600
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 4
    learning_rate: float = 1e-4
    ema_decay: float | None = None
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    adapter: str = ""
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or int(self.rank) != self.rank:
            raise ValueError(f"rank must be a whole number, 1 or more, got {self.rank}")
        if self.lora_alpha < 0 or self.prior_weight < 0 or not 0 <= self.lora_dropout < 1:
            got = f"{self.lora_alpha}, {self.prior_weight}, {self.lora_dropout}"
            raise ValueError(f"expected lora_alpha >= 0, prior_weight >= 0 and lora_dropout in [0, 1), got {got}")
        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise ValueError(f"mixed_precision must be 'no', 'fp16' or 'bf16', got {self.mixed_precision!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not self.target_modules or isinstance(self.target_modules, str):
            raise ValueError(
                f"target_modules must be a list of names such as {list(ATTENTION)}, got {self.target_modules!r}"
            )
        self.target_modules = tuple(self.target_modules)

    def fit(
        self,
        train_dataset: ImageDataset,
        checkpoint_folder: str | Path | None = None,
        snapshot_steps: Sequence[int] = (),
    ) -> Self:
        """Train the adapter (or load ``adapter``), then calibrate the score on normal images held out from training.

        checkpoint_folder : an interrupted training goes on from what it left there. snapshot_steps : after each of
            these steps the adapter is written to ``checkpoint_folder/step-<n>``, for `load_adapter`.

        Leaves ``training_log_`` behind, and ``base_untouched_``: by network, whether its own weights came out of
        training byte by byte as they went in.
        Raises ``ValueError`` for anomalous images, or snapshots without a folder.
        """
        check_train_dataset(train_dataset)
        if snapshot_steps and checkpoint_folder is None:
            raise ValueError("snapshot_steps needs a checkpoint_folder to write the adapters to")
        categories = sorted(set(train_dataset.index["category"]))
        self._set_prompts(categories)
        vars(self).pop("engine_", None)  # a second fit starts from the base model again
        self._load_networks()
        if self.adapter:
            self._use_adapter(self.adapter)
        else:
            examples = self._examples(train_dataset, self._rows(train_dataset)[0])
            self.training_log_ = self._train_adapter(examples, checkpoint_folder, snapshot_steps)
        super().fit(self.held_out(train_dataset))
        self._set_prompts(categories)  # of several, one may not be among the images held out
        return self

    def held_out(self, train_dataset: ImageDataset) -> ImageDataset:
        """The training images that `fit` does not train on. Calibrate what is compared with a LoRA on the same."""
        return ImageDataset(train_dataset.index.iloc[self._rows(train_dataset)[1]], train_dataset.size)

    @property
    def adapter_counts_(self) -> Counts:
        """Parameters of the adapter and of the networks it is in."""
        self._require_fitted("engine_")
        networks = [self.engine_.pipeline.unet, self.engine_.pipeline.text_encoder]
        networks = [network for network in networks if ADAPTER in getattr(network, "peft_config", {})]
        return Counts(*(sum(numbers) for numbers in zip(*map(parameter_counts, networks), strict=True)))

    def _rows(self, dataset: ImageDataset) -> tuple[list[int], list[int]]:
        return tuple(rows.tolist() for rows in scoring.holdout_split(len(dataset), self.holdout_fraction, self.seed))

    def _set_prompts(self, categories: Sequence[str]) -> None:
        self.instance_prompts_ = {c: fill_prompt(self.instance_prompt, c) for c in categories}
        if not all(prompt.strip() for prompt in self.instance_prompts_.values()):
            raise ValueError("the instance prompt is empty: give one with a rare token, such as 'a sks {noun}'")
        prompt = self.prompt or self.instance_prompt
        self.prompts_ = {c: (fill_prompt(prompt, c), fill_prompt(self.negative_prompt, c)) for c in categories}
        check_prompts([prompt for prompt, _ in self.prompts_.values()], [self.setting])

    def _dtype_to_load(self) -> torch.dtype:
        on_gpu = self.torch_device.type == "cuda" and self.mixed_precision != "no"
        return PRECISIONS[self.mixed_precision if on_gpu else "fp32"]

    @property
    def sampling_precision(self) -> str:
        """In which the networks are held once training is over: give it to what is compared with a LoRA."""
        if self.inference_precision is not None:
            return self.inference_precision
        if self.mixed_precision == "bf16" and self.torch_device.type != "cuda":
            return "fp32"
        return {"no": "fp32"}.get(self.mixed_precision, self.mixed_precision)

    def _base_networks(self) -> dict[str, nn.Module]:
        return {name: getattr(self.engine_.pipeline, name) for name in ("unet", "vae", "text_encoder")}

    def _training_precision(self) -> str:
        if self.mixed_precision != "fp16" or self.torch_device.type != "cpu":
            return self.mixed_precision
        warnings.warn("fp16 on a CPU: the adapter is trained in float32, and images are made in fp16", stacklevel=4)
        return "no"

    def _use_adapter(self, path: str | Path) -> None:
        pipeline = self.engine_.pipeline
        load_adapter(pipeline, path)
        self._leave_training()

    def _leave_training(self) -> None:
        """Adapter and base in one precision and without gradients; texts that were embedded before are forgotten."""
        pipeline = self.engine_.pipeline
        for network in self._base_networks().values():
            nn.Module.to(network.requires_grad_(False).eval(), PRECISIONS[self.sampling_precision])
        self.engine_ = Img2ImgEngine(pipeline, self.batch_size)

    def _add_adapter(self) -> PromptedUNet:
        """Fresh adapters, drawn from the seed, in float32; everything else is frozen."""
        pipeline = self.engine_.pipeline
        options = dict(r=self.rank, lora_alpha=self.lora_alpha or self.rank, lora_dropout=self.lora_dropout)
        targets = {"unet": self.target_modules} | ({"text_encoder": TEXT_ATTENTION} if self.train_text_encoder else {})
        with generators_kept(self.seed):
            for name, modules in targets.items():
                config = LoraConfig(**options, init_lora_weights="gaussian", target_modules=list(modules))
                getattr(pipeline, name).add_adapter(config, adapter_name=ADAPTER)
        networks = [getattr(pipeline, name) for name in targets]
        cast_training_params(networks, torch.float32)
        if self.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
            if self.train_text_encoder:
                pipeline.text_encoder.gradient_checkpointing_enable()
        return PromptedUNet(*networks)

    def _examples(self, dataset: ImageDataset, rows: Sequence[int]) -> Examples:
        """Posteriors and instance prompts of these training images."""
        images = torch.cat([resize_images(dataset[i]["image"][None], self.image_size) for i in rows])
        posterior = self.engine_.encode(images.clamp(0, 1))
        prompts = [*dict.fromkeys(self.instance_prompts_.values())]
        numbers = [prompts.index(self.instance_prompts_[c]) for c in dataset.index["category"].iloc[rows]]
        return Examples(posterior, self._texts(prompts), torch.tensor(numbers))

    def _prior(self) -> Examples:
        """What the base model draws for the class prompts, in equal shares."""
        prompts = [*dict.fromkeys(fill_prompt(self.class_prompt, category) for category in self.prompts_)]
        if self.class_images < len(prompts):
            raise ValueError(
                f"class_images={self.class_images} is less than one for each of {len(prompts)} class prompts"
            )
        setting = Setting(1.0, PRIOR_SAMPLING.guidance_scale, PRIOR_SAMPLING.num_inference_steps, self.seed)
        counts = [len(range(i, self.class_images, len(prompts))) for i in range(len(prompts))]
        latents = torch.cat(
            [
                sample_latents(self.engine_, prompt, [f"{prompt}/{i}" for i in range(count)], setting, self.image_size)
                for prompt, count in zip(prompts, counts, strict=True)
            ]
        )
        numbers = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts))
        return Examples(Posterior(latents, torch.zeros_like(latents)), self._texts(prompts), numbers)

    def _texts(self, prompts: Sequence[str]) -> Tensor:
        """Features [P, L, D] of prompts, or where the text encoder is trained their tokens int64 [P, L]."""
        if not self.train_text_encoder:
            return torch.stack([self.engine_.embed(prompt).prompt for prompt in prompts]).cpu()
        tokenizer = self.engine_.pipeline.tokenizer
        return tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def _train_adapter(
        self, examples: Examples, checkpoint_folder: str | Path | None, snapshot_steps: Sequence[int]
    ) -> TrainingLog:
        groups = [examples] + ([self._prior()] if self.prior_weight else [])
        weight = torch.tensor([1.0, self.prior_weight][: len(groups)]).repeat_interleave(self.train_batch_size)
        precision = self._training_precision()
        before = {name: base_checksum(network) for name, network in self._base_networks().items()}
        model = self._add_adapter()
        schedule, device, dtype = NoiseSchedule(self.engine_.scheduler.betas), self.torch_device, self.engine_.vae.dtype

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            drawn = [group.draw(self.train_batch_size, generator) for group in groups]
            clean, text = (torch.cat(column) for column in zip(*drawn, strict=True))
            noise = torch.randn(clean.shape, generator=generator)
            timesteps = torch.randint(schedule.T, (len(clean),), generator=generator)
            noisy = add_noise(clean, timesteps, noise, schedule).to(device, dtype)
            text = text.to(device, dtype if text.is_floating_point() else None)
            return noisy, timesteps.to(device), text, noise.to(device), weight.to(device)

        def loss(model: nn.Module, noisy: Tensor, t: Tensor, text: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
            error = (model(noisy, t, text).float() - noise).square().mean(dim=(1, 2, 3))
            return (weight * error).sum() / (len(error) / len(groups))

        def with_dropout(model: nn.Module, generator: torch.Generator) -> Tensor:
            drawn = draw(generator)
            with self._dropout_drawn_from(generator):
                return loss(model, *drawn)

        loss_fn = with_dropout if self.lora_dropout else BatchLoss(len(weight), draw, loss)
        log = train(
            model,
            loss_fn,
            num_steps=self.train_steps,
            lr=self.learning_rate,
            lr_scheduler="constant",
            weight_decay=0.01,
            seed=self.seed,
            ema_decay=self.ema_decay,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            mixed_precision=precision,
            optimizer=self.optimizer,
            checkpoint_folder=checkpoint_folder,
            checkpoint_every=50,
            description=f"LoRA of rank {self.rank}",
            snapshot_steps=snapshot_steps,
            on_snapshot=lambda step: save_adapter(self.engine_.pipeline, Path(checkpoint_folder) / f"step-{step}"),
            settings=self._training_settings(len(examples.prompt)),
        )
        self.base_untouched_ = {n: base_checksum(network) == before[n] for n, network in self._base_networks().items()}
        self._leave_training()
        return log

    def _training_settings(self, images: int) -> dict[str, Any]:
        """What an interrupted training must have in common with the one that goes on."""
        names = (
            "rank",
            "lora_alpha",
            "lora_dropout",
            "train_text_encoder",
            "prior_weight",
            "class_images",
            "train_batch_size",
            "image_size",
            "mixed_precision",
            "optimizer",
        )
        return {name: getattr(self, name) for name in names} | {
            "target_modules": list(self.target_modules),
            "prompts": sorted(self.instance_prompts_.values()),
            "weights": self._checksums()["weights"],
            "images": images,
        }

    def _dropout_drawn_from(self, generator: torch.Generator) -> AbstractContextManager:
        """peft's dropout draws from torch's global generator, which knows nothing of seed and step; here it does."""
        return generators_kept(int(torch.randint(2**62, (1,), generator=generator)))

    def save(self, folder: str | Path) -> None:
        """What `Detector.save` writes, and the adapter as `save_adapter` writes it: ``load_lora_weights(folder)``."""
        self._require_fitted("map_calibration_")
        save_adapter(self.engine_.pipeline, folder)
        super().save(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        detector = super().load(folder, device)
        detector._use_adapter(folder)
        return detector
