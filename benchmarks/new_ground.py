"""What simplex noise, inversion and a masked second pass gain, each beside its plain form on the same images.

    .venv/bin/python -m benchmarks.new_ground [--images 40] [--seeds 0 1] [--print]

One cell is a category and a seed: every network is trained on its normal images, and every score is taken of the same
test images. What is finished of a cell is kept in benchmarks/results/new_ground-cpu.json, so that an interrupted run
goes on; the tables are in benchmarks/results/new-ground.md. About two minutes a cell on one core. Nothing was chosen on
these images: the settings are those of the smoke profile, but for what `SETTINGS` says.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import pandas as pd
import torch

from benchmarks import harness
from diffad_utils import data, metrics
from diffad_utils.analyses.wording import relation
from diffad_utils.io.files import write_atomically
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.d3ad import D3AD, DDAD
from diffad_utils.methods.d3ad.inversion import D3ADInversion
from diffad_utils.methods.esm import SGM
from diffad_utils.methods.esm.inversion import SGMInversion
from diffad_utils.methods.img2img import Img2Img, Img2ImgMasked
from diffad_utils.methods.img2img.inversion import Img2ImgInversion
from diffad_utils.methods.inversion import Inversion
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.methods.pixel_ddpm_inversion import PixelDDPMInversion
from diffad_utils.metrics import pooling

TASKS = (("textures", "leather"), ("textures", "connector"), ("textures", "carpet"), ("elpv", "mono"))
SIZE, BOOTSTRAP, FAR = 128, 500, 250
JSON, PAGE = harness.RESULTS / "new_ground-cpu.json", harness.RESULTS / "new-ground.md"

LATENT = dict(
    image_size=SIZE, train_steps=120, train_batch_size=16, learning_rate=2e-3, block_out_channels=(32, 64, 64)
)
LATENT |= dict(attention_resolutions=(4,))
SETTINGS = {
    "pixel DDPM": dict(image_size=64, train_steps=100, noise_timestep=50, num_steps=5),
    "D3AD": LATENT | dict(max_train_timestep=400, holdout_fraction=0.1, adaptation_epochs=0),
    "latent DDAD": LATENT | dict(space="latent", max_train_timestep=400, num_steps=10, adaptation_epochs=0),
    "SGM": dict(image_size=SIZE, space="latent", block_out_channels=(32, 64), noise_timestep=50, stride=5)
    | dict(dsm_steps=60, train_steps=60, train_batch_size=16, learning_rate=2e-3, calibration_images=16),
    "img2img": dict(image_size=SIZE, alpha=1.0, calibration_images=8, strength=0.35, num_inference_steps=20),
}
"""Fields of each detector that are not its defaults. As in the smoke profile, but for: fewer training steps; no domain
adaptation, which has no part in the comparison; the latent DDAD, which that profile does not have; T_d of SGM, which is
not chosen; and image-to-image's score, which is the squared error alone."""

NOISE = {
    "simplex noise in pixels, t = 50": ("pixel DDPM, simplex", "pixel DDPM"),
    f"simplex noise in pixels, t = {FAR}": (f"pixel DDPM, simplex, t = {FAR}", f"pixel DDPM, t = {FAR}"),
    "simplex noise in latents": ("latent DDAD, simplex", "latent DDAD"),
}
NETWORKS = ("pixel DDPM", "D3AD", "SGM", "img2img")
AGAINST_OWN = {f"inversion with {name}'s network": (f"{name}, inversion", name) for name in NETWORKS}
AGAINST_NOTHING = {
    f"inversion with {name}'s network": (f"{name}, inversion", f"{name}, no diffusion") for name in NETWORKS
}
MASKED = {"image-to-image in two passes": ("img2img, masked", "img2img")}
TABLES = {
    "Simplex noise minus Gaussian noise, the same network, steps and variance": NOISE,
    "A second pass that redraws only where the first found something, minus one pass": MASKED,
    "Inversion minus the network's own reconstruction": AGAINST_OWN,
    "Inversion minus the same score without diffusion": AGAINST_NOTHING,
}
METRICS = ("I-AUROC", "AUPRO")


def with_inversion(
    name: str, detector: Detector, cls: type[Inversion], train: data.ImageDataset
) -> Iterator[tuple[str, Detector]]:
    """A fitted detector, the inversion with its network, and the control."""
    yield name, detector
    inversion = cls.of(detector, train)
    yield f"{name}, inversion", inversion
    yield f"{name}, no diffusion", inversion.with_settings(inversion_steps=0)


def from_further(ddpm: PixelDDPM, train: data.ImageDataset) -> PixelDDPM:
    """The same network noised up to t = `FAR`, where AnoDDPM reconstructs from, calibrated there."""
    further = copy.copy(ddpm)
    further.noise_timestep = FAR
    further._calibrate(*further._fitted_and_held_out(train, further.holdout_fraction)[1:])
    return further


