"""The fields with which a detector's network is trained, for detectors to inherit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffad_utils.training.loop import TrainingLog, train


@dataclass(kw_only=True)
class Training:
    """Settings of `training.train` (AdamW, warm-up and cosine) as fields of a detector, which has a ``seed``, too."""

    train_steps: int = 200  # optimiser steps
    train_batch_size: int = 8
    learning_rate: float = 1e-3  # after the warm-up
    warmup_steps: int = 20
    ema_decay: float | None = 0.98  # of the average of the weights that is kept; None: the last weights
    mixed_precision: str = "no"  # accelerate's "no", "fp16" or "bf16"
    gradient_checkpointing: bool = False  # less memory, more time, in the networks of diffusers

    def _optimise(
        self,
        network: nn.Module,
        loss_fn: Callable[[nn.Module, torch.Generator], Tensor],
        description: str,
        checkpoint_folder: str | Path | None = None,
        through: nn.Module | None = None,
        **changed: Any,
    ) -> TrainingLog:
        """Train ``network`` in place with these settings; ``changed`` are other arguments of `training.train`.

        through : a frozen network that gradients pass through on their way; its memory is saved, too.
        """
        settings = {
            "num_steps": self.train_steps,
            "lr": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "ema_decay": self.ema_decay,
            "seed": self.seed,
            "mixed_precision": self.mixed_precision,
        }
        saving = [network, *([through] if through else [])] if self.gradient_checkpointing else []
        with checkpointed(*saving):
            return train(
                network, loss_fn, description=description, checkpoint_folder=checkpoint_folder, **settings | changed
            )


@contextmanager
def checkpointed(*networks: nn.Module) -> Iterator[None]:
    """Gradient checkpointing in the models of diffusers in ``networks``, while it lasts.

    Raises ``ValueError`` for a network without a model that offers it.
    """
    models = []
    for network in networks:
        found = [part for part in network.modules() if getattr(part, "_supports_gradient_checkpointing", False)]
        if not found:
            raise ValueError(
                f"gradient_checkpointing=True: {type(network).__name__} does not offer it, set it to False"
            )
        models += found
    for model in models:
        model.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for model in models:
            model.disable_gradient_checkpointing()
