"""Time and memory over the number of test images: InvAD and PatchCore, predict + evaluate + record in batches.

    python -m benchmarks.scale --sizes 500 2000 --side 128
    python -m benchmarks.scale --sizes 500 2000 8000 20000 --side 256

The images are drawn from ``textures/leather`` as they are needed, and none is kept. Every size runs in a process of its
own. What is measured is written to ``results/scale-cpu.json`` after every size; a size that is there already, at the
same settings, is not run again. Backbone: EfficientNet-Lite0 with ImageNet weights. InvAD's denoiser is small and
hardly trained: how well it scores is no matter here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from benchmarks import harness
from diffad_utils import data, study
from diffad_utils.methods import METHODS, Detector, Prediction
from diffad_utils.metrics import evaluate

METHOD_SETTINGS = {
    "invad": {"width": 96, "depth": 2, "train_steps": 20, "warmup_steps": 5, "strides": (8, 16), "grid": 16},
    "anomalib:patchcore": {"coreset_ratio": 0.02},
}
MAPS_ALONE = "maps alone"
"""In the place of a method: random maps, so that only evaluating and recording are measured."""
TRAIN = 32


def drawn(count: int, side: int) -> data.ImageDataset:
    """``count`` test images: those of as many draws of the category as it takes, each seed once."""
    parts, seed = [], 0
    while sum(map(len, parts)) < count:
        index = data.load_index("textures", category="leather", seed=seed)
        parts.append(index[index["split"] == "test"])
        seed += 1
    return data.ImageDataset(pd.concat(parts).head(count), size=side, cache=False)


def random_maps(count: int, side: int) -> Iterator[tuple[Prediction, dict]]:
    """Batches of random maps, every second image with a square defect that is a little brighter."""
    generator = torch.Generator().manual_seed(0)
    for rows in torch.arange(count).split(8):
        label = rows % 2
        mask = torch.zeros(len(rows), side, side, dtype=torch.bool)
        mask[label == 1, side // 4 : side // 2, side // 4 : side // 2] = True
        maps = torch.rand(mask.shape, generator=generator) + 0.2 * mask
        keys = [f"textures/leather/test/{'hole' if i % 2 else 'good'}/{i:05d}" for i in rows.tolist()]
        yield Prediction(maps.amax(dim=(1, 2)), maps), {"key": keys, "label": label, "mask": mask}


def predictions(method: str, count: int, side: int) -> tuple[Detector | None, data.ImageDataset | None]:
    """A detector fitted on 32 images and its test set; nothing for `MAPS_ALONE`."""
    if method == MAPS_ALONE:
        return None, None
    index = data.load_index("textures", category="leather")
    train = data.ImageDataset(index[index["split"] == "train"].head(TRAIN), size=side)
    detector = METHODS[method](
        image_size=side, device="cpu", batch_size=8, backbone="efficientnet-lite0", **METHOD_SETTINGS[method]
    ).fit(train)
    return detector, drawn(count, side)


def measure(method: str, count: int, side: int, at_once: bool) -> dict:
    """Predict, evaluate and record ``count`` images: seconds, and the peak memory of the process.

    at_once : the path for small test sets, all images and maps in memory.
    """
    detector, test = predictions(method, count, side)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        places = {"profile": "scale", "dataset": "textures", "category": "leather", "seed": 0, "output_root": scratch}
        run = study.Run("07_invad", study.Parameters(places | {"data_root": ""}))
        if at_once:
            prediction, batch = detector.predict_dataset(test), data.load_batch(test)
            run.record(prediction, batch, evaluate(prediction, batch), maps=True)
        else:
            with study.Collected(count) as collected:
                for prediction, batch in detector.predict_batches(test) if detector else random_maps(count, side):
                    collected.update(prediction, batch)
                run.record(collected, metrics=collected.metrics(), maps=True)
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - start,
        "peak_MB": harness.megabytes(harness._status("VmHWM")),
    }


def rows_of(done: dict[str, dict]) -> list[dict]:
    """One row a measurement; below them the exponents of time and memory over the number of images."""
    rows = [
        json.loads(name) | values
        for name, values in sorted(done.items(), key=lambda item: json.loads(item[0])["images"])
    ]
    kinds = sorted({(row["method"], row["side"], row["path"]) for row in rows})
    for kind in kinds:
        own = [row for row in rows if (row["method"], row["side"], row["path"]) == kind]
        if len(own) > 1:
            sizes = [row["images"] for row in own]
            exponents = {name: harness.growth(sizes, [row[name] for row in own]) for name in ("cpu_s", "peak_MB")}
            rows.append(dict(zip(("method", "side", "path"), kind, strict=True)) | {"images": "exponent"} | exponents)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 8000, 20000])
    parser.add_argument("--side", type=int, default=256, help="pixels (default 256)")
    parser.add_argument("--methods", nargs="+", default=list(METHOD_SETTINGS), choices=[*METHOD_SETTINGS, MAPS_ALONE])
    parser.add_argument("--at-once", action="store_true", help="the path for small test sets, for comparison")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.one:
        print(json.dumps(measure(options.methods[0], options.sizes[0], options.side, options.at_once)))
        return
    options.device, options.quick = "cpu", False
    kept = harness.RESULTS / "scale-cpu.json"
    done = json.loads(kept.read_text())["measured"] if kept.is_file() else {}
    for count in options.sizes:
        for method in options.methods:
            path = "at once" if options.at_once else "in batches"
            name = json.dumps({"method": method, "side": options.side, "path": path, "images": count})
            if name in done:
                continue
            command = [sys.executable, "-m", "benchmarks.scale", "--one", "--side", str(options.side)]
            command += ["--methods", method, "--sizes", str(count), *(["--at-once"] if options.at_once else [])]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.returncode:
                raise RuntimeError(f"{name} failed in its own process:\n{said.stderr[-2000:]}")
            done[name] = json.loads(said.stdout.strip().splitlines()[-1])
            title = "predict + evaluate + record over the number of test images (textures/leather, drawn as needed)"
            note = "peak_MB: of the whole process, from the first prediction on; exponents by least squares"
            harness.write("scale", options, [{"title": title, "rows": rows_of(done), "note": note}])
            result = json.loads(kept.read_text()) | {"measured": done}
            kept.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
