"""Real examples: what the tasks look like, and which images the best diffusion method finds, misses or invents.

Used by notebook 08 and the front page; entry points: `task_pictures`, `cases`, `case_pictures`;
`save_example_maps` for copies of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from diffad_utils import data
from diffad_utils.analyses.method_results import MethodResult, images_of
from diffad_utils.analyses.task import rendered_test_images
from diffad_utils.study import RunRecord, defect_of

SIDE = 128
"""Side of the pictures, pixels."""


class Pictures(NamedTuple):
    """images float [N, S, S, 3] in [0, 1]; masks bool [N, S, S], or None where the data set has none; titles [N]."""

    images: np.ndarray
    masks: np.ndarray | None
    titles: list[str]


def _load(index: pd.DataFrame, titles: Sequence[str]) -> Pictures:
    samples = list(data.ImageDataset(index, size=SIDE))
    images = torch.stack([sample["image"] for sample in samples]).permute(0, 2, 3, 1).numpy()
    masks = np.stack([np.asarray(sample["mask"], dtype=bool) for sample in samples])
    return Pictures(images, masks if masks.any() else None, list(titles))


def _test_rows(record: RunRecord, data_root: str) -> pd.DataFrame | None:
    """The test images of a run's task; None, with a line that says so, where the data are not here."""
    more = rendered_test_images(record.dataset, record.manifest["parameters"].get("test_images", 0))
    try:
        index = data.load_index(
            record.dataset, root=data_root or None, category=record.category, seed=record.seed, **more
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"no pictures of {record.dataset}/{record.category}: {error}")
        return None
    return index[index["split"] == "test"].reset_index(drop=True)


def task_pictures(
    records: Sequence[RunRecord], data_root: str = "", normal: int = 2, defects: int = 5, most: int = 6
) -> dict[str, Pictures]:
    """Normal images and a defect of each kind in turn, for up to ``most`` tasks whose data are here."""
    found = {}
    for task, record in {f"{record.dataset}/{record.category}": record for record in records}.items():
        rows = _test_rows(record, data_root) if len(found) < most else None
        if rows is None:
            continue
        turn = rows.groupby("defect").cumcount()
        shown = rows.assign(turn=turn).sort_values(["turn", "defect"], kind="stable")
        picked = pd.concat([shown[shown["label"] == 0].head(normal), shown[shown["label"] == 1].head(defects)])
        titles = ["normal" if row.label == 0 else str(row.defect) for row in picked.itertuples()]
        found[task] = _load(picked, titles)
    return found


CASES = ("found", "missed", "invented")
"""A defective image above the threshold, a defective one below it, a normal one above it."""

EXAMPLE_MAPS = "example_maps.npz"
"""In a copy of a run that leaves the maps behind: the maps of its `cases`, and what all maps lie between."""


class ExampleMaps(NamedTuple):
    """key [n]; anomaly_map [n, h, w] as the run kept them; bounds: least and largest value over all its test images."""

    key: np.ndarray
    anomaly_map: np.ndarray
    bounds: np.ndarray


def has_maps(record: RunRecord) -> bool:
    """Whether a run, or its copy, can show examples."""
    return any((record.folder / name).is_file() for name in ("maps.npz", EXAMPLE_MAPS))


def example_maps(record: RunRecord) -> ExampleMaps:
    """A run's maps; in a copy those of the cases it was made for. ``FileNotFoundError`` without either (`has_maps`)."""
    if (kept := record.maps()) is not None:
        return ExampleMaps(*kept, np.array([kept[1].min(), kept[1].max()], dtype=float))
    with np.load(record.folder / EXAMPLE_MAPS, allow_pickle=False) as file:
        return ExampleMaps(*(file[name] for name in ExampleMaps._fields))


def save_example_maps(record: RunRecord, folder: Path, false_alarms: float, count: int) -> None:
    """Write `EXAMPLE_MAPS` into a copy's folder, for `cases` with these arguments."""
    maps = example_maps(record)
    shown = pd.concat(_of_case(images_of(record), false_alarms)[0].values(), keys=CASES)
    keys = shown.groupby(level=0).head(count)["key"]
    rows = np.isin(maps.key, keys.to_numpy(dtype=maps.key.dtype))
    np.savez_compressed(
        folder / EXAMPLE_MAPS, key=maps.key[rows], anomaly_map=maps.anomaly_map[rows], bounds=maps.bounds
    )


