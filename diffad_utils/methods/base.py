"""The contract every method keeps: fit on normal images, predict scores and maps, save and load.

Every method inherits `Detector`; what is common to several of them (input, held-out images, checks) is here, too. What
may be touched: nothing that changes what ``save`` writes without a way to load the detectors saved before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import mmap
import os
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from diffad_utils import scoring
from diffad_utils.data import ImageDataset, collate
from diffad_utils.diffusion import PRECISIONS
from diffad_utils.io import store
from diffad_utils.io.files import write_atomically, written_whole
from diffad_utils.methods.kept import kept
from diffad_utils.methods.stored import through_store
from diffad_utils.models.device import in_pieces, pick_device

if TYPE_CHECKING:
    from diffad_utils.weights import Resolved

BATCH_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.4}
"""How far, absolute and relative, an image's score may move with its batch, by the dtype of the networks: libraries
choose other algorithms, and so other roundings, for other batch sizes. fp32 stays below 1e-4. fp16 has 13 bits less;
0.02 was measured for img2img's calibrated score, batch 1 against 8. bf16 has 3 bits less again: eight times fp16's."""

IN_MEMORY = 2**30
"""Bytes of maps or of reconstructions that `Detector.predict_dataset` holds in memory; more lie in a file."""

FAMILIES = ("diffusion", "clip", "classical")
"""What a method may be: a diffusion model; CLIP without diffusion, which knows captioned pictures; anything else."""


@dataclass
class Prediction:
    """What a detector says of B images; all tensors on the CPU.

    score : float32 [B], higher is more anomalous.
    anomaly_map : float32 [B, H, W] at the size of the images given, or None for methods without localisation.
    reconstruction : float32 [B, 3, H, W] in [0, 1], or None for methods that do not reconstruct.
    parts : the raw, uncalibrated parts of the score by name, each [B].
    nfe : network evaluations of the diffusion model an image, on average (0 for methods without one).
    """

    score: Tensor
    anomaly_map: Tensor | None = None
    reconstruction: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    nfe: float = 0

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def concatenate(cls, predictions: Iterable[Prediction], total: int | None = None) -> Prediction:
        """Join predictions of consecutive batches of one detector.

        total : images of all of them. With it the batches may come from an iterator and are held one at a time; maps or
        reconstructions that take more than `IN_MEMORY` bytes lie in a file of the temporary folder (``$TMPDIR``), which
        is gone when they are.
        """
        if total is None:
            predictions = list(predictions)
            total = sum(len(prediction) for prediction in predictions)
        joined: dict[str, Tensor] = {}
        done, counts = 0, Counter()
        for prediction in predictions:
            named = {"score": prediction.score, "anomaly_map": prediction.anomaly_map}
            named |= {
                "reconstruction": prediction.reconstruction,
                **{f"parts.{k}": v for k, v in prediction.parts.items()},
            }
            for name, values in named.items():
                if values is not None:
                    if name not in joined:
                        joined[name] = _room((total, *values.shape[1:]), values.dtype)
                    joined[name][done : done + len(values)] = values
            counts[prediction.nfe] += len(prediction)
            done += len(prediction)
        if not done:
            raise ValueError("no predictions to join: the data set is empty")
        parts = {name.removeprefix("parts."): values for name, values in joined.items() if name.startswith("parts.")}
        nfe = next(iter(counts)) if len(counts) == 1 else sum(nfe * images for nfe, images in counts.items()) / done
        return cls(joined["score"], joined.get("anomaly_map"), joined.get("reconstruction"), parts, nfe)


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor; a large one lies in a file that has no name, so that the system may put it on the disk."""
    size = math.prod(shape) * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="diffad-maps-") as file:
        file.truncate(size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).reshape(shape)


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

    What a class says of itself, for the comparison, the report and the contract's tests
    ----------
    name : in `METHODS`, parameters and run folders. family : one of `FAMILIES`. published_as : its name in
        data/published/results.csv, "" without published numbers; published_setting : which of its settings ours is.
    contract_settings : fields that make it small enough to be fitted in a second or two by `testing.contract`.
    contract_attributes : attributes of `testing.contract.DetectorContract` where the defaults do not fit.
    former_names : name in files saved before -> the field's name now. former_settings : field that is gone -> the value
        of it that the class has by now; a detector saved with another one is refused.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    published_as: ClassVar[str] = ""
    published_setting: ClassVar[str] = "one-class"
    contract_settings: ClassVar[Mapping[str, Any]] = {}
    contract_attributes: ClassVar[Mapping[str, Any]] = {}
    former_names: ClassVar[Mapping[str, str]] = {}
    former_settings: ClassVar[Mapping[str, Any]] = {}

    image_size: int = 128
    seed: int = 0
    device: str = "auto"
    batch_size: int = 32

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "fit" in vars(cls):
            cls.fit = through_store(cls.fit)
        if "predict" in vars(cls):
            cls.predict = kept()(cls.predict)

    @abstractmethod
    def fit(self, train_dataset: ImageDataset) -> Self:
        """Learn from normal training images. Raises ``ValueError`` if one of them is labelled anomalous.

        Within a run, what was fitted once with the same settings, images and code comes from the store (`stored`).
        Leaves ``fit_seconds_``, the seconds that it took when it was computed.
        """

    @abstractmethod
    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        """Scores and maps of ``images`` [B, 3, H, W], float in [0, 1].

        ``keys`` [B] seed what is random in a method and name the category for class-conditional ones; without them
        an image's pixels seed it (`noise_keys`). Within a run, what was predicted before comes from the store (`kept`).
        Raises ``ValueError`` for images of another shape, type or range, no
        images, or another number of keys; ``RuntimeError`` before ``fit``.
        """

    def predict_batches(
        self,
        dataset: ImageDataset,
        on_batch: Callable[[int, int], None] | None = None,
        predict: Callable[[Tensor, Sequence[str]], Prediction] | None = None,
    ) -> Iterator[tuple[Prediction, dict]]:
        """``predict`` over a data set, a batch at a time: predictions and the batches (`data.collate`) they are of.

        ``on_batch(done, total)`` is called after each. Where the device's memory does not hold a batch, ``batch_size``
        is halved, with a warning, until it does. For a test set that is larger than memory give the data set
        ``cache=False`` and the batches to `study.Collected`.
        """
        predict, done = predict or self.predict, 0
        # a map and a reconstruction each: those of a large test set would push all else out of the store
        size, most = len(dataset) * math.prod(dataset.size) * 16, IN_MEMORY * 2
        for batch in batches(dataset, self.batch_size):
            images, keys = batch["image"], batch["key"]
            with contextlib.nullcontext() if size <= most else store.paused():
                found, self.batch_size = in_pieces(
                    lambda rows, images=images, keys=keys: predict(images[rows], keys[rows]), len(keys), self.batch_size
                )
            done += len(keys)
            if on_batch is not None:
                on_batch(done, len(dataset))
            yield found[0] if len(found) == 1 else Prediction.concatenate(found), batch

    def predict_dataset(
        self,
        dataset: ImageDataset,
        on_batch: Callable[[int, int], None] | None = None,
        predict: Callable[[Tensor, Sequence[str]], Prediction] | None = None,
    ) -> Prediction:
        """The predictions of `predict_batches`, joined (`Prediction.concatenate`)."""
        found = self.predict_batches(dataset, on_batch, predict)
        return Prediction.concatenate((prediction for prediction, _ in found), len(dataset))

    def running_dtype(self) -> torch.dtype:
        """The coarsest of the dtypes that the networks are held or run in: a key of `BATCH_TOLERANCE`."""
        dtypes = {parameter.dtype for network in self.networks() for parameter in network.parameters()}
        dtypes.add(PRECISIONS.get(getattr(self, "inference_precision", None), torch.float32))
        return max(dtypes & BATCH_TOLERANCE.keys(), key=BATCH_TOLERANCE.__getitem__)

    def check_batch_independence(self, batch: Mapping[str, Any], prediction: Prediction) -> None:
        """Raise ``RuntimeError`` if an image's score depends on what else is predicted, or scores are not finite.

        batch : ``image`` [N, 3, H, W] and ``key`` [N], of which ``prediction`` came. The first image is predicted alone
        and may differ by `BATCH_TOLERANCE` for `running_dtype`.
        """
        if len(prediction) != len(batch["key"]):
            raise RuntimeError(f"{len(prediction)} scores for {len(batch['key'])} images: expected one an image")
        if not bool(torch.isfinite(prediction.score).all()):
            bad = batch["key"][int((~torch.isfinite(prediction.score)).nonzero()[0])]
            raise RuntimeError(f"{self.name}: the score of {bad} is not finite; use inference_precision='fp32'")
        alone, together = float(self.predict(batch["image"][:1], batch["key"][:1]).score), float(prediction.score[0])
        dtype = self.running_dtype()
        allowed = BATCH_TOLERANCE[dtype] * (1 + abs(alone))
        if abs(alone - together) > allowed:
            raise RuntimeError(
                f"{self.name}: {batch['key'][0]} scores {alone:.6g} alone and {together:.6g} among {len(prediction)} "
                f"images, expected at most {allowed:.2g} apart in {str(dtype).removeprefix('torch.')}: nothing in "
                "`predict` may be computed over a batch (statistics, scaling, a generator that all images share)"
            )

    def save(self, folder: str | Path) -> None:
        """Write ``detector.json`` (class, hyperparameters, plain values) and ``detector.safetensors`` into
        ``folder``."""
        tensors, values = self._state()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with written_whole(folder / "detector.safetensors") as temporary:
                save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # a full disk, say
            raise OSError(f"{folder / 'detector.safetensors'} could not be written: {error}") from error
        record = {"method": self.name, "hyperparameters": dataclasses.asdict(self), "values": values}
        write_atomically(folder / "detector.json", json.dumps(record, indent=1, sort_keys=True))

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
        detector = cls(**{**cls._settings_of_today(record["hyperparameters"], path), "device": device})
        detector._set_state(load_file(Path(folder) / "detector.safetensors"), record["values"])
        return detector

    @classmethod
    def _settings_of_today(cls, saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """The hyperparameters of a file, which may be of an earlier version, as fields of the class."""
        settings = {cls.former_names.get(name, name): value for name, value in saved.items()}
        for name in settings.keys() - cls.__dataclass_fields__.keys():
            value = settings.pop(name)
            if name not in cls.former_settings or value != cls.former_settings[name]:
                raise ValueError(
                    f"{path} was saved by another version with {name} = {value!r}, but {cls.__name__} has no such "
                    "setting: fit it again with this version"
                )
        return settings

    @abstractmethod
    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What ``fit`` learned, as (tensors by name, JSON values by name). ``RuntimeError`` before ``fit``."""

    @abstractmethod
    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what ``_state`` gave."""

    def _remember(self, train_dataset: ImageDataset) -> None:  # noqa: B027, most keep nothing
        """What ``fit`` keeps of the training set itself; called by it, and for a detector that comes from the
        store."""

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

    def resolved_weights(self) -> dict[str, Resolved]:
        """Where pretrained weights come from, by the field that names them, for ``run.note_weights``; once loaded."""
        return {}

    def _checksums(self) -> dict[str, str]:
        return {name: resolved.sha256 for name, resolved in self.resolved_weights().items()}

    def _check_weights(self, fitted: Mapping[str, str | None]) -> None:
        """Raise ``ValueError`` unless the weights here have the checksums of those that the detector was fitted with.

        fitted : SHA-256 by field, as `_checksums` gave them; None or absent for a field that names no weights.
        """
        found = self.resolved_weights()
        for name in sorted({*fitted, *found}):
            before, here = fitted.get(name), found.get(name)
            if before != (here and here.sha256):
                resolves = "names none" if here is None else f"resolves to {here.sha256[:12]}: {here.message}"
                raise ValueError(
                    f"this detector was fitted with weights {str(before)[:12]}, but here {name} = "
                    f"{getattr(self, name)!r} {resolves}: fit it again, or load it where the weights are those of then"
                )

    def _input(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [0, 1], checked, as float32 [B, 3, image_size, image_size] in [0, 1], CPU."""
        return resize_images(check_images(images), self.image_size).clamp(0, 1)

    def _fitted_and_held_out(self, dataset: ImageDataset, fraction: float) -> tuple[Tensor, Tensor, list[str]]:
        """Training images [n, 3, image_size, image_size] to learn from, and held-out ones with their keys.

        fraction : share that is held out (`scoring.holdout_split`).
        """
        loaded = [(self._input(batch["image"]), batch["key"]) for batch in batches(dataset, self.batch_size)]
        images, keys = torch.cat([part for part, _ in loaded]), [key for _, part in loaded for key in part]
        fitted, held_out = scoring.holdout_split(len(images), fraction, self.seed)
        return images[fitted], images[held_out], [keys[i] for i in held_out]

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


def at_image_size(images: Tensor, size: Sequence[int]) -> Tensor:
    """Reconstructions [B, 3, h, w] in [0, 1] at the size (H, W) of the images they belong to: [B, 3, H, W]."""
    return torch.nn.functional.interpolate(images, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)