def pixel_ddpms(train: data.ImageDataset, shared: dict) -> Iterator[tuple[str, Detector]]:
    ddpm = PixelDDPM(**SETTINGS["pixel DDPM"], **shared).fit(train)
    yield from with_inversion("pixel DDPM", ddpm, PixelDDPMInversion, train)
    yield f"pixel DDPM, t = {FAR}", from_further(ddpm, train)
    simplex = replace(ddpm, noise="simplex").fit(train)
    yield "pixel DDPM, simplex", simplex
    yield f"pixel DDPM, simplex, t = {FAR}", from_further(simplex, train)


def latent_ddads(train: data.ImageDataset, shared: dict) -> Iterator[tuple[str, Detector]]:
    for noise, name in (("gaussian", "latent DDAD"), ("simplex", "latent DDAD, simplex")):
        yield name, DDAD(**SETTINGS["latent DDAD"], **shared, noise=noise).fit(train)


def inverted(
    name: str, plain: type[Detector], cls: type[Inversion], train: data.ImageDataset, shared: dict
) -> Iterator[tuple[str, Detector]]:
    yield from with_inversion(name, plain(**SETTINGS[name], **shared).fit(train), cls, train)


def edited(train: data.ImageDataset, shared: dict) -> Iterator[tuple[str, Detector]]:
    yield from inverted("img2img", Img2Img, Img2ImgInversion, train, shared)
    yield "img2img, masked", Img2ImgMasked(**SETTINGS["img2img"], **shared).fit(train)


GROUPS: dict[str, Callable[[data.ImageDataset, dict], Iterator[tuple[str, Detector]]]] = {
    "pixel DDPM": pixel_ddpms,
    "D3AD": partial(inverted, "D3AD", D3AD, D3ADInversion),
    "SGM": partial(inverted, "SGM", SGM, SGMInversion),
    "img2img": edited,
    "latent DDAD": latent_ddads,
}
"""Detectors by name, fitted one after another; no comparison is across groups."""


