"""What notebook 08 takes from a run's anomaly maps, in a few kilobytes, for copies of a run that leave the maps behind.

`method_results`, `by_defect` and `conventions` read it where a folder has no ``maps.npz``, so that 08 gives the same
numbers on a committed reference as on the runs themselves. Written by `conventions.summarise_maps`.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffad_utils.io import store
from diffad_utils.io.modules import PACKAGE, contents, digest, reachable
from diffad_utils.study import RunRecord, write_atomically

FILE = "map_summary.npz"

KIND = "results"
"""Kind of the store's entries."""

COLUMNS = ["convention", "metric", "ours", "theirs", "change"]
"""Of the tables of `conventions`."""

Arrays = dict[str, np.ndarray]


class MapSummary(NamedTuple):
    """key: images that metrics of pixels are over [N], sorted; area: share of their defects [N]; samples: pixel metric
    -> bootstrap values float64 [n] of float32 precision; conventions: rows of `conventions.effects_of_conventions` that
    come from maps; settings: bootstrap_samples, seed, batch_sizes, top_pixels of both."""

    key: np.ndarray
    area: np.ndarray
    samples: dict[str, np.ndarray]
    conventions: pd.DataFrame
    settings: dict[str, list[int]]


def kept(record: RunRecord, what: str, settings: dict[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """Arrays that are computed from the files of a run alone, from the open store (`io.store`) where they are in it.

    Parameters
    ----------
    what : names the computation. settings : JSON values that it depends on besides the run's maps and scores.
    compute : gives arrays by name, without objects.
    """
    place = store.active()
    if place is None:
        return compute()
    files = [store.checksum(record.folder / name) for name in ("maps.npz", "scores.parquet")]
    key = digest([json.dumps([what, settings, files, _code()], sort_keys=True).encode()])
    entry = place.take(KIND, key)
    if entry is None:
        found = compute()
        place.put(KIND, key, lambda folder: _write(folder / FILE, found), what=f"{what} of {record.method}")
        return found
    with np.load(entry.folder / FILE, allow_pickle=False) as file:
        return dict(file)


@functools.cache
def _code() -> str:
    """Checksum of what computes from maps; reading it takes a third of a second, and 08 asks for it twice a run."""
    return digest(contents(reachable({Path(__file__).with_name("conventions.py")}, PACKAGE), PACKAGE))


def table_of(arrays: Arrays, columns: Sequence[str]) -> pd.DataFrame:
    """A table from its columns as arrays; without rows if it has none."""
    return pd.DataFrame({name: arrays[name] for name in columns if name in arrays}, columns=list(columns))


def arrays_of(table: pd.DataFrame) -> Arrays:
    """The columns of a table, numbers or text."""
    return {
        name: values.to_numpy(float if pd.api.types.is_numeric_dtype(values) else str) for name, values in table.items()
    }


def _write(path: Path, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def save(summary: MapSummary, folder: Path) -> None:
    """Write `FILE` into the folder of a run."""
    arrays: dict[str, Any] = {"key": summary.key.astype(str), "area": summary.area}
    arrays |= {f"sample {name}": values.astype(np.float32) for name, values in summary.samples.items()}
    arrays |= {f"setting {name}": np.array(values) for name, values in summary.settings.items()}
    arrays |= {f"convention {name}": values for name, values in arrays_of(summary.conventions).items()}
    _write(folder / FILE, arrays)


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
    rows = table_of(parts["convention"], COLUMNS)
    samples = {name: values.astype(np.float64) for name, values in sorted(parts["sample"].items())}
    return MapSummary(key, area, samples, rows, made)
