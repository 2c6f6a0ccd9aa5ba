"""Features and data: stopping at the last needed block, the store of training features, decoding and keeping samples.

    python -m benchmarks.features [--device cuda] [--quick]

On a GPU the last table also has the share of the time that the GPU computed while it read and scored a data set.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from benchmarks import harness
from diffad_utils import data
from diffad_utils.io import store
from diffad_utils.methods.base import batches
from diffad_utils.methods.invad import InvAD
from diffad_utils.models.backbones import load_backbone
from diffad_utils.models.feature_cache import cached_features


def stopping(options) -> dict:
    """EfficientNet-B4 with random weights, features at strides 2 to 16 as InvAD takes them, and the whole network."""
    cut = load_backbone("efficientnet-b4", strides=(2, 4, 8, 16), random_seed=0).to(options.device)
    whole = (
        timm.create_model("tf_efficientnet_b4", pretrained=False, features_only=True, out_indices=(0, 1, 2, 3))
        .eval()
        .to(options.device)
    )
    images = torch.rand(1 if options.quick else 4, 3, 128, 128, device=options.device)
    bound = {
        "ours, behind the last block": lambda: cut(images),
        "timm's, all blocks": lambda: whole((images - cut.mean) / cut.std),
    }
    with torch.inference_mode():
        rows, _ = harness.interleave(bound, options.repeats or 5, device=options.device)
    return {"title": f"EfficientNet-B4 features, strides 2 to 16, {len(images)} images of 128 px", "rows": rows}


def caching(options, folder: str) -> dict:
    """InvAD's features of the training images, extracted and from the store; images are in memory in both."""
    index = data.load_index("textures", category="leather")
    train = data.ImageDataset(index[index["split"] == "train"].iloc[: 8 if options.quick else None], size=128)
    detector = InvAD(image_size=128, device=options.device)
    detector._load_backbone()

    def features(cache: str) -> torch.Tensor:
        if cache:
            store.open_run(Path(cache))
        try:
            return cached_features(lambda: batches(train, 32), detector._raw_features, {"benchmark": "features"})[0]
        finally:
            store.close_run()

    bound = {"extracted": lambda: features(""), "from the store": lambda: features(folder)}
    rows, values = harness.interleave(bound, options.repeats or 5, device=options.device)
    for row in rows:
        row["equal"] = bool(torch.equal(values[row["name"]], values["extracted"]))
    return {"title": f"Features of {len(train)} training images, resnet-mini", "rows": rows}


def picture_folder(root: Path, count: int, side: int) -> None:
    """A data set in MVTec AD's layout, of smooth coloured noise as PNG files."""
    generator = np.random.default_rng(0)
    for split, number in (("train", count), ("test", 2)):
        (root / "noise" / split / "good").mkdir(parents=True)
        for i in range(number):
            small = Image.fromarray(generator.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
            small.resize((side, side), Image.Resampling.BILINEAR).save(root / "noise" / split / "good" / f"{i:03}.png")


def reading(options, folder: Path) -> dict:
    """PNG files of 512 px to batches of 256 px: read anew, read by two processes, kept from the pass before."""
    count = 4 if options.quick else 48
    picture_folder(folder, count, 512)
    index = data.load_index("folder", root=folder, category="noise")
    index = index[index["split"] == "train"]
    kept = data.ImageDataset(index, size=256)

    def one_pass(dataset: data.ImageDataset, workers: int = 0) -> int:
        os.environ["DIFFAD_WORKERS"] = str(workers)
        try:
            return sum(len(batch["key"]) for batch in batches(dataset, 16))
        finally:
            del os.environ["DIFFAD_WORKERS"]

    bound = {
        "read anew": lambda: one_pass(data.ImageDataset(index, size=256)),
        "read anew, 2 workers": lambda: one_pass(data.ImageDataset(index, size=256), 2),
        "kept from the pass before": lambda: one_pass(kept),
    }
    rows, _ = harness.interleave(bound, options.repeats or 3, device=options.device)
    for row in rows:
        row["images/s (wall)"] = round(count / row["wall_s"][0], 1)
    note = "processor time is of this process, without the workers': for those look at the wall time, and at free cores"
    return {"title": f"Reading {count} PNG files of 512 px at 256 px", "rows": rows, "note": note}


def busy(options, folder: Path) -> dict:
    """On a GPU: time that it computed over the wall time of reading and inverting a data set, without and with
    workers."""
    index = data.load_index("folder", root=folder, category="noise")
    detector, rows = InvAD(image_size=256, batch_size=16, device=options.device), []
    detector.categories_ = []
    detector._load_backbone()
    for workers in ("0", "8"):
        os.environ["DIFFAD_WORKERS"] = workers
        dataset = data.ImageDataset(index, size=256)
        for batch in batches(dataset, 16):  # warm
            detector._raw_features(batch["image"])
        dataset, computed, start = data.ImageDataset(index, size=256), 0.0, time.perf_counter()
        for batch in batches(dataset, 16):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            detector._raw_features(batch["image"])
            events[1].record()
            torch.cuda.synchronize()
            computed += events[0].elapsed_time(events[1]) / 1000
        rows.append(
            {
                "workers": workers,
                "wall_s": time.perf_counter() - start,
                "GPU busy, copies included": computed / (time.perf_counter() - start),
            }
        )
    del os.environ["DIFFAD_WORKERS"]
    return {"title": "Does the GPU wait for data?", "rows": rows}


def growing(options) -> dict:
    backbone = load_backbone("resnet-mini", strides=(2, 4, 8, 16)).to(options.device)
    sides, seconds = [64, 96] if options.quick else [64, 128, 256], []
    with torch.inference_mode():
        for side in sides:
            images = torch.rand(4, 3, side, side, device=options.device)
            row = harness.interleave({"features": lambda x=images: backbone(x)}, 5, device=options.device)[0][0]
            seconds.append(row["wall_s" if options.device != "cpu" else "cpu_s"][0])
    row = {
        "what": "resnet-mini, side of 4 images, px",
        "sizes": str(sides),
        "seconds": str(seconds),
        "time exponent": harness.growth(sides, seconds),
    }
    return {
        "title": "How cost grows with resolution",
        "rows": [row],
        "note": "2 is proportional to the number of pixels",
    }


def main() -> None:
    options = harness.arguments("features", __doc__)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        tables = [stopping(options), caching(options, folder), reading(options, pictures)]
        if options.device.startswith("cuda"):
            tables.append(busy(options, pictures))
        harness.write("features", options, [*tables, growing(options)])


if __name__ == "__main__":
    main()
