"""Save detectors, a run folder, a checkpoint and a Kaggle kernel with the package as it was before its rooms (8b93a15).

    git worktree add --detach ../before 8b93a15
    cd ../before && PYTHONPATH=$PWD python <this file> <folder> [run] [checkpoint] [kernel] [a detector ...]

It imports modules that are there no more; `tests/unit/test_earlier_layout.py` opens what it left beside it.
"""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffad_utils import checkpoints, data, kaggle, training  # as the package was then
from diffad_utils.methods import METHODS

DENOISER = {"grid": 4, "num_heads": 2, "depth": 1, "warmup_steps": 1}
UNET = {"image_size": 32, "space": "pixel", "block_out_channels": (8, 8), "train_steps": 6}
DETECTORS = {
    "trivial": {},
    "invad": DENOISER | {"width": 32, "train_steps": 20},
    "invad_by_class": DENOISER | {"width": 16, "train_steps": 2, "class_conditional": True},
    "esm": UNET | {"dsm_steps": 6, "train_batch_size": 2, "noise_timestep": 20, "stride": 5},
    "d3ad": UNET | {"num_steps": 2, "train_batch_size": 4, "adaptation_epochs": 0, "k": 3},
    "img2img": {"image_size": 128, "num_inference_steps": 4, "strength": 0.5, "calibration_images": 4},
    "anomalib:padim": {"n_features": 8},
}
"""By folder: the method's name is what stands before "_by_"."""


def save_detector(folder: Path, name: str) -> None:
    """A detector with what it says of four images, which lie beside it: two normal ones, two with defects."""
    index = data.load_index("textures", category="carpet")
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(2)
    batch = data.load_batch(data.ImageDataset(test, size=64))
    pixels, keys = (batch["image"] * 255).round().to(torch.uint8), batch["key"]
    detector = METHODS[name.split("_by_")[0]](**{"image_size": 64, "device": "cpu"} | DETECTORS[name])
    detector.fit(data.ImageDataset(index[index["split"] == "train"].head(12), size=64))
    target = folder / name.replace(":", "_")
    detector.save(target)
    np.savez_compressed(folder / "images.npz", images=pixels.numpy(), keys=np.array(keys))
    said = detector.predict(pixels.float() / 255, keys)
    expected = {"score": said.score, **{f"parts.{k}": v for k, v in said.parts.items()}}
    if said.anomaly_map is not None:
        expected["anomaly_map"] = said.anomaly_map[:, ::4, ::4]
    np.savez_compressed(target / "expected.npz", **{k: v.numpy() for k, v in expected.items()})


def small_training() -> tuple[nn.Module, training.LossFn]:
    """A network, and a loss that draws its batch from the generator of the step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.25), nn.Linear(8, 1))

    def loss(model: nn.Module, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(16, 4, generator=generator)
        return ((model(x)[:, 0] - x.sum(1)) ** 2).mean()

    return network, loss


def save_checkpoint(folder: Path) -> None:
    """A training stopped after 6 of 12 steps, and the losses of one that was not stopped."""
    settings = {"num_steps": 12, "lr": 1e-2, "ema_decay": 0.9, "warmup_steps": 2, "checkpoint_every": 6}
    network, loss = small_training()
    torch.manual_seed(1)  # of the dropout
    whole = training.train(network, loss, **settings)
    expected = {name: tensor.tolist() for name, tensor in network.state_dict().items()}

    network, loss = small_training()
    torch.manual_seed(1)

    def stopped(model: nn.Module, generator: torch.Generator) -> torch.Tensor:
        if not (folder / "checkpoint.pt").exists():
            return loss(model, generator)
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        training.train(network, stopped, checkpoint_folder=folder, **settings)
    (folder / "expected.json").write_text(json.dumps({"losses": whole.losses, "state": expected}))


def save_kernel(folder: Path) -> None:
    """InvAD's kernel with its metadata, and the data set's metadata; the wheel is left out."""
    built = kaggle.build("somebody", notebooks=["07"], output=folder / "built")
    kernel = next(path for path in built.iterdir() if path.name.startswith("07"))
    for file in kernel.iterdir():
        shutil.copy(file, folder / file.name)
    shutil.copy(built / "dataset" / "dataset-metadata.json", folder)
    shutil.rmtree(built)


def save_run(folder: Path) -> None:
    """The committed run of InvAD, without pictures and maps."""
    run = Path(checkpoints.__file__).parents[1] / "reports" / "smoke" / "textures" / "leather" / "invad" / "seed-0"
    for name in ("metrics.json", "manifest.json", "claims.json", "figures.json", "scores.parquet"):
        shutil.copy(run / name, folder / name)


def main() -> None:
    torch.set_num_threads(1)
    target, chosen = Path(sys.argv[1]), sys.argv[2:]
    for save in (save_run, save_checkpoint, save_kernel):
        folder = target / save.__name__.removeprefix("save_")
        if not chosen or folder.name in chosen:
            folder.mkdir(parents=True, exist_ok=True)
            save(folder)
    for name in DETECTORS:
        if not chosen or name in chosen:
            save_detector(target / "detectors", name)


if __name__ == "__main__":
    main()
