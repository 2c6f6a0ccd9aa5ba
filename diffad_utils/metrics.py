"""Exact metrics for detection, localisation and reconstruction.

Nothing here is binned or read off a grid of thresholds: every distinct score is a threshold, and equal scores are
one threshold. A curve only bends at the scores of anomalous items, so it is enough to know, for each distinct
anomalous score, how many normal items lie above it and how many share it. ROC, precision-recall and PRO curves all come
out of these counts, for pixels from one sort (`kernels.threshold_counts`): :func:`pixel_metrics` for maps in memory or
on a GPU, :class:`PixelMetrics` for test sets that are larger.

Scores: higher is more anomalous. Labels and masks: 0 or False is normal, 1 or True is anomalous. Every function takes
numpy arrays, torch tensors (any device) or lists, and computes in float64 or in integers.

Sources
    ROC, AP: as in scikit-learn (``roc_auc_score``, ``average_precision_score``).
    AUPRO: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), section 5.2, and the evaluation
    script published with the data set.
    SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 13 (2004).
    Bootstrap: `bootstrap`.
"""

import warnings
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from diffad_utils.bootstrap import bootstrap_draws, percentile_interval
from diffad_utils.kernels import threshold_counts
from diffad_utils.kernels.threshold_counts import EIGHT_NEIGHBOURS

__all__ = [
    "EIGHT_NEIGHBOURS",
    "IMAGE_METRICS",
    "PIXEL_METRICS",
    "PixelCounts",
    "PixelMetrics",
    "aupro",
    "aupro_curve",
    "bootstrap_draws",
    "bootstrap_interval",
    "evaluate",
    "image_ap",
    "image_auroc",
    "image_f1max",
    "metrics_from_counts",
    "paired_aupro_difference",
    "paired_bootstrap",
    "paired_bootstrap_difference",
    "percentile_interval",
    "pixel_ap",
    "pixel_auroc",
    "pixel_counts",
    "pixel_f1max",
    "pixel_metrics",
    "reconstruction",
]

# --- Input ------------------------------------------------------------------------------------------------------------


def _to_numpy(values, name: str) -> np.ndarray:
    """``values`` as a numeric array that shares memory where it can; lists may hold numbers, arrays or tensors."""
    if values is None:
        raise ValueError(f"no {name}: got None, expected an array, a tensor or a list")
    if isinstance(values, torch.Tensor):
        values = values.detach()
        if values.dtype == torch.bfloat16:  # numpy has no such type
            values = values.float()
        return values.cpu().numpy()
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (torch.Tensor, np.ndarray)):
        items = [_to_numpy(value, name) for value in values]
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


def _check_scores(values, name: str, axes: str) -> np.ndarray:
    """Scores as a finite, non-empty array with one axis per letter of ``axes`` ("N" or "NHW")."""
    scores = _to_numpy(values, name)
    if scores.ndim != len(axes):
        raise ValueError(f"{name} must have shape [{','.join(axes)}], got {list(scores.shape)}")
    if scores.size == 0:
        raise ValueError(f"{name} is empty (shape {list(scores.shape)})")
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        bad = np.isnan(scores).sum(), np.isinf(scores).sum()
        where = np.unique(np.nonzero(~np.isfinite(scores))[0])[:5].tolist()
        raise ValueError(f"{name} holds {bad[0]} NaN and {bad[1]} infinite values (first images: {where})")
    return scores.view(np.uint8) if scores.dtype == bool else scores


def _check_binary(values, shape: tuple, name: str, scores_name: str) -> np.ndarray:
    """Labels or masks as a boolean array of the scores' shape."""
    binary = _to_numpy(values, name)
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


