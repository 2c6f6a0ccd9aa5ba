"""What simplex noise, inversion, a masked second pass and GLAD gain, each beside its plain form on the same images.

    .venv/bin/python -m benchmarks.new_ground [--images 40] [--seeds 0 1] [--print]

One cell is a category and a seed: every network is trained on its normal images, and every score is taken of the same
test images. What is finished of a cell is kept in benchmarks/results/new_ground-cpu.json, so that an interrupted run
goes on; the tables are in benchmarks/results/new-ground.md, with those of `benchmarks.glad`. About four minutes a cell
on one core; ``--only`` measures some of the groups. Nothing was chosen on
these images: the settings are those of the smoke profile, but for what `SETTINGS` says.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch

from benchmarks import harness
from diffad_utils import data, metrics
from diffad_utils.analyses import d3ad_two_passes
from diffad_utils.analyses.img2img_edits import defect_pairs
from diffad_utils.analyses.img2img_two_passes import EDITORS, TwoPassStudy, some_pairs, two_pass_study
from diffad_utils.analyses.small_networks import D3AD_NETWORK
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import relation
from diffad_utils.io.files import write_atomically
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.d3ad import D3AD, DDAD
from diffad_utils.methods.d3ad.inversion import D3ADInversion
from diffad_utils.methods.d3ad.masked import D3ADMasked
from diffad_utils.methods.esm import SGM
from diffad_utils.methods.esm.inversion import SGMInversion
from diffad_utils.methods.img2img import Img2Img, Img2ImgMasked, Setting
from diffad_utils.methods.img2img.inversion import Img2ImgInversion
from diffad_utils.methods.inversion import Inversion
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.methods.pixel_ddpm_inversion import PixelDDPMInversion
from diffad_utils.metrics import bootstrap, pooling
from diffad_utils.models.recent import recent

TASKS = (("textures", "leather"), ("textures", "connector"), ("textures", "carpet"), ("elpv", "mono"))
SIZE, BOOTSTRAP, FAR = 128, 500, 250
JSON, PAGE = harness.RESULTS / "new_ground-cpu.json", harness.RESULTS / "new-ground.md"

LATENT = D3AD_NETWORK | dict(image_size=SIZE, train_steps=120)
SETTINGS = {
    "pixel DDPM": dict(image_size=64, train_steps=100, noise_timestep=50, num_steps=5),
    "D3AD": LATENT | dict(holdout_fraction=0.1, adaptation_epochs=0),
    "latent DDAD": LATENT | dict(space="latent", num_steps=10, adaptation_epochs=0),
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
MASKED = {
    "image-to-image in two passes": ("img2img, masked", "img2img"),
    "D3AD in two passes": ("D3AD, masked", "D3AD"),
}
SPACINGS = {f"inversion with {name}'s network": (f"{name}, inversion", f"{name}, paper's steps") for name in NETWORKS}
TABLES = {
    "Simplex noise minus Gaussian noise, the same network, steps and variance": NOISE,
    "A second pass that redraws only where the first found something, minus one pass": MASKED,
    "Inversion by the steps of InvAD's public code minus those of its paper": SPACINGS,
    "Inversion minus the network's own reconstruction": AGAINST_OWN,
    "Inversion minus the same score without diffusion": AGAINST_NOTHING,
}
METRICS = ("I-AUROC", "AUPRO")
EDITS = ("removal", "drift", "survival", "gone and kept", "the same with the true mask")
"""Of two passes minus one pass over the whole image from the same noise, on at most `DEFECTS` defects with defect-free
counterparts: the first three at the second pass's own strength, the others as `TwoPassStudy.best`."""
EDITS_NOTE = (
    " One pass is here over the whole image, from the same noise as the second pass. Removal is 1 where a defect is "
    "gone and its place is right, drift the change outside it in units of its size, survival the share of it that is "
    "left. *Gone and kept* is the smaller one of 1 - survival and 1 - drift at the strength where it is largest: above "
    "0, a mask escapes the conflict of removal and fidelity."
)
DEFECTS, STRENGTHS, STEPS = 16, (0.3, 0.5, 0.7), (80, 160, 240, 320)


DIFFER = (
    "*Two passes*: no paper and no code has this detector. RePaint goes back and forth ten times at each step and "
    "Blended Latent Diffusion shrinks the mask; ours does neither, which is not measured "
    "(`methods/img2img/masked.py`).",
    "*GLAD*: the paper's loss has the pasted anomaly whole, the public code t / T of it, which is the default; the "
    'rows "pasted whole over faded" of its benchmark are the difference. The code fuses image and trajectory by a '
    'sigmoid of the distance, which is at least a half everywhere; the rows "fusion at the chosen step" have it '
    "against none. The rest is listed in `methods/glad/detector.py`.",
    "*Simplex noise*: AnoDDPM's code takes the sum of the octaves as it is and cuts three-dimensional noise; ours has "
    "variance 1, so that only the spectrum differs from Gaussian noise. The code's form is not measured "
    "(`diffusion/simplex.py`).",
    "*Inversion*: InvAD's code visits other timesteps than its paper; the default is the code's, and the table on "
    "these steps is the difference. The code scales the score over the test set, ours by held-out normal images "
    "(`methods/inversion.py`).",
)
"""A line a method; the docstrings that it names have all of it."""


