"""InvAD's accuracy over 3,000 training steps on real features, with what it must beat beside it.

    .venv/bin/python -m benchmarks.invad_training

Two tasks, three trainings each (seeds of the network and of its batches; features and images are the same for all):

- ``textures``: one denoiser for all categories, on images of another generator seed than any run of the study uses.
  Its settings may be chosen from this table.
- ``elpv/mono``: the study's training and *test* images. This is a result: no setting is chosen from it.

Rows: the untrained network, the network after each number of steps, the network without the skip connection (as in the
public code) at the last of them, the same score without diffusion, and the trivial baseline. A training's learning rate
falls to 0 at its end, so an earlier row is not a whole training of that length. ``--depth``, ``--width`` and
``--learning-rate`` take other networks, for a look at a setting before it becomes a default.

The scores of a training are kept in ``--work`` as soon as they are there, and a training that was interrupted goes on
from its checkpoint. When all are there, benchmarks/results/invad-training.md and .json are written. Not a test: nothing
is asserted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import harness
from diffad_utils import data
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.invad.score import prediction
from diffad_utils.methods.trivial import Trivial, best_statistic
from diffad_utils.metrics.bootstrap import bootstrap_draws, percentile_interval
from diffad_utils.metrics.intervals import auroc

DRAWN_SEED = 1000
JUDGED = {"textures": ("leather", "carpet", "connector", "wood"), "elpv": ("mono",)}
CONTROL, TRIVIAL, PLAIN = "no diffusion", "trivial baseline", "without the skip"
TEXT = """# InvAD's accuracy over training steps

Backbone `{backbone}`, {size} px, grid {grid}; denoiser of width {width} and depth {depth}; {batch} images a step, peak
learning rate {rate:g}. Trainings differ in the network's initial weights and in the batches; the table says how many.

Made by `.venv/bin/python -m benchmarks.invad_training{arguments}`.

I-AUROC is the mean over trainings, with its 95 % interval over test images (resampled within each category); then the
lowest and the highest training. Difference: to the row without diffusion, on the same images. "step 0" is the untrained
network with its skip connection, which ranks images as the row without diffusion does. The trivial baseline is the best
of the global statistics of an image in each category, chosen with the test labels. The learning rate falls to 0 at the
last step, so an earlier row is not a whole training of that length.
"""
ABOUT = {
    "textures": "One network for all categories, on validation draws (generator seed {seed}, which no run of the study "
    "uses); mean over {judged}.",
    "elpv": "Training and test images of the study. A result: no setting is chosen from it.",
}


@dataclass(frozen=True)
class Ground:
    """A task: its detector, not yet trained, and by category the test images' features and labels."""

    detector: InvAD
    features: dict[str, torch.Tensor]
    labels: dict[str, list[int]]
    baselines: dict[str, dict[str, list[float]]]  # rows that no training changes: row, category, scores


def drawn(dataset: str, categories: list[str], split: str, options: argparse.Namespace) -> data.ImageDataset:
    """Images of a split; of ``textures`` those of the validation draw, at most ``--images`` of each category."""
    seed = DRAWN_SEED if dataset == "textures" else 0
    tables = [data.load_index(dataset, category=name, seed=seed) for name in categories]
    rows = [table[table["split"] == split] for table in tables]
    if split == "train":
        rows = [table.head(options.images or len(table)) for table in rows]
    return data.ImageDataset(pd.concat(rows), size=options.size)


