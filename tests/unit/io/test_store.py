"""The store: entries whole or absent, two writers, a bound, damage, kills at random moments; detectors through it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from diffad_utils import cli, data
from diffad_utils.io import checkpoints, store
from diffad_utils.methods import stored
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.trivial import Trivial


def writing(text: str, size: int = 0):
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)
        (folder / "b.bin").write_bytes(bytes(size))

    return write


def test_folders_that_another_process_removes_are_no_entries(tmp_path, monkeypatch):
    kept, scandir = store.Store(tmp_path), os.scandir
    for kind in ("kept", "removed"):
        kept.put(kind, "key", writing(kind))

    def listed(path):
        if isinstance(path, Path) and path.name == "removed":
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(store.os, "scandir", listed)
    assert [entry.kind for entry in kept.entries()] == ["kept"]


def test_an_entry_comes_back_with_its_note_and_replaces_an_earlier_one(tmp_path):
    kept = store.Store(tmp_path)
    assert kept.take("kind", "key") is None
    for text in ("first", "second"):
        kept.put("kind", "key", writing(text), what="a thing", seconds=1.5)
        entry = kept.take("kind", "key")
        assert (entry.folder / "sub" / "a.txt").read_text() == text
        assert entry.note["what"] == "a thing" and entry.note["seconds"] == 1.5
    assert store.Store(tmp_path, fresh=True).take("kind", "key") is None
    assert [path.name for path in tmp_path.iterdir()] == ["kind"]  # nothing temporary is left
    assert kept.clear() == 1 and kept.entries() == []


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    kept = store.Store(tmp_path, limit=2500)
    for name in ("a", "b"):
        kept.put("kind", name, writing(name, 600))
        os.utime(tmp_path / "kind" / name / store.RECORD, (1, 1 if name == "a" else 2))
    assert kept.take("kind", "a") is not None  # used again, so now b is the oldest
    kept.put("kind", "c", writing("c", 600))
    assert {entry.key for entry in kept.entries()} == {"a", "c"}
    kept.put("kind", "too large", writing("d", 3000))
    assert {entry.key for entry in kept.entries()} == {"a", "c"}


def test_what_is_large_and_quick_to_compute_goes_before_what_is_small_and_slow(tmp_path):
    """A whole smoke study writes more than the limit: a training must not go for a batch of decoded images."""
    kept = store.Store(tmp_path, limit=10**9)
    for name, size, seconds, age in (("training", 100, 40.0, 900), ("decoded", 2000, 0.1, 60), ("map", 500, 0.1, 60)):
        kept.put("kind", name, writing(name, size), seconds=seconds)
        os.utime(tmp_path / "kind" / name / store.RECORD, (1, time.time() - age))
    sizes = {entry.key: entry.size for entry in kept.entries()}
    for limit, left in ((sizes["map"] + sizes["training"], {"training", "map"}), (sizes["training"], {"training"})):
        kept.limit = limit
        kept.trim()
        assert {entry.key for entry in kept.entries()} == left


@pytest.mark.parametrize("damage", ["shorter", "changed", "record"])
def test_a_damaged_entry_is_removed_and_not_taken(tmp_path, damage):
    kept = store.Store(tmp_path)
    kept.put("kind", "key", writing("whole", 100))
    file = tmp_path / "kind" / "key" / (store.RECORD if damage == "record" else "b.bin")
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage != "changed" else b"1" + content[1:])
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.take("kind", "key") is None
    assert not (tmp_path / "kind" / "key").exists()


def test_a_full_or_absent_disk_is_a_warning_and_no_entry(tmp_path):
    kept = store.Store(tmp_path)

    def write(folder):
        raise OSError(28, "No space left on device")

    with pytest.warns(UserWarning, match="No space left"):
        kept.put("kind", "key", write)
    assert kept.take("kind", "key") is None and not list(tmp_path.glob(".*"))
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="DIFFAD_STORE"):
        store.Store(tmp_path / "file" / "store").put("kind", "key", writing("a"))


def test_where_the_store_is(tmp_path, monkeypatch):
    assert store.open_at(tmp_path / ".store").root == tmp_path / ".store"
    monkeypatch.setenv("DIFFAD_STORE", str(tmp_path / "other"))
    monkeypatch.setenv("DIFFAD_STORE_GB", "0.5")
    monkeypatch.setenv("DIFFAD_FRESH", "1")
    found = store.open_at(tmp_path / ".store")
    assert (found.root, found.limit, found.fresh) == (tmp_path / "other", 500_000_000, True)
    monkeypatch.setenv("DIFFAD_STORE", "off")
    assert store.open_at(tmp_path) is None
    monkeypatch.delenv("DIFFAD_STORE")
    for wrong in ("much", "0", "nan"):
        monkeypatch.setenv("DIFFAD_STORE_GB", wrong)
        with pytest.raises(ValueError, match="DIFFAD_STORE_GB must be a number of GB above 0"):
            store.open_at(tmp_path)


KILLED = """
import sys
from pathlib import Path
from diffad_utils.io.store import Store
number, root = int(sys.argv[1]), sys.argv[2]
kept = Store(root, limit=40_000_000)
print("ready", flush=True)
i = 0
while True:
    i += 1
    content = f"{number} {i} ".encode() * 20_000
    def write(folder):
        for name in ("one", "two"):
            (folder / name).write_bytes(content)
    kept.put("kind", str(i % 5), write)
    kept.take("kind", str((i + 1) % 5))
