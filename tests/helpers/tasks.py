"""Small tasks for the tests of analyses: of a run with its folder, or of a few images alone."""

from pathlib import Path

import torch

from diffad_utils import data
from diffad_utils.analyses.task import Task, load_task
from diffad_utils.study.parameters import Parameters
from diffad_utils.study.run import Run


def run_of(notebook: str, folder: Path, image_size: int = 32, **changed) -> Run:
    """A run on textures/leather whose results go below ``folder``; ``changed`` are further parameters."""
    parameters = {
        "profile": "smoke",
        "dataset": "textures",
        "category": "leather",
        "seed": 0,
        "image_size": image_size,
        "device": "cpu",
        "data_root": "",
        "output_root": str(folder),
        "bootstrap_samples": 50,
    }
    return Run(notebook, Parameters(parameters | changed))


def task_of(notebook: str, folder: Path, image_size: int = 32) -> Task:
    """The task of `run_of`."""
    return load_task(run_of(notebook, folder, image_size))


def few_images(train: int, good: int, anomalous: int, size: int = 64) -> Task:
    """A task of so many images of textures/leather, at ``size`` x ``size`` pixels."""
    index = data.load_index("textures", category="leather", train=train, test_good=good, test_anomalous=anomalous)
    fitted, test = (data.ImageDataset(index[index["split"] == split], size=size) for split in ("train", "test"))
    images = torch.arange(good + anomalous)
    return Task("textures/leather", fitted, test, images, data.load_batch(test), bootstrap_samples=20)