def with_inversion(
    name: str, detector: Detector, cls: type[Inversion], train: data.ImageDataset
) -> Iterator[tuple[str, Detector]]:
    """A fitted detector, the inversion with its network, and the control."""
    yield name, detector
    inversion = cls.of(detector, train)
    yield f"{name}, inversion", inversion
    yield f"{name}, no diffusion", inversion.with_settings(inversion_steps=0)
    yield f"{name}, paper's steps", inversion.with_settings(spacing="paper")


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


def masked_img2img(train: data.ImageDataset, shared: dict) -> Iterator[tuple[str, Detector]]:
    yield "img2img", Img2Img(**SETTINGS["img2img"], **shared).fit(train)
    yield "img2img, masked", Img2ImgMasked(**SETTINGS["img2img"], **shared).fit(train)


def masked_d3ad(train: data.ImageDataset, shared: dict) -> Iterator[tuple[str, Detector]]:
    d3ad = D3AD(**SETTINGS["D3AD"], **shared).fit(train)
    yield "D3AD", d3ad
    yield "D3AD, masked", D3ADMasked.of(d3ad)


GROUPS: dict[str, Callable[[data.ImageDataset, dict], Iterator[tuple[str, Detector]]]] = {
    "pixel DDPM, inversion": pixel_ddpms,
    "D3AD, inversion": partial(inverted, "D3AD", D3AD, D3ADInversion),
    "SGM, inversion": partial(inverted, "SGM", SGM, SGMInversion),
    "img2img, inversion": partial(inverted, "img2img", Img2Img, Img2ImgInversion),
    "img2img, masked": masked_img2img,
    "D3AD, masked": masked_d3ad,
    "latent DDAD": latent_ddads,
}
"""Detectors fitted one after another, by a method that no other group has; no comparison is across groups."""


def of_defects(masked: Img2ImgMasked | D3ADMasked, task: Task) -> dict[str, list[float]]:
    """Value, low and high over images of each of `EDITS`."""
    if isinstance(masked, D3ADMasked):
        own, study = masked.second_step, d3ad_two_passes.of_defects(masked, task, STEPS, DEFECTS)
    else:
        own, engine = masked.second_strength, masked.engine_
        pairs = some_pairs(defect_pairs(lambda x: engine.decode(engine.encode(x).mean), task), DEFECTS)
        settings = {s: Setting(s, masked.guidance_scale, masked.num_inference_steps, masked.seed) for s in STRENGTHS}
        study = two_pass_study(masked, pairs, settings)
    return edit_differences(study, own)


def edit_differences(study: TwoPassStudy, own: float) -> dict[str, list[float]]:
    """`EDITS` of a study; own : the strength of removal, drift and survival."""
    one, two, _ = (study.measures[editor][own] for editor in EDITORS)
    found = {name: bootstrap.mean_interval(two[name] - one[name], BOOTSTRAP) for name in EDITS[:3]}
    best = study.best().loc[list(EDITORS[1:]), ["gain", "gain low", "gain high"]]
    found |= dict(zip(EDITS[3:], best.itertuples(index=False), strict=True))
    return {name: [float(value) for value in interval] for name, interval in found.items()}


