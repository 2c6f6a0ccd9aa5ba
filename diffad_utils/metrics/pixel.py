"""Exact metrics of pixels: P-AUROC, P-AP, P-F1max and AUPRO, of which `aupro_reference` is the definition.

Nothing here is binned or read off a grid of thresholds: every distinct score is a threshold, and equal scores are
one threshold. A curve only bends at the scores of anomalous items, so it is enough to know, for each distinct
anomalous score, how many normal items lie above it and how many share it. ROC, precision-recall and PRO curves all come
out of these counts, for pixels from one sort (`kernels.threshold_counts`): `pixel_metrics` for maps in memory or
on a GPU, `PixelMetrics` for test sets that are larger.

Scores: higher is more anomalous. Labels and masks: 0 or False is normal, 1 or True is anomalous. Every function takes
numpy arrays, torch tensors (any device) or lists, and computes in float64 or in integers.

Sources
    ROC, AP: as in scikit-learn (``roc_auc_score``, ``average_precision_score``).
    AUPRO: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), section 5.2, and the evaluation
    script published with the data set.
"""

from __future__ import annotations

from numbers import Real
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage

from diffad_utils.kernels import threshold_counts
from diffad_utils.metrics.checks import check_binary, check_scores, pixel_input, require_both, warn_if_constant
from diffad_utils.metrics.image import ap_from_counts, auroc_from_counts, count_labels, f1max_from_counts


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    """Area under the ROC curve over all pixels of all images, normal images included.

    Parameters
    ----------
    maps : [N,H,W] real, finite anomaly maps; higher is more anomalous. Not normalised per image.
    masks : [N,H,W] boolean, or numbers in {0, 1}.

    Returns
    -------
    float in [0, 1]; 0.5 with a ``UserWarning`` if all values are equal.

    Raises
    ------
    ValueError
        no mask; no anomalous or no normal pixel; NaN or infinite values; shapes that differ or are not
        [N,H,W]; masks outside {0, 1} (binarise first: whether a grey rim counts is the caller's decision); empty
        input.

    Examples
    --------
    >>> pixel_auroc([[[0.1, 0.4], [0.35, 0.8]]], [[[0, 0], [1, 1]]])
    0.75
    """
    maps, masks = pixel_input(maps, masks)
    warn_if_constant(maps, "map values")
    return float(auroc_from_counts(count_labels(maps, masks)))


def pixel_ap(maps: ArrayLike, masks: ArrayLike) -> float:
    """Average precision (`image_ap`) over all pixels of all images. Arguments, errors: `pixel_auroc`."""
    return float(ap_from_counts(count_labels(*pixel_input(maps, masks))))


def pixel_f1max(maps: ArrayLike, masks: ArrayLike) -> float:
    """Largest F1 over all thresholds, over all pixels of all images. Arguments and errors: `pixel_auroc`."""
    return float(f1max_from_counts(count_labels(*pixel_input(maps, masks))))


