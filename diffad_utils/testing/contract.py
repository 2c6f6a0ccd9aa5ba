"""The contract that every detector keeps, as tests to inherit. For a method of your own, in a file ``test_mine.py``::

    from diffad_utils.testing.contract import DetectorContract
    from my_package import MyDetector

    class TestMyDetector(DetectorContract):
        detector = MyDetector

The suite fits ``MyDetector(image_size=64, device=device, **MyDetector.contract_settings)`` to twelve small images; give
the class `contract_settings` that make it small enough for a second or two. ``MyDetector.contract_attributes`` adapts
the suite:

localises : whether predictions have an anomaly map.
trained : whether `fit` draws or trains anything, so that a repeated fit is worth checking.
tolerance : of the comparison of an image alone with the image in a batch; 1e-5 relative to the range of the values.
gross_auroc : I-AUROC that it has to reach on grossly damaged images against intact ones; None where the small settings
    are too weak to ask for any.

A subclass with ``device = "cuda"`` asks the same on a GPU.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from diffad_utils import data, metrics
from diffad_utils.io import store
from diffad_utils.methods import kept, stored
from diffad_utils.methods.base import FAMILIES, Detector, Prediction

SIZE = 64


def _samples(size: int) -> tuple[data.ImageDataset, dict]:
    """Twelve normal training images, and a test batch of three intact and three defective ones."""
    index = data.load_index("textures", category="carpet")
    train = index[index["split"] == "train"].head(12)
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(3)
    return data.ImageDataset(train, size=size), data.load_batch(data.ImageDataset(test, size=size))


def damaged(images: torch.Tensor) -> torch.Tensor:
    """The images with a black and a white bar over a third of each: nobody could miss it."""
    images, height = images.clone(), images.shape[-2]
    images[..., height // 3 : height // 2, :], images[..., height // 2 : 2 * height // 3, :] = 0.0, 1.0
    return images


def _close(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, tolerance: float) -> bool:
    """Equal up to ``tolerance`` times the largest magnitude in ``scale``, or to the tolerance itself for small
    values."""
    return bool((a.double() - b.double()).abs().max() <= tolerance * max(1.0, scale.double().abs().max().item()))


def holds_networks(detector: Detector) -> bool:
    """Whether a network is among the attributes of a detector, or among theirs (a pipeline's, a detector's)."""
    values = list(vars(detector).values())
    if any(holds_networks(value) for value in values if isinstance(value, Detector)):
        return True
    values += [inner for value in values if hasattr(value, "__dict__") for inner in vars(value).values()]
    return any(isinstance(value, nn.Module) for value in values)


class DetectorContract:
    detector: ClassVar[type[Detector] | None] = None
    device: ClassVar[str] = "cpu"
    localises: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    gross_auroc: ClassVar[float | None] = 0.8

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        for name, value in (cls.detector.contract_attributes if cls.detector else {}).items():
            if name not in vars(cls):
                setattr(cls, name, value)

    @classmethod
    def make(cls) -> Detector:
        """An unfitted detector, small enough to be fitted in a second or two."""
        if cls.detector is None:
            raise NotImplementedError("give the suite a class: detector = MyDetector, or override make()")
        settings: dict[str, Any] = {"image_size": SIZE, "device": cls.device} | dict(cls.detector.contract_settings)
        return cls.detector(**settings)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def one_thread(cls):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @pytest.fixture(scope="class")
    @classmethod
    def samples(cls):
        return _samples(cls.make().image_size)

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, samples):
        return cls.make().fit(samples[0])

    @pytest.fixture(scope="class")
    @classmethod
    def predicted(cls, fitted, samples) -> Prediction:
        return fitted.predict(samples[1]["image"], samples[1]["key"])

    def test_what_it_says_of_itself(self):
        """What comparison and report read off the class; a wrong family makes the front page's sentence wrong."""
        cls = type(self.make())
        assert cls.name and cls.family in FAMILIES, f"{cls.__name__}: set family to one of {FAMILIES}"
        assert isinstance(cls.published_as, str)

    def test_its_weights_are_counted(self, fitted):
        """`networks` finds what a prediction runs through, wherever the detector keeps it."""
        counted = sum(p.numel() for network in fitted.networks() for p in network.parameters())
        assert (counted > 0) == holds_networks(fitted)

    def test_what_a_prediction_holds(self, predicted, samples):
        shape = samples[1]["mask"].shape
        assert isinstance(predicted, Prediction) and predicted.nfe >= 0
        assert predicted.score.shape == shape[:1] and predicted.score.dtype == torch.float32
        assert (predicted.anomaly_map is not None) == self.localises
        for name, values, expected in (
            ("anomaly_map", predicted.anomaly_map, shape),
            ("reconstruction", predicted.reconstruction, samples[1]["image"].shape),
        ):
            if values is not None:
                assert values.shape == expected and values.dtype == torch.float32, name
                assert bool(torch.isfinite(values).all()), name
        if predicted.reconstruction is not None:
            assert predicted.reconstruction.min() >= 0 and predicted.reconstruction.max() <= 1
        for name, values in ({"score": predicted.score} | predicted.parts).items():
            assert values.shape == shape[:1] and bool(torch.isfinite(values).all()), name
            assert values.device.type == "cpu", name

    def test_an_image_alone_equals_the_image_in_a_batch(self, fitted, predicted, samples):
        images, keys = samples[1]["image"], samples[1]["key"]
        for i in (0, 4):
            alone = fitted.predict(images[i : i + 1], keys[i : i + 1])
            self._same(alone, predicted, [i])

    def test_without_keys_an_image_alone_equals_the_image_in_a_batch_too(self, fitted, samples):
        images = samples[1]["image"]
        together = fitted.predict(images)
        self._same(fitted.predict(images[3:4]), together, [3])
        self._same(fitted.predict(images.flip(0)), together, [5, 4, 3, 2, 1, 0])

    def test_the_order_of_the_test_set_does_not_matter(self, fitted, predicted, samples):
        order = [5, 2, 0, 4, 1, 3]
        shuffled = fitted.predict(samples[1]["image"][order], [samples[1]["key"][i] for i in order])
        self._same(shuffled, predicted, order)

    def _same(self, some: Prediction, of: Prediction, rows: list[int], tolerance: float | None = None) -> None:
        tolerance = tolerance or self.tolerance
        assert _close(some.score, of.score[rows], of.score, tolerance)
        if self.localises:
            assert _close(some.anomaly_map, of.anomaly_map[rows], of.anomaly_map, tolerance)

    def test_predicting_teaches_it_nothing(self, fitted, predicted, samples):
        """No statistic of test images is kept: after very different images, the same prediction again, to the bit."""
        before = copy.deepcopy(fitted._state())
        fitted.predict(damaged(samples[1]["image"]), samples[1]["key"])
        after = fitted._state()
        assert before[1] == after[1] and all(torch.equal(before[0][name], after[0][name]) for name in before[0])
        assert torch.equal(fitted.predict(samples[1]["image"], samples[1]["key"]).score, predicted.score)

    def test_chance_comes_from_seed_and_key_alone(self, fitted, predicted, samples):
        torch.manual_seed(123456)
        state = torch.get_rng_state()
        assert torch.equal(fitted.predict(samples[1]["image"], samples[1]["key"]).score, predicted.score)
        assert torch.equal(torch.get_rng_state(), state), "predict draws from torch's global generator"

    @pytest.mark.slow
    def test_the_number_of_threads_hardly_matters(self, fitted, predicted, samples):
        torch.set_num_threads(2)
        try:
            self._same(
                fitted.predict(samples[1]["image"], samples[1]["key"]), predicted, list(range(6)), 10 * self.tolerance
            )
        finally:
            torch.set_num_threads(1)

    def test_calibration_is_made_without_test_data(self, samples):
        """`fit` sees training images only: it refuses a data set with anomalous images in it."""
        index = data.load_index("textures", category="carpet")
        with pytest.raises(ValueError, match="anomalous"):
            self.make().fit(data.ImageDataset(index[index["split"] == "test"], size=samples[0].size))

    def test_same_seed_same_detector(self, predicted, samples):
        if not self.trained:
            pytest.skip("nothing is drawn or trained")
        torch.manual_seed(98765)
        again = self.make().fit(samples[0]).predict(samples[1]["image"], samples[1]["key"])
        assert torch.equal(again.score, predicted.score)

    def test_saved_and_loaded(self, fitted, predicted, samples, tmp_path):
        fitted.save(tmp_path)
        assert not [
            file for file in tmp_path.rglob("*") if file.suffix in {".pkl", ".pt", ".pth", ".bin", ".ckpt", ".tmp"}
        ]
        loaded = type(fitted).load(tmp_path, device=self.device)
        after = loaded.predict(samples[1]["image"], samples[1]["key"])
        self._same(after, predicted, list(range(6)))
        with pytest.raises(FileNotFoundError, match="detector.json"):
            type(fitted).load(tmp_path / "nowhere")
        record = (tmp_path / "detector.json").read_text().replace(f'"method": "{fitted.name}"', '"method": "another"')
        (tmp_path / "detector.json").write_text(record)
        with pytest.raises(ValueError, match="another"):
            type(fitted).load(tmp_path)

    def test_from_the_store_it_is_what_fit_leaves(self, fitted, predicted, samples, tmp_path, monkeypatch):
        """A rerun takes the fitted detector and its predictions from the run's store: the same attributes and bits. So
        does one that has only features of the training images from there."""
        monkeypatch.setattr(kept, "LEAST_SECONDS", 0.0)
        monkeypatch.setattr(kept, "BYTES_A_SECOND", 10**15)
        store.open_run(tmp_path)
        try:
            if stored.key_of(self.make(), samples[0], {}) is None:
                pytest.skip("not kept: see diffad_utils.methods.stored")
            first, second = self.make().fit(samples[0]), self.make().fit(samples[0])
            taken = [entry["kind"] for entry in store.taken()]
            afterwards = [each.predict(samples[1]["image"], samples[1]["key"]) for each in (first, second)]
            results = [entry["what"] for entry in store.taken()[len(taken) :]]
            monkeypatch.setattr(stored, "key_of", lambda *_: None)
            anew = self.make().fit(samples[0])
        finally:
            store.close_run()
        fits = [kind for kind in taken if kind != kept.RESULTS]  # a fit may compute the same twice
        assert fits == [stored.FITTED], "fit leaves something that save and load do not bring back"
        assert results and results[-1].endswith(".predict"), "the opened detector's prediction has another key"
        monkeypatch.undo()
        afterwards.append(anew.predict(samples[1]["image"], samples[1]["key"]))
        for other, after in zip((first, second, anew), afterwards, strict=True):
            assert set(vars(other)) == set(vars(fitted))
            assert self._layouts(other) == self._layouts(fitted), "sums over another layout have other last bits"
            assert torch.equal(after.score, predicted.score)
            assert all(torch.equal(after.parts[name], values) for name, values in predicted.parts.items())
            if self.localises:
                assert torch.equal(after.anomaly_map, predicted.anomaly_map)

    @staticmethod
    def _layouts(detector: Detector) -> dict[str, tuple[int, ...]]:
        return {name: value.stride() for name, value in vars(detector).items() if isinstance(value, torch.Tensor)}

    def test_higher_is_more_anomalous(self, fitted, samples):
        if self.gross_auroc is None:
            pytest.skip("too weak at these settings")
        normal = data.load_batch(samples[0])
        images, keys = normal["image"], normal["key"]
        scores = torch.cat([fitted.predict(images, keys).score, fitted.predict(damaged(images), keys).score])
        assert metrics.image_auroc(scores, [0] * len(keys) + [1] * len(keys)) >= self.gross_auroc

    def test_bad_input_is_refused(self, fitted, samples):
        size = samples[1]["image"].shape[-1]
        for images in (
            torch.zeros(3, size, size),
            torch.zeros(1, 1, size, size),
            torch.zeros(1, 3, size, size, dtype=torch.uint8),
        ):
            with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
                fitted.predict(images)
        for value in (255.0, -0.1, float("nan")):
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                fitted.predict(torch.full((1, 3, size, size), value))
        with pytest.raises(ValueError, match="at least one image"):
            fitted.predict(samples[1]["image"][:0])
        with pytest.raises(RuntimeError, match="not fitted"):
            self.make().predict(samples[1]["image"], samples[1]["key"])

    def test_any_image_size(self, fitted, samples):
        prediction = fitted.predict(
            torch.rand(2, 3, 50, 90, generator=torch.Generator().manual_seed(0)), samples[1]["key"][:2]
        )
        assert prediction.score.shape == (2,)
        if self.localises:
            assert prediction.anomaly_map.shape == (2, 50, 90)
        if prediction.reconstruction is not None:
            assert prediction.reconstruction.shape == (2, 3, 50, 90)
