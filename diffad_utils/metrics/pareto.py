"""The Pareto front of two quantities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(gain: Sequence[float], cost: Sequence[float]) -> np.ndarray:
    """Which points nothing beats: none has at least the gain and at most the cost, and one of the two better.

    bool [K]. Both sequences [K], finite.

    >>> pareto_front([0.9, 0.8, 0.7], [2.0, 1.0, 3.0]).tolist()
    [True, True, False]
    """
    g, c = np.asarray(gain, float), np.asarray(cost, float)
    no_worse = (g[:, None] >= g) & (c[:, None] <= c)  # [i, j]: i is no worse than j
    better = (g[:, None] > g) | (c[:, None] < c)
    return ~(no_worse & better).any(axis=0)
