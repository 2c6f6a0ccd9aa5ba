"""Resamples as multiplicities give what resampling the images themselves gives."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diffad_utils import metrics
from diffad_utils.metrics import bootstrap, intervals

LABELS = np.array([0] * 15 + [1] * 10)
SCORES = np.round(np.random.default_rng(0).normal(LABELS, 1.0), 1)  # rounded: with ties


def test_multiplicities_draw_each_label_apart():
    times = bootstrap.bootstrap_counts(LABELS, 50, seed=3)
    assert times.shape == (51, 25) and (times[0] == 1).all()
    assert (times[:, LABELS == 1].sum(axis=1) == 10).all() and (times[:, LABELS == 0].sum(axis=1) == 15).all()
    assert np.array_equal(times, bootstrap.bootstrap_counts(LABELS, 50, seed=3))
    assert not np.array_equal(times, bootstrap.bootstrap_counts(LABELS, 50, seed=4))
    with pytest.raises(ValueError, match="no images"):
        bootstrap.bootstrap_counts([])


def test_auroc_and_means_are_those_of_the_drawn_images():
    times = bootstrap.bootstrap_counts(LABELS, 20)
    both = np.stack([SCORES, -SCORES])
    found, averages = intervals.auroc(both, LABELS, times), bootstrap.bootstrap_means(both, times)
    for row, value, average in zip(times, found, averages, strict=True):
        drawn = np.repeat(np.arange(25), row)
        assert value[0] == pytest.approx(roc_auc_score(LABELS[drawn], SCORES[drawn]), abs=1e-12)
        assert value[1] == pytest.approx(1 - value[0], abs=1e-12)
        assert average == pytest.approx([SCORES[drawn].mean(), -SCORES[drawn].mean()])
    assert found[0, 0] == pytest.approx(metrics.image_auroc(SCORES, LABELS))
    assert np.array_equal(
        bootstrap.bootstrap_statistic(lambda images: SCORES[images].mean(), times).round(9), averages[:, 0].round(9)
    )


def test_interval_agrees_with_the_one_of_metrics():
    value, low, high = bootstrap.bootstrap_percentiles(
        intervals.auroc(SCORES, LABELS, bootstrap.bootstrap_counts(LABELS, 4000))[:, 0]
    )
    theirs = metrics.bootstrap_interval(metrics.image_auroc, SCORES, LABELS, n=4000)
    assert low < value < high and (low, high) == pytest.approx(theirs, abs=0.02)


def test_bad_input():
    with pytest.raises(ValueError, match="normal and anomalous"):
        intervals.auroc(SCORES, np.zeros(25), bootstrap.bootstrap_counts(LABELS, 2))
    with pytest.raises(ValueError, match="1 values are not finite"):
        bootstrap.bootstrap_means([[np.nan, 1.0]], np.ones((1, 2), int))


def test_the_crossfitted_range_is_zero_without_a_difference_and_below_the_range_with_one():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 40)
    image, own = rng.standard_normal((1, 80)), rng.standard_normal((12, 80))
    equal = intervals.crossfitted_range(labels + 0.3 * image + own, labels, n=200)[0]
    naive = intervals.auroc(labels + 0.3 * image + own, labels, np.ones((1, 80), int))[0]
    assert abs(equal[0]) < 0.06 < np.ptp(naive)
    _, low, high = bootstrap.bootstrap_percentiles(equal)
    assert low < 0.06 and high > -0.06
    better = labels * np.linspace(0.3, 2.5, 12)[:, None] + 0.3 * image + own
    found, chosen = intervals.crossfitted_range(better, labels, n=200)
    assert (
        0.2
        < bootstrap.bootstrap_percentiles(found)[1]
        < found[0]
        <= np.ptp(intervals.auroc(better, labels, np.ones((1, 80), int))[0])
    )
    assert chosen.shape == (100, 2) and (chosen[:, 0] > chosen[:, 1]).all()
    again, _ = intervals.crossfitted_range(better, labels, n=200)
    assert np.array_equal(found, again)
    with pytest.raises(ValueError, match="four images of each kind"):
        intervals.crossfitted_range(better[:, 37:43], labels[37:43])
