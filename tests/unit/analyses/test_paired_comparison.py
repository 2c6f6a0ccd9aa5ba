"""Bootstrap of image and pixel metrics against the exact metrics, and the comparisons by size."""

import numpy as np
import pytest
import torch

from diffad_utils import metrics
from diffad_utils.analyses import paired_comparison
from diffad_utils.methods import Prediction
from diffad_utils.metrics import bootstrap


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(24, 32, 32, dtype=torch.bool)
    for i in range(12):
        masks[i, 2 : 4 + i, 3 : 6 + i // 2] = True
        masks[i, 28:30, 28 : 29 + i % 3] = True
    labels = torch.tensor([1] * 12 + [0] * 12)
    maps = masks.float() * torch.linspace(0.2, 1.5, 24)[:, None, None] + torch.randn(24, 32, 32, generator=generator)
    other = torch.randn(24, 32, 32, generator=generator)
    predictions = {
        name: Prediction(values.flatten(1).topk(20).values.mean(dim=1), values)
        for name, values in (("good", maps), ("random", other))
    }
    return predictions, {"label": labels, "mask": masks}


@pytest.fixture(scope="module")
def quality(case):
    return paired_comparison.BootstrapQuality.of(*case, n=60, seed=3)


def test_values_on_all_images_are_the_exact_metrics(case, quality):
    predictions, batch = case
    for name, prediction in predictions.items():
        exact = metrics.evaluate(prediction, batch)
        assert quality.values[name]["I-AUROC"][0] == pytest.approx(exact["I-AUROC"], abs=1e-12)
        for metric in ("P-AUROC", "AUPRO"):
            assert quality.values[name][metric][0] == pytest.approx(exact[metric], abs=2e-3)
    assert quality.images == 24 and quality.metrics == ["I-AUROC", "P-AUROC", "AUPRO"]


def test_draws_are_the_exact_metrics_of_resampled_images(case, quality):
    predictions, batch = case
    times = bootstrap.bootstrap_counts(batch["label"], 60, 3)
    assert (times[:, :12].sum(axis=1) == 12).all() and (times[0] == 1).all()
    for draw in (1, 30, 60):
        rows = np.repeat(np.arange(24), times[draw])
        chosen = {"label": batch["label"][rows], "mask": batch["mask"][rows]}
        exact = metrics.evaluate(
            Prediction(predictions["good"].score[rows], predictions["good"].anomaly_map[rows]), chosen
        )
        found = quality.values["good"]
        assert found["I-AUROC"][draw] == pytest.approx(exact["I-AUROC"], abs=1e-12)
        assert found["P-AUROC"][draw] == pytest.approx(exact["P-AUROC"], abs=2e-3)
        assert found["AUPRO"][draw] == pytest.approx(exact["AUPRO"], abs=2e-3)


def test_intervals_and_tables(quality):
    effect, low, high = bootstrap.bootstrap_percentiles(quality["good"] - quality["random"])
    assert low < effect < high and low > 0
    table = quality.table("random").set_index("variant")
    assert table.loc["random", "AUPRO minus random"] == "" and "[+" in table.loc["good", "AUPRO minus random"]
    long = quality.long("detector")
    assert len(long) == 6 and bool((long["low"] <= long["high"]).all())


def test_without_masks_only_images_are_compared(case):
    predictions, batch = case
    quality = paired_comparison.BootstrapQuality.of(predictions, batch | {"mask": torch.zeros_like(batch["mask"])}, n=5)
    assert quality.metrics == ["I-AUROC"]


def test_an_image_alone(case):
    predictions, batch = case
    found = paired_comparison.image_pixel_auroc(predictions["good"].anomaly_map, batch["mask"])
    assert found[5] == pytest.approx(
        metrics.pixel_auroc(predictions["good"].anomaly_map[5:6], batch["mask"][5:6]), abs=1e-9
    )
    assert np.isnan(found[12:]).all()


def test_sizes_and_correlations():
    areas = [5, 1, 9, 2, 7, 3]
    assert paired_comparison.size_groups(areas).tolist() == ["medium", "small", "large", "small", "large", "medium"]
    assert len(paired_comparison.size_groups([1, 1, 1, 1])) == 4
    draws = bootstrap.spearman_draws(areas, areas, 20, 0)
    assert draws[0] == pytest.approx(1) and len(draws) == 21
    assert bootstrap.spearman_draws([1, 1, 1], [1, 2, 3], 5, 0).tolist() == [0] * 6
    means = bootstrap.resampled_means(areas, 10, 0)
    assert means[0] == pytest.approx(np.mean(areas)) and len(means) == 11


def test_simulated_detector(case):
    _, batch = case
    missed = [True] * 6 + [False] * 18
    maps = paired_comparison.simulated_maps(batch["mask"], missed)
    found = paired_comparison.image_pixel_auroc(maps, batch["mask"])[:12]
    assert (found[6:] > 0.99).all() and (found[:6] < 0.8).all()


def test_a_tie_is_said_in_words(case):
    labels, maps = case[1]["label"], case[0]["good"].anomaly_map
    scores = {name: labels.float().clone() for name in ("a", "b")}
    scores["a"][12], scores["b"][13] = 2.0, 2.0  # another normal image each is taken for a defect
    predictions = {name: Prediction(score, maps) for name, score in scores.items()}
    table = paired_comparison.BootstrapQuality.of(predictions, case[1], n=60, seed=3).table("a").set_index("variant")
    assert table.loc["b", "I-AUROC minus a"].startswith("no difference [-")
