"""The one training loop, its settings and its checkpoints.

What may be touched: nothing that changes the order of random draws or what a resumed training comes to, without new
reference numbers; checkpoints stay readable.
"""

from diffad_utils.models.device import pick_device
from diffad_utils.training.loop import (
    OPTIMIZERS,
    BatchLoss,
    TrainingLog,
    check_mixed_precision,
    make_optimizer,
    step_generator,
    train,
)
from diffad_utils.training.settings import Training

__all__ = [
    "OPTIMIZERS",
    "BatchLoss",
    "Training",
    "TrainingLog",
    "check_mixed_precision",
    "make_optimizer",
    "pick_device",
    "step_generator",
    "train",
]