def ground(dataset: str, options: argparse.Namespace) -> Ground:
    """Features, labels and the rows without training of a task."""
    judged = JUDGED[dataset]
    categories = data.categories("textures") if dataset == "textures" else list(judged)
    train = drawn(dataset, categories, "train", options)
    settings = {"width": options.width, "depth": options.depth, "learning_rate": options.learning_rate}
    detector = InvAD(image_size=options.size, grid=options.grid, device="cpu", train_steps=1, **settings).fit(train)
    features, labels, baselines = {}, {}, {CONTROL: {}, TRIVIAL: {}}
    for name in judged:
        batch = data.load_batch(drawn(dataset, [name], "test", options))
        features[name], labels[name] = detector.features(batch["image"]), batch["label"].tolist()
        without = prediction(features[name], detector.holdout_features_, (options.size, options.size))
        baselines[CONTROL][name] = without.score.tolist()
        own = drawn(dataset, [name], "train", options)
        parts = Trivial(image_size=options.size, device="cpu").fit(own).predict(batch["image"], batch["key"]).parts
        baselines[TRIVIAL][name] = parts[best_statistic(parts, batch["label"])[0]].tolist()
    return Ground(detector, features, labels, baselines)


def scores(detector: InvAD, task: Ground, size: int) -> dict[str, list[float]]:
    """Image scores by category."""
    return {
        name: detector.prediction_from_latents(detector.invert(values), (size, size)).score.tolist()
        for name, values in task.features.items()
    }


def trained(task: Ground, skip: bool, seed: int, folder: Path, options: argparse.Namespace) -> dict:
    """One training: scores by row and category, and its seconds."""
    last = max(options.steps)
    snapshots = sorted({*options.steps} - {0}) if skip else [last]
    detector = task.detector.retrain(folder, snapshots, seed=seed, linear_skip=skip, train_steps=last)
    at = {f"step {step}" if skip else PLAIN: detector.at_step(step, folder) for step in snapshots}
    at |= {"step 0": detector.at_step(0)} if skip and 0 in options.steps else {}
    found = {row: scores(one, task, options.size) for row, one in at.items()}
    return {"seconds": round(detector.training_log_.seconds), "scores": found}


def summary(by_row: Mapping[str, list[dict[str, list[float]]]], labels: Mapping[str, list[int]]) -> list[dict]:
    """A row each with its mean I-AUROC over trainings and categories, intervals over images, and the difference to the
    row without diffusion; a row without trainings has one set of scores."""
    draws, values = {}, {}
    for name, own in labels.items():
        times = np.concatenate([np.ones((1, len(own)), dtype=np.int64), *bootstrap_draws(np.array(own) == 1, 1000, 0)])
        for row, trainings in by_row.items():
            draws[row, name] = auroc([one[name] for one in trainings], own, times)  # [resamples, trainings], data first
    for row in by_row:
        values[row] = np.mean([draws[row, name] for name in labels], axis=0)
    table = []
    for row, found in values.items():
        mean, difference = found.mean(axis=1), found.mean(axis=1) - values[CONTROL].mean(axis=1)
        table.append(
            {
                "row": row,
                "I-AUROC": interval(mean),
                "trainings": None if row in (CONTROL, TRIVIAL) else found.shape[1],
                "lowest": float(found[0].min()) if found.shape[1] > 1 else None,
                "highest": float(found[0].max()) if found.shape[1] > 1 else None,
                "difference": interval(difference) if row != CONTROL else None,
                **{name: float(draws[row, name][0].mean()) for name in labels},
            }
        )
    return table


def interval(draws: np.ndarray) -> list[float]:
    """[value, low, high] of draws with the data first."""
    return [float(draws[0]), *percentile_interval(draws[1:])]


