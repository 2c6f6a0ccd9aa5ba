"""A plain autoencoder: the architecture and bottleneck of a latent diffusion autoencoder, trained to reconstruct and
nothing else.

Source: Madan, Srivastava, Raghuvanshi, "A Critical Evaluation of Diffusion Models" (slides, IIT (BHU) Varanasi, 2025),
"Contrast With Autoencoders" and "Reconstruction-Based Anomaly Detection"; as a detector it is the autoencoder of
Bergmann et al. (VISAPP 2019), with the squared error. Its latent is the posterior mean of diffusers' class, with no
noise and no Kullback-Leibler term, and it is trained on the normal images of the task alone. Against the autoencoder
whose shape it takes it shows what is due to the bottleneck, which both have, and what to the objective and the data.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import check_train_dataset
from diffad_utils.methods.reconstruction import ReconstructionDetector
from diffad_utils.models import autoencoders
from diffad_utils.models.stable_diffusion import AUTOENCODERS, load_vae
from diffad_utils.training import BatchLoss, Training, TrainingLog

#: Pixels; larger crops take much memory. Latent diffusion's own autoencoders were trained at this size (Rombach et al.,
#: CVPR 2022, configs/autoencoder of their code).
LARGEST_CROP = 256


@dataclass(kw_only=True)
class Autoencoder(Training, ReconstructionDetector):
    """An autoencoder trained with a squared error on normal images; see the module's text for the source.

    Parameters
    ----------
    vae : the autoencoder whose architecture is taken, a name for `models.stable_diffusion.load_vae`.
    allow_mini : whether the shipped small autoencoder may stand in where the real weights are not found.
    pretrained : begin with the weights of ``vae`` instead of random ones: what its own architecture can do on these
        images. With ``latent_channels`` or ``downsampling`` given, of an AutoencoderKL only, the layers beside the
        latent are new all the same (`warm_start`), so that bottlenecks are compared at equal terms, its own among them.
    latent_channels, downsampling : another bottleneck than that of ``vae``; None: the same. The downsampling can only
        be less: levels are left out at the coarse end.
    crop : side in pixels of the random crops that training sees, a multiple of the downsampling; None for whole images,
        and of images larger than `LARGEST_CROP` for crops of that. Crops much smaller than the image teach a wrong mean
        colour: group normalisation takes its statistics over all of a picture (data/mini/sd/README.md measures it).
    train_encoder : whether the encoder is trained, too; without it the latents stay those of ``vae``, which needs
        ``pretrained``.
    The fields of `training.Training` are those of its training.

    Prediction: parts ``mse`` and ``peak`` of the residual. nfe = 0.
    """

    name: ClassVar[str] = "autoencoder"
    family: ClassVar[str] = "classical"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 6, "train_batch_size": 2, "crop": 32}
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}

    vae: str = "sd-mini"
    allow_mini: bool = False
    pretrained: bool = False
    latent_channels: int | None = None
    downsampling: int | None = None
    crop: int | None = None
    train_encoder: bool = True
    train_steps: int = 150
    train_batch_size: int = 3
    learning_rate: float = 2e-3
    warmup_steps: int = 10

    @property
    def nfe(self) -> int:
        return 0

    def fit(self, train_dataset: ImageDataset, checkpoint_folder: str | Path | None = None) -> Self:
        """Train on normal images, calibrate the score on held-out ones.

        With ``checkpoint_folder`` an interrupted training goes on where it was. Leaves ``training_log_`` behind.
        """
        check_train_dataset(train_dataset)
        if not self.train_encoder and not self.pretrained:
            raise ValueError(
                "train_encoder=False keeps the encoder as it is: with pretrained=False that is a random one"
            )
        template = load_vae(self.vae, device="cpu", allow_mini=self.allow_mini)
        self._build(type(template), bottleneck_config(template, self.latent_channels, self.downsampling))
        if self.pretrained and (self.latent_channels is not None or self.downsampling is not None):
            warm_start(self.model_, template)
        elif self.pretrained:
            self.model_.load_state_dict(template.state_dict())
        self._check_sizes()
        if not self.train_encoder:
            for name, parameter in self.model_.named_parameters():
                parameter.requires_grad_(not name.startswith(("encoder.", "quant_conv.")))
        images, held_out, held_out_keys = self._fitted_and_held_out(train_dataset, self.holdout_fraction)
        self.training_log_ = self._train(images, checkpoint_folder)
        self._calibrate(held_out, held_out_keys)
        return self

    @torch.inference_mode()
    def _reconstruct(self, x: Tensor, keys: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Dec(Enc(x)); nothing in it is random."""
        return autoencoders.reconstruct(self.model_, x), {}

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] as diffusion models see them -> images float32 [B, 3, H, W] in [0, 1], on the CPU."""
        self._require_fitted("calibration_")
        return autoencoders.LatentSpace(self.model_).decode(latents)

    def _check_sizes(self) -> None:
        factor, side = autoencoders.downsampling(self.model_), self._side()
        if self.image_size % factor or side % factor or not 0 < side <= self.image_size:
            raise ValueError(
                f"image_size and crop must be multiples of the downsampling {factor} and crop not larger than the "
                f"image, got image_size={self.image_size}, crop={self.crop}"
            )

    def _side(self) -> int:
        return self.crop or min(self.image_size, LARGEST_CROP)

    def _train(self, images: Tensor, checkpoint_folder: str | Path | None) -> TrainingLog:
        """images [n, 3, H, W] in [0, 1]."""
        side, shape = self._side(), (self.train_batch_size, 2)

        def draw(generator: torch.Generator) -> tuple[Tensor]:
            chosen = torch.randint(len(images), (self.train_batch_size,), generator=generator).tolist()
            corners = torch.randint(self.image_size - side + 1, shape, generator=generator).tolist()
            crops = [images[i, :, y : y + side, x : x + side] for i, (y, x) in zip(chosen, corners, strict=True)]
            return (torch.stack(crops).to(self.torch_device),)

        def loss(model: autoencoders.VAE, x: Tensor) -> Tensor:
            return F.mse_loss(autoencoders.decode(model, autoencoders.encode(model, x)), x)

        loss_fn = BatchLoss(self.train_batch_size, draw, loss)
        return self._optimise(self.model_, loss_fn, "autoencoder", checkpoint_folder)

    def _build(self, cls: type[AutoencoderKL] | type[AutoencoderTiny], config: dict[str, Any]) -> None:
        # a configuration also holds diffusers' own notes, and for an AutoencoderTiny what follows from the rest
        known = inspect.signature(cls.__init__).parameters
        arguments = {name: value for name, value in config.items() if name in known}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model_ = cls(**arguments).to(self.torch_device).eval()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        values = {"calibration": self.calibration_.to_dict(), "class": type(self.model_).__name__}
        return self.model_.state_dict(), values | {"config": json.loads(self.model_.to_json_string())}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._build(AUTOENCODERS[values["class"]], values["config"])
        self.model_.load_state_dict(tensors)
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])


def bottleneck_config(
    vae: autoencoders.VAE, latent_channels: int | None = None, downsampling: int | None = None
) -> dict[str, Any]:
    """The configuration of an autoencoder like ``vae`` with another bottleneck.

    Raises ``ValueError`` for a downsampling that is no power of 2 from 2 to that of ``vae``.
    """
    config, now = dict(vae.config), autoencoders.downsampling(vae)
    factor = downsampling or now
    if factor & (factor - 1) or not 2 <= factor <= now:
        raise ValueError(
            f"downsampling must be a power of 2 from 2 to {now}, that of the autoencoder taken, got {downsampling}"
        )
    levels = factor.bit_length()
    if isinstance(vae, AutoencoderKL):
        config |= {name: config[name][:levels] for name in ("block_out_channels", "down_block_types", "up_block_types")}
    else:  # the decoder's lists begin at the coarse end
        config |= {name: config[name][:levels] for name in ("encoder_block_out_channels", "num_encoder_blocks")}
        config |= {name: config[name][-levels:] for name in ("decoder_block_out_channels", "num_decoder_blocks")}
    return config | {"latent_channels": latent_channels or config["latent_channels"]}


BESIDE_THE_LATENT = ("encoder.conv_out.", "quant_conv.", "post_quant_conv.", "decoder.conv_in.")


def warm_start(model: AutoencoderKL, template: AutoencoderKL) -> int:
    """Give ``model`` the tensors of ``template`` that fit it, all but those of `BESIDE_THE_LATENT`; returns how many
    values.

    Where ``model`` lacks levels at the coarse end, its decoder's blocks, which begin there, take those that follow.
    Raises ``ValueError`` for an AutoencoderTiny, whose layers have numbers instead of names.
    """
    if not isinstance(template, AutoencoderKL):
        raise ValueError("pretrained weights fit another bottleneck only of an AutoencoderKL; use pretrained=False")
    missing = len(template.config.block_out_channels) - len(model.config.block_out_channels)

    def source(name: str) -> str:
        parts = name.split(".")
        if parts[:2] == ["decoder", "up_blocks"]:
            parts[2] = str(int(parts[2]) + missing)
        return ".".join(parts)

    own, given = model.state_dict(), template.state_dict()
    named = {name: given.get(source(name)) for name in own if not name.startswith(BESIDE_THE_LATENT)}
    fitting = {name: value for name, value in named.items() if value is not None and value.shape == own[name].shape}
    model.load_state_dict(own | fitting)
    return sum(value.numel() for value in fitting.values())
