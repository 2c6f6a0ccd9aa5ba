"""Is it the diffusion? The score and the map of a method on a reconstruction that no diffusion made.

A reconstruction changes an image for two reasons: what the network generates, and what its frame costs (the
autoencoder's round trip, a smaller image). A control keeps the frame, the score, the map and the calibration, and
leaves the generation out. A method that does not beat its control owes its accuracy to the frame.

Used by notebooks 02 to 04; entry points: `Resized`, `RoundTrip.of`, `control_row`,
`control_sentence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import pandas as pd
from torch import Tensor

from diffad_utils import scoring
from diffad_utils.analyses.summaries import compared, in_words
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import Prediction, at_image_size, check_train_dataset, resize_images
from diffad_utils.methods.img2img import Img2Img
from diffad_utils.methods.reconstruction import ReconstructionDetector


@dataclass(kw_only=True)
class Resized(ReconstructionDetector):
    """The control of a method that works on smaller images: the image at that size and back.

    Parameters
    ----------
    image_size : of the residual, pixels.
    side : of the smaller image, pixels.
    score, holdout_fraction : as in `ReconstructionDetector`.
    """

    name: ClassVar[str] = "resized"
    family: ClassVar[str] = "classical"

    side: int = 64

    @property
    def nfe(self) -> int:
        return 0

    def fit(self, train_dataset: ImageDataset) -> Self:
        """Calibrate the score on the same held-out normal images as a detector with this seed and share."""
        check_train_dataset(train_dataset)
        self._calibrate(*self._fitted_and_held_out(train_dataset, self.holdout_fraction)[1:])
        return self

    def _reconstruct(self, x: Tensor, keys: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return at_image_size(resize_images(x, self.side), x.shape[-2:]), {}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("calibration_")
        return {}, {"calibration": self.calibration_.to_dict()}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.calibration_ = scoring.Calibration.from_dict(values["calibration"])


@dataclass(kw_only=True)
class RoundTrip(Img2Img):
    """The control of image-to-image, with an adapter or without: Dec(Enc(x)), scored like it.

    The prompt, the strength and the guidance have no part in it.
    """

    name: ClassVar[str] = "round_trip"

    @classmethod
    def of(cls, detector: Img2Img, normal: ImageDataset) -> Self:
        """The control of a fitted detector, with its networks, calibrated on ``normal`` images as the detector is."""
        settings = {field.name: getattr(detector, field.name) for field in fields(Img2Img) if field.init}
        control = cls(**settings)
        control.engine_, control.clip_ = detector.engine_, detector.clip_
        return control.fit(normal)

    def reconstruct(self, images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Dec(Enc(x)), the posterior's mean decoded: float32 [B, 3, image_size, image_size] in [0, 1], CPU."""
        return self.engine_.decode(self.engine_.encode(self._input(images)).mean)

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        return replace(super().predict(images, keys), nfe=0)


def control_row(task: Task, score: Tensor, control: Tensor, what: str) -> dict:
    """`Task.control_row`, the method's ``score`` against its control's, [N]; ``what`` is the control in words."""
    return task.control_row(score, control, what)


def control_table(controls: Mapping[str, Mapping], group: str) -> pd.DataFrame:
    """The differences of `control_row` by method for `plots.means_chart`: name, mean, low, high, group."""
    ends = ("low", "high")
    return pd.DataFrame(
        {"name": name, "mean": row["difference"], **{end: row[end] for end in ends}, "group": group}
        for name, row in controls.items()
    )


def control_sentence(name: str, row: Mapping) -> str:
    """What a `control_row` says of method ``name``, in a sentence."""
    difference = (row["difference"], row["low"], row["high"])
    return (
        f"The I-AUROC of {name} {compared(difference)} that of its control without diffusion, {row['what']} "
        f"({row['I-AUROC']:.3f}): {in_words(difference, digits=3, sign=True)}."
    )
