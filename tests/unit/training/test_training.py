"""The training loop: it learns, it is deterministic, it resumes exactly, it stops on bad numbers."""

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from diffad_utils.training import BatchLoss, pick_device, train
from diffad_utils.training.settings import checkpointed

SETTINGS = {"num_steps": 30, "lr": 1e-2, "seed": 5, "ema_decay": 0.9, "warmup_steps": 3}


def regression(model, generator):
    x = torch.randn(16, 4, generator=generator)
    return torch.mean((model(x)[:, 0] - x.sum(dim=1)) ** 2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.slow
def test_learns_and_is_deterministic():
    first, second = network(), network()
    log = train(first, regression, **{**SETTINGS, "num_steps": 200})
    train(second, regression, **{**SETTINGS, "num_steps": 200})
    assert torch.equal(weights(first), weights(second))
    assert sum(log.losses[-10:]) < 0.5 * sum(log.losses[:10])
    assert not first.training and log.seconds > 0


def test_every_training_of_a_process_has_its_own_precision():
    first, half, again = network(), network(), network()
    train(first, regression, **SETTINGS)
    train(half, regression, **SETTINGS, mixed_precision="bf16")  # accelerate remembers the first one's and would refuse
    train(again, regression, **SETTINGS)
    assert torch.equal(weights(first), weights(again)) and not torch.equal(weights(first), weights(half))
    assert half[0].weight.dtype == torch.float32


def test_resumes_exactly(tmp_path):
    whole = network()
    reference = train(whole, regression, **SETTINGS)

    class Interrupted(Exception):
        pass

    calls = 0

    def interrupted(model, generator):
        nonlocal calls
        calls += 1
        if calls > 17:
            raise Interrupted
        return regression(model, generator)

    with pytest.raises(Interrupted):
        train(network(), interrupted, **SETTINGS, checkpoint_folder=tmp_path, checkpoint_every=5)
    assert (tmp_path / "checkpoint.pt").exists()
    resumed = network()
    log = train(resumed, regression, **SETTINGS, checkpoint_folder=tmp_path, checkpoint_every=5)
    assert log.resumed_from == 15 and log.losses == reference.losses and log.ema_decay == reference.ema_decay
    assert torch.equal(weights(whole), weights(resumed))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_refuses_a_checkpoint_of_another_run(tmp_path):
    def stop(model, generator):
        if generator.initial_seed() % 1_000_003 == SETTINGS["seed"] * 0 + 12:
            raise KeyboardInterrupt
        return regression(model, generator)

    with pytest.raises(KeyboardInterrupt):
        train(network(), stop, **SETTINGS, checkpoint_folder=tmp_path, checkpoint_every=5)
    with pytest.raises(ValueError, match="was written with"):
        train(network(), regression, **{**SETTINGS, "lr": 1e-3}, checkpoint_folder=tmp_path)


def test_stops_when_the_loss_is_not_finite():
    with pytest.raises(FloatingPointError, match="step 0"):
        train(network(), lambda model, generator: model(torch.ones(1, 4)).sum() * float("nan"), num_steps=3, lr=1e-3)


def test_gradient_accumulation_is_one_large_batch():
    data = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    halves = iter([data[:4], data[4:]])
    accumulated, at_once = network(), network()
    train(accumulated, lambda m, g: (m(next(halves)) ** 2).mean(), num_steps=1, lr=1e-2, gradient_accumulation_steps=2)
    train(at_once, lambda m, g: (m(data) ** 2).mean(), num_steps=1, lr=1e-2)
    assert torch.allclose(weights(accumulated), weights(at_once), atol=1e-5)


def test_pick_device():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=1"):
        pick_device("cuda:1")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA"):
            pick_device("cuda")


def test_nothing_to_train_and_unknown_optimizers_are_refused():
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        train(frozen, regression, num_steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="adamw8bit"):
        train(network(), regression, num_steps=1, lr=1e-3, optimizer="sgd")


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_snapshot_is_the_end_of_a_shorter_run(ema_decay):
    settings = {"lr": 1e-2, "seed": 5, "ema_decay": ema_decay, "lr_scheduler": "constant"}
    model, seen = network(), {}
    train(
        model,
        regression,
        **settings,
        num_steps=6,
        snapshot_steps=[3, 6],
        on_snapshot=lambda step: seen.update({step: weights(model)}),
    )
    shorter, untouched = network(), network()
    train(shorter, regression, **settings, num_steps=3)
    train(untouched, regression, **settings, num_steps=6)
    assert [*seen] == [3, 6] and torch.equal(seen[3], weights(shorter))
    assert torch.equal(seen[6], weights(model)) and torch.equal(weights(model), weights(untouched))


def test_the_log_has_the_decay_that_the_average_came_to():
    """diffusers' average follows the weights closely in a short run, whatever decay is asked for."""
    assert train(network(), regression, **SETTINGS).ema_decay == pytest.approx(30 / 39)  # (1 + n) / (10 + n)
    assert train(network(), regression, **SETTINGS | {"ema_decay": 0.5}).ema_decay == 0.5
    assert train(network(), regression, **SETTINGS | {"ema_decay": None}).ema_decay is None


def test_only_what_requires_a_gradient_moves():
    model = network()
    model[0].requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, regression, num_steps=3, lr=1e-2, weight_decay=0.5)
    assert [torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)] == [True, True, False, False]


