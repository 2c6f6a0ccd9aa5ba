"""What every metric asks of its input, with one sentence for each fault."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike


def to_numpy(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` as a numeric array that shares memory where it can; lists may hold numbers, arrays or tensors."""
    if values is None:
        raise ValueError(f"no {name}: got None, expected an array, a tensor or a list")
    if isinstance(values, torch.Tensor):
        values = values.detach()
        if values.dtype == torch.bfloat16:  # numpy has no such type
            values = values.float()
        return values.cpu().numpy()
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (torch.Tensor, np.ndarray)):
        items = [to_numpy(value, name) for value in values]
        shapes = sorted({item.shape for item in items})
        if len(shapes) > 1:
            raise ValueError(f"{name}: items differ in shape ({shapes[0]}, {shapes[1]}); bring them to one size first")
        return np.stack(items)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: the rows of the nested list differ in length") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array


def check_scores(values: ArrayLike, name: str, axes: str) -> np.ndarray:
    """Scores as a finite, non-empty array with one axis per letter of ``axes`` ("N" or "NHW")."""
    scores = to_numpy(values, name)
    if scores.ndim != len(axes):
        raise ValueError(f"{name} must have shape [{','.join(axes)}], got {list(scores.shape)}")
    if scores.size == 0:
        raise ValueError(f"{name} is empty (shape {list(scores.shape)})")
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        bad = np.isnan(scores).sum(), np.isinf(scores).sum()
        where = np.unique(np.nonzero(~np.isfinite(scores))[0])[:5].tolist()
        raise ValueError(f"{name} holds {bad[0]} NaN and {bad[1]} infinite values (first images: {where})")
    return scores.view(np.uint8) if scores.dtype == bool else scores


def check_binary(values: ArrayLike, shape: tuple, name: str, scores_name: str) -> np.ndarray:
    """Labels or masks as a boolean array of the scores' shape."""
    binary = to_numpy(values, name)
    if binary.shape != shape:
        raise ValueError(f"shapes differ: {scores_name} {list(shape)}, {name} {list(binary.shape)}")
    if binary.dtype == bool:
        return binary
    positive = binary == 1
    if not (positive | (binary == 0)).all():
        low, high = float(np.min(binary)), float(np.max(binary))  # NaN shows as nan
        advice = "binarise first, for example masks > 0.5" if name == "masks" else "0 is normal, 1 is anomalous"
        raise ValueError(f"{name} must be 0 or 1, got other values (smallest {low:g}, largest {high:g}); {advice}")
    return positive


def image_input(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores = check_scores(scores, "scores", "N")
    labels = check_binary(labels, scores.shape, "labels", "scores")
    require_both(labels, "image")
    return scores, labels


def pixel_input(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    maps = check_scores(maps, "maps", "NHW")
    masks = check_binary(masks, maps.shape, "masks", "maps")
    require_both(masks, "pixel")
    return maps, masks


def require_both(labels: np.ndarray, item: str) -> None:
    if not labels.any():
        raise ValueError(f"no anomalous {item} among {labels.size}: the metric is not defined")
    if labels.all():
        raise ValueError(f"no normal {item} among {labels.size}: the metric is not defined")


def warn_if_constant(scores: np.ndarray, name: str) -> None:
    if scores.min() == scores.max():
        warnings.warn(f"all {name} are equal: AUROC is 0.5 and says nothing", UserWarning, stacklevel=3)
