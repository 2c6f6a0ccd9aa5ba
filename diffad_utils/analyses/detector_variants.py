"""One fitted detector with other settings on one task, each computed once; D3AD's and DDAD's.

Used by notebook 06; entry points: `settings_of`, `Variants`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffad_utils.analyses.paired_comparison import BootstrapQuality
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad.conditioned import ConditionedDiffusion
from diffad_utils.methods.d3ad.maps import Maps


def settings_of(detector: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a notebook's parameters that are fields of a detector, without seed and device."""
    names = {field.name for field in dataclasses.fields(detector)} - {"seed", "device"}
    return {name: value for name, value in parameters.items() if name in names}


class Variants:
    """A fitted detector and its variants (``with_settings``) on the test images of a task.

    What the networks see in the images themselves (features, latents) is computed once for all variants that share
    them, and every variant is made and applied once.
    """

    def __init__(self, detector: ConditionedDiffusion, task: Task):
        self.detector, self.task = detector, task
        self._rows = range(0, len(task.keys), detector.batch_size)
        self._fitted: dict[tuple, ConditionedDiffusion] = {(): detector}
        self._maps: dict[tuple, list[Maps]] = {}

    def _key(self, settings: Mapping[str, Any]) -> tuple:
        changed = {name: value for name, value in settings.items() if value != getattr(self.detector, name)}
        return tuple(sorted(changed.items()))

    def fitted(self, **settings: Any) -> ConditionedDiffusion:
        """The detector with other settings; itself where nothing differs."""
        key = self._key(settings)
        if key not in self._fitted:
            self._fitted[key] = self.detector.with_settings(**dict(key))
        return self._fitted[key]

    def maps(self, **settings: Any) -> list[Maps]:
        """Reconstructions and maps of the task's images with these settings, a batch each."""
        key = self._key(settings)
        if key not in self._maps:
            fitted, size = self.fitted(**settings), self.detector.batch_size
            known = self._maps.get((), [])
            self._maps[key] = [
                fitted.maps(
                    self.task.images[start : start + size],
                    self.task.keys[start : start + size],
                    known[i].reconstruction if known else None,
                )
                for i, start in enumerate(self._rows)
            ]
        return self._maps[key]

    def predict(self, **settings: Any) -> Prediction:
        """The prediction of the task's images with these settings."""
        of_maps = "map_weight", "v", "normalisation"  # the others are in the maps already
        maps = self.maps(**{name: value for name, value in settings.items() if name not in of_maps})
        fitted, size = self.fitted(**settings), self.task.images.shape[-2:]
        return Prediction.concatenate([fitted.prediction_from_maps(part, size) for part in maps])

    def compare(self, variants: Mapping[str, Mapping[str, Any] | Prediction]) -> BootstrapQuality:
        """Metrics of variants by name (settings, or a prediction that is there) on the same resamples."""
        predictions = {
            name: entry if isinstance(entry, Prediction) else self.predict(**entry) for name, entry in variants.items()
        }
        return BootstrapQuality.of(predictions, self.task.batch, self.task.bootstrap_samples, self.task.seed)
