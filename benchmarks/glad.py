"""What do GLAD's two ideas gain over the plain form, and what do they cost? Accuracy and time of one image.

    .venv/bin/python -m benchmarks.glad

Two by two: training on normal images or with pasted anomalies, times the step by nearest neighbours (D3AD's) or by
GLAD's criterion. The rest is the same: network, training steps, noise, map. Each run (a category and a seed) is kept in
build/glad and not computed again; ``--seeds`` and ``--categories`` add more. About a minute and a half of one core a
run, twice that with ``--paper``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import harness
from diffad_utils import data
from diffad_utils.analyses import glad_study
from diffad_utils.analyses.conditioned_controls import AUTOENCODER, GATE, d3ad_controls
from diffad_utils.analyses.detector_variants import Variants
from diffad_utils.analyses.glad_study import BOTH, PLAIN
from diffad_utils.analyses.paired_comparison import BootstrapQuality
from diffad_utils.analyses.small_networks import D3AD_NETWORK
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import relation, signed
from diffad_utils.data import ImageDataset
from diffad_utils.io.files import write_atomically
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.glad import GLAD
from diffad_utils.metrics import bootstrap, pooling
from diffad_utils.study.verdicts import standard_error

CATEGORIES = ("textures/leather", "textures/connector", "textures/carpet", "elpv/mono")
TRAININGS = glad_study.TRAININGS | {
    "pasted whole": {"fade": "none"}  # the paper's loss
}
RULES = glad_study.RULES | {
    "criterion without fusion": {"step_rule": "criterion", "fusion": False}  # of the pasted training
}
QUESTIONS = glad_study.QUESTIONS | {  # what is asked: one minus the other
    "both, over Dec(Enc(x)) without diffusion": (BOTH, AUTOENCODER),
    "both, over the trivial baseline": (BOTH, "trivial baseline"),
    "the criterion's difference alone, over the nearest-neighbour distance alone": ("difference alone", GATE),
    "pasted whole over faded (step by neighbours)": ("pasted whole, neighbours", "pasted, neighbours"),
    "pasted whole over faded (step by the criterion)": ("pasted whole, criterion", BOTH),
    "fusion at the chosen step": (BOTH, "pasted, criterion without fusion"),
}


def load(name: str, seed: int, images: int) -> Task:
    """At most 200 training images, and ``images`` test images, half of them anomalous."""
    dataset, category = name.split("/")
    index = data.load_index(dataset, category=category, seed=seed)
    train = index[index["split"] == "train"].head(200)
    test = ImageDataset(index[index["split"] == "test"], size=128)
    whole = Task(name, ImageDataset(train, size=128), test, torch.arange(len(test)), data.load_batch(test), seed=seed)
    return whole.subset(images)


def wanted(training: str, rule: str, paper: bool) -> bool:
    """Whether a form is measured: two by two always, the paper's loss and no fusion with ``paper``."""
    if training == "pasted whole" or rule == "criterion without fusion":
        return paper and (training == "pasted") == (rule == "criterion without fusion")
    return True


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One category and seed: metrics and cost by form, and the paired differences with their standard errors."""
    task = load(name, seed, options.images)
    found: dict[str, Prediction] = {}
    rows = []
    for training, settings in TRAININGS.items():
        rules = [rule for rule in RULES if wanted(training, rule, options.paper)]
        if not rules:
            continue
        start = time.process_time()
        network = D3AD_NETWORK | {"train_steps": options.train_steps}
        detector = GLAD(device="cpu", seed=seed, **network, **settings, **RULES["neighbours"]).fit(task.train)
        fit = time.process_time() - start
        variants = Variants(detector, task)
        for rule in rules:
            form = f"{training}, {rule}"
            fitted = variants.fitted(**RULES[rule])
            _ = fitted.scales_  # taken of the training images when first needed: no part of an image's time
            start = time.process_time()
            found[form] = prediction = fitted.predict(task.images, task.keys)
            spent = 1000 * (time.process_time() - start) / len(task.keys)
            steps, normal = prediction.parts["step"], task.labels == 0
            rows.append(
                {
                    "form": form,
                    "evaluations": prediction.nfe,
                    "ms": spent,
                    "fit_s": fit,
                    "step, normal": float(steps[normal].mean()),
                    "step, anomalous": float(steps[~normal].mean()),
                    "threshold": fitted.threshold_,
                }
            )
        if training == "pasted":
            found |= d3ad_controls(detector, variants.maps(), tuple(task.images.shape[-2:]))
    baseline = task.trivial_baseline()
    found["trivial baseline"] = Prediction(baseline.prediction.parts[baseline.statistic])
    found["difference alone"] = Prediction(found[BOTH].parts["distance"])
    quality = BootstrapQuality.of(found, task.batch, 500, seed)
    return {"forms": rows, "metrics": quality.long("form").to_dict("records"), "differences": differences(quality)}


def differences(quality: BootstrapQuality) -> list[dict[str, Any]]:
    """The questions that this run can answer: question, metric, effect, standard error over images."""
    rows = []
    for question, (one, other) in QUESTIONS.items():
        if {one, other} <= quality.values.keys():
            for metric in {"I-AUROC", "AUPRO"} & quality.values[one].keys() & quality.values[other].keys():
                draws = quality.values[one][metric] - quality.values[other][metric]
                value, low, high = bootstrap.bootstrap_percentiles(draws)
                row = {"question": question, "metric": metric, "effect": float(value)}
                rows.append(row | {"standard_error": float(standard_error(low, high))})
    return sorted(rows, key=lambda row: (row["question"], row["metric"]))


def pooled(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a question and metric over categories, seeds and images (`metrics.pooling`)."""
    rows = []
    for question in QUESTIONS:
        for metric in ("I-AUROC", "AUPRO"):
            part = runs[(runs["question"] == question) & (runs["metric"] == metric)]
            if part.empty:
                continue
            means = [
                pooling.mean_over_seeds(one["effect"], one["standard_error"] ** 2)
                for _, one in part.groupby("category", sort=True)
            ]
            found = pooling.pool([mean.effect for mean in means], [mean.least for mean in means])
            row = {"question": question, "metric": metric, "difference": [found.effect, found.low, found.high]}
            row["difference"] = [round(float(value), 4) for value in row["difference"]]
            each = part.groupby("category")["effect"].mean().round(3)
            rows.append(row | {"categories": len(means), "runs": len(part)} | each.to_dict())
    return rows