def aupro_curve(
    maps: ArrayLike, masks: ArrayLike, drop_intermediate: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve of per-region overlap (PRO) over the false positive rate (FPR).

    PRO at a threshold is the mean, over all anomalous regions of all images, of the share of the region at or above
    the threshold; a region is a set of anomalous pixels connected through edges or corners (8-connectivity). FPR is the
    share of all normal pixels, those of normal images included, at or above it.

    Parameters
    ----------
    maps, masks : as `pixel_auroc`.
    drop_intermediate : leave out thresholds inside a straight piece (below one anomalous score and above the next,
        only the last is kept). The curve is the same with far fewer points. False: every distinct score is a point.

    Returns
    -------
    fpr, pro, thresholds, each float64 [K]: fpr and pro ascend from (0, 0), where the threshold is inf, to (1, 1),
    where it is the smallest score.

    Raises
    ------
    ValueError
        as `pixel_auroc`.
    """
    maps, masks = pixel_input(maps, masks)
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


def check_fpr_limit(fpr_limit: float) -> None:
    if not isinstance(fpr_limit, Real) or not 0.0 < fpr_limit <= 1.0:
        raise ValueError(f"fpr_limit must be a number in (0, 1], got {fpr_limit!r}")


def aupro(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the PRO curve (`aupro_curve`) up to an FPR limit, divided by the limit: MVTec's definition.

    Every distinct score is a threshold, the curve starts at (0, 0) and is interpolated linearly at the limit. Constant
    maps give ``fpr_limit / 2`` (0.15), the diagonal's area, as MVTec's script does. Where there is no anomalous pixel
    that script also returns 0.15, for a quantity that is not defined; this function raises instead.

    Parameters
    ----------
    maps, masks : as `pixel_auroc`.
    fpr_limit : in (0, 1]; 0.3 for MVTec AD, 0.05 for MVTec AD 2.

    Returns
    -------
    float in [0, 1].

    Raises
    ------
    ValueError
        as `pixel_auroc`; fpr_limit outside (0, 1].

    Examples
    --------
    Two defects, of one and of three pixels. Before the first false alarm (3) one of them is found whole (4), the other
    not at all: PRO is 1/2 over all false positive rates up to 1/3. A second false alarm comes after the other is found.

    >>> round(aupro([[[4, 0, 3, 0, 2, 2, 2]]], [[[1, 0, 0, 0, 1, 1, 1]]], fpr_limit=1 / 3), 3)
    0.5
    """
    check_fpr_limit(fpr_limit)
    return _in_memory(*pixel_input(maps, masks), fpr_limit)["AUPRO"]


def aupro_reference(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """`aupro` by its definition, a threshold at a time: for reading, and what the tests hold `aupro` to.

    Its time grows with pixels times thresholds. Arguments, result and errors are those of `aupro`.

    >>> mask = np.array([[[1, 0, 0, 0]]])
    >>> aupro_reference(np.array([[[0.9, 0.2, 0.1, 0.0]]]), mask)  # the defect lies above all that is normal
    1.0
    """
    check_fpr_limit(fpr_limit)
    maps, masks = pixel_input(maps, masks)
    normal, regions = maps[~masks], []
    for scores, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=threshold_counts.EIGHT_NEIGHBOURS)
        regions += [scores[labels == k] for k in range(1, count + 1)]
    thresholds = np.unique(maps)[::-1]  # from the highest score down; the curve starts where nothing is flagged
    fpr = np.array([0.0, *(np.mean(normal >= t) for t in thresholds)])  # share of the normal pixels that are flagged
    pro = np.array([0.0, *(np.mean([np.mean(region >= t) for region in regions]) for t in thresholds)])
    inside, at_limit = fpr <= fpr_limit, np.interp(fpr_limit, fpr, pro)  # per-region overlap, mean over regions
    return float(np.trapezoid([*pro[inside], at_limit], [*fpr[inside], fpr_limit]) / fpr_limit)


def pixel_metrics(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> dict[str, float]:
    """All of `PIXEL_METRICS` from one sort: P-AUROC, P-AP, P-F1max, AUPRO.

    Parameters
    ----------
    maps, masks : as `pixel_auroc`. Where ``maps`` is a CUDA tensor of 16 or 32-bit floats, the sorting is done
        there (regions are found on the CPU); ``masks`` may then be on either side.
    fpr_limit : of the AUPRO, see `aupro`.

    Returns
    -------
    what the single functions return, to rounding (1e-12; exact counts, sums in another order).

    Raises
    ------
    ValueError
        as `aupro`. Constant maps warn as in `pixel_auroc`.
    """
    check_fpr_limit(fpr_limit)
    if isinstance(maps, torch.Tensor) and maps.is_cuda and maps.dtype in (torch.float16, torch.bfloat16, torch.float32):
        return _on_device(maps.detach(), masks, fpr_limit)
    maps, masks = pixel_input(maps, masks)
    warn_if_constant(maps, "map values")
    return _in_memory(maps, masks, fpr_limit)


def _in_memory(maps: np.ndarray, masks: np.ndarray, fpr_limit: float) -> dict[str, float]:
    counts, normal, regions = threshold_counts.count(maps, masks)
    sums = _PixelSums(maps.size - normal.size, normal.size, regions, fpr_limit)
    sums.add(counts)
    return sums.result()


def _on_device(maps: torch.Tensor, masks: torch.Tensor, fpr_limit: float) -> dict[str, float]:
    """`pixel_metrics` with checks and sorting where the maps are; whatever is wrong is said by the checks on the
    CPU."""
    if maps.ndim != 3 or not maps.numel() or not bool(maps.isfinite().all()):
        check_scores(maps, "maps", "NHW")
    binary = torch.from_numpy(check_binary(masks, tuple(maps.shape), "masks", "maps"))
    require_both(binary.numpy(), "pixel")
    warn_if_constant(maps, "map values")
    counts, regions = threshold_counts.count_on_device(maps, binary.to(maps.device))
    anomalous = int(counts.hits.sum())
    sums = _PixelSums(anomalous, maps.numel() - anomalous, regions, fpr_limit)
    sums.add(counts)
    return sums.result()


class PixelMetrics:
    """`pixel_metrics` of a test set that arrives in parts, exactly, in memory that does not grow with it.

    Parts are kept as sorted runs in files (4 bytes a normal pixel, 8 an anomalous one) and merged a range of scores at
    a time: nothing is binned, and the result is that of all maps at once, to rounding (1e-12).

        with PixelMetrics() as collected:
            for images, masks in loader:
                collected.update(detector.predict(images).anomaly_map, masks)
            results = collected.compute()

    Parameters
    ----------
    fpr_limit : of the AUPRO, see `aupro`.
    folder : for the runs; a temporary one if None.
    run_pixels : pixels sorted at once. Peak memory is about 100 bytes times this, 400 MB by default, beside the part
        that is being taken in (`benchmarks.metrics` measures it).
    """

    def __init__(
        self, fpr_limit: float = 0.3, folder: str | Path | None = None, run_pixels: int = threshold_counts.RUN_PIXELS
    ) -> None:
        check_fpr_limit(fpr_limit)
        self.fpr_limit = fpr_limit
        self._runs = threshold_counts.Runs(folder, run_pixels)

    def __enter__(self) -> PixelMetrics:
        return self

    def __exit__(self, *error: object) -> None:
        self._runs.close()

    def update(self, maps: ArrayLike, masks: ArrayLike) -> None:
        """Take in maps and masks [B,H,W], as `pixel_auroc`; parts may differ in H and W.

        Raises ``ValueError`` as there, and for values that float32 does not hold exactly (float64, wide integers). A
        part may be without anomalous or without normal pixels.
        """
        maps = check_scores(maps, "maps", "NHW")
        masks = check_binary(masks, maps.shape, "masks", "maps")
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
        warn_if_constant(np.array([runs.lowest, runs.highest]), "map values")
        sums = _PixelSums(runs.anomalous, runs.normal, runs.regions, self.fpr_limit)
        for block in runs.counts():
            sums.add(block)
        return sums.result()
