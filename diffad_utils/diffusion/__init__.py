"""The mathematics that several papers share: schedule, DDIM in both directions, noise by key, precision.

Pure functions on tensors; each names its paper.
"""

from diffad_utils.diffusion.ddim import (
    SPACINGS,
    EpsFn,
    InversionTimesteps,
    ddim_invert,
    ddim_moves,
    ddim_sample,
    ddim_step,
    inversion_timesteps,
)
from diffad_utils.diffusion.noise import NOISES, draw_noise, image_noise
from diffad_utils.diffusion.objectives import NoisyBatch, epsilon_loss, noisy_batch
from diffad_utils.diffusion.precision import PRECISIONS, autocast, check_precision, cuda_graph, in_precision
from diffad_utils.diffusion.schedule import NoiseSchedule, add_noise
from diffad_utils.diffusion.simplex import simplex_noise

__all__ = [
    "NOISES",
    "PRECISIONS",
    "SPACINGS",
    "EpsFn",
    "InversionTimesteps",
    "NoiseSchedule",
    "NoisyBatch",
    "add_noise",
    "autocast",
    "check_precision",
    "cuda_graph",
    "ddim_invert",
    "ddim_moves",
    "ddim_sample",
    "ddim_step",
    "draw_noise",
    "epsilon_loss",
    "image_noise",
    "in_precision",
    "inversion_timesteps",
    "noisy_batch",
    "simplex_noise",
]
