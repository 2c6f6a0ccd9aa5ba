"""The one training loop and its checkpoints."""

from diffad_utils.models.device import pick_device
from diffad_utils.training.loop import OPTIMIZERS, TrainingLog, make_optimizer, step_generator, train

__all__ = ["OPTIMIZERS", "TrainingLog", "make_optimizer", "pick_device", "step_generator", "train"]
