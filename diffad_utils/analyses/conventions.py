"""How much is evaluation? The conventions of public code, each alone, applied to recorded scores and maps.

Every function returns what a metric becomes under one convention; `effects_of_conventions` puts them beside the value
under the rules of this study. None of them is used for any other number here. Used by notebooks 01 and 08; entry
points: `effects_of_conventions`, `chosen_settings`.

Where they stand in public code
    scores scaled over the test set: InversionAD (``evaluate.py``), `score.min_max_over_test_set`.
    maps scaled with the batch's maximum: DDAD's ``anomaly_map.py`` weighs two distances by the ratio of their maxima
    over
        the batch, and Dynamic-noise-AD follows it; here in its simplest form, a map over the maximum of its batch.
    AUPRO with 200 thresholds, rescaled: the ``compute_pro`` that DDAD, SimpleNet, RD4AD and others share.
    labels of regions with 4 neighbours: ``scipy.ndimage.label`` without a structure.
    masks resized bilinearly: transforms that resize image and mask alike, then ``mask > 0`` or ``mask.astype(int)``.
    224 centre crop of 256: PatchCore's and PaDiM's transforms.
    settings chosen on the test set: one T_d, guidance or epoch a category, by the reported metric.
    training images as their own neighbours: Dynamic-noise-AD's bins, whose distances include the image itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage

from diffad_utils import metrics
from diffad_utils.analyses import map_summaries
from diffad_utils.analyses.map_summaries import COLUMNS
from diffad_utils.analyses.method_results import areas_of, images_of, maps_of, pixel_samples
from diffad_utils.methods.invad.score import min_max_over_test_set
from diffad_utils.scoring import top_mean
from diffad_utils.study import RunRecord


def scaled_over_test_set(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum of the parts [N], each min-max scaled over the whole test set."""
    return min_max_over_test_set({name: torch.tensor(values) for name, values in parts.items()}).numpy()


def batch_scaled(maps: np.ndarray, batch_size: int, order: np.ndarray | None = None) -> np.ndarray:
    """Maps [N, H, W] divided by the maximum of their batch of ``batch_size``, where the test set comes in ``order``
    [N]."""
    order = np.arange(len(maps)) if order is None else order
    scaled = np.empty_like(maps)
    for start in range(0, len(maps), batch_size):
        batch = order[start : start + batch_size]
        scaled[batch] = maps[batch] / max(maps[batch].max(), np.finfo(maps.dtype).tiny)
    return scaled


