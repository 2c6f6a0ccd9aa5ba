"""The one training loop: accelerate, warm-up + cosine, gradient clipping, EMA, checkpoints that resume exactly.

Everything random in a step comes from a generator seeded by (seed, step), so a run that was interrupted and resumed
takes the very same steps as one that was not. Under ``accelerate launch`` the processes share each step's batches: two
processes do what one does with twice the gradient accumulation.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffad_utils.io import checkpoints
from diffad_utils.io.files import written_whole
from diffad_utils.models.device import is_out_of_memory

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

LossFn = Callable[[nn.Module, torch.Generator], Tensor]


OPTIMIZERS = ("adamw", "adamw8bit")


@dataclass(frozen=True)
class BatchLoss:
    """A `LossFn` whose rows can be computed apart, so that a batch that does not fit the memory is halved.

    rows : B. draw : ``draw(generator) -> tensors [B, ...]``, everything that is drawn for a batch. of : ``of(model,
    *tensors)``, the mean over the rows given of a loss in which no row depends on another.
    """

    rows: int
    draw: Callable[[torch.Generator], Sequence[Tensor]]
    of: Callable[..., Tensor]

    def __call__(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        return self.of(model, *self.draw(generator))


@dataclass
class TrainingLog:
    """What a training run did: the loss of every step, wall seconds of all its parts, the step it was resumed from (or
    0), how many rows the network saw at once after memory had run out (None: whole batches), and the decay that the
    average of the weights came to (None: no average). In a short run that is less than asked for, by the warm-up."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    resumed_from: int = 0
    rows_at_once: int | None = None
    ema_decay: float | None = None


def step_generator(seed: int, step: int, batch: int = 0) -> torch.Generator:
    """CPU generator of one batch of a training step, a function of (seed, step, batch) alone."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step + batch * 2_147_483_659) % 2**63)


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """torch's AdamW, or with "adamw8bit" that of bitsandbytes, which keeps its two moments in 8 bits (Dettmers et al.,
    ICLR 2022) and needs a GPU.

    Raises ``ValueError`` for another name, ``ImportError`` where bitsandbytes is not installed.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    if name == "adamw":
        parameters = list(parameters)
        on_cpu = all(
            p.device.type == "cpu" for p in parameters
        )  # where the loop over the parameters of a small network is slow
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=on_cpu or None)
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ImportError(
            "optimizer='adamw8bit' needs the package bitsandbytes: install it, or use optimizer='adamw'"
        ) from error
    return bitsandbytes.optim.AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)


