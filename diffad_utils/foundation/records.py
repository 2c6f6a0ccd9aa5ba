"""Models that took hours: made once, kept with the record of their training, and not made again.

A folder holds a model as it is shipped and `training.json`: settings, losses, time and machine. A training that was
interrupted goes on from its checkpoint beside it; one that was finished is opened.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from diffad_utils.training import TrainingLog

Model = TypeVar("Model")


def obtain(
    folder: str | Path,
    settings: dict,
    train: Callable[..., tuple[Model, TrainingLog]],
    save: Callable[[Model, Path], object],
    load: Callable[[Path], Model],
    *,
    device: str | torch.device = "cpu",
) -> tuple[Model, dict]:
    """The model of `folder`, trained by `train(**settings, device=, checkpoint_folder=)` unless it is there already.

    Returns (model as `load` opens it, record). What comes back is always what lies on disk, in its precision.
    Raises ValueError where the folder holds a model of other settings: nothing is overwritten.
    """
    folder = Path(folder)
    file = folder / "training.json"
    if not file.is_file():
        checkpoints = folder.with_name(folder.name + ".checkpoint")
        model, log = train(**settings, device=device, checkpoint_folder=checkpoints)
        save(model, folder)
        write_record(folder, settings, log, device)
        shutil.rmtree(checkpoints, ignore_errors=True)
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        raise ValueError(
            f"{folder} holds a model trained with {record['settings']}, but {settings} is asked for; "
            "remove the folder to train anew, or use another one"
        )
    return load(folder), record


def write_record(
    folder: str | Path, settings: dict, log: TrainingLog, device: str | torch.device, bins: int = 200
) -> None:
    """Write `training.json`. losses: means over at most `bins` equal stretches of steps, steps: their last steps."""
    parts = np.array_split(np.array(log.losses), min(bins, len(log.losses)))
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else f"CPU ({platform.machine()})"
    record = {
        "settings": settings,
        "steps": np.cumsum([len(part) for part in parts]).tolist(),
        "losses": [round(float(part.mean()), 5) for part in parts],
        "minutes": round(log.seconds / 60, 1),
        "device": f"{name}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
    }
    Path(folder, "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
