"""Means over images with their intervals, as rows of a table and in the words of a sentence; measured methods.

Used by notebooks 02 to 07; entry points: `Means`, `in_words`, `compared`, `measure`,
`as_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

from diffad_utils import metrics
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import relation
from diffad_utils.io import store
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import reconstruction_metrics
from diffad_utils.study import numbers


class Means(NamedTuple):
    """Means over images with 95 % bootstrap intervals: n resamples, seed."""

    n: int = 1000
    seed: int = 0

    def of(self, values: ArrayLike) -> bootstrap.Interval:
        """mean, low, high of values [N], as `bootstrap.mean_interval`."""
        return bootstrap.mean_interval(values, self.n, self.seed)

    def finding(self, values: ArrayLike) -> tuple[float, float, float, int]:
        """mean, low, high and the number of values, as `findings.judge` takes them."""
        mean, low, high = self.of(values)
        return float(mean), float(low), float(high), len(values)

    def rows(self, values: Mapping[str, ArrayLike], group: str = "") -> pd.DataFrame:
        """A row for each entry of ``values`` (name -> [N]): columns name, mean, low, high, n, group."""
        found = [(name, *self.finding(numbers), group) for name, numbers in values.items()]
        return pd.DataFrame(found, columns=["name", "mean", "low", "high", "n", "group"])


def in_words(interval: Sequence[float], unit: str = "", digits: int = 2, sign: bool = False) -> str:
    """ "1.25 dB [1.01, 1.49]" of (mean, low, high, ...); with ``sign`` all have one.

    Examples
    --------
    >>> in_words((1.254, 1.006, 1.494), " dB")
    '1.25 dB [1.01, 1.49]'
    """
    return numbers.effect(interval, digits, "+" if sign else "", unit)


def compared(interval: Sequence[float]) -> str:
    """What the interval of a difference (mean, low, high, ...) says of the first against the second.

    Examples
    --------
    >>> compared((0.1, 0.01, 0.2)), compared((0, -0.3, 0.2)), compared((-0.25, -0.3, -0.2))
    ('is above', 'is not shown to differ from', 'is below')
    """
    low, high = interval[1:3]
    return f"is {relation(low, high)}"


class Measured(NamedTuple):
    """A fitted detector on a task's test images: its prediction, `metrics.evaluate` and milliseconds an image."""

    detector: Detector
    prediction: Prediction
    metrics: dict[str, float]
    ms_per_image: float

    @property
    def score(self) -> Tensor:
        return self.prediction.score

    def to_record(self, task: Task, baseline: TrivialBaseline) -> dict[str, Any]:
        """The arguments of `study.Run.record` and `record_method` that follow from it."""
        log = getattr(self.detector, "training_log_", None)
        return {
            "prediction": self.prediction,
            "batch": task.batch,
            "metrics": self.metrics,
            "detector": self.detector,
            "maps": True,
            "timing": {"ms_per_image": self.ms_per_image} | ({"fit_s": log.seconds} if log else {}),
            "trivial_baseline": baseline.record(),
        }


def as_rows(table: pd.DataFrame) -> list[dict]:
    """The rows of a table as `study.Run.record` takes them: without what is not there (NaN)."""
    return [{name: value for name, value in row.items() if value == value} for row in table.to_dict("records")]


def measure(detector: Detector, task: Task) -> Measured:
    """Predict every test image of a task; where there are reconstructions, `reconstruction_metrics` are with it."""
    start = store.clock()
    prediction = detector.predict_dataset(task.test)
    seconds = store.clock() - start
    values = metrics.evaluate(prediction, task.batch)
    if prediction.reconstruction is not None:
        values |= reconstruction_metrics(prediction.reconstruction, task.batch)
    return Measured(detector, prediction, values, 1000 * seconds / len(task.keys))