def in_words(rows: list[dict[str, Any]], forms: pd.DataFrame) -> str:
    """What the pooled differences say, and what the criterion costs."""
    said = []
    for row in rows:
        value, low, high = row["difference"]
        said.append(f"{row['question']}, {row['metric']}: {relation(low, high)} zero, {signed((value, low, high))}")
    cost = forms.groupby("form")[["evaluations", "ms", "step, normal", "step, anomalous"]].mean()
    plain, both = cost.loc[PLAIN], cost.loc[BOTH]
    return (
        "; ".join(said) + f". Cost: {both['evaluations']:.1f} network evaluations an image with the criterion and "
        f"{plain['evaluations']:.1f} with the neighbours; {both['ms']:.0f} against {plain['ms']:.0f} ms of processor "
        f"time. Mean step of normal and anomalous images: {both['step, normal']:.0f} and {both['step, anomalous']:.0f} "
        f"by the criterion, {plain['step, normal']:.0f} and {plain['step, anomalous']:.0f} by the neighbours."
    )


def tables(done: dict[tuple[str, int], dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The tables of the result: pooled differences, forms by category, and cost."""
    keyed = [({"category": name, "seed": seed}, run) for (name, seed), run in done.items()]
    frames = {
        part: pd.DataFrame([key | row for key, run in keyed for row in run[part]])
        for part in ("forms", "metrics", "differences")
    }
    metrics, forms = frames["metrics"], frames["forms"]
    levels = metrics[metrics["metric"].isin(["I-AUROC", "AUPRO"])]
    levels = levels.groupby(["form", "metric", "category"])["value"].mean().unstack("category")
    by_form = [
        {"form": form, "metric": metric} | {name: float(value) for name, value in row.dropna().items()}
        for (form, metric), row in levels.iterrows()
    ]
    cost = (
        forms.drop(columns=["category", "seed"]).groupby("form", sort=False).mean().astype(float).replace(np.nan, None)
    )
    pooled_rows = pooled(frames["differences"])
    seeds = ", ".join(map(str, options.seeds))
    note = (
        f"{options.images} test images a run, seeds {seeds}, UNet {D3AD_NETWORK['block_out_channels']} trained for "
        f"{options.train_steps} steps. Mean over categories with Student's t interval over categories, seeds and "
        "images. "
    )
    return [
        {
            "title": "Paired differences [value, low, high]",
            "rows": pooled_rows,
            "note": note + in_words(pooled_rows, forms),
        },
        {
            "title": "Mean over seeds",
            "rows": by_form,
            "note": "Dec(Enc(x)) and the nearest neighbours need no diffusion.",
        },
        {
            "title": "Cost and steps",
            "rows": cost.reset_index().to_dict("records"),
            "note": "ms: processor time, one core.",
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--train-steps", type=int, default=180)
    parser.add_argument("--paper", action="store_true", help="also the paper's loss, and the step without fusion")
    parser.add_argument("--work", default="build/glad", help="where finished runs are kept")
    parser.add_argument("--quick", action="store_true", help="one short run, to see that it works; nothing is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.categories, options.seeds, options.images, options.train_steps = ["textures/leather"], [0], 8, 3
    done = {}
    for seed in options.seeds:
        for name in options.categories:
            sizes = f"{options.images}-{options.train_steps}{'-paper' * options.paper}"
            path = Path(options.work) / f"{name.replace('/', '-')}-{seed}-{sizes}.json"
            if path.is_file() and not options.quick:
                done[name, seed] = json.loads(path.read_text(encoding="utf-8"))
                continue
            done[name, seed] = measure(name, seed, options)
            print(f"{name}, seed {seed}: done", flush=True)
            if not options.quick:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(done[name, seed], indent=1))
    harness.write("glad", SimpleNamespace(device="cpu", quick=options.quick), tables(done, options))


if __name__ == "__main__":
    main()