"""


@pytest.mark.slow
def test_nothing_half_written_is_taken_after_kills_at_random_moments(tmp_path):
    """Two writers of the same entries, killed 20 times; whatever is taken has both of its files from one writing."""
    moments, taken = random.Random(0), 0
    for _ in range(10):
        writers = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", KILLED, str(n), str(tmp_path)], stdout=subprocess.PIPE
            )
            for n in range(2)
        ]
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers:
            time.sleep(moments.uniform(0.0, 0.2))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        kept = store.Store(tmp_path)
        for key in map(str, range(5)):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of damage, of which there is none
                entry = kept.take("kind", key)
            if entry is not None:
                one, two = ((entry.folder / name).read_bytes() for name in ("one", "two"))
                assert one == two and len(one) % 20_000 == 0 and one
                taken += 1
    assert taken > 10
    left = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    for path in left:
        os.utime(path, (1, 1))
    store.Store(tmp_path).trim()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------------------------------ detectors


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="leather")
    return data.ImageDataset(index[index["split"] == "train"].iloc[:12], size=64)


SMALL = dict(image_size=64, grid=4, width=32, depth=1, train_steps=3, warmup_steps=1, device="cpu")


@pytest.mark.slow
def test_what_changes_the_result_changes_the_key(train):
    def key(dataset=train, cls=InvAD, **changes):
        return stored.key_of(cls(**SMALL | changes), dataset, {})

    keys = [key(), key(seed=1), key(train_steps=4), key(strides=(4, 8))]
    fewer, other = (data.ImageDataset(train.index.iloc[rows], size=64) for rows in (slice(11), slice(None, None, -1)))
    keys += [key(fewer), key(other), stored.key_of(Trivial(image_size=64), train, {})]
    assert len({*keys}) == len(keys) and key() == keys[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert key() != keys[0]
    torch.set_num_threads(threads)


def test_images_count_by_their_pixels_and_drawn_ones_by_what_they_are_drawn_from(train, monkeypatch):
    drawn = stored.digest_of_images(train)
    monkeypatch.setattr(data.ImageDataset, "_read", lambda *_: pytest.fail("an image was drawn"))
    assert stored.digest_of_images(data.ImageDataset(train.index, size=64)) == drawn
    assert stored.digest_of_images(data.ImageDataset(train.index, size=32)) != drawn
    index, sums = train.index.head(2).assign(dataset="folder"), []
    for grey in (0.0, 0.0, 1 / 255):
        image = torch.full((3, 8, 8), grey)
        monkeypatch.setattr(data.ImageDataset, "_read", lambda *_, image=image: {"image": image})
        sums.append(stored.digest_of_images(data.ImageDataset(index, size=8)))
    assert sums[0] == sums[1] != sums[2]


def test_a_class_without_a_file_and_a_fitted_detector_are_not_kept(train):
    class Own(Trivial):
        pass

    Own.__module__ = "a notebook"
    assert stored.key_of(Own(image_size=64, device="cpu"), train, {}) is None
    fitted = Trivial(image_size=64, device="cpu").fit(train)
    assert stored.key_of(fitted, train, {}) is None
    assert stored.key_of(Trivial(image_size=64, device="cpu"), train, {"callback": print}) is None


def test_a_setting_that_is_a_path_counts_by_its_files(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1")
    first = stored._described(str(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"2")
    assert stored._described(str(tmp_path)) != first and stored._described("no such file") == "no such file"


def test_the_training_log_and_the_count_of_trainings_come_back(train, tmp_path):
    without = InvAD(**SMALL).fit(train)
    store.open_run(tmp_path)
    checkpoints.open_run(tmp_path / ".checkpoints", "")
    for number in (1, 2):
        torch.manual_seed(0)
        detector = InvAD(**SMALL).fit(train)
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
        assert checkpoints.count() == number
        assert detector.training_log_.losses == without.training_log_.losses
    (taken,) = store.taken()
    assert taken["what"] == "invad" and taken["seconds"] == detector.fit_seconds_ >= detector.training_log_.seconds > 0
    other = detector.with_settings(num_steps=2), without.with_settings(num_steps=2)
    images = torch.stack([train[i]["image"] for i in range(3)])
    assert torch.equal(*(each.predict(images).score for each in other))
    checkpoints.close_run()


def test_an_entry_that_does_not_open_is_fitted_anew_and_replaced(train, tmp_path, monkeypatch):
    store.open_run(tmp_path)
    InvAD(**SMALL).fit(train)
    monkeypatch.setattr(InvAD, "_set_state", lambda *_: (_ for _ in ()).throw(ValueError("other weights")))
    with pytest.warns(UserWarning, match="fitted anew.*other weights"):
        again = InvAD(**SMALL).fit(train)
    assert again.calibration_ and [entry["kind"] for entry in store.taken()] == ["features"]


def test_values_come_back_as_they_were():
    import pandas as pd

    from diffad_utils.training import TrainingLog

    value = {
        "log": TrainingLog([0.1, 1 / 3], 2.5, 1, None),
        "rows": (torch.arange(3), ["a", "b"], None, True),
        "table": pd.DataFrame({"t": [100, 200], "value": [0.1, 1 / 3]}),
        "by setting": {("paper", 3): torch.ones(2), ("paper", 5): 0.5},
        "array": np.linspace(0, 1, 3),
        "number": np.float32(0.1),
        "a": {"b": torch.zeros(1)},
        "a.b": torch.ones(1),
    }
    tensors: dict = {}
    text = json.dumps(stored.encode(value, "value", tensors))
    back = stored.decode(json.loads(text), tensors)
    assert back["log"] == value["log"] and back["rows"][1:] == value["rows"][1:]
    assert torch.equal(back["rows"][0], value["rows"][0])
    pd.testing.assert_frame_equal(back["table"], value["table"])
    by_setting = back["by setting"]
    assert [*by_setting] == [*value["by setting"]] and torch.equal(by_setting["paper", 3], torch.ones(2))
    assert np.array_equal(back["array"], value["array"]) and back["array"].dtype == np.float64
    assert back["number"] == value["number"] and type(back["number"]) is np.float32
    assert (back["a"]["b"].item(), back["a.b"].item()) == (0, 1)
    for wrong in (print, np.array(["text"]), torch.nn.Linear(1, 1)):
        with pytest.raises(stored.NotKept):
            stored.encode(wrong, "wrong", {})


def test_the_command_lists_and_clears(train, tmp_path, capsys):
    store.open_run(tmp_path / "smoke")
    Trivial(image_size=64, device="cpu").fit(train)
    assert cli.main(["store", "smoke", "--output", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "trivial" in listed and "1 entries" in listed
    assert cli.main(["store", "--output", str(tmp_path), "--clear"]) == 0
    assert "1 entries removed" in capsys.readouterr().out and not store.active().entries()


def test_a_store_that_cannot_be_written_is_read_and_ends_no_run(tmp_path, monkeypatch):
    kept = store.Store(tmp_path)
    for name in ("whole", "damaged"):
        kept.put("kind", name, writing(name))
    (tmp_path / "kind" / "damaged" / "b.bin").write_bytes(b"other")

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store.os, "utime", refuse)
    monkeypatch.setattr(store.tempfile, "mkdtemp", refuse)
    assert kept.take("kind", "whole") is not None
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.take("kind", "damaged") is None
    kept.limit = 1
    with pytest.warns(UserWarning, match="cannot be removed"):
        kept.trim()


@pytest.mark.parametrize("record", ["{", "[]", '{"note": []}', '{"note": {"seconds": "x"}}'])
def test_damaged_entries_are_listed_and_removed(tmp_path, capsys, record):
    folder = tmp_path / "smoke" / store.FOLDER / "detector" / "key"
    folder.mkdir(parents=True)
    (folder / store.RECORD).write_text(record)
    assert cli.main(["store", "smoke", "--output", str(tmp_path)]) == 0
    assert "damaged" in capsys.readouterr().out
    assert cli.main(["store", "smoke", "--output", str(tmp_path), "--clear"]) == 0
    assert "1 entries removed" in capsys.readouterr().out and not folder.exists()


def test_the_command_says_what_is_wrong_with_a_profile_or_a_folder(tmp_path, capsys, monkeypatch):
    output = ["--output", str(tmp_path)]
    assert cli.main(["store", "mine.yaml", *output]) == 0  # a user's profile has results under the file's name
    assert str(tmp_path / "mine" / store.FOLDER) in capsys.readouterr().out
    for wrong, message in (("nonsense", "no profile 'nonsense'"), ("../smoke", "expected a name")):
        assert cli.main(["store", wrong, *output]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(store.ROOT, str(tmp_path / "file"))
    assert cli.main(["store", "smoke", *output]) == 2
    assert "is a file" in capsys.readouterr().err