def rows_of(generator):
    x = torch.randn(16, 4, generator=generator)
    return x, x.sum(dim=1)


def mean_over_rows(model, x, y):
    return torch.mean((model(x)[:, 0] - y) ** 2)


def out_of_memory_above(limit):
    """The loss on a device that holds ``limit`` rows."""

    def loss(model, x, y):
        value = mean_over_rows(model, x, y)
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return value

    return loss


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_batch_that_does_not_fit_is_halved_with_the_same_result(accumulation):
    whole, halved = network(), network()
    more = SETTINGS | {"gradient_accumulation_steps": accumulation}
    reference = train(whole, BatchLoss(16, rows_of, mean_over_rows), **more)
    with pytest.warns(UserWarning, match="out of memory with 16 images at once; going on with 8"):
        log = train(halved, BatchLoss(16, rows_of, out_of_memory_above(5)), **more)
    assert log.rows_at_once == 4 and reference.rows_at_once is None
    assert torch.allclose(weights(whole), weights(halved), atol=1e-5)
    assert log.losses == pytest.approx(reference.losses, abs=1e-5)


def test_memory_that_runs_out_in_the_middle_of_an_accumulation_begins_the_step_anew():
    whole, halved, calls = network(), network(), 0

    def loss(model, x, y):
        nonlocal calls
        calls += 1
        if calls == 6:  # the second batch of the third step
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mean_over_rows(model, x, y)

    more = SETTINGS | {"gradient_accumulation_steps": 2}
    train(whole, BatchLoss(16, rows_of, mean_over_rows), **more)
    with pytest.warns(UserWarning, match="going on with 8"):
        train(halved, BatchLoss(16, rows_of, loss), **more)
    assert torch.allclose(weights(whole), weights(halved), atol=1e-5)


def test_memory_that_never_suffices_is_said_with_what_to_set():
    with (
        pytest.warns(UserWarning, match="going on with 1"),
        pytest.raises(torch.OutOfMemoryError, match="set train_batch_size to half of what it is"),
    ):
        train(network(), BatchLoss(16, rows_of, out_of_memory_above(0)), **SETTINGS)

    def plain(model, generator):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="set train_batch_size"):
        train(network(), plain, **SETTINGS)


def test_a_batch_loss_is_the_plain_loss():
    plain, apart = network(), network()
    train(plain, regression, **SETTINGS)
    train(apart, BatchLoss(16, rows_of, mean_over_rows), **SETTINGS)
    assert torch.equal(weights(plain), weights(apart))


def test_fp16_on_a_cpu_is_refused_at_once():
    with pytest.raises(ValueError, match="mixed_precision='fp16' needs a GPU to train on; on a CPU use 'bf16' or 'no'"):
        train(network(), regression, **SETTINGS, mixed_precision="fp16")


def test_gradient_checkpointing_holds_for_the_training_alone():
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    with checkpointed(nn.ModuleList([unet])):
        assert unet.is_gradient_checkpointing
    assert not unet.is_gradient_checkpointing
    with pytest.raises(ValueError, match="Linear does not offer it"), checkpointed(nn.Linear(1, 1)):
        pass
