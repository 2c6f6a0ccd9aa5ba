"""The fields with which a detector's network is trained, for detectors to inherit."""

from __future__ import annotations

from collections.abc import Callable
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

    def _optimise(
        self,
        network: nn.Module,
        loss_fn: Callable[[nn.Module, torch.Generator], Tensor],
        description: str,
        checkpoint_folder: str | Path | None = None,
        **changed: Any,
    ) -> TrainingLog:
        """Train ``network`` in place with these settings; ``changed`` are other arguments of `training.train`."""
        settings = {
            "num_steps": self.train_steps,
            "lr": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "ema_decay": self.ema_decay,
            "seed": self.seed,
            "mixed_precision": self.mixed_precision,
        }
        return train(
            network, loss_fn, description=description, checkpoint_folder=checkpoint_folder, **settings | changed
        )
