"""Metrics: golden values, scikit-learn, inputs that must be refused, evaluate, bootstrap."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from diffad_utils import metrics
from diffad_utils.kernels import threshold_counts

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "metrics.npz")
PAIRS = np.load(Path(__file__).parents[2] / "golden" / "ssim_psnr.npz")
SETS = [str(name) for name in GOLDEN["aupro_set_names"] if name != "toy_no_anomaly"]
TOY = [name for name in SETS if name.startswith("toy")]

quiet = pytest.mark.filterwarnings("ignore:all .* are equal")  # toy_constant warns, as it should


def golden_set(name):
    return GOLDEN[f"{name}__maps"], GOLDEN[f"{name}__masks"]


# --- Golden values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_aupro_is_the_official_one(name):
    maps, masks = golden_set(name)
    for limit in (0.05, 0.1, 0.3, 1.0):
        assert metrics.aupro(maps, masks, limit) == pytest.approx(
            float(GOLDEN[f"{name}__aupro_official_limit_{limit}"]), abs=1e-6
        )
    row = list(GOLDEN["aupro_set_names"]).index(name)
    column = list(GOLDEN["aupro_impl_names"]).index("official_mvtec_ad")
    assert metrics.aupro(maps, masks) == pytest.approx(GOLDEN["aupro_table"][row, column], abs=1e-6)


@pytest.mark.parametrize("name", TOY)
def test_pro_curve_is_the_official_one_and_survives_dropping_points(name):
    maps, masks = golden_set(name)
    fpr, pro, thresholds = metrics.aupro_curve(maps, masks, drop_intermediate=False)
    # the official script appends (1, 1) once more
    np.testing.assert_allclose(fpr, GOLDEN[f"{name}__official_curve_fpr"][:-1], atol=1e-7)
    np.testing.assert_allclose(pro, GOLDEN[f"{name}__official_curve_pro"][:-1], atol=1e-7)
    assert thresholds[0] == np.inf and (np.diff(thresholds) < 0).all() and thresholds[-1] == maps.min()
    short_fpr, short_pro, short_thresholds = metrics.aupro_curve(maps, masks)
    assert len(short_fpr) <= len(fpr) and np.isin(short_thresholds, thresholds).all()
    assert (short_fpr[0], short_pro[0], short_fpr[-1], short_pro[-1]) == (0, 0, 1, 1)
    for limit in (0.05, 0.3, 1.0):
        for curve in ((fpr, pro), (short_fpr, short_pro)):
            assert area(*curve, limit) == pytest.approx(metrics.aupro(maps, masks, limit), abs=1e-12)


def area(fpr, pro, limit):
    left = np.flatnonzero(fpr <= limit)[-1]
    at_limit = np.interp(limit, fpr[left : left + 2], pro[left : left + 2])
    return np.trapezoid(np.r_[pro[: left + 1], at_limit], np.r_[fpr[: left + 1], limit]) / limit


@quiet
@pytest.mark.parametrize("name", SETS)
def test_classification_metrics_are_scikit_learns(name):
    maps, masks = golden_set(name)
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    for kind in ("auroc", "ap", "f1max"):
        of_images = getattr(metrics, f"image_{kind}")(scores, labels)
        of_pixels = getattr(metrics, f"pixel_{kind}")(maps, masks)
        assert of_images == pytest.approx(float(GOLDEN[f"{name}__image_{kind}_sklearn"]), abs=1e-9)
        assert of_pixels == pytest.approx(float(GOLDEN[f"{name}__pixel_{kind}_sklearn"]), abs=1e-9)


@pytest.mark.parametrize("name", [*SETS, "serpentine"])
def test_regions_are_8_connected(name):
    masks = GOLDEN[f"{name}__masks"].astype(bool)
    numbers, areas = threshold_counts.regions(masks)
    assert len(areas) == GOLDEN[f"{name}__ncomp_scipy_8"].sum()
    assert (np.bincount(numbers) == areas).all()


def test_fractional_masks_are_refused_until_binarised():
    maps, masks = GOLDEN["frac__maps"], GOLDEN["frac__masks"]
    with pytest.raises(ValueError, match="binarise first"):
        metrics.aupro(maps, masks)
    for binary, key in ((masks > 0.5, "half"), (masks > 0, "0")):
        expected = float(GOLDEN[f"frac__official_aupro_masks_gt_{key}"])
        assert metrics.aupro(maps, binary) == pytest.approx(expected, abs=1e-6)
    # DDAD's pixel AUROC of the binarised masks is an ordinary one
    expected = GOLDEN["frac__ddad_pro_auroc_masks_gt_half"][1]
    assert metrics.pixel_auroc(maps, masks > 0.5) == pytest.approx(expected, abs=1e-5)


# --- Special cases ----------------------------------------------------------------------------------------------------


def test_constant_scores_warn_and_give_chance():
    with pytest.warns(UserWarning, match="all scores are equal"):
        assert metrics.image_auroc([2.0, 2.0, 2.0], [0, 1, 1]) == 0.5
    maps, masks = golden_set("toy_constant")
    with pytest.warns(UserWarning, match="all map values are equal"):
        assert metrics.pixel_auroc(maps, masks) == 0.5
    assert metrics.image_ap([2.0, 2.0, 2.0, 2.0], [0, 1, 1, 1]) == 0.75
    assert metrics.aupro(maps, masks) == pytest.approx(0.15, abs=1e-12)


def test_varying_scores_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.image_auroc([0.1, 0.9], [0, 1]) == 1.0


def test_a_perfect_map_and_its_opposite():
    masks = np.zeros((2, 8, 8), dtype=bool)
    masks[0, 2:5, 2:5] = True
    assert metrics.aupro(masks.astype(float), masks) == 1.0
    assert metrics.aupro(-masks.astype(float), masks) == 0.0


def test_regions_count_equally_whatever_their_size():
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, :5, :5] = True  # 25 pixels, found
    masks[0, 9, 9] = True  # 1 pixel, below everything
    maps = np.where(masks, 1.0, 0.0) + np.linspace(0, 0.1, 100).reshape(1, 10, 10)
    maps[0, 9, 9] = -1.0
    assert metrics.aupro(maps, masks) == pytest.approx(0.5)
    # the two blocks touch at a corner: one region
    joined = np.zeros((1, 4, 4), dtype=bool)
    joined[0, 0, 0] = joined[0, 1, 1] = True
    assert threshold_counts.regions(joined)[1].tolist() == [2]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.bool]
)
def test_arrays_tensors_and_lists_give_the_same(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 2 if dtype == torch.bool else 6, (3, 8, 8), generator=generator).to(dtype)
    masks = torch.rand(3, 8, 8, generator=generator) > 0.7
    expected = pytest.approx(metrics.aupro(maps.double().numpy(), masks.numpy()), abs=1e-12)
    assert metrics.aupro(maps, masks) == expected
    assert metrics.aupro(list(maps), [mask.float() for mask in masks]) == expected
    assert metrics.aupro(maps.tolist(), masks.int().tolist()) == expected
    assert metrics.aupro(maps.double().requires_grad_(), masks.long()) == expected
    scores, labels = [0.1, 0.5, 0.4], [False, True, False]
    assert metrics.image_auroc(torch.tensor(scores), torch.tensor(labels)) == metrics.image_auroc(scores, labels) == 1.0


def test_inputs_are_left_as_they_are():
    maps, masks = golden_set("toy_ties6")
    before = maps.copy(), masks.copy()
    metrics.aupro(maps, masks), metrics.pixel_f1max(maps, masks), metrics.aupro_curve(maps, masks)
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.slow
def test_large_float32_maps_keep_close_scores_apart():
    # scores one float32 step apart; more pairs of pixels than int32 counts
    generator = np.random.default_rng(0)
    maps = (np.float32(1.0) + generator.integers(0, 3000, (20, 256, 256)) * np.float32(2.0**-23)).astype(np.float32)
    masks = generator.random(maps.shape) < 0.02
    masks[:5] = False
    flat = masks.ravel(), maps.ravel()
    assert metrics.pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(*flat), abs=1e-9)
    assert metrics.pixel_ap(maps, masks) == pytest.approx(average_precision_score(*flat), abs=1e-9)


# --- Refused inputs ---------------------------------------------------------------------------------------------------


def interval(scores, labels):
    return metrics.bootstrap_interval(metrics.image_ap, scores, labels, n=2)


@pytest.mark.parametrize("metric", [metrics.image_auroc, metrics.image_ap, metrics.image_f1max, interval])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [0, 0], "no anomalous image"),
        ([0.1, 0.2], [1, 1], "no normal image"),
        ([0.1, np.nan, 0.3], [0, 1, 1], r"1 NaN and 0 infinite values \(first images: \[1\]\)"),
        ([0.1, np.inf, -np.inf], [0, 1, 1], "0 NaN and 2 infinite"),
        ([0.1, 0.2, 0.3], [0, 1], r"shapes differ: scores \[3\], labels \[2\]"),
        ([[0.1], [0.2]], [[0], [1]], r"scores must have shape \[N\], got \[2, 1\]"),
        ([[0.1], [0.2, 0.3]], [0, 1], "differ in length"),
        ([0.1, 0.2], [0, 2], r"labels must be 0 or 1.*smallest 0, largest 2"),
        ([0.1, 0.2], [-1, 1], "labels must be 0 or 1"),
        ([0.1, 0.2], [0.0, np.nan], "labels must be 0 or 1"),
        ([0.1, 0.2], [0.0, 0.5], "labels must be 0 or 1"),
        ([], [], "scores is empty"),
        (None, [0, 1], "no scores"),
        ([0.1, 0.2], None, "no labels"),
        (["a", "b"], [0, 1], "real numbers"),
    ],
)
def test_image_metrics_say_what_is_wrong(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


PIXEL = [metrics.pixel_auroc, metrics.pixel_ap, metrics.pixel_f1max, metrics.aupro, metrics.aupro_curve]


@pytest.mark.parametrize("metric", PIXEL)
def test_pixel_metrics_say_what_is_wrong(metric):
    maps, masks = golden_set("toy_unique")
    with pytest.raises(ValueError, match="no masks"):
        metric(maps, None)
    with pytest.raises(ValueError, match="no anomalous pixel among 1024"):
        metric(*golden_set("toy_no_anomaly"))
    with pytest.raises(ValueError, match="no normal pixel"):
        metric(maps, np.ones_like(masks))
    with pytest.raises(ValueError, match="smallest 0, largest 255.*binarise first"):
        metric(maps, masks * 255.0)
    with pytest.raises(ValueError, match=r"shapes differ: maps \[4, 16, 16\], masks \[4, 16, 15\]"):
        metric(maps, masks[:, :, 1:])
    with pytest.raises(ValueError, match=r"maps must have shape \[N,H,W\], got \[4, 1, 16, 16\]"):
        metric(maps[:, None], masks[:, None])
    with pytest.raises(ValueError, match="items differ in shape"):
        metric([maps[0], maps[1, 1:]], [masks[0], masks[1, 1:]])
    with pytest.raises(ValueError, match="empty"):
        metric(maps[:0], masks[:0])
    broken = maps.copy()
    broken[2, 3, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 NaN and 0 infinite values \(first images: \[2\]\)"):
        metric(broken, masks)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, np.nan, "0.3"])
def test_aupro_refuses_a_limit_outside_0_1(limit):
    with pytest.raises(ValueError, match="fpr_limit"):
        metrics.aupro(*golden_set("toy_unique"), fpr_limit=limit)


# --- Evaluate ---------------------------------------------------------------------------------------------------------

IMAGE_NAMES, PIXEL_NAMES = {"I-AUROC", "I-AP", "I-F1max"}, {"P-AUROC", "P-AP", "P-F1max", "AUPRO"}


def prediction_and_batch(name="med_8bit"):
    maps, masks = golden_set(name)
    prediction = SimpleNamespace(score=torch.tensor(maps.max(axis=(1, 2))), anomaly_map=torch.tensor(maps))
    return prediction, {"label": torch.tensor(masks.any(axis=(1, 2))).long(), "mask": torch.tensor(masks) > 0}


@quiet
@pytest.mark.parametrize("name", SETS)
def test_evaluate_gives_what_the_single_functions_give(name):
    prediction, batch = prediction_and_batch(name)
    results = metrics.evaluate(prediction, batch)
    assert set(results) == IMAGE_NAMES | PIXEL_NAMES
    for key, metric in metrics.IMAGE_METRICS.items():
        assert results[key] == metric(prediction.score, batch["label"])
    for key, metric in metrics.PIXEL_METRICS.items():
        assert results[key] == pytest.approx(metric(prediction.anomaly_map, batch["mask"]), abs=1e-12)
    assert all(type(value) is float for value in results.values())


def test_evaluate_leaves_out_what_is_not_defined():
    prediction, batch = prediction_and_batch()
    assert set(metrics.evaluate(prediction, {"label": batch["label"]})) == IMAGE_NAMES
    assert set(metrics.evaluate(SimpleNamespace(score=prediction.score, anomaly_map=None), batch)) == IMAGE_NAMES
    assert set(metrics.evaluate(prediction, batch | {"mask": torch.zeros_like(batch["mask"])})) == IMAGE_NAMES
    only = batch["label"] == 1
    one_class = SimpleNamespace(score=prediction.score[only], anomaly_map=prediction.anomaly_map[only])
    assert set(metrics.evaluate(one_class, {key: value[only] for key, value in batch.items()})) == PIXEL_NAMES
    only = batch["label"] == 0
    one_class = SimpleNamespace(score=prediction.score[only], anomaly_map=prediction.anomaly_map[only])
    assert metrics.evaluate(one_class, {key: value[only] for key, value in batch.items()}) == {}


def test_an_image_without_a_mask_counts_for_images_and_is_left_out_of_pixels():
    prediction, batch = prediction_and_batch()
    bare = int(batch["label"].nonzero()[0])
    no_mask = batch["mask"].clone()
    no_mask[bare] = False
    rows = metrics.with_masks(batch["label"], no_mask)
    assert rows.dtype == bool and np.flatnonzero(~rows).tolist() == [bare]
    with pytest.warns(UserWarning, match=r"1 of \d+ anomalous images have no mask"):
        results = metrics.evaluate(prediction, batch | {"mask": no_mask})
    complete = metrics.evaluate(prediction, batch)
    assert {name: results[name] for name in IMAGE_NAMES} == {name: complete[name] for name in IMAGE_NAMES}
    expected = metrics.pixel_metrics(prediction.anomaly_map[rows], no_mask[rows])
    assert {name: results[name] for name in PIXEL_NAMES} == expected


def test_rows_with_masks():
    masks = np.zeros((3, 2, 2), bool)
    assert not metrics.with_masks([0, 1, 1], masks).any() and not metrics.with_masks([0, 1, 1], None).any()
    masks[1, 0, 0] = True
    assert metrics.with_masks([0, 1, 1], masks).tolist() == [True, True, False]
    assert metrics.with_masks(torch.tensor([0, 1, 1]), torch.tensor(masks)).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="labelled normal"):
        metrics.with_masks([0, 0, 1], masks)
    with pytest.raises(ValueError, match="expected, got"):
        metrics.with_masks([0, 1], masks)


def test_evaluate_refuses_contradictions():
    prediction, batch = prediction_and_batch()
    with pytest.raises(ValueError, match="labelled normal"):
        metrics.evaluate(prediction, batch | {"label": torch.zeros_like(batch["label"])})
    with pytest.raises(ValueError, match=r"shapes differ: prediction.score \[9\], labels \[8\]"):
        metrics.evaluate(prediction, {"label": batch["label"][1:]})
    with pytest.raises(ValueError, match="shapes differ: prediction.anomaly_map"):
        metrics.evaluate(prediction, batch | {"mask": batch["mask"][:, ::2, ::2]})
    shorter = SimpleNamespace(score=prediction.score, anomaly_map=prediction.anomaly_map[1:])
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.evaluate(shorter, batch | {"mask": batch["mask"][1:]})
    with pytest.raises(ValueError, match="prediction.score holds 9 NaN"):
        metrics.evaluate(SimpleNamespace(score=prediction.score * np.nan, anomaly_map=None), batch)


# --- Reconstruction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, list])
def test_reconstruction_is_scikit_images(convert):
    values = metrics.reconstruction(convert(PAIRS["a"]), convert(PAIRS["b"]))
    np.testing.assert_allclose(values["ssim"], PAIRS["skimage_ssim_default_f64in"], atol=1e-6)
    np.testing.assert_allclose(values["ssim"], PAIRS["skimage_ssim_default"], atol=1e-5)
    np.testing.assert_allclose(values["mse"], PAIRS["mse"], rtol=1e-6)
    np.testing.assert_allclose(values["psnr"], PAIRS["psnr_skimage"], atol=1e-4)
    assert all(value.shape == (10,) and value.dtype == np.float64 for value in values.values())
    identical = list(PAIRS["names"]).index("identical")
    assert (values["mse"][identical], values["psnr"][identical], values["ssim"][identical]) == (0.0, np.inf, 1.0)


def test_gaussian_window_is_wangs():
    values = metrics.reconstruction(PAIRS["a"], PAIRS["b"], window="gaussian")
    np.testing.assert_allclose(values["ssim"], PAIRS["skimage_ssim_gaussian_wang"], atol=1e-5)


def test_reconstruction_of_one_image_does_not_depend_on_the_others():
    together = metrics.reconstruction(PAIRS["a"], PAIRS["b"])
    for n in (0, 3):
        alone = metrics.reconstruction(PAIRS["a"][n : n + 1], PAIRS["b"][n : n + 1])
        assert all(alone[key][0] == together[key][n] for key in together)


def test_reconstruction_says_what_is_wrong():
    x = np.full((2, 3, 16, 16), 0.5, dtype=np.float32)
    for x_hat, message in [
        (x[:1], "shapes differ"),
        (x * 255, r"x_hat must lie in \[0, 1\], got \[127.5, 127.5\]"),
        (x - 1, "x_hat must lie"),
        (x * np.nan, "x_hat holds 1536 NaN"),
        (x[0], r"x_hat must have shape \[N,C,H,W\]"),
        (None, "no x_hat"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.reconstruction(x, x_hat)
    with pytest.raises(ValueError, match="smaller than the 7 x 7"):
        metrics.reconstruction(x[:, :, :6], x[:, :, :6])
    with pytest.raises(ValueError, match="smaller than the 11 x 11"):
        metrics.reconstruction(x[:, :, :10], x[:, :, :10], window="gaussian")
    with pytest.raises(ValueError, match="window must be one of"):
        metrics.reconstruction(x, x, window="box")


# --- Bootstrap --------------------------------------------------------------------------------------------------------


def noisy(n=120, seed=0, levels=None):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    scores = generator.normal(size=n) + labels
    return (scores if levels is None else np.round(scores * levels) / levels), labels


@pytest.mark.parametrize("metric", [metrics.image_auroc, metrics.image_ap, metrics.image_f1max])
@pytest.mark.parametrize("levels", [None, 2])
def test_vectorised_bootstrap_is_the_plain_loop(metric, levels):
    scores, labels = noisy(levels=levels)
    fast = metrics.bootstrap_interval(metric, scores, labels, n=60, seed=3)
    slow = metrics.bootstrap_interval(lambda s, y: metric(s, y), scores, labels, n=60, seed=3)
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_bootstrap_does_not_depend_on_the_block_size(monkeypatch):
    scores, labels = noisy()
    expected = metrics.bootstrap_interval(metrics.image_ap, scores, labels, n=50)
    monkeypatch.setattr(metrics.bootstrap, "BOOTSTRAP_BLOCK", 7 * len(scores))
    assert metrics.bootstrap_interval(metrics.image_ap, scores, labels, n=50) == expected


def test_bootstrap_is_seeded_stratified_and_encloses_the_estimate():
    scores, labels = noisy()
    low, high = metrics.bootstrap_interval(metrics.image_auroc, scores, labels)
    assert 0 <= low < metrics.image_auroc(scores, labels) < high <= 1
    assert (low, high) == metrics.bootstrap_interval(metrics.image_auroc, torch.tensor(scores), labels.tolist())
    assert (low, high) != metrics.bootstrap_interval(metrics.image_auroc, scores, labels, seed=1)
    narrow = metrics.bootstrap_interval(metrics.image_auroc, scores, labels, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    for times in metrics.bootstrap_draws(labels, 20, 0):
        assert (times[:, labels].sum(1) == labels.sum()).all() and (times[:, ~labels].sum(1) == (~labels).sum()).all()


@pytest.mark.slow
def test_bootstrap_width_agrees_with_the_known_standard_error():
    # Hanley and McNeil (1982), for scores of two normal distributions
    scores, labels = noisy(n=1500)
    auroc = metrics.image_auroc(scores, labels)
    positives, negatives = labels.sum(), (~labels).sum()
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    expected = 2 * 1.96 * np.sqrt(variance / (positives * negatives))
    low, high = metrics.bootstrap_interval(metrics.image_auroc, scores, labels, n=2000)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_paired_difference():
    scores, labels = noisy(n=300)
    worse = np.where(np.arange(300) % 4, scores, -scores)
    difference, low, high = metrics.paired_bootstrap_difference(metrics.image_auroc, scores, worse, labels)
    assert difference == metrics.image_auroc(scores, labels) - metrics.image_auroc(worse, labels)
    assert 0 < low < difference < high
    slow = metrics.paired_bootstrap_difference(lambda s, y: metrics.image_auroc(s, y), scores, worse, labels, n=50)
    fast = metrics.paired_bootstrap_difference(metrics.image_auroc, scores, worse, labels, n=50)
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    reverse = metrics.paired_bootstrap_difference(metrics.image_auroc, worse, scores, labels)
    np.testing.assert_allclose(reverse, (-difference, -high, -low), atol=1e-12)
    # pairing: a monotone transform changes nothing, in no resample
    assert metrics.paired_bootstrap_difference(metrics.image_auroc, scores, np.exp(scores), labels) == (0, 0, 0)
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.paired_bootstrap_difference(metrics.image_auroc, scores, worse[1:], labels)


def test_bootstrap_says_what_is_wrong():
    scores, labels = noisy()
    with pytest.raises(ValueError, match="metric must be a function"):
        metrics.bootstrap_interval("I-AUROC", scores, labels)
    with pytest.raises(ValueError, match="n, the number of resamples"):
        metrics.bootstrap_interval(metrics.image_auroc, scores, labels, n=0)
    with pytest.raises(ValueError, match="level"):
        metrics.bootstrap_interval(metrics.image_auroc, scores, labels, level=95)


# -- paired AUPRO ------------------------------------------------------------------------------------------------------


def blobs(count=30, side=32, seed=0):
    """Masks with none, one or two regions, and two noisy maps of them, the second noisier."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), bool)
    for i in range(0, count, 2):
        for _ in range(1 + i % 4 // 2):
            y, x, s = *rng.integers(2, side - 10, 2), rng.integers(3, 8)
            masks[i, y : y + s, x : x + s] = True
    maps = [1.0 * masks + noise * rng.normal(size=masks.shape) for noise in (0.7, 1.2)]
    return *maps, masks


def test_paired_aupro_difference():
    good, poor, masks = blobs()
    difference, low, high = metrics.paired_aupro_difference(good, poor, masks, n=200)
    assert difference == metrics.aupro(good, masks) - metrics.aupro(poor, masks)
    assert 0 < low < difference < high
    flipped = metrics.paired_aupro_difference(poor, good, masks, n=200)
    assert np.allclose(flipped, (-difference, -high, -low))
    assert metrics.paired_aupro_difference(good, good, masks, n=50) == (0.0, 0.0, 0.0)


def test_paired_aupro_counts_are_those_of_aupro():
    for maps in (*blobs()[:2], np.round(blobs()[0], 1)):
        masks = blobs()[2]
        once = np.ones((1, len(masks)), int)
        approximate = metrics.metrics_from_counts(metrics.pixel_counts(maps, masks), once)["AUPRO"][0]
        assert abs(approximate - metrics.aupro(maps, masks)) < 1e-3
        twice = np.r_[np.arange(30), [0, 0, 3]]  # drawn more than once: as if it were there more than once
        times = np.bincount(twice, minlength=30)[None]
        resampled = metrics.metrics_from_counts(metrics.pixel_counts(maps, masks), times)["AUPRO"][0]
        assert abs(resampled - metrics.aupro(maps[twice], masks[twice])) < 1e-3
