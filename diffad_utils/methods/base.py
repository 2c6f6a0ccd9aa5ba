"""The contract every method keeps: fit on normal images, predict scores and maps, save and load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from diffad_utils.data import ImageDataset, collate
from diffad_utils.training import pick_device


@dataclass
class Prediction:
    """What a detector says of B images; all tensors on the CPU.

    score : float32 [B], higher is more anomalous.
    anomaly_map : float32 [B, H, W] at the size of the images given, or None for methods without localisation.
    reconstruction : float32 [B, 3, H, W] in [0, 1], or None for methods that do not reconstruct.
    parts : the raw, uncalibrated parts of the score by name, each [B].
    nfe : network evaluations of the diffusion model an image (0 for methods without one).
    """

    score: Tensor
    anomaly_map: Tensor | None = None
    reconstruction: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    nfe: int = 0

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def concatenate(cls, predictions: Sequence[Prediction]) -> Prediction:
        """Join predictions of consecutive batches of one detector."""
        if not predictions:
            raise ValueError("no predictions to join: the data set is empty")

        def joined(name: str) -> Tensor | None:
            values = [getattr(p, name) for p in predictions]
            return None if values[0] is None else torch.cat(values)

        parts = {name: torch.cat([p.parts[name] for p in predictions]) for name in predictions[0].parts}
        return cls(joined("score"), joined("anomaly_map"), joined("reconstruction"), parts, predictions[0].nfe)


@dataclass(kw_only=True)
class Detector(ABC):
    """A method for finding anomalies, fitted on normal images alone.

    Hyperparameters are the fields of the subclass; what ``fit`` learns is held in attributes that end in an underscore,
    and ``_state`` / ``_set_state`` turn it into tensors and plain values and back. Randomness at prediction comes from
    (``seed``, image key) only, so an image's result depends neither on its batch nor on the rest of the test set.

    Parameters
    ----------
    image_size : side in pixels of the square image the method works at; ``predict`` takes any size and resizes.
    seed : seeds training and every random draw.
    device : "auto", "cpu", "cuda", "mps".
    batch_size : images processed at once by ``predict_dataset`` and feature extraction.
    """

    name: ClassVar[str]

    image_size: int = 128
    seed: int = 0
    device: str = "auto"
    batch_size: int = 32

    @abstractmethod
    def fit(self, train_dataset: ImageDataset) -> Self:
        """Learn from normal training images. Raises ``ValueError`` if one of them is labelled anomalous."""

    @abstractmethod
    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        """Scores and maps of ``images`` [B, 3, H, W], float in [0, 1].

        ``keys`` [B] seed what is random in a method and name the category for class-conditional ones; without them
        an image's pixels seed it (`noise_keys`). Raises ``ValueError`` for images of another shape, type or range, no
        images, or another number of keys; ``RuntimeError`` before ``fit``.
        """

    def predict_dataset(
        self,
        dataset: ImageDataset,
        on_batch: Callable[[int, int], None] | None = None,
        predict: Callable[[Tensor, Sequence[str]], Prediction] | None = None,
    ) -> Prediction:
        """``predict`` over a data set in batches; ``on_batch(done, total)`` is called after each.

        Where the device's memory does not hold a batch, ``batch_size`` is halved, with a warning, until it does.
        """
        predictions, done = [], 0
        for batch in batches(dataset, self.batch_size):
            predictions += self._in_memory(predict or self.predict, batch["image"], batch["key"])
            done += len(batch["key"])
            if on_batch is not None:
                on_batch(done, len(dataset))
        return Prediction.concatenate(predictions)

    def _in_memory(self, predict: Callable, images: Tensor, keys: Sequence[str]) -> list[Prediction]:
        """Predictions of a batch, in pieces of ``batch_size``, which is halved when memory runs out."""
        done: list[Prediction] = []
        at = 0
        while at < len(images):
            piece = slice(at, at + self.batch_size)
            try:
                done.append(predict(images[piece], keys[piece]))
            except torch.OutOfMemoryError:
                count = len(images[piece])
                if count == 1:
                    raise
                self.batch_size = count // 2
                warnings.warn(
                    f"{self.name}: out of memory with {count} images at once; going on with {self.batch_size}",
                    stacklevel=3,
                )
            else:
                at += self.batch_size
                continue
            if torch.cuda.is_available():  # out here, as inside the handler the traceback still holds the tensors
                torch.cuda.empty_cache()
        return done

    def save(self, folder: str | Path) -> None:
        """Write ``detector.json`` (class, hyperparameters, plain values) and ``detector.safetensors`` into
        ``folder``."""
        tensors, values = self._state()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "detector.safetensors.tmp"
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # a full disk, say
            temporary.unlink(missing_ok=True)
            raise OSError(f"{folder / 'detector.safetensors'} could not be written: {error}") from error
        os.replace(temporary, folder / "detector.safetensors")
        record = {"method": self.name, "hyperparameters": dataclasses.asdict(self), "values": values}
        (folder / "detector.json.tmp").write_text(json.dumps(record, indent=1, sort_keys=True))
        os.replace(folder / "detector.json.tmp", folder / "detector.json")

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """Open what ``save`` wrote. Raises ``FileNotFoundError`` or ``ValueError`` if it is absent or of another
        method."""
        path = Path(folder) / "detector.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: give the folder that {cls.__name__}.save wrote")
        record = json.loads(path.read_text())
        if record["method"] != cls.name:
            raise ValueError(f"{path} holds a {record['method']!r} detector, not {cls.name!r}")
        detector = cls(**{**record["hyperparameters"], "device": device})
        detector._set_state(load_file(Path(folder) / "detector.safetensors"), record["values"])
        return detector

    @abstractmethod
    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What ``fit`` learned, as (tensors by name, JSON values by name). ``RuntimeError`` before ``fit``."""

    @abstractmethod
    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what ``_state`` gave."""

    @property
    def torch_device(self) -> torch.device:
        return pick_device(self.device)

    def networks(self) -> list[torch.nn.Module]:
        """The networks that a prediction runs through, once they are there; their weights are counted in the
        manifest."""
        return [value for value in vars(self).values() if isinstance(value, torch.nn.Module)]

    def compile(self, **options: Any) -> Self:
        """Run the networks through ``torch.compile`` from now on; scores agree up to rounding.

        What a method calls by another name than ``forward`` (the variance alone of ESM-sigma, CLIP's features) stays as
        it is. ``options`` are ``torch.compile``'s: ``mode="reduce-overhead"`` also records CUDA graphs. Worth it for
        many images: the first batch of each shape takes up to minutes. On a CPU it needs a C++ compiler.
        """
        for network in self.networks():
            halves = (
                [network.encoder, network.decoder] if hasattr(network, "decoder") else [network]
            )  # an autoencoder is called by halves
            for part in halves:
                part.compile(**options)
        return self

    def _require_fitted(self, attribute: str) -> None:
        if not hasattr(self, attribute):
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit(train_dataset) or load(folder) first")


def batches(dataset: ImageDataset, batch_size: int) -> Iterator[dict]:
    """The samples of a data set in order, collated.

    ``$DIFFAD_WORKERS`` processes read and resize ahead (0, the default: this one does, and keeps what it has read).
    They help where a GPU would wait for large files; the samples are the same.
    """
    workers = os.environ.get("DIFFAD_WORKERS", "0")
    if not workers.isdecimal():
        raise ValueError(f"DIFFAD_WORKERS must be a number of processes, 0 or more, got {workers!r}")
    return iter(DataLoader(dataset, batch_size=batch_size, shuffle=False, collate_fn=collate, num_workers=int(workers)))


def check_images(images: Tensor) -> Tensor:
    """Raise ``ValueError`` unless ``images`` is float [B, 3, H, W], B >= 1, finite and in [0, 1].

    Returns it as float32 on the CPU, where a detector's noise and banks are.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a float tensor [B, 3, H, W] with values in [0, 1], got {got}")
    if not images.numel():
        raise ValueError(f"expected at least one image with pixels, got shape {list(images.shape)}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images must be finite and in [0, 1], got {images.min().item():.4g} .. {images.max().item():.4g}"
        )
    return images.float().cpu()


def noise_keys(images: Tensor, keys: Sequence[str] | None) -> list[str]:
    """What seeds the noise of each of images [B, 3, H, W]: its key or, without keys, the SHA-256 of its float32 pixels.

    Either way it does not depend on what else is in the batch. Raises ``ValueError`` unless there is one key an image.
    """
    if keys is None:
        return [hashlib.sha256(image.numpy()).hexdigest() for image in images.detach().float().cpu().contiguous()]
    if len(keys) != len(images):
        raise ValueError(f"expected one key an image, got {len(keys)} keys for {len(images)} images")
    return [*keys]


def check_train_dataset(dataset: ImageDataset) -> None:
    """Raise ``ValueError`` if an anomalous image is among the training images."""
    anomalous = int((dataset.index["label"] != 0).sum())
    if anomalous:
        raise ValueError(
            f"{anomalous} of {len(dataset)} training images are labelled anomalous; detectors train on normal images"
        )


def resize_images(images: Tensor, size: int) -> Tensor:
    """Antialiased bilinear resize of [B, 3, H, W] to [B, 3, size, size]; as it is when it has that size already."""
    if images.shape[-2:] == (size, size):
        return images
    return torch.nn.functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
