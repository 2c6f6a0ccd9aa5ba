"""All pixel metrics from one sort: in memory, in parts, on a device; equal to the single functions on random inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffad_utils import metrics
from diffad_utils.kernels import threshold_counts
from diffad_utils.metrics.pixel import _on_device

pytestmark = pytest.mark.filterwarnings("ignore:all .* are equal")


@st.composite
def pixel_test_sets(draw):
    """Maps with many ties, negative values, both zeros and huge ranges; masks from empty to nearly full."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 6)), draw(st.integers(2, 20)), draw(st.integers(2, 20))
    kind = draw(st.sampled_from(["normal", "ties", "zeros", "wide", "uint8", "half", "float64"]))
    maps = {
        "normal": lambda: generator.normal(size=shape).astype(np.float32),
        "ties": lambda: generator.integers(-3, 4, shape).astype(np.float32),
        "zeros": lambda: generator.choice(np.array([-0.0, 0.0, 1e-45, -1e-45], np.float32), shape),
        "wide": lambda: (generator.normal(size=shape) * 10.0 ** generator.integers(-38, 38, shape)).astype(np.float32),
        "uint8": lambda: generator.integers(0, 256, shape).astype(np.uint8),
        "half": lambda: generator.normal(size=shape).astype(np.float16),
        "float64": lambda: 1.0 + generator.normal(size=shape) * 1e-12,
    }[kind]()
    masks = generator.random(shape) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    masks[:, : shape[1] // 2] &= generator.random((shape[0], 1, 1)) < 0.5
    masks[0, 0, 0], masks[0, -1, -1] = True, False
    return maps, masks


def single_functions(maps, masks, limit):
    values = {name: metric(maps, masks) for name, metric in metrics.PIXEL_METRICS.items() if name != "AUPRO"}
    fpr, pro, _ = metrics.aupro_curve(maps, masks, drop_intermediate=False)
    end = np.searchsorted(fpr, limit, side="right")
    at_limit = np.interp(limit, fpr[end - 1 : end + 1], pro[end - 1 : end + 1])
    return values | {"AUPRO": np.trapezoid(np.r_[pro[:end], at_limit], np.r_[fpr[:end], limit]) / limit}


@settings(deadline=None, max_examples=150)
@given(pixel_test_sets(), st.sampled_from([0.05, 0.3, 1.0]))
def test_one_sort_gives_what_the_single_functions_give(data, limit):
    maps, masks = data
    expected = single_functions(maps, masks, limit)
    found = metrics.pixel_metrics(maps, masks, limit)
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == list(metrics.PIXEL_METRICS)
    assert metrics.aupro(maps, masks, limit) == found["AUPRO"]


@settings(deadline=None, max_examples=150)
@given(pixel_test_sets(), st.sampled_from([1, 7, 60, 1000]), st.sampled_from([0.05, 0.3, 1.0]), st.data())
def test_parts_give_what_all_at_once_gives(data, run_pixels, limit, draw):
    maps, masks = data
    if maps.dtype == np.float64:
        maps = maps.astype(np.float32)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(maps)), max_size=3)))
    with metrics.PixelMetrics(limit, run_pixels=run_pixels) as collected:
        for start, stop in zip([0, *cuts], [*cuts, len(maps)], strict=True):
            if stop > start:
                collected.update(maps[start:stop], masks[start:stop])
        found = collected.compute()
        assert found == pytest.approx(metrics.pixel_metrics(maps, masks, limit), abs=1e-12)
        assert collected.compute() == found  # reading leaves the runs as they are


