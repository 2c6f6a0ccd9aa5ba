"""One source of draws and one interval."""

import doctest

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import spearmanr

from diffad_utils import metrics
from diffad_utils.metrics import bootstrap


def test_the_example_holds():
    found = doctest.testmod(bootstrap)
    assert found.failed == 0 and found.attempted > 0


def test_metrics_shows_the_draws_and_the_interval():
    assert metrics.bootstrap_draws is bootstrap.bootstrap_draws
    assert metrics.percentile_interval is bootstrap.percentile_interval


def test_a_mean_has_scipys_interval_up_to_the_draws():
    values = np.random.default_rng(0).lognormal(0, 1, 60)
    mean, low, high = bootstrap.mean_interval(values, n=20000)
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=20000, method="percentile").confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_rank_correlations_are_resampled_as_everything_else():
    x, y = np.random.default_rng(0).standard_normal((2, 30))
    draws = bootstrap.spearman_draws(x, y, 5, seed=3)
    rows = [np.repeat(np.arange(30), row) for row in bootstrap.bootstrap_counts(np.zeros(30), 5, seed=3)]
    assert draws == pytest.approx([spearmanr(x[row], y[row]).statistic for row in rows])
    assert draws[0] == pytest.approx(spearmanr(x, y).statistic)


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ValueError, match="no images"):
        bootstrap.bootstrap_counts([])
    with pytest.raises(ValueError, match="at least 2 images"):
        bootstrap.mean_interval([1.0])
    with pytest.raises(ValueError, match="1 values are not finite"):
        bootstrap.bootstrap_means([1.0, np.nan], np.ones((1, 2), int))


def test_draws_of_one_block_are_kept_and_cannot_be_changed(monkeypatch):
    labels = np.arange(40) < 25
    (times,) = metrics.bootstrap_draws(labels, 30, 3)
    assert next(metrics.bootstrap_draws(labels.copy(), 30, 3)) is times
    with pytest.raises(ValueError, match="read-only"):
        times[0] = 1
    assert next(metrics.bootstrap_draws(~labels, 30, 3)) is not times
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_BLOCK", 40 * 7)  # in blocks the draws are the same
    assert np.array_equal(np.concatenate(list(metrics.bootstrap_draws(labels, 30, 3))), times)