def _image_input(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    scores = _check_scores(scores, "scores", "N")
    labels = _check_binary(labels, scores.shape, "labels", "scores")
    _require_both(labels, "image")
    return scores, labels


def _pixel_input(maps, masks) -> tuple[np.ndarray, np.ndarray]:
    maps = _check_scores(maps, "maps", "NHW")
    masks = _check_binary(masks, maps.shape, "masks", "maps")
    _require_both(masks, "pixel")
    return maps, masks


def _require_both(labels: np.ndarray, item: str) -> None:
    if not labels.any():
        raise ValueError(f"no anomalous {item} among {labels.size}: the metric is not defined")
    if labels.all():
        raise ValueError(f"no normal {item} among {labels.size}: the metric is not defined")


# --- Counts, and the metrics that follow from them --------------------------------------------------------------------


class _Counts(NamedTuple):
    """What each threshold (the last axis, descending) accepts; leading axes are resamples.

    Thresholds without an anomalous item may be left out: they change none of the metrics below.
    """

    hits: np.ndarray  # anomalous items at the threshold
    false_above: np.ndarray  # normal items above the threshold
    false: np.ndarray  # normal items at or above it
    anomalous: int  # all anomalous items
    normal: int  # all normal items


def _count(scores: np.ndarray, labels: np.ndarray) -> _Counts:
    """Counts at every distinct score of an anomalous item, descending; scores and boolean labels of one shape."""
    normal, anomalous = scores[~labels], scores[labels]
    normal.sort()
    anomalous.sort()
    anomalous = anomalous[::-1]
    first = np.flatnonzero(np.r_[True, anomalous[1:] != anomalous[:-1]])
    thresholds = anomalous[first]
    hits = np.diff(np.r_[first, anomalous.size])
    false_above = normal.size - np.searchsorted(normal, thresholds, side="right")
    false = normal.size - np.searchsorted(normal, thresholds, side="left")
    return _Counts(hits, false_above, false, anomalous.size, normal.size)


def _auroc(counts: _Counts) -> np.ndarray:
    # Mann-Whitney: a pair counts 1 if the anomalous item is higher, 1/2 if tied. Doubled, so that it is exact in int64.
    below_twice = 2 * counts.normal - counts.false - counts.false_above
    return (counts.hits * below_twice).sum(-1) / (2 * counts.anomalous * counts.normal)


def _average_precision(counts: _Counts) -> np.ndarray:
    true = np.cumsum(counts.hits, -1)
    precision = true / np.maximum(true + counts.false, 1)
    return (counts.hits * precision).sum(-1) / counts.anomalous


def _f1_max(counts: _Counts) -> np.ndarray:
    true = np.cumsum(counts.hits, -1)
    # 2PR / (P + R); at a threshold with normal items only it is lower than at the anomalous score above it.
    return (2 * true / (true + counts.false + counts.anomalous)).max(-1)


# --- Images -----------------------------------------------------------------------------------------------------------


def _warn_if_constant(scores: np.ndarray, name: str) -> None:
    if scores.min() == scores.max():
        warnings.warn(f"all {name} are equal: AUROC is 0.5 and says nothing", UserWarning, stacklevel=3)


def image_auroc(scores, labels) -> float:
    """Area under the ROC curve over images: the chance that an anomalous image scores above a normal one (ties 1/2).

    Args:
        scores: [N] real, finite; higher is more anomalous.
        labels: [N] in {0, 1}.

    Returns:
        float in [0, 1]; 0.5 with a ``UserWarning`` if all scores are equal.

    Raises:
        ValueError: no anomalous or no normal image; NaN or infinite scores; shapes that differ or are not [N]; labels
            outside {0, 1}; empty input.
    """
    scores, labels = _image_input(scores, labels)
    _warn_if_constant(scores, "scores")
    return float(_auroc(_count(scores, labels)))


def image_ap(scores, labels) -> float:
    """Average precision over images: sum over thresholds of (recall step) x precision, without interpolation.

    This is scikit-learn's ``average_precision_score``; the trapezoid under the precision-recall curve is not the same.
    Arguments and errors as :func:`image_auroc`. Constant scores give the share of anomalous images.
    """
    return float(_average_precision(_count(*_image_input(scores, labels))))


def image_f1max(scores, labels) -> float:
    """Largest F1 over all thresholds, an upper bound on the F1 that any threshold chosen without labels can reach.

    Arguments and errors as :func:`image_auroc`.
    """
    return float(_f1_max(_count(*_image_input(scores, labels))))


# --- Pixels -----------------------------------------------------------------------------------------------------------


def pixel_auroc(maps, masks) -> float:
    """Area under the ROC curve over all pixels of all images, normal images included.

    Args:
        maps: [N,H,W] real, finite anomaly maps; higher is more anomalous. Not normalised per image.
        masks: [N,H,W] boolean, or numbers in {0, 1}.

    Returns:
        float in [0, 1]; 0.5 with a ``UserWarning`` if all values are equal.

    Raises:
        ValueError: no mask; no anomalous or no normal pixel; NaN or infinite values; shapes that differ or are not
            [N,H,W]; masks outside {0, 1} (binarise first: whether a grey rim counts is the caller's decision); empty
            input.
    """
    maps, masks = _pixel_input(maps, masks)
    _warn_if_constant(maps, "map values")
    return float(_auroc(_count(maps, masks)))


def pixel_ap(maps, masks) -> float:
    """Average precision (:func:`image_ap`) over all pixels of all images. Arguments, errors: :func:`pixel_auroc`."""
    return float(_average_precision(_count(*_pixel_input(maps, masks))))


def pixel_f1max(maps, masks) -> float:
    """Largest F1 over all thresholds, over all pixels of all images. Arguments and errors: :func:`pixel_auroc`."""
    return float(_f1_max(_count(*_pixel_input(maps, masks))))


def aupro_curve(maps, masks, drop_intermediate: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve of per-region overlap (PRO) over the false positive rate (FPR).

    PRO at a threshold is the mean, over all anomalous regions of all images, of the share of the region at or above
    the threshold; a region is a set of anomalous pixels connected through edges or corners (8-connectivity). FPR is the
    share of all normal pixels, those of normal images included, at or above it.

    Args:
        maps, masks: as :func:`pixel_auroc`.
        drop_intermediate: leave out thresholds inside a straight piece (below one anomalous score and above the next,
            only the last is kept). The curve is the same with far fewer points. False: every distinct score is a point.

    Returns:
        fpr, pro, thresholds, each float64 [K]: fpr and pro ascend from (0, 0), where the threshold is inf, to (1, 1),
        where it is the smallest score.

    Raises:
        ValueError: as :func:`pixel_auroc`.
    """
    maps, masks = _pixel_input(maps, masks)
    counts, normal, regions = threshold_counts.count(maps, masks)
    anomalous = counts.thresholds
    if drop_intermediate:
        # Beside each anomalous score: the normal score next above it, where the flat piece before it ends; the last.
        above = np.searchsorted(normal, anomalous, side="right")
        kept = np.r_[normal[above[above < normal.size]], normal[0]]
        thresholds = np.unique(np.r_[anomalous, kept])[::-1]
    else:
        thresholds = np.unique(maps)[::-1]
    fpr = (normal.size - np.searchsorted(normal, thresholds, side="left")) / normal.size
    overlap = np.r_[0.0, np.cumsum(counts.overlap) / regions]
    overlap[-1] = 1.0  # the sum of all weights, free of rounding
    thresholds = thresholds.astype(np.float64)
    reached = np.searchsorted(-anomalous.astype(np.float64), -thresholds, side="right")
    pro = np.clip(overlap[reached], 0.0, 1.0)
    return np.r_[0.0, fpr], np.r_[0.0, pro], np.r_[np.inf, thresholds]


class _PixelSums:
    """Running sums over thresholds in descending order, from which the four pixel metrics are read off.

    anomalous, normal: all pixels of the kind. regions: all anomalous regions.
    """

    def __init__(self, anomalous: int, normal: int, regions: int, fpr_limit: float):
        self.anomalous, self.normal, self.regions, self.fpr_limit = anomalous, normal, regions, fpr_limit
        self.true = self.false = self.pairs_below_twice = 0
        self.precision = self.f1 = self.pro = self.area = 0.0

    def add(self, block: threshold_counts.Counts) -> None:
        """Take in the next thresholds, all below those before."""
        true = self.true + np.cumsum(block.hits)
        self.pairs_below_twice += int((block.hits * (2 * self.normal - block.false - block.false_above)).sum())
        self.precision += float((block.hits * (true / (true + block.false))).sum())
        self.f1 = max(self.f1, float((2 * true / (true + block.false + self.anomalous)).max()))
        pro = np.minimum(self.pro + np.cumsum(block.overlap) / self.regions, 1.0)
        if true[-1] == self.anomalous:
            pro[-1] = 1.0  # the sum of all weights, free of rounding
        # Down to just above a threshold only normal pixels join (flat); at the threshold both may join (slanted).
        before = np.r_[self.pro, pro[:-1]]
        fpr = np.stack([block.false_above, block.false], axis=1).ravel() / self.normal
        self._add_area(np.r_[self.false / self.normal, fpr], np.r_[self.pro, np.stack([before, pro], axis=1).ravel()])
        self.true, self.false, self.pro = int(true[-1]), int(block.false[-1]), float(pro[-1])

    def _add_area(self, fpr: np.ndarray, pro: np.ndarray) -> None:
        """Trapezoid area under a piece of the PRO curve, up to the limit, with linear interpolation there."""
        inside = int(np.searchsorted(fpr, self.fpr_limit, side="right"))
        if inside == 0:
            return
        self.area += float(np.trapezoid(pro[:inside], fpr[:inside]))
        if inside < fpr.size:
            left, right = inside - 1, inside
            share = (self.fpr_limit - fpr[left]) / (fpr[right] - fpr[left])
            at_limit = pro[left] + share * (pro[right] - pro[left])
            self.area += float(0.5 * (pro[left] + at_limit) * (self.fpr_limit - fpr[left]))

    def result(self) -> dict[str, float]:
        """P-AUROC, P-AP, P-F1max, AUPRO, after the last threshold."""
        rest = max(0.0, self.fpr_limit - self.false / self.normal)  # below the last threshold the overlap stays 1
        return {
            "P-AUROC": self.pairs_below_twice / (2 * self.anomalous * self.normal),
            "P-AP": self.precision / self.anomalous,
            "P-F1max": self.f1,
            "AUPRO": float(np.clip((self.area + rest) / self.fpr_limit, 0.0, 1.0)),
        }


def _check_fpr_limit(fpr_limit: float) -> None:
    if not isinstance(fpr_limit, Real) or not 0.0 < fpr_limit <= 1.0:
        raise ValueError(f"fpr_limit must be a number in (0, 1], got {fpr_limit!r}")


def aupro(maps, masks, fpr_limit: float = 0.3) -> float:
    """Area under the PRO curve (:func:`aupro_curve`) up to an FPR limit, divided by the limit: MVTec's definition.

    Every distinct score is a threshold, the curve starts at (0, 0) and is interpolated linearly at the limit. Constant
    maps give ``fpr_limit / 2`` (0.15), the diagonal's area, as MVTec's script does. Where there is no anomalous pixel
    that script also returns 0.15, for a quantity that is not defined; this function raises instead.

    Args:
        maps, masks: as :func:`pixel_auroc`.
        fpr_limit: in (0, 1]; 0.3 for MVTec AD, 0.05 for MVTec AD 2.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: as :func:`pixel_auroc`; fpr_limit outside (0, 1].
    """
    _check_fpr_limit(fpr_limit)
    return _in_memory(*_pixel_input(maps, masks), fpr_limit)["AUPRO"]


def pixel_metrics(maps, masks, fpr_limit: float = 0.3) -> dict[str, float]:
    """All of :data:`PIXEL_METRICS` from one sort: P-AUROC, P-AP, P-F1max, AUPRO.

    Args:
        maps, masks: as :func:`pixel_auroc`. Where ``maps`` is a CUDA tensor of 16 or 32-bit floats, the sorting is done
            there (regions are found on the CPU); ``masks`` may then be on either side.
        fpr_limit: of the AUPRO, see :func:`aupro`.

    Returns:
        what the single functions return, to rounding (1e-12; exact counts, sums in another order).

    Raises:
        ValueError: as :func:`aupro`. Constant maps warn as in :func:`pixel_auroc`.
    """
    _check_fpr_limit(fpr_limit)
    if isinstance(maps, torch.Tensor) and maps.is_cuda and maps.dtype in (torch.float16, torch.bfloat16, torch.float32):
        return _on_device(maps.detach(), masks, fpr_limit)
    maps, masks = _pixel_input(maps, masks)
    _warn_if_constant(maps, "map values")
    return _in_memory(maps, masks, fpr_limit)


def _in_memory(maps: np.ndarray, masks: np.ndarray, fpr_limit: float) -> dict[str, float]:
    counts, normal, regions = threshold_counts.count(maps, masks)
    sums = _PixelSums(maps.size - normal.size, normal.size, regions, fpr_limit)
    sums.add(counts)
    return sums.result()


def _on_device(maps: torch.Tensor, masks, fpr_limit: float) -> dict[str, float]:
    """:func:`pixel_metrics` with checks and sorting where the maps are; whatever is wrong is said by the checks on the
    CPU."""
    if maps.ndim != 3 or not maps.numel() or not bool(maps.isfinite().all()):
        _check_scores(maps, "maps", "NHW")
    binary = torch.from_numpy(_check_binary(masks, tuple(maps.shape), "masks", "maps"))
    _require_both(binary.numpy(), "pixel")
    _warn_if_constant(maps, "map values")
    counts, regions = threshold_counts.count_on_device(maps, binary.to(maps.device))
    anomalous = int(counts.hits.sum())
    sums = _PixelSums(anomalous, maps.numel() - anomalous, regions, fpr_limit)
    sums.add(counts)
    return sums.result()


class PixelMetrics:
    """:func:`pixel_metrics` of a test set that arrives in parts, exactly, in memory that does not grow with it.

    Parts are kept as sorted runs in files (4 bytes a normal pixel, 8 an anomalous one) and merged a range of scores at
    a time: nothing is binned, and the result is that of all maps at once, to rounding (1e-12).

        with PixelMetrics() as collected:
            for images, masks in loader:
                collected.update(detector.predict(images).anomaly_map, masks)
            results = collected.compute()

    Args:
        fpr_limit: of the AUPRO, see :func:`aupro`.
        folder: for the runs; a temporary one if None.
        run_pixels: pixels sorted at once. Peak memory is about 100 bytes times this, 400 MB by default, beside the part
            that is being taken in (`benchmarks.metrics` measures it).
    """

    def __init__(self, fpr_limit: float = 0.3, folder=None, run_pixels: int = threshold_counts.RUN_PIXELS):
        _check_fpr_limit(fpr_limit)
        self.fpr_limit = fpr_limit
        self._runs = threshold_counts.Runs(folder, run_pixels)

    def __enter__(self) -> "PixelMetrics":
        return self

    def __exit__(self, *error) -> None:
        self._runs.close()

    def update(self, maps, masks) -> None:
        """Take in maps and masks [B,H,W], as :func:`pixel_auroc`; parts may differ in H and W.

        Raises ``ValueError`` as there, and for values that float32 does not hold exactly (float64, wide integers). A
        part may be without anomalous or without normal pixels.
        """
        maps = _check_scores(maps, "maps", "NHW")
        masks = _check_binary(masks, maps.shape, "masks", "maps")
        if not np.can_cast(maps.dtype, np.float32, "safe"):
            raise ValueError(
                f"parts are kept as float32, which does not hold {maps.dtype} exactly: convert the maps first"
            )
        self._runs.add(maps, masks)

    def compute(self) -> dict[str, float]:
        """P-AUROC, P-AP, P-F1max, AUPRO of all parts so far; more may follow.

        Raises ``ValueError`` where there is no anomalous or no normal pixel.
        """
        runs = self._runs
        for kind in ("anomalous", "normal"):
            if not getattr(runs, kind):
                raise ValueError(f"no {kind} pixel among {runs.anomalous + runs.normal}: the metrics are not defined")
        _warn_if_constant(np.array([runs.lowest, runs.highest]), "map values")
        sums = _PixelSums(runs.anomalous, runs.normal, runs.regions, self.fpr_limit)
        for block in runs.counts():
            sums.add(block)
        return sums.result()


# --- All together -----------------------------------------------------------------------------------------------------

IMAGE_METRICS: dict[str, Callable] = {"I-AUROC": image_auroc, "I-AP": image_ap, "I-F1max": image_f1max}
PIXEL_METRICS: dict[str, Callable] = {"P-AUROC": pixel_auroc, "P-AP": pixel_ap, "P-F1max": pixel_f1max, "AUPRO": aupro}


def evaluate(prediction, batch) -> dict[str, float]:
    """Every metric that the data allow; the others are absent, never 0.

    Args:
        prediction: has ``score`` [B] and ``anomaly_map`` [B,H,W] or None (``methods.Prediction``).
        batch: mapping with ``label`` [B] in {0, 1} and, where there is ground truth for pixels, ``mask`` [B,H,W].

    Returns:
        I-AUROC, I-AP, I-F1max if both classes occur; P-AUROC, P-AP, P-F1max, AUPRO if there are maps, and masks in
        which every anomalous image (one at least) has an anomalous pixel. Some data sets know only labels, or masks
        for part of the defects: treating their empty masks as ground truth would count found defects as false alarms.

    Raises:
        ValueError: as :func:`image_auroc` and :func:`pixel_auroc` for what is there; a normal image whose mask is
            not empty.
    """
    scores = _check_scores(prediction.score, "prediction.score", "N")
    if "label" not in batch:
        raise ValueError(f"batch must have 'label' [N], got {sorted(batch)}")
    labels = _check_binary(batch["label"], scores.shape, "labels", "prediction.score")
    results = {}
    if labels.any() and not labels.all():
        results |= {name: metric(scores, labels) for name, metric in IMAGE_METRICS.items()}
    anomaly_map, mask = getattr(prediction, "anomaly_map", None), batch.get("mask")
    if anomaly_map is None or mask is None:
        return results
    maps = _check_scores(anomaly_map, "prediction.anomaly_map", "NHW")
    masks = _check_binary(mask, maps.shape, "masks", "prediction.anomaly_map")
    if len(maps) != len(scores):
        raise ValueError(f"shapes differ: prediction.score [{len(scores)}], prediction.anomaly_map {list(maps.shape)}")
    marked = masks.any(axis=(1, 2))
    contradictory = np.flatnonzero(marked & ~labels)
    if contradictory.size:
        raise ValueError(f"images {contradictory[:5].tolist()} are labelled normal, but their masks are not empty")
    if labels.any() and marked[labels].all() and not masks.all():
        results |= pixel_metrics(maps, masks)
    return results


# --- Reconstruction ---------------------------------------------------------------------------------------------------


def reconstruction(x, x_hat, window: str = "uniform") -> dict[str, np.ndarray]:
    """Image by image, how close ``x_hat`` is to ``x``.

    Args:
        x, x_hat: [N,C,H,W] images in [0, 1] (clamp first); computed in float64.
        window: window of the SSIM. "uniform" is scikit-image's default, which most published numbers come from: 7 x 7
            mean, sample covariance. "gaussian" is Wang et al.'s: sigma 1.5, 11 x 11, population covariance. Both are
            averaged over channels and over the pixels whose window lies inside the image; the two differ by up to 0.03
            on ordinary distortions, so name the one you report.

    Returns:
        dict of float64 [N]: ``mse``; ``psnr`` in dB with peak 1, inf where the images are equal; ``ssim`` in [-1, 1].

    Raises:
        ValueError: shapes that differ or are not [N,C,H,W]; empty; NaN or infinite values; values outside [0, 1] by
            more than 1e-3; images smaller than the window; unknown window.
    """
    windows = {
        "uniform": (7, {}),
        "gaussian": (11, {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
    }
    if window not in windows:
        raise ValueError(f"window must be one of {sorted(windows)}, got {window!r}")
    side, options = windows[window]
    x, x_hat = (_check_scores(images, name, "NCHW") for images, name in ((x, "x"), (x_hat, "x_hat")))
    if x.shape != x_hat.shape:
        raise ValueError(f"shapes differ: x {list(x.shape)}, x_hat {list(x_hat.shape)}")
    if min(x.shape[2:]) < side:
        raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} are smaller than the {side} x {side} SSIM window")
    for images, name in ((x, "x"), (x_hat, "x_hat")):
        low, high = images.min(), images.max()
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(f"{name} must lie in [0, 1], got [{low:g}, {high:g}]; rescale or clamp it first")
    mse, ssim = np.empty(len(x)), np.empty(len(x))
    for n, pair in enumerate(zip(x, x_hat, strict=True)):
        a, b = (image.astype(np.float64) for image in pair)
        mse[n] = np.mean((a - b) ** 2)
        ssim[n] = structural_similarity(a, b, channel_axis=0, data_range=1.0, **options)
    with np.errstate(divide="ignore"):
        psnr = -10.0 * np.log10(mse)
    return {"mse": mse, "psnr": psnr, "ssim": ssim}


# --- Bootstrap --------------------------------------------------------------------------------------------------------

_FROM_COUNTS = {image_auroc: _auroc, image_ap: _average_precision, image_f1max: _f1_max}


def resampled(metric: Callable, scores: np.ndarray, labels: np.ndarray, times: np.ndarray) -> np.ndarray:
    """``metric`` of scores [N] with labels bool [N] for each row of ``times`` [b, N], how often each image is drawn:
    float64 [b]."""
    if metric not in _FROM_COUNTS:
        rows = (np.repeat(np.arange(labels.size), row) for row in times)
        return np.array([metric(scores[row], labels[row]) for row in rows], dtype=np.float64)
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    times, labels = times[:, order], labels[order]
    hits = np.add.reduceat(times * labels, first, axis=1)
    at_threshold = np.add.reduceat(times * ~labels, first, axis=1)
    false = np.cumsum(at_threshold, axis=1)
    return _FROM_COUNTS[metric](_Counts(hits, false - at_threshold, false, int(labels.sum()), int((~labels).sum())))


def _check_bootstrap(metric: Callable, n: int, level: float) -> None:
    if not callable(metric):
        raise ValueError(f"metric must be a function of (scores, labels) such as metrics.image_auroc, got {metric!r}")
    if n < 1:
        raise ValueError(f"n, the number of resamples, must be at least 1, got {n}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def bootstrap_interval(
    metric: Callable, scores, labels, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of an image-level metric over the images of one test set.

    Normal and anomalous images are resampled separately (stratified), so every resample has both. It says how far
    another draw of images could have moved the number; it does not include the training's own variation (use several
    seeds for that), and it has no width where the classes are perfectly separated.

    Args:
        metric: image_auroc, image_ap or image_f1max (vectorised: 1000 resamples of 500 images take well under a
            second), or any function of (scores [N], labels bool [N]) (called once a resample).
        scores, labels: as :func:`image_auroc`.
        n: resamples.
        seed: of numpy's default generator; the same seed gives the same interval.
        level: confidence level in (0, 1).

    Returns:
        (low, high)

    Raises:
        ValueError: as :func:`image_auroc`; metric not callable, n < 1 or level outside (0, 1).
    """
    _check_bootstrap(metric, n, level)
    scores, labels = _image_input(scores, labels)
    values = [resampled(metric, scores, labels, times) for times in bootstrap_draws(labels, n, seed)]
    return percentile_interval(np.concatenate(values), level)


def paired_bootstrap_difference(
    metric: Callable, scores_a, scores_b, labels, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Difference of a metric between two methods on the same images, with its percentile bootstrap interval.

    Both methods are evaluated on the same resampled images, so what makes an image hard for both cancels; an interval
    that excludes 0 speaks for a difference on this kind of images.

    Args:
        scores_a, scores_b: [N] scores of the two methods for the same images in the same order.
        metric, labels, n, seed, level: as :func:`bootstrap_interval`.

    Returns:
        (metric of a - metric of b, low, high)

    Raises:
        ValueError: as :func:`bootstrap_interval`.
    """
    _check_bootstrap(metric, n, level)
    scores_a, checked = _image_input(scores_a, labels)
    scores_b, labels = _image_input(scores_b, labels)
    values = [
        resampled(metric, scores_a, labels, times) - resampled(metric, scores_b, labels, times)
        for times in bootstrap_draws(labels, n, seed)
    ]
    return (
        float(metric(scores_a, checked) - metric(scores_b, labels)),
        *percentile_interval(np.concatenate(values), level),
    )


class PixelCounts(NamedTuple):
    """What each of K descending thresholds accepts in each of N images; float64 unless said otherwise.

    normal, anomalous : [N, K] pixels at or above the threshold. overlap : [N, K] sum over the image's regions of the
    share of the region at or above it. normals, anomalies, regions : [N] totals.
    """

    normal: np.ndarray
    anomalous: np.ndarray
    overlap: np.ndarray
    normals: np.ndarray
    anomalies: np.ndarray
    regions: np.ndarray


def pixel_counts(maps: np.ndarray, masks: np.ndarray, points: int = 600) -> PixelCounts:
    """Counts of maps [N, H, W] with masks bool [N, H, W] on a grid of at most 3 ``points`` thresholds.

    The thresholds are quantiles of the anomalous pixels, and of the normal ones evenly and towards their upper end,
    where average precision and AUPRO are decided. With the default the grid moves each metric by less than 0.002.
    """
    normal, anomalous = np.sort(maps[~masks]), np.sort(maps[masks])
    even, upper = np.linspace(0, 1, points), 1 - np.geomspace(1 / max(normal.size, 2), 1, points)

    def at(values, shares):
        return values[np.round(np.asarray(shares) * (values.size - 1)).astype(int)]

    grid = np.unique(np.concatenate([at(normal, even), at(normal, upper), at(anomalous, even)]))[::-1]

    def above(values):
        return values.size - np.searchsorted(np.sort(values), grid, side="left")

    shape = len(maps), len(grid)
    counts = PixelCounts(
        *(np.zeros(shape) for _ in range(3)), (~masks).sum((1, 2)) * 1.0, masks.sum((1, 2)) * 1.0, np.zeros(len(maps))
    )
    for i, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        counts.normal[i] = above(values[~mask])
        if mask.any():
            labelled, counts.regions[i] = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
            counts.anomalous[i] = above(values[mask])
            counts.overlap[i] = sum(
                above(values[labelled == r]) / (labelled == r).sum() for r in range(1, int(counts.regions[i]) + 1)
            )
    return counts


def metrics_from_counts(counts: PixelCounts, times: np.ndarray, fpr_limit: float = 0.3) -> dict[str, np.ndarray]:
    """P-AUROC, P-AP, P-F1max and AUPRO of resamples: ``times`` [b, N] says how often each image is drawn; float64 [b]
    each."""
    fp, tp, overlap = (times @ part for part in (counts.normal, counts.anomalous, counts.overlap))
    normals, anomalies, regions = (
        (times @ part)[:, None] for part in (counts.normals, counts.anomalies, counts.regions)
    )
    start = np.zeros((len(times), 1))
    fpr, tpr, pro = (np.hstack([start, part]) for part in (fp / normals, tp / anomalies, overlap / regions))
    precision = tp / np.maximum(tp + fp, 1)
    return {
        "P-AUROC": np.trapezoid(np.hstack([tpr, start + 1]), np.hstack([fpr, start + 1]), axis=1),
        "P-AP": (np.diff(tpr, axis=1) * precision).sum(axis=1),
        "P-F1max": (2 * tp / (tp + fp + anomalies)).max(axis=1),
        "AUPRO": _area_up_to(fpr, pro, fpr_limit),
    }


def _area_up_to(fpr: np.ndarray, pro: np.ndarray, limit: float) -> np.ndarray:
    """Area under rows of a curve [b, K] up to ``limit``, linear between points, over the limit: [b]."""
    width = np.diff(fpr, axis=1)
    inside = np.clip(limit - fpr[:, :-1], 0, width)
    slope = np.divide(np.diff(pro, axis=1), width, out=np.zeros_like(width), where=width > 0)
    return (inside * (pro[:, :-1] + slope * inside / 2)).sum(axis=1) / limit


def paired_aupro_difference(
    maps_a, maps_b, masks, fpr_limit: float = 0.3, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Difference in :func:`aupro` between two methods on the same images, with its percentile bootstrap interval.

    Images are drawn with all their pixels and regions, normal and anomalous ones separately, as in
    :func:`paired_bootstrap_difference`. The difference itself is exact. The resamples use
    :func:`pixel_counts`; on the images as they are that moves AUPRO by less than 0.001 (measured in the tests).

    Args:
        maps_a, maps_b: [N, H, W] anomaly maps of the two methods in the same order. masks: as :func:`pixel_auroc`.
        fpr_limit: as :func:`aupro`. n, seed, level: as :func:`bootstrap_interval`.

    Returns:
        (AUPRO of a - AUPRO of b, low, high)

    Raises:
        ValueError: as :func:`aupro` and :func:`bootstrap_interval`; no image without an anomalous pixel is fine.
    """
    _check_fpr_limit(fpr_limit)
    _check_bootstrap(aupro, n, level)
    pairs = [_pixel_input(maps, masks) for maps in (maps_a, maps_b)]
    times = np.concatenate([*bootstrap_draws(pairs[0][1].any(axis=(1, 2)), n, seed)])
    a, b = (metrics_from_counts(pixel_counts(*pair), times, fpr_limit)["AUPRO"] for pair in pairs)
    difference = aupro(maps_a, masks, fpr_limit) - aupro(maps_b, masks, fpr_limit)
    return (difference, *percentile_interval(a - b, level))


def paired_bootstrap(metric: Callable, scores, labels, n: int = 1000, seed: int = 0) -> np.ndarray:
    """A metric of several methods on the same resampled images: float64 [n, K], for intervals of any function of them.

    Args:
        scores: K sequences [N], the methods' scores for the same images in the same order.
        metric, labels, n, seed: as :func:`bootstrap_interval`, and with the same draws.

    Raises:
        ValueError: as :func:`bootstrap_interval`; no scores.
    """
    _check_bootstrap(metric, n, 0.95)
    if len(scores) == 0:
        raise ValueError("paired_bootstrap: no scores given, expected those of at least one method")
    checked = [_image_input(values, labels) for values in scores]
    labels = checked[0][1]
    draws = bootstrap_draws(labels, n, seed)
    return np.concatenate(
        [np.stack([resampled(metric, values, labels, times) for values, _ in checked], axis=1) for times in draws]
    )