def _of_case(images: pd.DataFrame, false_alarms: float) -> tuple[dict[str, pd.DataFrame], float]:
    """Rows of a score table for each of `CASES`, most telling first, and the threshold."""
    threshold = np.quantile(images.loc[images["label"] == 0, "score"], 1 - false_alarms, method="higher")
    flagged, defective = images["score"] > threshold, images["label"] == 1
    found = images[flagged & defective].sort_values("score", ascending=False)
    missed = images[~flagged & defective].sort_values("score")
    invented = images[flagged & ~defective].sort_values("score", ascending=False)
    return dict(zip(CASES, (found, missed, invented), strict=True)), float(threshold)


def cases(
    records: Sequence[RunRecord], measured: Sequence[MethodResult], false_alarms: float = 0.05, count: int = 7
) -> pd.DataFrame:
    """Images that the best diffusion method of each task finds, misses or invents, where a share of ``false_alarms`` of
    the normal test images is flagged.

    Found: the highest scores; missed: the lowest; invented: the highest among normal images. Up to ``count`` of a case,
    from each task in turn. Best: by I-AUROC among methods that kept their maps.

    Returns
    -------
    Columns case, task, method, key, score, threshold, rank within the task.
    """
    first = {(f"{r.dataset}/{r.category}", r.method): r for r in reversed(records)}
    rows = []
    for task in dict.fromkeys(row.task for row in measured):
        ours = [r for r in measured if r.task == task and r.family == "diffusion" and "I-AUROC" in r.values]
        ours = [r for r in ours if has_maps(first[task, r.method])]
        if not ours:
            continue
        best = max(ours, key=lambda r: r.values["I-AUROC"])
        of_case, threshold = _of_case(images_of(first[task, best.method]), false_alarms)
        for case, part in of_case.items():
            for rank, row in enumerate(part.head(count).itertuples()):
                rows.append([case, task, best.method, row.key, row.score, threshold, rank])
    found = pd.DataFrame(rows, columns=["case", "task", "method", "key", "score", "threshold", "rank"])
    return found.sort_values(["rank", "task"], kind="stable").groupby("case", sort=False).head(count)


def source_of(rows: pd.DataFrame, records: Sequence[RunRecord]) -> dict[str, Any]:
    """``data`` and ``weights`` of `study.Run.figure` for what is made of these tasks and methods alone.

    rows : columns method, and task or dataset and category.
    """
    tasks = rows["task"] if "task" in rows else rows["dataset"] + "/" + rows["category"]
    shown = set(zip(tasks, rows["method"], strict=True))
    used = [record for record in records if (f"{record.dataset}/{record.category}", record.method) in shown]
    noted = {(entry["name"], entry["source"]): None for record in used for entry in record.manifest["weights"]}
    named = [SimpleNamespace(name=name, source=source) for name, source in noted]
    return {"data": ", ".join(sorted({f"{r.dataset}/{r.category}" for r in used})), "weights": named}


def case_pictures(
    rows: pd.DataFrame, records: Sequence[RunRecord], data_root: str = ""
) -> tuple[np.ndarray, np.ndarray | None, list[str], np.ndarray] | None:
    """(images, masks, titles) as `Pictures` and anomaly maps [N, S, S] in [0, 1] of one case's rows (`cases`); None
    where no data are here.

    A map is divided by the largest value of that method on that task's test images, so a dark one is a low one.
    """
    by_run = {(f"{r.dataset}/{r.category}", r.method): r for r in reversed(records)}
    pictures, maps = [], []
    for row in rows.sort_values(["task", "rank"]).itertuples():
        record = by_run[row.task, row.method]
        index = _test_rows(record, data_root)
        maps_of_run = example_maps(record)
        if index is None:
            continue
        here = index[[data.sample_key(sample) == row.key for _, sample in index.iterrows()]]
        pictures.append(_load(here, [f"{row.task}\n{defect_of(row.key)}\n{row.method}"]))
        own = maps_of_run.anomaly_map[maps_of_run.key.tolist().index(row.key)].astype(np.float32)
        own = torch.from_numpy(own)[None, None]
        own = torch.nn.functional.interpolate(own, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
        low, high = maps_of_run.bounds.tolist()
        maps.append(((own.numpy() - low) / max(high - low, 1e-12)).clip(0, 1))
    if not pictures:
        return None
    empty = np.zeros((1, SIDE, SIDE), dtype=bool)
    masks = np.concatenate([empty if p.masks is None else p.masks for p in pictures])
    images = np.concatenate([p.images for p in pictures])
    return images, masks if masks.any() else None, [p.titles[0] for p in pictures], np.stack(maps)