def chosen_on_test(
    candidates: Mapping[str, np.ndarray], labels: np.ndarray, splits: int = 100, seed: int = 0
) -> tuple[str, float, float]:
    """The best of several scores by the test set's own I-AUROC, and what that choice is worth on images it did not see.

    Returns (name, I-AUROC on all images, mean I-AUROC on one half of the images of the score that was best on the other
    half, over ``splits`` stratified random halves). The difference of the two is the optimism of choosing on the test
    set.
    """
    values = np.stack(list(candidates.values()))
    best = int(np.argmax([metrics.image_auroc(v, labels) for v in values]))
    generator, held = np.random.default_rng(seed), []
    for _ in range(splits):
        first = np.zeros(len(labels), dtype=bool)
        for value in (0, 1):
            members = np.flatnonzero(labels == value)
            first[generator.permutation(members)[: len(members) // 2]] = True
        chosen = int(np.argmax([metrics.image_auroc(v[first], labels[first]) for v in values]))
        held.append(metrics.image_auroc(values[chosen][~first], labels[~first]))
    return list(candidates)[best], float(metrics.image_auroc(values[best], labels)), float(np.mean(held))


def own_neighbours(train: np.ndarray, normal: np.ndarray, k: int = 5, nominal: float = 0.05) -> tuple[float, float]:
    """False alarms on unseen normal images at a threshold from training images, (without, with) themselves as
    neighbours.

    train [N, D], normal [M, D] : features. A training image's score is its mean distance to its k nearest training
    images. Counting itself, at distance 0, makes it look more normal than any unseen image can; the threshold is the
    ``1 - nominal`` quantile of these scores. With N <= k training images all the others are the neighbours.
    ``ValueError`` for fewer than two.
    """
    from diffad_utils import kernels

    if len(train) < 2:
        raise ValueError(f"own_neighbours needs two training images or more, got {len(train)}")
    k = min(k, len(train) - 1)
    train, normal = (torch.as_tensor(np.asarray(values, dtype=np.float32)) for values in (train, normal))
    nearest = kernels.knn(train, train, k + 1)[0]
    unseen = kernels.knn(normal, train, k)[0].mean(dim=1)

    def share(scores):
        return float((unseen > torch.quantile(scores, 1 - nominal)).float().mean())

    return share(nearest[:, 1:].mean(dim=1)), share(nearest[:, :k].mean(dim=1))


def aupro_on_grid(maps: np.ndarray, masks: np.ndarray, thresholds: int = 200, fpr_limit: float = 0.3) -> float:
    """AUPRO as in the widespread ``compute_pro``: evenly spaced thresholds between the extremes of all maps, points
    with FPR below the limit only, and these rescaled by the largest FPR among them instead of interpolated at the
    limit."""
    regions = [
        (image, part == r) for image, part in enumerate(map(_label_eight, masks)) for r in range(1, part.max() + 1)
    ]
    normal = np.sort(maps[~masks])
    grid = np.linspace(maps.min(), maps.max(), thresholds, endpoint=False)
    fpr = 1 - np.searchsorted(normal, grid, side="right") / normal.size
    pro = np.mean(
        [1 - np.searchsorted(np.sort(maps[i][region]), grid, side="right") / region.sum() for i, region in regions],
        axis=0,
    )
    inside = fpr < fpr_limit
    fpr, pro = fpr[inside][::-1], pro[inside][::-1]
    if fpr.size < 2 or fpr[-1] == 0:
        return float("nan")
    return float(np.trapezoid(pro, fpr / fpr[-1]))


def aupro_four_neighbours(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUPRO with regions connected through edges only: a diagonal scratch falls into many regions of equal weight.

    Every region is kept a region of its own by pushing it into an image of its own; the normal pixels are counted once.
    """
    images, parts = [], []
    for values, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask)
        for r in range(1, count + 1):
            images.append(values[labelled == r])
            parts.append(np.full((labelled == r).sum(), 1.0 / (labelled == r).sum()))
    normal = np.sort(maps[~masks])
    scores, weights = np.concatenate(images), np.concatenate(parts)
    return _weighted_aupro(scores, weights, normal)


def as_pictures(maps: np.ndarray, levels: int = 256) -> np.ndarray:
    """Maps rounded to so many grey values between their extremes, as saving them as 8-bit pictures does."""
    low, high = maps.min(), maps.max()
    return np.round((maps - low) / max(high - low, np.finfo(maps.dtype).tiny) * (levels - 1))


def aupro_ties_in_order(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUPRO where equal scores are taken one after the other, anomalous pixels first, as a sort without tie handling
    can."""
    pieces = []
    for values, mask in zip(maps, masks, strict=True):
        labelled = _label_eight(mask)
        size = np.bincount(labelled.ravel())
        weight = np.where(mask, 1.0 / size[labelled], 0.0)
        pieces.append(np.stack([values.ravel(), weight.ravel()]))
    score, weight = np.concatenate(pieces, axis=1)
    order = np.lexsort((-weight, -score))
    pro = np.cumsum(weight[order]) / weight.sum()
    fpr = np.cumsum(weight[order] == 0) / (weight == 0).sum()
    return _area(np.r_[0.0, fpr], np.r_[0.0, pro])


def _label_eight(mask: np.ndarray) -> np.ndarray:
    return ndimage.label(mask, structure=metrics.EIGHT_NEIGHBOURS)[0]


def _weighted_aupro(scores: np.ndarray, weights: np.ndarray, normal: np.ndarray) -> float:
    """Exact area up to FPR 0.3 for anomalous pixels with weights and sorted normal scores, ties at once."""
    order = np.argsort(-scores, kind="stable")
    scores, weights = scores[order], weights[order]
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    pro = np.cumsum(weights)[last] / weights.sum()
    above = 1 - np.searchsorted(normal, scores[last], side="right") / normal.size
    at = 1 - np.searchsorted(normal, scores[last], side="left") / normal.size
    fpr = np.r_[0.0, np.stack([above, at], axis=1).ravel(), 1.0]
    return _area(fpr, np.r_[0.0, np.stack([np.r_[0.0, pro[:-1]], pro], axis=1).ravel(), 1.0])


def _area(fpr: np.ndarray, pro: np.ndarray, limit: float = 0.3) -> float:
    inside = fpr <= limit
    area, at_limit = np.trapezoid(pro[inside], fpr[inside]), np.interp(limit, fpr, pro)
    return float((area + (limit - fpr[inside][-1]) * (pro[inside][-1] + at_limit) / 2) / limit)


def resized_masks(masks: np.ndarray, side: int) -> np.ndarray:
    """Masks bool [N, H, W] resized bilinearly to [N, side, side], float32 in [0, 1], as a transform for images does
    it."""
    return F.interpolate(torch.from_numpy(masks[:, None].astype(np.float32)), (side, side), mode="bilinear")[
        :, 0
    ].numpy()


def resized_maps(maps: np.ndarray, side: int) -> np.ndarray:
    """Maps [N, H, W] averaged down to [N, side, side]."""
    return F.adaptive_avg_pool2d(torch.from_numpy(maps[:, None]), side)[:, 0].numpy()


CROP = 224 / 256
"""Share of each side that a centre crop keeps."""


def centre_crop(values: np.ndarray, share: float = CROP) -> np.ndarray:
    """The middle of [N, H, W], ``share`` of each side."""
    height, width = values.shape[1:]
    h, w = round(height * share), round(width * share)
    top, left = (height - h) // 2, (width - w) // 2
    return values[:, top : top + h, left : left + w]


def effects_of_conventions(
    record: RunRecord, batch_sizes: Sequence[int] = (8, 32), crop: float = CROP, top_pixels: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Every convention that the run's files allow: convention, metric, ours, theirs, change (theirs minus ours).

    ours : the same metric under this study's rules on the same recorded arrays, so that the convention is the only
    difference. Image scores that come from maps are compared with the plain maximum of the map.
    """
    images = images_of(record)
    label = images["label"].to_numpy()
    rows: list[tuple] = []
    parts = {
        name: images[name].to_numpy() for name in images.columns if name not in ("key", "label", "defect", "score")
    }
    if len(parts) > 1 and record.method != "trivial":
        auroc = metrics.image_auroc(images["score"].to_numpy(), label)
        scaled = metrics.image_auroc(scaled_over_test_set(parts), label)
        rows.append(("parts scaled over the test set", "I-AUROC", auroc, scaled))
    if len(parts) > 1:
        _, reported, honest = chosen_on_test(parts, label, seed=seed)
        rows.append(("part of the score chosen on the test set", "I-AUROC", honest, reported))
    of_scores = _with_changes(rows)
    of_maps = effects_on_maps(record, batch_sizes, crop, top_pixels, seed)
    return pd.concat([of_scores, of_maps], ignore_index=True) if len(of_scores) else of_maps


def effects_on_maps(
    record: RunRecord, batch_sizes: Sequence[int], crop: float, top_pixels: int, seed: int
) -> pd.DataFrame:
    """The rows of `effects_of_conventions` that come from the run's maps, or from what a copy without them has in their
    place (`map_summaries`); none without either."""
    if record.maps() is None:
        summary = map_summaries.read(record, batch_sizes=batch_sizes, top_pixels=top_pixels, seed=seed)
        return _with_changes([]) if summary is None else summary.conventions
    settings = {"batch_sizes": list(batch_sizes), "crop": crop, "top_pixels": top_pixels, "seed": seed}

    def compute() -> dict[str, np.ndarray]:
        return map_summaries.arrays_of(_on_maps(record, batch_sizes, crop, top_pixels, seed))

    return map_summaries.table_of(map_summaries.kept(record, "conventions", settings, compute), COLUMNS)


def _on_maps(record: RunRecord, batch_sizes: Sequence[int], crop: float, top_pixels: int, seed: int) -> pd.DataFrame:
    rows: list[tuple] = []

    def add(*row: Any) -> None:
        rows.append(row)

    images = images_of(record)
    label = images["label"].to_numpy()
    keys, maps = record.maps()
    maps = maps[np.argsort(keys)].astype(np.float32)
    plain = metrics.image_auroc(maps.max(axis=(1, 2)), label)
    top = metrics.image_auroc(top_mean(torch.from_numpy(maps), top_pixels), label)
    add(f"image score: mean of the top {top_pixels} pixels", "I-AUROC", plain, top)
    add("centre crop", "I-AUROC", plain, metrics.image_auroc(centre_crop(maps, crop).max(axis=(1, 2)), label))
    for name, size, order in _batches(maps, label, batch_sizes, seed):
        scaled = batch_scaled(maps, size, order).max(axis=(1, 2))
        add(name, "I-AUROC", plain, metrics.image_auroc(scaled, label))
    both = maps_of(record)
    if both is not None:
        of_pixels = label[np.isin(images["key"].to_numpy(str), both[0])]
        _pixel_conventions(*both[1:], of_pixels, batch_sizes, crop, seed, add)
    return _with_changes(rows)


def _with_changes(rows: Sequence[tuple]) -> pd.DataFrame:
    """(convention, metric, ours, theirs) with the change; those whose metric does not exist are left out."""
    known = [(*names, float(ours), float(theirs), float(theirs - ours)) for *names, ours, theirs in rows]
    return pd.DataFrame([row for row in known if np.isfinite(row[-1])], columns=COLUMNS)


def summarise_maps(
    record: RunRecord, bootstrap_samples: int, batch_sizes: Sequence[int], top_pixels: int, seed: int
) -> map_summaries.MapSummary | None:
    """What 08 takes from the maps of a run with these parameters of its own; None for a run that kept none."""
    if record.maps() is None:
        return map_summaries.read(
            record, bootstrap_samples=bootstrap_samples, batch_sizes=batch_sizes, top_pixels=top_pixels, seed=seed
        )
    area = areas_of(record)
    area = pd.Series(dtype=float) if area is None else area
    samples = pixel_samples(record, bootstrap_samples, seed) if "AUPRO" in record.metrics else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="all scores are equal")
        rows = effects_on_maps(record, batch_sizes, CROP, top_pixels, seed)
    settings = {
        "bootstrap_samples": [bootstrap_samples],
        "batch_sizes": list(batch_sizes),
        "top_pixels": [top_pixels],
        "seed": [seed],
    }
    return map_summaries.MapSummary(area.index.to_numpy(), area.to_numpy(), samples, rows, settings)


SETTINGS = {
    "steps": "number of steps",
    "timesteps": "T_d",
    "strengths": "strength",
    "guidance": "guidance",
    "alphas": "alpha",
    "ranks": "rank of LoRA",
    "training_steps": "training step (epoch)",
    "stopping": "stopping step",
    "rivals": "noise level",
    "omegas": "omega",
    "sweep": "strength, guidance and steps",
    "alpha": "alpha",
}
"""Names of sweeps in the runs' ``experiments`` (lists of rows with an I-AUROC) -> the setting that they vary."""


def chosen_settings(record: RunRecord) -> pd.DataFrame:
    """What choosing a setting by the test set's I-AUROC gains over the middle of the sweep, for every sweep that a run
    recorded.

    ours : the median of the sweep, what a choice without labels gets on average; theirs : its maximum. Rows that differ
        in
    more than the setting (``variant``, ``spacing``, ``method``, ...: columns of text) are sweeps of their own; those
    with fewer than three settings are left out. Columns as in `study`.
    """
    rows = []
    for name, setting in SETTINGS.items():
        found = record.experiments.get(name)
        found = found.get("settings") if isinstance(found, dict) else found
        table = (
            pd.DataFrame(found) if isinstance(found, list) and found and isinstance(found[0], dict) else pd.DataFrame()
        )
        if "I-AUROC" not in table:
            continue
        texts = [
            column
            for column in table
            if table[column].map(lambda value: isinstance(value, str)).all() and name != "rivals"
        ]
        for _, part in table.groupby(texts) if texts else [("", table)]:
            if len(part) >= 3:
                ours, theirs = part["I-AUROC"].median(), part["I-AUROC"].max()
                rows.append((f"{setting} chosen on the test set", "I-AUROC", ours, theirs, theirs - ours))
    return pd.DataFrame(rows, columns=COLUMNS)


def _batches(
    maps: np.ndarray, label: np.ndarray, sizes: Sequence[int], seed: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(convention, batch size, order of the images) for `batch_scaled`: in folder order, all images of a kind together,
    as most loaders read them, and shuffled. None for maps with negative values, which a maximum does not scale."""
    orders = {"folder order": np.arange(len(label)), "shuffled": np.random.default_rng(seed).permutation(len(label))}
    for name, order in orders.items() if maps.min() >= 0 else ():
        for size in sizes:
            yield f"maps scaled by the batch's maximum ({size}, {name})", size, order


def _pixel_conventions(
    maps: np.ndarray,
    masks: np.ndarray,
    label: np.ndarray,
    batch_sizes: Sequence[int],
    crop: float,
    seed: int,
    add: Callable,
) -> None:
    exact = metrics.aupro(maps, masks)
    add("AUPRO on 200 thresholds", "AUPRO", exact, aupro_on_grid(maps, masks))
    add("regions with 4 neighbours", "AUPRO", exact, aupro_four_neighbours(maps, masks))
    grey = as_pictures(maps)
    add("ties in any order, 8-bit maps", "AUPRO", metrics.aupro(grey, masks), aupro_ties_in_order(grey, masks))
    for name, size, order in _batches(maps, label, batch_sizes, seed):
        add(name, "AUPRO", exact, metrics.aupro(batch_scaled(maps, size, order), masks))
    cropped, visible = centre_crop(maps, crop), centre_crop(masks, crop)
    if visible.any():
        add("centre crop", "AUPRO", exact, metrics.aupro(cropped, visible))
    side = masks.shape[1] // 2
    small, soft = resized_maps(maps, side), resized_masks(masks, side)
    halved = metrics.aupro(small, soft >= 0.5) if (soft >= 0.5).any() else None
    for name, hard in (
        ("masks resized, every grey pixel counts", soft > 0),
        ("masks resized, only full pixels count", soft >= 1),
    ):
        if halved is not None and hard.any():
            add(name, "AUPRO", halved, metrics.aupro(small, hard))


def of_all_runs(
    records: Sequence[RunRecord], batch_sizes: Sequence[int], *, top_pixels: int, seed: int
) -> pd.DataFrame:
    """`effects_of_conventions` and `chosen_settings` of every run, with columns task and method."""
    parts = []
    for record in records:
        with warnings.catch_warnings():
            # a convention can make all scores equal, and one half is then its result
            warnings.filterwarnings("ignore", message="all scores are equal")
            both = (
                effects_of_conventions(record, batch_sizes, top_pixels=top_pixels, seed=seed),
                chosen_settings(record),
            )
        where = {"task": f"{record.dataset}/{record.category}", "method": record.method}
        parts += [part.assign(**where) for part in both if len(part)]
    return pd.concat(parts, ignore_index=True)
