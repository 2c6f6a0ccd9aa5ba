"""A test set that arrives in batches gives the same files and metrics as all of it at once."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from runs import session

from diffad_utils import data, metrics, study
from diffad_utils.methods import base
from diffad_utils.methods.autoencoder import Autoencoder
from diffad_utils.methods.trivial import Trivial
from diffad_utils.metrics import evaluation


@pytest.fixture(scope="module")
def sets():
    index = data.load_index("textures", category="carpet")
    test = index[index["split"] == "test"]
    chosen = pd.concat([test[test["label"] == 0].head(7), test[test["label"] == 1].head(6)])
    return (data.ImageDataset(index[index["split"] == "train"].head(12), size=64), data.ImageDataset(chosen, size=64))


@pytest.fixture(scope="module")
def detector(sets):
    return Autoencoder(**{"image_size": 64, "device": "cpu", "batch_size": 5} | Autoencoder.contract_settings).fit(
        sets[0]
    )


def same_to_rounding(found, expected):
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-11, abs=1e-12), name


@pytest.mark.slow
def test_recorded_in_batches_and_at_once(sets, detector, tmp_path):
    test, records = sets[1], {}
    batch = data.load_batch(test)
    prediction = detector.predict_dataset(test)
    at_once = metrics.evaluate(prediction, batch)
    for name in ("once", "batches"):
        run = study.start("02_vae_bottleneck", session(tmp_path / name))
        if name == "once":
            folder = run.record(prediction, batch, at_once, maps=True)
        else:
            with study.Collected(len(test)) as collected:
                for part, of in detector.predict_batches(test):
                    collected.update(part, of)
                in_batches = collected.metrics()
                folder = run.record(collected, metrics=in_batches, maps=True)
        records[name] = study.load_run(folder)
    same_to_rounding(in_batches, at_once)
    assert (records["once"].folder / "metrics.json").read_bytes() == (
        records["batches"].folder / "metrics.json"
    ).read_bytes()
    once, batches = records["once"], records["batches"]
    pd.testing.assert_frame_equal(batches.scores(), once.scores())
    pd.testing.assert_frame_equal(batches.reconstructions(), once.reconstructions())
    for found, expected in zip(batches.maps(), once.maps(), strict=True):
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert np.array_equal(batches.masks(), once.masks()) and once.masks().any()
    assert batches.manifest["images"] == len(test) and batches.manifest["nfe"] == once.manifest["nfe"]


def test_an_interrupted_test_set_is_not_recorded(sets, detector, tmp_path):
    with study.Collected(len(sets[1])) as collected:
        collected.update(*next(detector.predict_batches(sets[1])))
        with pytest.raises(ValueError, match="5 of 13 images were predicted"):
            study.start("02_vae_bottleneck", session(tmp_path)).record(collected, metrics={})


def test_maps_beyond_the_limit_lie_in_a_file_and_are_the_same(sets, detector, monkeypatch):
    expected = detector.predict_dataset(sets[1])
    monkeypatch.setattr(base, "IN_MEMORY", 1000)
    found = detector.predict_dataset(sets[1])
    for name in ("score", "anomaly_map", "reconstruction"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    with pytest.raises(ValueError, match="empty"):
        base.Prediction.concatenate([])


def test_maps_beyond_what_is_sorted_in_memory_are_evaluated_in_parts(sets, monkeypatch):
    trivial = Trivial(image_size=64, device="cpu").fit(sets[0])
    prediction, batch = trivial.predict_dataset(sets[1]), data.load_batch(sets[1])
    batch["mask"] = batch["mask"].clone()
    batch["mask"][-1] = False  # an anomalous image without a mask
    with pytest.warns(UserWarning, match="1 of 6 anomalous images have no mask"):
        expected = metrics.evaluate(prediction, batch)
    monkeypatch.setattr(evaluation, "MAPS_AT_ONCE", 1000)
    with pytest.warns(UserWarning, match="1 of 6 anomalous images have no mask"):
        same_to_rounding(metrics.evaluate(prediction, batch), expected)


@pytest.mark.parametrize("lacking", ["masks", "anomalous images", "maps"])
def test_what_cannot_be_computed_is_absent_in_parts_too(sets, lacking):
    trivial = Trivial(image_size=64, device="cpu", batch_size=4).fit(sets[0])
    with metrics.Evaluation() as collected, warnings.catch_warnings():
        warnings.simplefilter("error")
        for prediction, batch in trivial.predict_batches(sets[1]):
            if lacking == "masks":
                batch["mask"] = torch.zeros_like(batch["mask"])
            elif lacking == "maps":
                prediction.anomaly_map = None
            elif batch["label"].any():
                continue
            collected.update(prediction, batch)
        names = collected.compute().keys()
    assert names == (set() if lacking == "anomalous images" else metrics.IMAGE_METRICS.keys())
    with metrics.Evaluation() as empty, pytest.raises(ValueError, match="no batch to evaluate"):
        empty.compute()


def test_a_normal_image_with_a_mask_is_refused_in_parts_too(sets):
    trivial = Trivial(image_size=64, device="cpu").fit(sets[0])
    prediction, batch = next(trivial.predict_batches(sets[1]))
    batch["mask"] = torch.ones_like(batch["mask"])
    with metrics.Evaluation() as collected, pytest.raises(ValueError, match="labelled normal"):
        collected.update(prediction, batch)


def test_small_maps_in_parts_are_those_of_all_at_once():
    maps = torch.rand(9, 32, 32, generator=torch.Generator().manual_seed(0))
    for values in (maps, maps + 100, maps * 1e6):
        for limit in (4_000_000, 5_000, 1_000):
            small = study.tables.SmallMaps(len(values), limit)
            for part in values.split(4):
                small.update(part)
            expected = study.small_maps(values, limit)
            assert small.result().dtype == expected.dtype and np.array_equal(small.result(), expected)
            assert expected.nbytes <= limit and json.dumps(expected.shape)
