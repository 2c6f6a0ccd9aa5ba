"""Resamples as multiplicities give what resampling the images themselves gives."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diffad_utils import metrics
from diffad_utils.metrics import bootstrap

LABELS = np.array([0] * 15 + [1] * 10)
SCORES = np.round(np.random.default_rng(0).normal(LABELS, 1.0), 1)  # rounded: with ties


def test_multiplicities_draw_each_label_apart():
    times = bootstrap.multiplicities(LABELS, 50, seed=3)
    assert times.shape == (51, 25) and (times[0] == 1).all()
    assert (times[:, LABELS == 1].sum(axis=1) == 10).all() and (times[:, LABELS == 0].sum(axis=1) == 15).all()
    assert np.array_equal(times, bootstrap.multiplicities(LABELS, 50, seed=3))
    assert not np.array_equal(times, bootstrap.multiplicities(LABELS, 50, seed=4))
    with pytest.raises(ValueError, match="no images"):
        bootstrap.multiplicities([])


def test_auroc_and_means_are_those_of_the_drawn_images():
    times = bootstrap.multiplicities(LABELS, 20)
    both = np.stack([SCORES, -SCORES])
    found, averages = bootstrap.auroc(both, LABELS, times), bootstrap.means(both, times)
    for row, value, average in zip(times, found, averages, strict=True):
        drawn = np.repeat(np.arange(25), row)
        assert value[0] == pytest.approx(roc_auc_score(LABELS[drawn], SCORES[drawn]), abs=1e-12)
        assert value[1] == pytest.approx(1 - value[0], abs=1e-12)
        assert average == pytest.approx([SCORES[drawn].mean(), -SCORES[drawn].mean()])
    assert found[0, 0] == pytest.approx(metrics.image_auroc(SCORES, LABELS))
    assert np.array_equal(bootstrap.each(lambda images: SCORES[images].mean(), times).round(9), averages[:, 0].round(9))


def test_interval_agrees_with_the_one_of_metrics():
    value, low, high = bootstrap.interval(bootstrap.auroc(SCORES, LABELS, bootstrap.multiplicities(LABELS, 4000))[:, 0])
    theirs = metrics.bootstrap_interval(metrics.image_auroc, SCORES, LABELS, n=4000)
    assert low < value < high and (low, high) == pytest.approx(theirs, abs=0.02)


def test_bad_input():
    with pytest.raises(ValueError, match="normal and anomalous"):
        bootstrap.auroc(SCORES, np.zeros(25), bootstrap.multiplicities(LABELS, 2))
    with pytest.raises(ValueError, match="1 values are not finite"):
        bootstrap.means([[np.nan, 1.0]], np.ones((1, 2), int))
