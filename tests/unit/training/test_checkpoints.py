"""Trainings of a notebook go on where they were: after an interruption, and in the next session of limited time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from torch import nn

from diffad_utils import training
from diffad_utils.io import checkpoints

SETTINGS = {"num_steps": 8, "lr": 1e-2, "seed": 3, "ema_decay": 0.9}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def regression(model, generator):
    x = torch.randn(16, 4, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


@pytest.fixture(autouse=True)
def no_run(monkeypatch):
    """Every test starts without an open run, and with a checkpoint after every step."""
    monkeypatch.setattr(checkpoints, "_folder", None)
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.delenv(checkpoints.DEADLINE, raising=False)


def two_trainings(stop_at: int | None = None) -> tuple[list, list, torch.Tensor]:
    """A small notebook: two trainings with dropout, then a draw; interrupted in the second at `stop_at`."""
    torch.manual_seed(7)
    first, second, calls = network(), network(), []

    def loss(model, generator):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return regression(model, generator)

    torch.manual_seed(7)
    one = training.train(first, regression, **SETTINGS)
    two = training.train(second, loss, **SETTINGS)
    return one, two, torch.cat([p.detach().flatten() for p in second.parameters()] + [torch.rand(3)])


def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(tmp_path):
    one, two, weights = two_trainings()
    checkpoints.open_run(tmp_path / "run", "settings")
    with pytest.raises(KeyboardInterrupt):
        two_trainings(stop_at=5)
    checkpoints.open_run(tmp_path / "run", "settings")
    again_one, again_two, again_weights = two_trainings()
    assert again_one.resumed_from == 8 and again_two.resumed_from == 4
    assert again_one.losses == one.losses and again_two.losses == two.losses
    assert torch.equal(weights, again_weights)
    checkpoints.close_run()
    assert not (tmp_path / "run").exists()


def test_other_settings_start_anew(tmp_path):
    checkpoints.open_run(tmp_path / "run", "settings")
    training.train(network(), regression, **SETTINGS)
    checkpoints.open_run(tmp_path / "run", "other settings")
    assert training.train(network(), regression, **SETTINGS).resumed_from == 0


def test_short_trainings_and_trainings_outside_of_runs_write_nothing(tmp_path, monkeypatch):
    training.train(network(), regression, **SETTINGS)
    monkeypatch.setattr(checkpoints, "SECONDS", 100.0)
    checkpoints.open_run(tmp_path / "run", "settings")
    training.train(network(), regression, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_at_the_deadline_the_state_is_saved_and_the_notebook_ends_without_an_error(tmp_path, monkeypatch, capsys):
    reference = training.train(network(), regression, **SETTINGS)
    checkpoints.open_run(tmp_path / "run", "settings")
    monkeypatch.setenv(checkpoints.DEADLINE, str(time.time() - 1))
    with pytest.raises(SystemExit) as stopped:
        training.train(network(), regression, **SETTINGS)
    assert stopped.value.code == 0 and "PAUSED: training: step 1 of 8" in capsys.readouterr().out
    monkeypatch.delenv(checkpoints.DEADLINE)
    checkpoints.open_run(tmp_path / "run", "settings")
    log = training.train(network(), regression, **SETTINGS)
    assert log.resumed_from == 1 and log.losses[0] == reference.losses[0]


def linear_loss(model, generator):
    x = torch.randn(16, 4, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def train_and_report(target: Path, accumulation: int) -> None:
    """Twenty steps with a checkpoint on the way; the first process writes losses and weights as JSON."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    log = training.train(
        model,
        linear_loss,
        num_steps=20,
        lr=1e-2,
        seed=3,
        ema_decay=0.9,
        warmup_steps=2,
        gradient_accumulation_steps=accumulation,
        checkpoint_folder=target.with_suffix(".checkpoints"),
        checkpoint_every=7,
    )
    state = PartialState()
    if state.is_main_process:
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
        target.write_text(json.dumps([log.losses, weights, state.num_processes, state.backend]))
    state.destroy_process_group()


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_same_global_batch(tmp_path):
    # `accelerate launch` starts several processes with this launcher too, but on CPUs only through MPI
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        __file__,
        tmp_path / "two",
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    train_and_report(tmp_path / "one", accumulation=2)
    *one, processes_of_one, _ = json.loads((tmp_path / "one").read_text())
    *two, processes, backend = json.loads((tmp_path / "two").read_text())
    assert (processes_of_one, processes, backend) == (1, 2, "gloo")
    for alone, together in zip(one, two, strict=True):
        assert torch.allclose(torch.tensor(alone), torch.tensor(together), rtol=0, atol=1e-4)


if __name__ == "__main__":
    train_and_report(Path(sys.argv[1]), accumulation=1)