def measure_group(dataset: str, category: str, seed: int, images: int, group: str) -> dict:
    """Accuracy and cost of a group's detectors, and its paired differences with their intervals over images."""
    index = data.load_index(dataset, category=category, seed=seed)
    train = data.ImageDataset(index[index["split"] == "train"], size=SIZE)
    test = index[index["split"] == "test"].sample(frac=1, random_state=seed)
    test = test.groupby("label", group_keys=False).head(images // 2).sort_index()
    batch = data.load_batch(data.ImageDataset(test, size=SIZE))
    labels, masks = batch["label"], batch["mask"]
    rows = torch.from_numpy(metrics.with_masks(labels, masks))
    found, methods = {}, {}
    for name, detector in GROUPS[group](train, dict(seed=seed, device="cpu")):
        start = time.process_time()
        parts = zip(
            batch["image"].split(30), [batch["key"][i : i + 30] for i in range(0, len(labels), 30)], strict=True
        )
        found[name] = Prediction.concatenate([detector.predict(*part) for part in parts])
        spent = 1000 * (time.process_time() - start) / len(labels)
        values = {m: v for m, v in metrics.evaluate(found[name], batch).items() if m in METRICS}
        methods[name] = {"nfe": found[name].nfe, "ms": spent, **values}
    differences = {}
    for title, pairs in TABLES.items():
        for what, (ours, plain) in pairs.items():
            if ours not in found:
                continue
            a, b = found[ours], found[plain]
            of_images = metrics.paired_bootstrap_difference(
                metrics.image_auroc, a.score, b.score, labels, n=BOOTSTRAP, seed=seed
            )
            both = {"I-AUROC": of_images}
            if rows.any():
                maps = a.anomaly_map[rows], b.anomaly_map[rows]
                both["AUPRO"] = metrics.paired_aupro_difference(*maps, masks[rows], n=BOOTSTRAP, seed=seed)
            differences[f"{title}: {what}"] = {metric: [float(x) for x in value] for metric, value in both.items()}
    return {"train": len(train), "test": len(labels), "methods": methods, "differences": differences}


def pooled(cells: dict[str, dict], name: str, metric: str) -> tuple[float, float, float, int] | None:
    """Mean over categories of the mean over seeds, low, high, categories (`pooling`); None where nothing was measured.

    The variance over images of a cell is taken from its bootstrap interval, as of a normal distribution.
    """
    by_category: dict[str, list[list[float]]] = {}
    for key, cell in cells.items():
        if metric in cell["differences"].get(name, {}):
            by_category.setdefault(key.rpartition("/")[0], []).append(cell["differences"][name][metric])
    if not by_category:
        return None
    means = [
        pooling.mean_over_seeds([e for e, _, _ in runs], [((high - low) / 3.92) ** 2 for _, low, high in runs])
        for runs in by_category.values()
    ]
    all_of = pooling.pool([float(m.effect) for m in means], [float(m.least) for m in means])
    return float(all_of.effect), float(all_of.low), float(all_of.high), all_of.categories


def described(cells: dict[str, dict]) -> str:
    """What was measured, in a paragraph."""
    categories, seeds = (sorted({key.rpartition("/")[i] for key in cells}) for i in (0, 2))
    most = max(cell["test"] for cell in cells.values())
    trained = "; ".join(f"{name} {_steps(values)}" for name, values in SETTINGS.items())
    return (
        f"Categories: {', '.join(categories)}; seeds: {', '.join(seeds)}. At most {most} test images a category and "
        f"seed, drawn at random. Small networks, trained briefly: {trained}. Every difference is paired over test "
        "images. Intervals are 95 %: images to one number a run, runs to one number a category, and Student's t over "
        "categories (`diffad_utils.metrics.pooling`). AUPRO is of the categories that have masks."
    )


def tables(cells: dict[str, dict]) -> list[dict]:
    """Each comparison, and the cost: title, rows, and a note with a sentence a row."""
    found = []
    for title, pairs in TABLES.items():
        rows, said = [], []
        for what in pairs:
            row, name, gains = {"comparison": what}, f"{title}: {what}", []
            for metric in METRICS:
                value = pooled(cells, name, metric)
                if value is not None:
                    effect, low, high, n = value
                    row[metric] = f"{effect:+.3f} [{low:+.3f}, {high:+.3f}], {n} categories"
                    gains.append(f"{metric} {_gain(low, high)}")
            if gains:
                by_cell = [c["differences"][name]["I-AUROC"][0] for c in cells.values() if name in c["differences"]]
                row["I-AUROC higher in"] = f"{sum(x > 0 for x in by_cell)} of {len(by_cell)} runs"
                rows.append(row)
                said.append(f"{what[0].upper()}{what[1:]}: {' and '.join(gains)}.")
        found.append({"title": title, "rows": rows, "note": " ".join(said)})
    by_method: dict[str, dict[str, dict]] = {}
    for key, cell in cells.items():
        for name, values in cell["methods"].items():
            by_method.setdefault(name, {})[key] = values
    rows = [
        {"method": name, "evaluations": round(_mean(runs, "nfe"), 1), "processor ms": round(_mean(runs, "ms"))}
        | {"mean I-AUROC": round(_mean(runs, "I-AUROC"), 3)}
        | {key: round(values["I-AUROC"], 3) for key, values in runs.items()}
        for name, runs in by_method.items()
    ]
    note = "Network evaluations and processor time of an image, one thread; then the I-AUROC of each run."
    return [*found, {"title": "Cost of an image, and I-AUROC", "rows": rows, "note": note}]


def page(found: dict) -> str:
    """The Markdown page of a result file."""
    lines = [
        "# Simplex noise, inversion and a masked second pass, beside their plain forms",
        "",
        described(found["cells"]),
        "",
    ]
    lines += ["Made by `.venv/bin/python -m benchmarks.new_ground`; each run is in `new_ground-cpu.json`.", ""]
    for table in found["tables"]:
        text = pd.DataFrame(table["rows"]).astype(object).fillna("").to_markdown(index=False)
        lines += [f"## {table['title']}", "", text, "", table["note"], ""]
    machine = found["machine"]
    lines += [f"{machine['cpu']}, {machine['threads']} thread, {machine['date']}; the machine was shared."]
    return "\n".join(lines) + "\n"


def _mean(runs: dict[str, dict], name: str) -> float:
    return sum(values[name] for values in runs.values()) / len(runs)


def _steps(settings: dict) -> str:
    if "train_steps" not in settings:
        return "is not trained"
    steps, size = settings["train_steps"] + settings.get("dsm_steps", 0), settings.get("train_batch_size", 8)
    return f"{steps} steps of {size} images"


def _gain(low: float, high: float) -> str:
    return {"above": "is higher", "below": "is lower"}.get(relation(low, high), "is not shown to differ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.new_ground", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=40, help="test images a cell, half of them anomalous")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--print", action="store_true", help="only write the page from the finished cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads(json.dumps(SETTINGS | {"images": options.images}))
    found = {"topic": "new_ground", "settings": settings, "cells": {}}
    if JSON.is_file():
        found = json.loads(JSON.read_text())
        if found["settings"] != settings and not options.print:
            parser.error(f"{JSON} was measured with other settings: remove it to measure anew")
    todo = [] if options.print else product(options.seeds, GROUPS, TASKS)
    for seed, group, (dataset, category) in todo:
        key = f"{dataset}/{category}/{seed}"
        cell = found["cells"].get(key, {"methods": {}, "differences": {}})
        if group in cell["methods"]:
            continue
        start = time.perf_counter()
        new = measure_group(dataset, category, seed, options.images, group)
        found["cells"][key] = new | {part: cell[part] | new[part] for part in ("methods", "differences")}
        found |= {"machine": harness.machine("cpu"), "tables": tables(found["cells"])}
        write_atomically(JSON, json.dumps(found, indent=1) + "\n")
        print(f"{key}, {group}: {time.perf_counter() - start:.0f} s", flush=True)
    found["tables"] = tables(found["cells"])
    write_atomically(JSON, json.dumps(found, indent=1) + "\n")
    write_atomically(PAGE, page(found))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
