"""What a run records of a test set that is larger than memory, taken in batch by batch."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pandas as pd

from diffad_utils.study.tables import SmallMaps, score_table


class Collected:
    """Scores, metrics, small maps, masks and reconstructions' quality of ``total`` test images.

    In memory stay a few numbers an image and at most 8 MB of maps; the rest is in a temporary folder::

        with study.Collected(len(test)) as collected:
            for prediction, batch in detector.predict_batches(test):
                collected.update(prediction, batch)
            run.record(collected, metrics=collected.metrics(), maps=True)

    What is recorded equals what `metrics.evaluate` and `Run.record` make of all images at once, metrics of pixels to
    rounding (1e-12).
    """

    def __init__(self, total: int) -> None:
        from diffad_utils.metrics import Evaluation  # slow to import, and most who use the study evaluate nothing

        self._total, self._evaluation, self._maps = total, Evaluation(), SmallMaps(total)
        self._scores: dict[str, list[float]] = {}
        self._reconstructions: list[pd.DataFrame] = []
        self._keys: list[str] = []
        self._labels: list[int] = []
        self._masks = tempfile.TemporaryFile(prefix="diffad-masks-")  # noqa: SIM115, closed by __exit__
        self._mask_shape: tuple[int, ...] | None = None
        self._localises, self._marked, self.nfe = True, False, 0

    def __len__(self) -> int:
        return len(self._keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._masks.close()
        self._evaluation.__exit__(*error)

    def update(self, prediction: Any, batch: dict) -> None:
        """Take in a prediction and the batch it is of; raises as `metrics.evaluate` does."""
        self._evaluation.update(prediction, batch)
        for name, values in {"score": prediction.score, **prediction.parts}.items():
            self._scores.setdefault(name, []).extend(np.asarray(values).tolist())
        self._keys += batch["key"]
        self._labels += np.asarray(batch["label"]).tolist()
        self.nfe = prediction.nfe
        self._localises &= prediction.anomaly_map is not None
        if self._localises:
            self._maps.update(prediction.anomaly_map)
        if "mask" in batch:
            masks = np.asarray(batch["mask"], dtype=bool)
            self._marked |= bool(masks.any())
            self._mask_shape = masks.shape[1:]
            self._masks.write(np.packbits(masks.reshape(len(masks), -1), axis=1).tobytes())
        if getattr(prediction, "reconstruction", None) is not None and "image" in batch:
            from diffad_utils.metrics.counterfactual import reconstruction_table

            self._reconstructions.append(reconstruction_table(prediction.reconstruction, batch))

    def metrics(self) -> dict[str, float]:
        """As `metrics.evaluate`."""
        return self._evaluation.compute()

    @property
    def batch(self) -> dict:
        """Keys and labels of all images."""
        return {"key": self._keys, "label": np.array(self._labels)}

    def scores(self) -> pd.DataFrame:
        """As `score_table`."""
        parts = {name: np.array(values) for name, values in self._scores.items() if name != "score"}
        return score_table(SimpleNamespace(score=np.array(self._scores["score"]), parts=parts), self.batch)

    def write(self, path: Callable[[str], Path], maps: bool) -> None:
        """Write ``maps.npz``, if asked for, and ``reconstruction.parquet`` to where ``path(name)`` says."""
        if len(self) != self._total:
            raise ValueError(f"{len(self)} of {self._total} images were predicted; record all of them")
        if maps and self._localises:
            small = self._maps.result()
            np.savez_compressed(path("maps.npz"), key=np.array(self._keys, str), anomaly_map=small)
            if self._marked:
                self._append_masks(path("maps.npz"))
        if self._reconstructions:
            table = pd.concat(self._reconstructions, ignore_index=True).assign(key=self._keys)
            columns = [name for name in ("label", "SSIM", "PSNR", "removal", "drift", "key") if name in table]
            table[columns].to_parquet(path("reconstruction.parquet"), index=False)

    def _append_masks(self, file: Path) -> None:
        """The entry ``mask`` of an npz file, bool [N, H, W], an image at a time."""
        pixels = int(np.prod(self._mask_shape))
        header = {"descr": "|b1", "fortran_order": False, "shape": (self._total, *self._mask_shape)}
        self._masks.seek(0)
        with (
            zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive,
            archive.open("mask.npy", "w", force_zip64=True) as entry,
        ):
            np.lib.format.write_array_header_2_0(entry, header)
            for _ in range(self._total):
                packed = np.frombuffer(self._masks.read((pixels + 7) // 8), np.uint8)
                entry.write(np.unpackbits(packed, count=pixels).astype(bool).tobytes())
