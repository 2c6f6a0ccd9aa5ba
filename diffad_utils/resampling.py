"""I-AUROC of many settings over the resamples of `bootstrap`, and the names under which notebooks call these.

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

__all__ = ["auroc", "each", "interval", "means", "multiplicities"]


def auroc(scores, labels: Sequence[int], times: np.ndarray) -> np.ndarray:
    """I-AUROC of scores [S, N] in each resample of ``times`` [R, N]: float64 [R, S]; ties count half.

    Raises ``ValueError`` unless both labels occur.
    """
    scores, anomalous = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    if not anomalous.any() or anomalous.all():
        raise ValueError("I-AUROC needs normal and anomalous images")
    return np.stack([metrics.resampled(metrics.image_auroc, row, anomalous, times) for row in scores], axis=1)
