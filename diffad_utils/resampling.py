"""I-AUROC of many settings over the resamples of `bootstrap`, its range over settings, and the names under which
notebooks call these.

times = multiplicities(labels)
interval(auroc(scores, labels, times)[:, 0] - 0.5)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffad_utils import metrics
from diffad_utils.bootstrap import bootstrap_counts as multiplicities
from diffad_utils.bootstrap import bootstrap_means as means
from diffad_utils.bootstrap import bootstrap_percentiles as interval
from diffad_utils.bootstrap import bootstrap_statistic as each

__all__ = ["auroc", "crossfitted_range", "each", "interval", "means", "multiplicities"]


def auroc(scores, labels: Sequence[int], times: np.ndarray) -> np.ndarray:
    """I-AUROC of scores [S, N] in each resample of ``times`` [R, N]: float64 [R, S]; ties count half.

    Raises ``ValueError`` unless both labels occur.
    """
    scores, anomalous = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    if not anomalous.any() or anomalous.all():
        raise ValueError("I-AUROC needs normal and anomalous images")
    return np.stack([metrics.resampled(metrics.image_auroc, row, anomalous, times) for row in scores], axis=1)


def crossfitted_range(
    scores, labels: Sequence[int], splits: int = 50, n: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """I-AUROC of the best setting minus that of the worst, found on one half of the images and measured on the other.

    The range on the images themselves would be above 0 even if all settings were equally good; measured on other images
    it is 0 then on average. Both halves play both parts, and the mean is taken over ``splits`` random halves, as one
    split leaves the result to chance. Source of the idea: cross-fitting, Chernozhukov et al., "Double/debiased machine
    learning", Econometrics Journal 21 (2018), section 3.

    Parameters
    ----------
    scores : [S, N] of S settings; higher is more anomalous.
    labels : [N] in {0, 1}, at least four images of each.
    splits, n, seed : random halves, resamples and the seed of both.

    Returns
    -------
    range : float64 [n + 1], as `interval` takes it: the data first, then resamples of the images that are measured on.
    chosen : int64 [2 splits, 2], the best and the worst setting of each half.

    Raises
    ------
    ValueError
        Fewer than four images of a kind, or shapes that differ.
    """
    scores, anomalous = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    if scores.shape[1] != len(anomalous) or min(anomalous.sum(), (~anomalous).sum()) < 4:
        raise ValueError(
            f"expected scores [S, N] and labels [N] with four images of each kind, got {scores.shape}, "
            f"{int(anomalous.sum())} anomalous and {int((~anomalous).sum())} normal"
        )
    high, low = scores[:, anomalous, None], scores[:, None, ~anomalous]
    wins = (high > low) + 0.5 * (high == low)  # [S, anomalous, normal]: the pairs that an AUROC counts
    counts = multiplicities(anomalous, n, seed)
    of_high, of_low = counts[:, anomalous], counts[:, ~anomalous]
    generator = np.random.default_rng(seed)
    total, chosen = np.zeros(len(counts)), []
    for _ in range(splits):
        halves = [generator.permutation(size) < size // 2 for size in wins.shape[1:]]
        for above, below in (halves, [~half for half in halves]):
            found = wins[:, above][:, :, below].mean(axis=(1, 2))
            best, worst = int(found.argmax()), int(found.argmin())
            chosen.append((best, worst))
            drawn_high, drawn_low = of_high[:, ~above], of_low[:, ~below]
            gap = wins[best] - wins[worst]
            sums = ((drawn_high @ gap[~above][:, ~below]) * drawn_low).sum(axis=1)
            # a resample may miss a half's images of one kind: it then says nothing about this half
            pairs = drawn_high.sum(axis=1) * drawn_low.sum(axis=1)
            total += np.divide(sums, pairs, out=np.zeros_like(total), where=pairs > 0)
    return total / (2 * splits), np.array(chosen)