@settings(deadline=None, max_examples=100)
@given(pixel_test_sets())
def test_the_device_path_counts_the_same(data):
    # on CPU tensors here: the same torch code that runs on a GPU
    maps, masks = data
    if maps.dtype in (np.float64, np.uint8):
        maps = maps.astype(np.float32)
    expected, _, regions = threshold_counts.count(maps, masks)
    found, device_regions = threshold_counts.count_on_device(torch.from_numpy(maps), torch.from_numpy(masks))
    assert device_regions == regions
    for name in ("thresholds", "hits", "false_above", "false"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.overlap, expected.overlap, rtol=0, atol=1e-12)
    assert _on_device(torch.from_numpy(maps), masks, 0.3) == pytest.approx(
        metrics.pixel_metrics(maps, masks), abs=1e-12
    )


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_packed_integers_order_as_scores_do_and_give_them_back(scores, region):
    scores = np.array(scores, np.float32)
    packed = threshold_counts.pack(scores, np.full(scores.size, region))
    np.testing.assert_array_equal(threshold_counts.unpack(np.sort(packed))[0], np.sort(scores))
    assert (threshold_counts.unpack(packed)[1] == region).all()


def test_parts_of_several_sizes_and_without_a_class():
    generator = np.random.default_rng(0)
    large, small = generator.normal(size=(2, 12, 12)).astype("f4"), generator.normal(size=(1, 5, 7)).astype("f4")
    large_masks, small_masks = generator.random((2, 12, 12)) < 0.2, np.zeros((1, 5, 7), bool)
    with metrics.PixelMetrics() as collected:
        with pytest.raises(ValueError, match="no anomalous pixel among 0"):
            collected.compute()
        collected.update(small, small_masks)
        with pytest.raises(ValueError, match="no anomalous pixel among 35"):
            collected.compute()
        collected.update(torch.from_numpy(large), torch.from_numpy(large_masks))
        found = collected.compute()
    padded = np.full((1, 12, 12), large.min() - 1, "f4")  # pixels below everything change AUROC and AUPRO only
    padded[0, :5, :7] = small
    expected = metrics.pixel_metrics(np.concatenate([large, padded]), np.concatenate([large_masks, padded < -np.inf]))
    assert found["P-AP"] == pytest.approx(expected["P-AP"], abs=1e-12)
    assert found["P-F1max"] == pytest.approx(expected["P-F1max"], abs=1e-12)


def test_parts_refuse_what_float32_does_not_hold_and_clean_up(tmp_path):
    with metrics.PixelMetrics(folder=tmp_path / "runs", run_pixels=10) as collected:
        with pytest.raises(ValueError, match="does not hold float64 exactly"):
            collected.update(np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool))
        with pytest.raises(ValueError, match="1 NaN"):
            collected.update(np.array([[[np.nan, 0.0]]], "f4"), np.zeros((1, 1, 2), bool))
        collected.update(np.zeros((1, 4, 4), "f4"), np.eye(4, dtype=bool)[None])
        with pytest.warns(UserWarning, match="all map values are equal"):
            assert collected.compute()["AUPRO"] == pytest.approx(0.15)
        assert list((tmp_path / "runs").iterdir())
    assert not list((tmp_path / "runs").iterdir())


def test_blocks_are_bounded_however_many_runs():
    generator = np.random.default_rng(0)
    runs = threshold_counts.Runs(run_pixels=500)
    maps = generator.normal(size=(40, 16, 16)).astype("f4")
    masks = generator.random(maps.shape) < 0.5
    for part in range(40):
        runs.add(maps[part : part + 1], masks[part : part + 1])
    sizes = [int(block.hits.sum()) for block in runs.counts()]
    runs.close()
    assert sum(sizes) == masks.sum() and max(sizes) <= 2 * 500 < masks.sum()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_gives_the_same(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(8, 128, 128, generator=generator).to(dtype)
    masks = torch.rand(8, 128, 128, generator=generator) < 0.1
    expected = metrics.pixel_metrics(maps, masks)
    for side in ("cpu", "cuda"):
        assert metrics.pixel_metrics(maps.cuda(), masks.to(side)) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="1 NaN"):
        metrics.pixel_metrics(torch.tensor([[[torch.nan, 0.0]]]).cuda(), torch.tensor([[[1, 0]]]))