def train(
    model: nn.Module,
    loss_fn: LossFn,
    *,
    num_steps: int,
    lr: float,
    seed: int = 0,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    lr_scheduler: str = "cosine",
    max_grad_norm: float = 1.0,
    ema_decay: float | None = None,
    gradient_accumulation_steps: int = 1,
    mixed_precision: str = "no",
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 500,
    description: str = "training",
    optimizer: str = "adamw",
    snapshot_steps: Sequence[int] = (),
    on_snapshot: Callable[[int], object] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainingLog:
    """Train ``model`` in place with AdamW on the device it is on, and leave it in eval mode with the EMA weights if
    any.

    Parameters
    ----------
    loss_fn : ``loss_fn(model, generator) -> scalar tensor``. Draws its own batch, timesteps and noise from the CPU
        ``generator`` it is given; with gradient accumulation it is called that many times a step, in each process.
        Where memory runs out with a `BatchLoss`, the step is taken again with half of the rows at once and their
        gradients added: the same step up to rounding.
    num_steps : optimiser steps. ``warmup_steps`` of them raise the rate linearly to ``lr``; ``lr_scheduler`` is a name
        of diffusers' ``get_scheduler``.
    ema_decay : decay of the exponential moving average (with diffusers' warm-up (1 + n) / (10 + n)), or None for none.
    mixed_precision : accelerate's "no", "fp16" or "bf16".
    checkpoint_folder : where to keep ``checkpoint.pt`` every ``checkpoint_every`` steps and to resume from; the
        finished training removes it: what is worth keeping is saved by the caller. None: that of the running notebook,
        if any, every two minutes and kept until the run is recorded (`checkpoints`).
    optimizer : a name for `make_optimizer`.
    snapshot_steps, on_snapshot : after each of these steps ``on_snapshot(step)`` is called while the model holds the
        weights that it would be left with (the averaged ones, with EMA). A resumed run calls it for the steps that are
        left.
    settings : JSON values that the result depends on besides these arguments; a checkpoint with others is refused.

    Raises
    ------
    ValueError
        If ``num_steps`` is not positive, nothing in the model is to be trained, or the checkpoint belongs to another
        configuration.
    FloatingPointError
        As soon as a loss is not finite.
    torch.OutOfMemoryError
        If memory runs out with a single row at once, with another loss than a `BatchLoss`, or with several processes.
    """
    # diffusers takes seconds to import, and a detector that is only loaded or read trains nothing
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    device = next(model.parameters()).device
    check_mixed_precision(mixed_precision, device.type)
    _forget_accelerator()
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=gradient_accumulation_steps,
        cpu=device.type == "cpu",
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(f"{description}: no parameter of the model requires a gradient, so there is nothing to train")
    optimiser = make_optimizer(optimizer, trained, lr, weight_decay)
    # The scheduler is stepped once an optimiser step by hand, so it is not handed to accelerate.
    scheduler = get_scheduler(lr_scheduler, optimiser, num_warmup_steps=warmup_steps, num_training_steps=num_steps)
    prepared, optimiser = accelerator.prepare(model, optimiser)
    ema = EMAModel(trained, decay=ema_decay) if ema_decay is not None else None
    log = TrainingLog()
    own = checkpoint_folder is not None
    checkpoint = (
        Path(checkpoint_folder) / "checkpoint.pt" if own else checkpoints.next_file() if on_snapshot is None else None
    )
    batches = gradient_accumulation_steps * accelerator.num_processes
    settings = dict(settings or {}) | {
        "num_steps": num_steps,
        "lr": lr,
        "seed": seed,
        "ema_decay": ema_decay,
        "accumulation": batches,
    }
    parts = {"optimizer": optimiser, "scheduler": scheduler}
    if accelerator.scaler is not None:  # fp16: the loss scale is a state, too
        parts["scaler"] = accelerator.scaler
    if checkpoint is not None and checkpoint.exists():
        _resume(checkpoint, settings, trained, list(model.buffers()), parts, ema, log)

    start, before = time.perf_counter(), log.seconds
    saved = start
    model.train()
    progress = tqdm(
        range(len(log.losses), num_steps), desc=description, initial=len(log.losses), total=num_steps, mininterval=10.0
    )
    for step in progress:
        numbers = range(accelerator.process_index, batches, accelerator.num_processes)
        total = _gradients(
            accelerator, prepared, loss_fn, partial(step_generator, seed, step), numbers, log, description
        )
        accelerator.clip_grad_norm_(trained, max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        total = accelerator.reduce(total, "mean").item()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"{description}: the loss is {total} at step {step}; lower lr ({lr}) or use mixed_precision='no'"
            )
        scheduler.step()
        if ema is not None:
            ema.step(trained)
        log.losses.append(total)
        progress.set_postfix(loss=f"{sum(log.losses[-50:]) / len(log.losses[-50:]):.4f}", refresh=False)
        if on_snapshot is not None and step + 1 in snapshot_steps:
            _snapshot(on_snapshot, step + 1, trained, ema)
        if step + 1 == num_steps:
            break
        now, up = time.perf_counter(), checkpoints.time_is_up()
        due = (step + 1) % checkpoint_every == 0 if own else now - saved > checkpoints.SECONDS
        if checkpoint is not None and (due or up) and accelerator.is_main_process:
            log.seconds, saved = before + now - start, now
            _save(checkpoint, settings, trained, list(model.buffers()), parts, ema, log)
        if up:
            checkpoints.pause(f"{description}: step {step + 1} of {num_steps}, the session's time is up")
    log.seconds = before + time.perf_counter() - start
    if checkpoint is not None and accelerator.is_main_process:
        if own:
            checkpoint.unlink(missing_ok=True)
        elif log.seconds > checkpoints.SECONDS and log.resumed_from < num_steps:
            _save(checkpoint, settings, trained, list(model.buffers()), parts, ema, log)
    if ema is not None:
        ema.copy_to(trained)
        log.ema_decay = float(ema.get_decay(ema.optimization_step))
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # mixed precision had wrapped its forward
    model.eval()
    return log


def check_mixed_precision(precision: str, device: str) -> None:
    """Raise ``ValueError`` for fp16 on a CPU, where there is no loss scaling to keep small gradients from vanishing."""
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise ValueError("mixed_precision='fp16' needs a GPU to train on; on a CPU use 'bf16' or 'no'")


def _gradients(
    accelerator: Any,
    model: nn.Module,
    loss_fn: LossFn,
    generator_of: Callable[[int], torch.Generator],
    numbers: Sequence[int],
    log: TrainingLog,
    description: str,
) -> Tensor:
    """Leave a step's gradients in the parameters and return its mean loss; with fewer rows at once where memory runs
    out.

    numbers : of the step's batches; ``generator_of(number)`` draws one.
    """
    while True:
        try:
            total = torch.zeros((), device=accelerator.device)
            accelerator.step = 0  # of the accumulation, which may begin anew
            for number in numbers:
                with accelerator.accumulate(model):
                    total += _backward(accelerator, model, loss_fn, generator_of(number), log) / len(numbers)
            return total
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            rows = log.rows_at_once or getattr(loss_fn, "rows", 1)
            if rows == 1 or accelerator.num_processes > 1:
                raise torch.OutOfMemoryError(
                    f"{description}: out of memory with {getattr(loss_fn, 'rows', 'the batch of')} images a step; set "
                    "train_batch_size to half of what it is, or gradient_checkpointing=True, or a smaller image_size"
                ) from error
        log.rows_at_once = (rows + 1) // 2
        said = f"{description}: out of memory with {rows} images at once; going on with {log.rows_at_once}, same steps"
        warnings.warn(said, stacklevel=3)
        for parameter in model.parameters():
            parameter.grad = None
        if torch.cuda.is_available():  # here, not above: while the error is handled it holds on to the memory
            torch.cuda.empty_cache()


def _backward(
    accelerator: Any, model: nn.Module, loss_fn: LossFn, generator: torch.Generator, log: TrainingLog
) -> Tensor:
    """Add the gradients of one batch; its loss."""
    if not isinstance(loss_fn, BatchLoss):
        with accelerator.autocast():
            loss = loss_fn(model, generator)
        accelerator.backward(loss)
        return loss.detach()
    total, drawn = torch.zeros((), device=accelerator.device), loss_fn.draw(generator)
    for rows in zip(*(tensor.split(log.rows_at_once or loss_fn.rows) for tensor in drawn), strict=True):
        with accelerator.autocast():
            loss = loss_fn.of(model, *rows) * (len(rows[0]) / loss_fn.rows)
        accelerator.backward(loss)
        total += loss.detach()
    return total


def _snapshot(
    on_snapshot: Callable[[int], object], step: int, trained: list[nn.Parameter], ema: EMAModel | None
) -> None:
    if ema is None:
        on_snapshot(step)
        return
    ema.store(trained)
    ema.copy_to(trained)
    on_snapshot(step)
    ema.restore(trained)


def _save(
    path: Path,
    settings: dict,
    trained: list[nn.Parameter],
    buffers: list[Tensor],
    parts: dict[str, Any],
    ema: Any,
    log: TrainingLog,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": settings,
        "parameters": [p.detach().cpu() for p in trained],
        "buffers": [b.cpu() for b in buffers],  # the running statistics of batch normalisation among them
        **{name: part.state_dict() for name, part in parts.items()},
        "ema": [p.cpu() for p in ema.shadow_params] if ema is not None else None,
        "random": torch.get_rng_state(),  # for what draws outside of the step's generator, such as dropout
        "losses": log.losses,
        "seconds": log.seconds,
    }
    try:
        with written_whole(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # what torch says of a full disk is a RuntimeError
        kept = "the earlier one is kept" if path.exists() else "there is no earlier one"
        raise OSError(
            f"checkpoint {path} could not be written after {len(log.losses)} steps, {kept}: is the disk full? ({error})"
        ) from error


def _forget_accelerator() -> None:
    """Let the next training choose its device and precision: accelerate keeps those of the first for the whole process.

    With several processes their group is there to stay, and every training has to agree with it.
    """
    from accelerate.state import AcceleratorState, PartialState  # as in `train`

    if not PartialState._shared_state or PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)


def _resume(
    path: Path,
    settings: dict,
    trained: list[nn.Parameter],
    buffers: list[Tensor],
    parts: dict[str, Any],
    ema: Any,
    log: TrainingLog,
) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["settings"] != settings:
        raise ValueError(
            f"{path} was written with {state['settings']}, this run has {settings}; remove it or use another folder"
        )
    with torch.no_grad():
        for p, saved in zip(trained, state["parameters"], strict=True):
            p.copy_(saved)
        for b, saved in zip(buffers, state["buffers"], strict=True):
            b.copy_(saved)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    if ema is not None:
        ema.shadow_params = [saved.to(p.device) for saved, p in zip(state["ema"], trained, strict=True)]
        ema.optimization_step = len(state["losses"])
    torch.set_rng_state(state["random"])
    log.losses, log.seconds = list(state["losses"]), state["seconds"]
    log.resumed_from = len(log.losses)
