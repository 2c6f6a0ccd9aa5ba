"""Runs read back from their folders, for the comparison and the report."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from diffad_utils.study import data_independent


@dataclass(frozen=True)
class RunRecord:
    """A finished run as read from its folder.

    Attributes:
        folder: Path. dataset, category, method: str. seed: int.
        metrics, intervals, trivial_baseline, experiments: dicts of ``metrics.json``.
        manifest: dict of ``manifest.json``. figures: list of dicts name, caption, provenance.
        claims: list of dicts of ``claims.json`` (see ``claims.finding``); empty where the run judged none.
        Experiments and claims have also what the notebook found without data, which all its runs share.
    """

    folder: Path
    dataset: str
    category: str
    method: str
    seed: int
    metrics: dict
    intervals: dict
    trivial_baseline: dict
    experiments: dict
    manifest: dict = field(repr=False)
    figures: list = field(repr=False)
    claims: list = field(repr=False, default_factory=list)

    @property
    def ms_per_image(self) -> float | None:
        """Prediction time an image in milliseconds, if it was measured."""
        return self.manifest.get("timing", {}).get("ms_per_image")

    def scores(self) -> pd.DataFrame:
        """One row an image: key, label, defect, score, parts."""
        return pd.read_parquet(self.folder / "scores.parquet")

    def maps(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(keys [N], anomaly maps [N, h, w] as `small_maps` made them), or None if the run kept none."""
        path = self.folder / "maps.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return file["key"], file["anomaly_map"]

    def masks(self) -> np.ndarray | None:
        """Masks bool [N, H, W] in the order of `maps`, or None if the run kept none or the data have none. An anomalous
        image with an empty one has no ground truth (`metrics.with_masks`)."""
        path = self.folder / "maps.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return file.get("mask", None)

    def reconstructions(self) -> pd.DataFrame | None:
        """One row an image: key, label, SSIM, PSNR and, with twins, removal and drift; None for methods that do not
        reconstruct."""
        path = self.folder / "reconstruction.parquet"
        return pd.read_parquet(path) if path.is_file() else None


def load_run(folder: str | Path) -> RunRecord:
    """Read one complete run folder.

    Raises
    ------
    FileNotFoundError
        the folder has no ``metrics.json``, so the run did not finish.
    ValueError
        one of its files is damaged, or lacks what a run records.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder}: no metrics.json, so no finished run; run its notebook first")
    try:
        return _read_run(folder)
    except KeyError as error:
        raise ValueError(f"{folder}: its records lack {error}; remove the folder and run its notebook again") from error
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{folder}: damaged ({error}); remove the folder and run its notebook again") from error


def _read_run(folder: Path) -> RunRecord:
    result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    captions, findings = folder / "figures.json", folder / "claims.json"
    shared = manifest.get("data_independent")  # absent in runs of earlier layouts, which have all in their own files
    experiments, claims = data_independent.read(folder / shared) if shared else ({}, [])
    if findings.is_file():
        claims = json.loads(findings.read_text(encoding="utf-8"))["claims"] + claims
    parameters = manifest["parameters"]
    return RunRecord(
        folder=folder,
        dataset=parameters.get("dataset", ""),
        category=parameters.get("category", ""),
        method=manifest["method"] or folder.name,
        seed=parameters["seed"],
        metrics=result["metrics"],
        intervals=result["intervals"],
        trivial_baseline=result["trivial_baseline"] if "trivial_baseline" in result else result["floor"],
        experiments=result["experiments"] | experiments,
        manifest=manifest,
        figures=json.loads(captions.read_text(encoding="utf-8"))["figures"] if captions.is_file() else [],
        claims=claims,
    )


def unfinished_runs(profile_folder: str | Path) -> list[str]:
    """Run folders without ``metrics.json``, as ``dataset/category/method/seed-<n>``: interrupted, failed, or still
    running.

    A run that failed after it had measured something left ``seed-<n>.incomplete`` with its scores and figures. What a
    killed run left behind no longer counts once the run has been finished by another attempt.
    """
    root, names = Path(profile_folder), set()
    partial = re.compile(r"^\.?(seed-\d+)\.(partial-.*|incomplete)$")
    for folder in root.glob("*/*/*/*seed-*"):
        run = folder.with_name(partial.sub(r"\1", folder.name))
        hidden = any(part.startswith(".") for part in run.relative_to(root).parts[:-1])
        finished = run / "metrics.json"
        superseded = finished.is_file() and (folder == run or folder.stat().st_mtime <= finished.stat().st_mtime)
        if folder.is_dir() and not hidden and not superseded:
            names.add(run.relative_to(root).as_posix())
    return sorted(names)


def load_runs(profile_folder: str | Path) -> list[RunRecord]:
    """Every complete run in ``<profile_folder>/<dataset>/<category>/<method>/seed-<n>/``, sorted by these.

    Unfinished folders are left out. The comparison's own folder is not a run; read it with `load_run`.
    """
    found = Path(profile_folder).glob("*/*/*/seed-*/metrics.json")
    records = [load_run(path.parent) for path in found if not any(part.startswith(".") for part in path.parts[-5:-1])]
    return sorted(records, key=lambda record: (record.dataset, record.category, record.method, record.seed))


def table(records: list[RunRecord]) -> pd.DataFrame:
    """One row a run: dataset, category, method, seed, nfe, ms_per_image, every metric, and for each interval
    the columns ``<metric> low`` and ``<metric> high``. What a run lacks is NaN."""
    rows = []
    for record in records:
        row = {"dataset": record.dataset, "category": record.category, "method": record.method, "seed": record.seed}
        row |= {"nfe": record.manifest.get("nfe"), "ms_per_image": record.ms_per_image} | record.metrics
        for name, (low, high) in record.intervals.items():
            row |= {f"{name} low": low, f"{name} high": high}
        rows.append(row)
    return pd.DataFrame(rows)
