"""What notebook 08 takes from a run's anomaly maps, in a few kilobytes, for copies of a run that leave the maps behind.

`method_results`, `by_defect` and `conventions` read it where a folder has no ``maps.npz``, so that 08 gives the same
numbers on a committed reference as on the runs themselves. Written by `conventions.summarise_maps`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffad_utils.study import RunRecord, write_atomically

FILE = "map_summary.npz"


class MapSummary(NamedTuple):
    """key: images that metrics of pixels are over [N], sorted; area: share of their defects [N]; samples: pixel metric
    -> bootstrap values float64 [n] of float32 precision; conventions: rows of `conventions.effects_of_conventions` that
    come from maps; settings: bootstrap_samples, seed, batch_sizes, top_pixels of both."""

    key: np.ndarray
    area: np.ndarray
    samples: dict[str, np.ndarray]
    conventions: pd.DataFrame
    settings: dict[str, list[int]]


def save(summary: MapSummary, folder: Path) -> None:
    """Write `FILE` into the folder of a run."""
    arrays: dict[str, Any] = {"key": summary.key.astype(str), "area": summary.area}
    arrays |= {f"sample {name}": values.astype(np.float32) for name, values in summary.samples.items()}
    arrays |= {f"setting {name}": np.array(values) for name, values in summary.settings.items()}
    arrays |= {
        f"convention {name}": values.to_numpy(float if pd.api.types.is_numeric_dtype(values) else str)
        for name, values in summary.conventions.items()
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(folder / FILE, content.getvalue())


def read(record: RunRecord, **settings: Any) -> MapSummary | None:
    """The summary in the folder of a run; None where there is none, as beside the maps themselves.

    Parameters
    ----------
    settings : those of `MapSummary.settings` that what is read depends on.

    Raises
    ------
    ValueError
        it was made with other settings.
    """
    path = record.folder / FILE
    if not path.is_file():
        return None
    parts: dict[str, dict[str, np.ndarray]] = {"sample": {}, "setting": {}, "convention": {}}
    with np.load(path, allow_pickle=False) as file:
        key, area = file["key"], file["area"]
        for name in set(file.files) - {"key", "area"}:
            kind, _, rest = name.partition(" ")
            parts[kind][rest] = file[name]
    made = {name: np.atleast_1d(values).tolist() for name, values in parts["setting"].items()}
    for name, value in settings.items():
        if made[name] != np.atleast_1d(value).tolist():
            raise ValueError(
                f"{record.folder} has no maps, and its {FILE} was made with {name} = {made[name]}, not "
                f"{np.atleast_1d(value).tolist()}: use those, or run the study for its maps"
            )
    columns = [name for name in ("convention", "metric", "ours", "theirs", "change") if name in parts["convention"]]
    rows = pd.DataFrame({name: parts["convention"][name] for name in columns})
    samples = {name: values.astype(np.float64) for name, values in sorted(parts["sample"].items())}
    return MapSummary(key, area, samples, rows, made)
