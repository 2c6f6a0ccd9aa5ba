"""InvAD's inference with the network of another diffusion detector, "plug and play".

Source: Sakai et al., "InvAD: Inversion-based Reconstruction-Free Anomaly Detection with Diffusion Models" (CVPR 2026;
arXiv 2504.05662), which says that its inference works with existing diffusion models (claim C42). A network that was
trained for reconstruction is used as it is: what it was trained on (latents or pixels) is moved towards the Gaussian
prior in a few DDIM steps, and InvAD's score says how little the final latent looks like a sample of that prior
(`methods.invad.score`). Nothing is reconstructed, and nothing is trained but the calibration of the score.

`Inversion` is the inference, the same for every network. The class for a network lies beside it, and says what is
inverted, what predicts the noise, and which timesteps the network knows: `methods.d3ad.inversion`,
`methods.esm.inversion`, `methods.pixel_ddpm_inversion`, `methods.img2img.inversion`.

Where ours differs from InvAD with a network of its own:

- *States*: InvAD inverts features of a pretrained backbone; these networks know latents of an autoencoder, or pixels.
- *Last timestep*: where a network was trained on the first timesteps only (D3AD's with ``max_train_timestep``), the
  network is asked there last, where alpha_bar is not yet near 0.
- *Score*: the parts are scaled by held-out normal training images, as in our `InvAD`; the public code scales them over
  the test set.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.data import Subset

from diffad_utils import scoring
from diffad_utils.data import ImageDataset
from diffad_utils.diffusion import EpsFn, NoiseSchedule, ddim_invert, inversion_timesteps
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.methods.invad.score import anomaly_map, image_score, score_parts
from diffad_utils.weights import Resolved

SHARED = ("image_size", "seed", "device", "batch_size", "holdout_fraction")
"""Fields that an `Inversion` has in common with its network, and hands on to it."""


@dataclass(kw_only=True)
class Inversion(Detector):
    """DDIM inversion with the network of another detector, `NETWORK`; see the module's text for the source.

    Parameters
    ----------
    settings : the network's other fields, those that are not `SHARED`. An image size in it is not allowed; give it as a
        field of this class.
    inversion_steps : network evaluations of the inversion (InvAD: 3). 0 is the control without diffusion: the states
        themselves, standardised by channel with mean and standard deviation of held-out normal images, so that the
        prior fits them as well as it can.
    spacing : of the steps, see `diffusion.inversion_timesteps`.
    holdout_fraction : share of the training images that the network does not see, and that calibrate the score.

    Prediction: parts ``nll`` and ``spread`` of `invad.score`, and their map; nfe = ``inversion_steps``.
    """

    family: ClassVar[str] = "diffusion"
    contract_attributes: ClassVar[dict[str, Any]] = {"gross_auroc": None}
    NETWORK: ClassVar[type[Detector]]
    NETWORKS: ClassVar[Sequence[str]]
    """Attributes of a fitted `NETWORK` that an inversion runs through."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    inversion_steps: int = 3
    spacing: str = "reference"
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        inversion_timesteps(NoiseSchedule.linear(), self.inversion_steps or 2, self.spacing)  # refuses bad settings
        if wrong := sorted(set(self.settings) & set(SHARED)):
            raise ValueError(f"settings must not hold {', '.join(wrong)}: give them to {type(self).__name__} itself")
        self._make_network()

    # -- what differs between networks ---------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """Images [B, 3, image_size, image_size] in [0, 1] -> what the network was trained on: float32 [B, C, h, w]."""
        return self.network_.encode(x)

    def eps_fn(self, keys: Sequence[str] | None, count: int) -> EpsFn:
        """The network's prediction of the noise for ``count`` images with these keys, as in `diffusion.ddim`."""
        return self.network_.predict_noise

    @property
    @abstractmethod
    def schedule(self) -> NoiseSchedule:
        """Of the network's training, as far as it was trained."""

    # -- fit -----------------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, network: Detector, train_dataset: ImageDataset, **settings: Any) -> Self:
        """With a fitted network, which stays as it is. settings : ``inversion_steps``, ``spacing``; and
        ``holdout_fraction`` for a network that has none.

        Raises ``ValueError`` for a network of another class.
        """
        given = {each.name: getattr(network, each.name) for each in dataclasses.fields(network) if each.init}
        shared = {name: given.pop(name) for name in SHARED if name in given}
        return cls(settings=given, **shared, **settings).fit(train_dataset, network=network)

    def fit(self, train_dataset: ImageDataset, network: Detector | None = None) -> Self:
        """Fit the network, unless a fitted one is given (see `of`), and calibrate the score on held-out normals."""
        check_train_dataset(train_dataset)
        if network is not None and type(network) is not self.NETWORK:
            raise ValueError(
                f"{type(self).__name__} takes the network of a {self.NETWORK.__name__}, got a {type(network).__name__}"
            )
        self.network_ = self._make_network().fit(train_dataset) if network is None else network
        _, held_out = scoring.holdout_split(len(train_dataset), self.holdout_fraction, self.seed)
        samples = list(batches(Subset(train_dataset, held_out.tolist()), self.batch_size))
        self.held_out_states_ = torch.cat([self.encode(self._input(batch["image"])) for batch in samples])
        self.held_out_keys_ = [key for batch in samples for key in batch["key"]]
        mean, std = (getattr(self.held_out_states_, of)(dim=(0, 2, 3), keepdim=True) for of in ("mean", "std"))
        self.state_mean_, self.state_std_ = mean, std.clamp_min(1e-6)
        self._calibrate()
        return self

    def with_settings(self, *, inversion_steps: int | None = None, spacing: str | None = None) -> Self:
        """The same network with other steps, calibrated anew on the held-out normals of ``fit``; ``inversion_steps=0``
        is the control without diffusion.

        Raises ``RuntimeError`` for a detector that was loaded (the held-out states are not saved).
        """
        if not hasattr(self, "held_out_states_"):
            raise RuntimeError("with_settings needs the held-out states that fit leaves; a loaded detector has none")
        other = copy.copy(self)
        other.inversion_steps = self.inversion_steps if inversion_steps is None else inversion_steps
        other.spacing = spacing or self.spacing
        other.__post_init__()
        other._calibrate()
        return other

    def _calibrate(self) -> None:
        self.calibration_ = scoring.Calibration.fit(
            score_parts(self.final_latents(self.held_out_states_, self.held_out_keys_))
        )

    def _make_network(self) -> Detector:
        """An unfitted network with these settings; raises what its class raises for bad ones."""
        known = {each.name for each in dataclasses.fields(self.NETWORK)}
        shared = {name: getattr(self, name) for name in SHARED if name in known}
        return self.NETWORK(**shared, **self.settings)

    # -- predict -------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("calibration_")
        z = self.final_latents(self.encode(self._input(images)), keys)
        parts = score_parts(z)
        score = image_score(parts, self.calibration_)
        return Prediction(score, anomaly_map(z, tuple(images.shape[-2:])), parts=parts, nfe=self.inversion_steps)

    @torch.inference_mode()
    def final_latents(self, states: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Where states [N, C, h, w], as `encode` gives them, end: float32 [N, C, h, w] on the CPU."""
        if not self.inversion_steps:
            return (states - self.state_mean_) / self.state_std_
        outputs = []
        for start in range(0, len(states), self.batch_size):
            x = states[start : start + self.batch_size].to(self.torch_device)
            eps_fn = self.eps_fn(None if keys is None else keys[start : start + self.batch_size], len(x))
            outputs.append(ddim_invert(eps_fn, x, self.schedule, self.inversion_steps, self.spacing).float().cpu())
        return torch.cat(outputs)

    # -- pieces --------------------------------------------------------------------------------------------------------

    @property
    def inference_precision(self) -> str | None:
        """The network's, for the tolerance of `check_batch_independence`."""
        return self.settings.get("inference_precision")

    def networks(self) -> list[torch.nn.Module]:
        network = getattr(self, "network_", None)
        return [getattr(network, name) for name in self.NETWORKS if getattr(network, name, None) is not None]

    def resolved_weights(self) -> dict[str, Resolved]:
        return self.network_.resolved_weights()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        tensors, values = self.network_._state()
        states = {"state_mean": self.state_mean_, "state_std": self.state_std_}
        own = {"calibration": self.calibration_.to_dict(), "network": values}
        return {f"network.{name}": tensor for name, tensor in tensors.items()} | states, own

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.network_ = self._make_network()
        inner = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        self.network_._set_state(inner, values["network"])
        self.state_mean_, self.state_std_ = tensors["state_mean"], tensors["state_std"]
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])
