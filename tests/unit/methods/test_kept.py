"""Results through the store: equal with and without it, other keys for other code, inputs and detectors."""

import copy
import json

import numpy as np
import pytest
import torch

from diffad_utils import data
from diffad_utils.io import store
from diffad_utils.methods import kept as module
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.kept import kept, key_of

CALLS: list[str] = []


@kept(ignore=("folder",))
def halves(images: torch.Tensor, by: str = "rows", folder: object = None) -> dict:
    CALLS.append(by)
    torch.rand(3)  # whatever it draws, what follows draws the same
    return {"view": images.transpose(0, 1)[::2], ("mean", 2): images.mean().item(), "spread": np.float64(images.std())}


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """A run whose store keeps everything, however fast it is computed."""
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(module, "BYTES_A_SECOND", 10**15)
    CALLS.clear()
    store.open_run(tmp_path)
    yield
    store.close_run()


@pytest.fixture(scope="module")
def samples():
    index = data.load_index("textures", category="leather")
    train, test = (data.ImageDataset(index[index["split"] == split].head(12), size=64) for split in ("train", "test"))
    return train, data.load_batch(test)


@pytest.fixture(scope="module")
def detector(samples):
    settings = InvAD.contract_settings | {"image_size": 64, "train_steps": 3, "device": "cpu"}
    return InvAD(**settings).fit(samples[0])


def same(one, other):
    assert [*one] == [*other]
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


def test_a_result_is_the_same_without_the_store_with_it_and_from_it():
    images = torch.rand(6, 4)
    with store.paused():
        without = halves(images)
    first, again = halves(images), halves(images, folder="elsewhere")
    same(first, without)
    same(again, without)
    assert again["view"].stride() == without["view"].stride() and type(again["spread"]) is np.float64
    assert len(CALLS) == 2 and [entry["what"] for entry in store.taken()] == ["halves"]


@pytest.mark.parametrize("case", ["without", "kept", "taken"])
def test_random_numbers_go_on_where_they_were(case):
    images = torch.rand(6, 4)
    if case == "taken":
        halves(images)
    torch.manual_seed(0)
    if case == "without":
        with store.paused():
            halves(images)
    else:
        halves(images)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))


def test_other_inputs_settings_and_code_are_other_keys(samples, detector, monkeypatch):
    images = samples[1]["image"]
    other = detector.with_settings(num_steps=2)
    trained = copy.copy(detector)
    trained.denoiser_ = copy.deepcopy(detector.denoiser_)
    arguments = [
        {"images": images, "by": "rows"},
        {"images": images.double(), "by": "rows"},
        {"images": images.flip(0), "by": "rows"},
        {"images": images, "by": "columns"},
        {"images": samples[0]},
        {"images": data.ImageDataset(samples[0].index.iloc[::-1], size=64)},
        *({"self": each, "images": images} for each in (detector, other, trained)),
    ]
    with torch.no_grad():
        next(trained.denoiser_.parameters()).mul_(1.0001)  # in place, after its checksum was taken
    keys = [key_of(halves, given) for given in arguments]
    assert None not in keys and len({*keys}) == len(keys)
    assert keys == [key_of(halves, given) for given in arguments]
    with torch.no_grad():
        next(trained.denoiser_.parameters()).mul_(1.0001)
    assert key_of(halves, arguments[-1]) != keys[-1]
    monkeypatch.setattr(module, "_code", lambda file: "other code")
    assert key_of(halves, arguments[0]) != keys[0]


def test_what_cannot_be_described_is_computed_each_time(samples, detector):
    assert key_of(halves, {"images": print}) is None
    unfitted = InvAD(image_size=64, device="cpu")
    assert key_of(InvAD.predict, {"self": unfitted, "images": samples[1]["image"]}) is None
    for _ in range(2):
        with pytest.raises(AttributeError):
            halves(print)
    assert len(CALLS) == 2


def test_what_is_fast_or_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(module, "BYTES_A_SECOND", 0)
    halves(torch.rand(6, 4))
    monkeypatch.setattr(module, "BYTES_A_SECOND", 10**15)
    monkeypatch.setattr(module, "LEAST_SECONDS", 60.0)
    halves(torch.rand(6, 4))
    assert not store.active().entries()


def test_the_clock_shows_the_time_that_it_took_when_it_was_computed():
    images = torch.rand(6, 4)
    start = store.clock()
    halves(images)
    took = store.clock() - start
    (entry,) = store.active().entries()
    note = json.loads((entry.folder / store.RECORD).read_text())["note"]
    note["seconds"] = 100.0
    record = json.loads((entry.folder / store.RECORD).read_text()) | {"note": note}
    (entry.folder / store.RECORD).write_text(json.dumps(record))
    start = store.clock()
    halves(images)
    assert took < 10 and store.clock() - start == pytest.approx(100.0, abs=0.1)


def test_a_damaged_entry_is_computed_anew():
    images = torch.rand(6, 4)
    first = halves(images)
    (entry,) = store.active().entries()
    (entry.folder / "result.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        same(halves(images), first)
    assert len(CALLS) == 2


def test_a_detector_from_the_store_predicts_from_the_store(samples, detector):
    """Trained here or opened, it is the same detector, and nothing is computed twice."""
    train, batch = samples
    settings = InvAD.contract_settings | {"image_size": 64, "train_steps": 3, "device": "cpu"}
    found = [InvAD(**settings).fit(train).predict(batch["image"], batch["key"]) for _ in range(2)]
    with store.paused():
        found.append(detector.predict(batch["image"], batch["key"]))
    for other in found[1:]:
        assert torch.equal(other.score, found[0].score) and torch.equal(other.anomaly_map, found[0].anomaly_map)
    assert [entry["what"] for entry in store.taken()] == ["invad", "InvAD.predict"]
