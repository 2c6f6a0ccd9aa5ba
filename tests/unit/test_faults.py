"""Faults of the machine, made to happen: a full disk, folders that cannot be written, memory that runs out, two at
once."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import kills
import pytest
import torch
from data_trees import mvtec_tree
from runs import make_batch, make_prediction, session

from diffad_utils import cli, data, execution, study, training
from diffad_utils.execution import notebook, workflow
from diffad_utils.methods import Prediction
from diffad_utils.methods.trivial import Trivial

LOADING = {"I-AUROC": 1.0, "I-AP": 1.0}


@pytest.fixture
def mounted(tmp_path):
    """mount(*options) -> a small file system in memory of its own, unmounted afterwards; skips where that is not
    allowed."""
    places = []

    def mount(*options: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=256k", *options]), "tmpfs", str(place)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def remount_read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def fill(place: Path, leave: int) -> Path:
    """A file that takes all of the place but `leave` bytes."""
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    file = place / "other people's data"
    file.write_bytes(b"0" * (free - leave))
    return file


# -- disk full ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [0, 4096, 12288])
def test_a_full_disk_while_recording_leaves_the_earlier_run(mounted, leave):
    disk = mounted()
    study.start("07_invad", session(disk)).record(make_prediction(), make_batch(), LOADING)
    folder = disk / "smoke" / "textures" / "carpet" / "invad" / "seed-0"
    before = contents(folder)
    fill(disk, leave)
    run = study.start("07_invad", session(disk))
    with pytest.raises(OSError, match="No space left"):
        run.path("large.bin").write_bytes(b"1" * 100_000)
        run.record(make_prediction(64), make_batch(64), LOADING)
    assert contents(folder) == before
    assert [record.folder for record in study.load_runs(disk / "smoke")] == [folder]


def test_a_full_disk_while_training_leaves_the_earlier_checkpoint(mounted):
    disk = mounted()
    model = torch.nn.Linear(100, 100)
    loss = lambda net, generator: net(torch.randn(4, 100, generator=generator)).square().mean()  # noqa: E731
    options = dict(num_steps=6, lr=1e-3, seed=0, checkpoint_folder=disk / "checkpoints", checkpoint_every=2)

    calls = []

    def then_full(net, generator):
        calls.append(1)
        if len(calls) == 4:
            fill(disk, 1000)
        return loss(net, generator)

    with pytest.raises(OSError, match="checkpoint.*earlier"):
        training.train(model, then_full, **options)
    (disk / "other people's data").unlink()
    again = torch.nn.Linear(100, 100)
    log = training.train(again, loss, **options)
    assert log.resumed_from == 2 and len(log.losses) == 6


def test_a_full_disk_while_saving_a_detector_leaves_the_earlier_one(mounted):
    disk = mounted()
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(6), size=32)
    detector = Trivial(image_size=32, device="cpu").fit(train)
    detector.save(disk / "detector")
    before = contents(disk / "detector")
    fill(disk, 0)
    with pytest.raises(OSError, match="detector"):
        detector.save(disk / "detector")
    assert contents(disk / "detector") == before


# -- kill -9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    assert kills.check("training", tmp_path, kills=2, rng=random.Random(1)) == []


# -- permissions -------------------------------------------------------------------------------------------------------


def test_a_read_only_data_folder_is_enough(mounted):
    disk = mounted()
    mvtec_tree(disk / "set", "part")
    remount_read_only(disk)
    index = data.load_index("folder", disk / "set")
    assert len(data.load_batch(data.ImageDataset(index, size=16))["key"]) == len(index)
    assert data.check("folder", disk / "set") == []


def test_reports_that_cannot_be_written_are_said_before_the_work(mounted, monkeypatch, capsys):
    disk = mounted()
    remount_read_only(disk)
    monkeypatch.setattr(notebook, "_execute", lambda *a, **k: pytest.fail("the notebook was started"))
    assert cli.main(["run", "07", "-p", f"output_root={disk}"]) == 2
    said = capsys.readouterr().err
    assert "Read-only" in said and str(disk) in said and "Traceback" not in said and said.count("\n") == 1


# -- two at once -------------------------------------------------------------------------------------------------------


def test_a_second_study_of_the_same_reports_is_refused(tmp_path):
    with workflow._profile_locked(tmp_path / "smoke" / execution.WORK):
        with pytest.raises(execution.ProfileError, match=r"another run is writing .*smoke.*wait"):
            workflow._profile_locked(tmp_path / "smoke" / execution.WORK).__enter__()
    with workflow._profile_locked(tmp_path / "smoke" / execution.WORK):
        pass


def test_two_runs_of_one_folder_leave_one_whole_run(tmp_path):
    """Whoever records last wins; there is never a mixture, and nothing is left over."""
    first, second = (study.start("07_invad", session(tmp_path)) for _ in range(2))
    first.path("note.txt").write_text("first")
    second.path("note.txt").write_text("second")
    second.record(make_prediction(), make_batch(), LOADING)
    folder = first.record(make_prediction(), make_batch(), LOADING)
    assert (folder / "note.txt").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["seed-0"]


# -- out of memory -----------------------------------------------------------------------------------------------------


class Greedy(Trivial):
    """Trivial on a device whose memory holds `fits` images."""

    fits = 4

    def predict(self, images, keys=None) -> Prediction:
        if len(images) > self.fits:
            raise torch.OutOfMemoryError(f"no memory for {len(images)} images")
        return super().predict(images, keys)


@pytest.fixture(scope="module")
def carpet():
    index = data.load_index("textures", category="carpet")
    return data.ImageDataset(index[index["split"] == "train"].head(22), size=32)


def test_out_of_memory_means_smaller_batches_and_the_same_results(carpet):
    detector = Greedy(image_size=32, device="cpu", batch_size=16).fit(carpet)
    with pytest.warns(UserWarning, match="out of memory.*16 images.*8"):
        predicted = detector.predict_dataset(carpet)
    plain = Trivial(image_size=32, device="cpu").fit(carpet).predict_dataset(carpet)
    assert torch.allclose(predicted.score, plain.score, atol=1e-5) and detector.batch_size == 4


def test_an_image_that_does_not_fit_alone_is_an_error(carpet):
    detector = Greedy(image_size=32, device="cpu").fit(carpet)
    detector.fits = 0
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning):
        detector.predict_dataset(carpet)