def measure_group(dataset: str, category: str, seed: int, images: int, group: str) -> dict:
    """Accuracy and cost of a group's detectors, and its paired differences with their intervals over images."""
    index = data.load_index(dataset, category=category, seed=seed)
    train = data.ImageDataset(index[index["split"] == "train"], size=SIZE)
    test = index[index["split"] == "test"].sample(frac=1, random_state=seed)
    test = test.groupby("label", group_keys=False).head(images // 2).sort_index()
    test_set = data.ImageDataset(test, size=SIZE)
    batch = data.load_batch(test_set)
    labels, masks = batch["label"], batch["mask"]
    rows = torch.from_numpy(metrics.with_masks(labels, masks))
    found, methods, edits = {}, {}, {}
    for name, detector in GROUPS[group](train, dict(seed=seed, device="cpu")):
        start = time.process_time()
        parts = zip(
            batch["image"].split(30), [batch["key"][i : i + 30] for i in range(0, len(labels), 30)], strict=True
        )
        with recent.off():  # a variant of a detector pays for its own latents
            found[name] = Prediction.concatenate([detector.predict(*part) for part in parts])
        spent = 1000 * (time.process_time() - start) / len(labels)
        values = {m: v for m, v in metrics.evaluate(found[name], batch).items() if m in METRICS}
        methods[name] = {"nfe": found[name].nfe, "ms": spent, **values}
        if name.endswith(", masked") and "twin" in batch:
            edits = of_defects(detector, Task(category, train, test_set, torch.arange(len(labels)), batch, seed))
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
            both |= edits if pairs is MASKED else {}
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


def compared(cells: dict[str, dict], title: str, pairs: dict, measures: tuple[str, ...]) -> dict:
    """A table of one comparison: title, rows, and a note with a sentence a row."""
    rows, said = [], []
    for what in pairs:
        row, name, gains = {"comparison": what}, f"{title}: {what}", []
        for measure in measures:
            value = pooled(cells, name, measure)
            if value is not None:
                effect, low, high, n = value
                row[measure] = f"{effect:+.3f} [{low:+.3f}, {high:+.3f}], {n} categories"
                gains.append(f"{measure} {_gain(low, high)}")
        if gains:
            runs = [c["differences"][name] for c in cells.values() if measures[0] in c["differences"].get(name, {})]
            higher = sum(run[measures[0]][0] > 0 for run in runs)
            rows.append(row | {f"{measures[0]} higher in": f"{higher} of {len(runs)} runs"})
            said.append(f"{what[0].upper()}{what[1:]}: {', '.join(gains)}.")
    return {"title": title, "rows": rows, "note": " ".join(said)}


def tables(cells: dict[str, dict]) -> list[dict]:
    """Each comparison, and the cost: title, rows, and a note with a sentence a row."""
    found = [compared(cells, title, pairs, METRICS) for title, pairs in TABLES.items()]
    masked = list(TABLES.values()).index(MASKED)
    of_defects = compared(cells, list(TABLES)[masked], MASKED, EDITS)
    found.insert(masked + 1, of_defects | {"title": "The same on defects that have a defect-free counterpart"})
    found[masked + 1]["note"] += EDITS_NOTE
    by_method: dict[str, dict[str, dict]] = {}
    for key, cell in cells.items():
        for name, values in cell["methods"].items():
            by_method.setdefault(name, {})[key] = values
    rows = [
        {"method": name, "evaluations": round(_mean(runs, "nfe"), 1), "processor ms": _mean(runs, "ms")}
        | {"mean I-AUROC": round(_mean(runs, "I-AUROC"), 3)}
        | {key: round(values["I-AUROC"], 3) for key, values in runs.items()}
        for name, runs in by_method.items()
    ]
    note = (
        "Network evaluations and processor time of an image, one thread; then the I-AUROC of each run. A time is left "
        "out where the latents were taken over from the plain form."
    )
    return [*found, {"title": "Cost of an image, and I-AUROC", "rows": rows, "note": note}]


def not_measured(cells: dict[str, dict]) -> list[str]:
    """Comparisons that no cell has, in words."""
    known = {name for cell in cells.values() for name in cell["differences"]}
    return [
        f"{title[0].lower()}{title[1:]} ({what})"
        for title, pairs in TABLES.items()
        for what in pairs
        if f"{title}: {what}" not in known
    ]


def page(found: dict, of_glad: Sequence[dict] = ()) -> str:
    """The Markdown page of a result file. of_glad : the tables of `benchmarks.glad`, if they are there."""
    lines = ["# Simplex noise, inversion, a masked second pass and GLAD, beside their plain forms", ""]
    lines += [described(found["cells"]), ""]
    lines += ["Made by `.venv/bin/python -m benchmarks.new_ground`; each run is in `new_ground-cpu.json`.", ""]
    glad = [table | {"title": f"GLAD: {table['title'][0].lower()}{table['title'][1:]}"} for table in of_glad]
    for table in [*found["tables"], *glad]:
        if table["rows"]:
            rows = [{name: _shown(value) for name, value in row.items()} for row in table["rows"]]
            text = pd.DataFrame(rows).astype(object).fillna("").to_markdown(index=False, disable_numparse=True)
            lines += [f"## {table['title']}", "", text, "", table["note"], ""]
    missing = not_measured(found["cells"]) + ["GLAD (`benchmarks.glad --paper`)"] * (not of_glad)
    if missing:
        lines += [f"Not measured so far: {'; '.join(missing)}.", ""]
    lines += ["## Where paper and public code differ", "", *(f"- {line}" for line in DIFFER), ""]
    machine = found["machine"]
    lines += [f"{machine['cpu']}, {machine['threads']} thread, {machine['date']}; the machine was shared."]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> Any:
    """A difference with its interval, or a number, as the page has it."""
    if isinstance(value, list):
        return f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"
    return f"{value:.3g}" if isinstance(value, float) else value


def _mean(runs: dict[str, dict], name: str) -> float | None:
    known = [values[name] for values in runs.values() if values[name] is not None]
    return sum(known) / len(known) if known else None


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
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="groups to measure")
    parser.add_argument("--print", action="store_true", help="only write the page from the finished cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads(json.dumps(SETTINGS | {"images": options.images}))
    found = {"topic": "new_ground", "settings": settings, "cells": {}}
    if JSON.is_file():
        found = json.loads(JSON.read_text())
        if found["settings"] != settings and not options.print:
            parser.error(f"{JSON} was measured with other settings: remove it to measure anew")
    todo = [] if options.print else product(options.seeds, options.only, TASKS)
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
    of_glad = harness.RESULTS / "glad-cpu.json"
    write_atomically(PAGE, page(found, json.loads(of_glad.read_text())["tables"] if of_glad.is_file() else []))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
