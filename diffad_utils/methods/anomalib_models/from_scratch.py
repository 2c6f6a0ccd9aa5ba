"""Trained from nothing on the images themselves, without a pretrained network: GANomaly and DRAEM.

Networks and losses are anomalib's; each class says where paper, public code and anomalib differ, and which is the
default here. Both stand for a family of the sources: GANs (claim C15b) and synthetic anomalies (claim C87).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.io.machine import require_memory
from diffad_utils.methods.anomalib_models.base import anomalib_module
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.models.device import generators_kept
from diffad_utils.training import Training


@dataclass(kw_only=True)
class FromScratch(Training, Detector):
    """A network of anomalib, ``model_``, trained on normal images alone with a constant learning rate, no warm-up, no
    average of the weights and no gradient clipping, as both papers do.

    The optimiser is AdamW without weight decay, which is Adam.
    """

    family: ClassVar[str] = "classical"

    train_steps: int = 300
    warmup_steps: int = 0
    ema_decay: float | None = None

    def fit(self, train_dataset: ImageDataset) -> Self:
        check_train_dataset(train_dataset)
        count, side = len(train_dataset), self.image_size
        require_memory(2 * 4 * count * 3 * side**2, f"{self.name}, fitted to {count} images of {side} px,")
        images = torch.cat([self._input(b["image"]) for b in batches(train_dataset, self.batch_size)])
        with generators_kept(self.seed):
            self.model_ = self._build().to(self.torch_device)
            loss = self._loss()

            def loss_fn(model: nn.Module, generator: torch.Generator) -> Tensor:
                chosen = torch.randint(len(images), (min(self.train_batch_size, len(images)),), generator=generator)
                return loss(model, images[chosen].to(self.torch_device), generator)

            self.training_log_ = self._optimise(
                self.model_, loss_fn, self.name, lr_scheduler="constant", max_grad_norm=math.inf
            )
        return self

    @abstractmethod
    def _build(self) -> nn.Module:
        """The untrained network."""

    @abstractmethod
    def _loss(self) -> Callable[[nn.Module, Tensor, torch.Generator], Tensor]:
        """Loss of the network on normal images [B, 3, S, S] in [0, 1]; what it draws comes from the generator."""

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("model_")
        return {name: value.clone() for name, value in self.model_.state_dict().items()}, {}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        with generators_kept(self.seed):
            self.model_ = self._build()
        self.model_.load_state_dict(tensors)
        self.model_.to(self.torch_device).eval()


@dataclass(kw_only=True)
class GANomaly(FromScratch):
    """An autoencoder with a second encoder, trained against a discriminator (Akcay et al., ACCV 2018, arXiv
    1805.06725).

    The generator's loss is the weighted sum of eq. 2 (adversarial), 3 (contextual) and 4 (encoding) with weights 1, 50
    and 1. The score is the distance of the two latent vectors of an image (eq. 6): of the image, and of its
    reconstruction.

    latent : length of the latent vector (the paper's: 100). features : channels of the first layer (64).
    distance : "l1" (eq. 6) or "l2", the mean square of anomalib and of the public code. Both are in ``parts``.

    Where paper, public code and anomalib differ:

    - eq. 2 compares features of the discriminator, as does the public code; anomalib compares its outputs. Features
      here. eq. 4 is a squared distance; anomalib's smooth L1 is used.
    - Images are in [-1, 1], as the public code has them; anomalib normalises with ImageNet's mean and deviation, which
      the generator's tanh cannot return.
    - Generator and discriminator are updated from the same state, as in anomalib, by one Adam with betas 0.9 and 0.999
      (all three: 0.5 and 0.999). The learning rate of 2e-4 is that of the public code and of anomalib (paper: 2e-3).
    - eq. 7 scales scores with minimum and maximum of the test set. Not here: a score must not depend on other images.
    - Images of 64 px: the paper has 32, anomalib 256.

    Prediction: no anomaly map (the method has none); reconstruction of the generator.
    """

    name: ClassVar[str] = "anomalib:ganomaly"
    published_as: ClassVar[str] = "GANomaly"
    contract_settings: ClassVar[dict[str, Any]] = {
        "image_size": 32,
        "features": 8,
        "latent": 16,
        "train_steps": 20,
        "learning_rate": 2e-3,
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"localises": False, "gross_auroc": None}

    image_size: int = 64
    latent: int = 100
    features: int = 64
    distance: str = "l1"
    train_batch_size: int = 16
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        if self.distance not in ("l1", "l2"):
            raise ValueError(f"{self.name}: distance must be 'l1' or 'l2', got {self.distance!r}")
        if self.image_size < 16 or self.image_size & (self.image_size - 1):
            raise ValueError(f"{self.name} needs an image_size that is a power of 2 from 16 on, got {self.image_size}")

    @torch.no_grad()
    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("model_")
        found = [
            self.model_.generator(2 * chunk.to(self.torch_device) - 1)
            for chunk in self._input(images).split(self.batch_size)
        ]
        fake, first, second = (torch.cat([one[i] for one in found]).float().cpu() for i in range(3))
        difference = (first - second).flatten(1)
        parts = {"l1": difference.abs().sum(dim=1), "l2": difference.square().mean(dim=1)}
        reconstruction = F.interpolate((fake + 1) / 2, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return Prediction(parts[self.distance], None, reconstruction.clamp(0, 1), parts)

    def _build(self) -> nn.Module:
        model = anomalib_module("models.image.ganomaly.torch_model").GanomalyModel
        return model((self.image_size, self.image_size), 3, self.features, self.latent)

    def _loss(self) -> Callable[[nn.Module, Tensor, torch.Generator], Tensor]:
        module = anomalib_module("models.image.ganomaly.loss")
        generators, discriminators = module.GeneratorLoss(), module.DiscriminatorLoss()

        def loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
            real = 2 * images - 1
            fake, first, second = model.generator(real)
            said_of_real, features_of_real = model.discriminator(real)
            said_of_fake, _ = model.discriminator(fake.detach())
            # The generator's loss passes through the discriminator and leaves no gradient in its weights.
            frozen = {name: value.detach() for name, value in model.discriminator.named_parameters()}
            _, features_of_fake = torch.func.functional_call(model.discriminator, frozen, (fake,))
            of_generator = generators(first, second, real, fake, features_of_real.detach(), features_of_fake)
            return of_generator + discriminators(said_of_real, said_of_fake)

        return loss


@dataclass(kw_only=True)
class DRAEM(FromScratch):
    """Reconstruct an image that was damaged on purpose, and learn where the damage was (Zavrtanik et al., ICCV 2021,
    arXiv 2108.07610).

    Training images get synthetic anomalies: a texture in the shape of thresholded Perlin noise, blended in (sec. 3.3).
    One network restores the image (squared error and SSIM, sec. 3.1), the other sees both and marks the damage (focal
    loss, sec. 3.2). Its mark is the map, and the score is the largest value of the map after a mean filter (sec. 3.4).

    width : channels of the first layer of the restoring network, the other has half as many (128 in the public code).
    smoothing : side of the mean filter, pixels, odd (public code: 21 at 256 px; 1 is anomalib's score, without any).
    anomaly_source : folder of images whose textures are pasted. The paper takes the Describable Textures Dataset; empty
        is anomalib's way without images, the noise itself, augmented, so that nothing is downloaded.

    Other differences: images of ``image_size``, not 256 px; training is counted in steps (paper: 700 epochs) at the
    paper's rate of 1e-4, which is not lowered towards the end; blending from 0.1 to 1 as the paper, also where anomalib
    has 0.2. Half of the images stay whole, as in both.
    """

    name: ClassVar[str] = "anomalib:draem"
    published_as: ClassVar[str] = "DRAEM"
    contract_settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "train_steps": 10,
        "train_batch_size": 4,
        "learning_rate": 2e-3,
        "smoothing": 5,
    }
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}

    width: int = 128
    smoothing: int = 21
    anomaly_source: str = ""
    train_batch_size: int = 8
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"{self.name}: width must be even and at least 2, got {self.width}")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise ValueError(f"{self.name}: smoothing must be odd and at least 1, got {self.smoothing}")
        if self.image_size % 32:
            raise ValueError(f"{self.name} needs an image_size that is a multiple of 32, got {self.image_size}")

    @torch.no_grad()
    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("model_")
        maps, restored = [], []
        for chunk in self._input(images).to(self.torch_device).split(self.batch_size):
            restored.append(self.model_.reconstructive_subnetwork(chunk).float().cpu())
            seen = torch.cat([chunk, restored[-1].to(self.torch_device)], dim=1)
            maps.append(self.model_.discriminative_subnetwork(seen).softmax(dim=1)[:, 1].float().cpu())
        marked, size = torch.cat(maps), images.shape[-2:]
        smooth = F.avg_pool2d(marked[:, None], self.smoothing, stride=1, padding=self.smoothing // 2)
        parts = {"smoothed": smooth.flatten(1).amax(dim=1), "plain": marked.flatten(1).amax(dim=1)}
        reconstruction = F.interpolate(torch.cat(restored), size=size, mode="bilinear", align_corners=False)
        return Prediction(parts["smoothed"], scoring.upsample_map(marked, size), reconstruction.clamp(0, 1), parts)

    def _build(self) -> nn.Module:
        module = anomalib_module("models.image.draem.torch_model")
        model = module.DraemModel.__new__(module.DraemModel)  # its constructor knows one width alone
        nn.Module.__init__(model)
        model.reconstructive_subnetwork = module.ReconstructiveSubNetwork(base_width=self.width)
        model.discriminative_subnetwork = module.DiscriminativeSubNetwork(6, 2, base_width=self.width // 2)
        return model

    def _loss(self) -> Callable[[nn.Module, Tensor, torch.Generator], Tensor]:
        perlin = anomalib_module("data.utils.generators.perlin")
        damage = perlin.PerlinAnomalyGenerator(self.anomaly_source or None, blend_factor=(0.1, 1.0))
        objective = anomalib_module("models.image.draem.loss").DraemLoss()

        def loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
            with generators_kept(int(torch.randint(2**31, (1,), generator=generator))):
                damaged, masks = damage(images)
            restored, marked = model(damaged)
            return objective(images, restored, masks, marked)

        return loss