def markdown(table: list[dict], categories: list[str]) -> str:
    """The rows as a table."""
    shown = []
    for row in table:
        value, low, high = row["I-AUROC"]
        line = {"row": row["row"], "I-AUROC": f"{value:.3f} [{low:.3f}, {high:.3f}]"}
        line["trainings"] = row["trainings"] or "-"
        line |= {name: f"{row[name]:.3f}" if row[name] is not None else "-" for name in ("lowest", "highest")}
        line["difference"] = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["difference"]) if row["difference"] else "-"
        shown.append(line | ({name: f"{row[name]:.3f}" for name in categories} if len(categories) > 1 else {}))
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The options; ``given`` None: those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(JUDGED), choices=list(JUDGED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 200, 400, 800, 1600, 3000])
    parser.add_argument("--images", type=int, default=60, help="training images a category of textures, 0: all")
    parser.add_argument("--size", type=int, default=128, help="side of the images, pixels")
    parser.add_argument("--grid", type=int, default=8, help="cells of the feature grid")
    parser.add_argument("--width", type=int, default=192, help="of the denoiser")
    parser.add_argument("--depth", type=int, default=2, help="blocks of the denoiser")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak rate")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "invad-training")
    parser.add_argument(
        "--finished", action="store_true", help="train nothing: the page from the trainings that are there"
    )
    parser.add_argument("--print", action="store_true", help="print the page only, write nothing to results")
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    tasks = {name: ground(name, options) for name in options.data}
    settings = [options.size, options.grid, options.width, options.depth, options.learning_rate, options.images]
    work = options.work / "-".join(map(str, [*settings, *options.steps]))
    found = {name: {} for name in tasks}
    for skip in (True, False):
        for seed in options.seeds:
            for name, task in tasks.items():
                path = work / f"{name}-{seed}{'' if skip else '-plain'}.json"
                if path.is_file() or not options.finished:
                    found[name][skip, seed] = kept(path, task, skip, seed, options)
    write(tasks, found, options)


def kept(path: Path, task: Ground, skip: bool, seed: int, options: argparse.Namespace) -> dict:
    """`trained`, from its file where it is there."""
    if not path.is_file():
        result = trained(task, skip, seed, path.with_suffix(""), options)
        path.write_text(json.dumps(result), encoding="utf-8")
        print(f"{path.stem}: {result['seconds']} s", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def shown(options: argparse.Namespace) -> str:
    """The options that the numbers depend on and that are not the defaults, as they are typed."""
    known = vars(arguments([]))
    changed = {k: v for k, v in vars(options).items() if v != known[k] and k not in ("work", "print", "finished")}
    values = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in changed.items()}
    return "".join(f" --{k.replace('_', '-')} {v}" for k, v in values.items())


def write(tasks: Mapping[str, Ground], found: Mapping[str, Mapping], options: argparse.Namespace) -> None:
    """The page and the JSON file."""
    text = TEXT.format(
        backbone=next(iter(tasks.values())).detector.backbone,
        size=options.size,
        grid=options.grid,
        width=options.width,
        depth=options.depth,
        rate=options.learning_rate,
        batch=next(iter(tasks.values())).detector.train_batch_size,
        arguments=shown(options),
    )
    there, wanted = sum(map(len, found.values())), 2 * len(options.seeds) * len(tasks)
    if there < wanted:
        text += (
            f"\n{there} of {wanted} trainings were done when this page was written; the same command does the others.\n"
        )
    tables = []
    for name, task in tasks.items():
        by_row = {row: [values] for row, values in task.baselines.items()}
        for row in [*(f"step {step}" for step in sorted(options.steps)), PLAIN]:
            runs = [one["scores"][row] for one in found[name].values() if row in one["scores"]]
            by_row |= {row: runs} if runs else {}
        judged, rows = list(task.labels), summary(by_row, task.labels)
        title = name if len(judged) > 1 else f"{name}/{judged[0]}"
        counts = "; ".join(
            f"{one} {len(own) - sum(own)} normal, {sum(own)} defective" for one, own in task.labels.items()
        )
        seconds = sorted(one["seconds"] for one in found[name].values())
        about = ABOUT[name].format(seed=DRAWN_SEED, judged=", ".join(judged))
        about += f" Test images: {counts}. Seconds of a training, on a shared machine: {seconds[0]} to {seconds[-1]}."
        tables.append({"title": f"InvAD's I-AUROC over training steps: {title}", "rows": rows, "note": about})
        text += f"\n## {title}\n\n{about}\n\n{markdown(rows, judged)}\n"
    print(text)
    if not options.print:
        result = {"topic": "invad_training", "machine": harness.machine("cpu"), "tables": tables}
        place = harness.RESULTS / "invad-training"
        place.with_suffix(".md").write_text(text, encoding="utf-8")
        place.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
