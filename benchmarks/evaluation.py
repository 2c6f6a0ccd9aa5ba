"""Where evaluation differs: the same maps and masks through the implementations that people use.

    python -m benchmarks.evaluation --report reports/smoke [--adeval PYTHON]

Reads every finished run of a report that has maps and masks, computes I-AUROC, pixel AUROC, pixel AP, pixel F1max and
AUPRO with this package, scikit-learn, torchmetrics, anomalib, the ``compute_pro`` that DDAD, SimpleNet and RD4AD share,
and, with ``--adeval``, ADEval in the Python of an environment of its own (it needs a numpy older than 2.4). Then the
inputs are changed as public code changes them: scores in batches, maps as 8-bit pictures, one outlier pixel, masks
resized bilinearly, regions with four neighbours. What an image's score is stays the same everywhere, so that the
implementation is the only difference.

The table of rankings says how far the order of the methods on one task moves by that alone: pairs of methods whose
order turns round, of all pairs.

Writes ``benchmarks/results/evaluation-cpu.json``, which the report shows as the page "Where evaluation differs".
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import anomalib.metrics as anomalib_metrics
import numpy as np
import sklearn.metrics
import torch
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from benchmarks import harness
from diffad_utils import metrics, study
from diffad_utils.analyses import conventions
from diffad_utils.analyses.method_results import maps_of

OURS = "this study"
ADEVAL = """
import json, sys, warnings
import numpy as np
from adeval import EvalAccumulator
warnings.simplefilter("ignore")
data = np.load(sys.argv[1])
maps, masks, scores = data["maps"].astype(float), data["masks"].astype(np.uint8), data["scores"].astype(float)
low, high = float(maps.min()), float(maps.max())
evaluator = EvalAccumulator(float(scores.min()), float(scores.max()), low, high)
for one, mask, score, label in zip(maps, masks, scores, data["labels"]):
    evaluator.add_anomap(one, mask)
    evaluator.add_image(float(score), int(label))
print(json.dumps({k: float(v) for k, v in evaluator.summary().items()}))
"""


class Case(NamedTuple):
    """One run's images with usable masks: maps float32 [N, H, W], masks bool [N, H, W], scores [N], labels bool [N]."""

    task: str
    method: str
    maps: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def cases(report: Path) -> Iterator[Case]:
    """Every run of a report's folder that kept maps of images with masks."""
    for record in study.load_runs(report):
        found = maps_of(record)
        if found is None:
            continue
        keys, maps, masks = found
        images = record.scores().set_index("key").loc[keys]
        labels = images["label"].to_numpy(bool)
        task = f"{record.dataset}/{record.category}"
        yield Case(task, record.method, maps, masks, images["score"].to_numpy(np.float64), labels)


# --- implementations: (scores or maps, labels or masks) -> number -----------------------------------------------------


def _torch(metric: Callable, batch: int | None = None) -> Callable[[np.ndarray, np.ndarray], float]:
    """A torchmetrics metric over all values at once, or updated with ``batch`` images at a time."""

    def compute(values: np.ndarray, truth: np.ndarray) -> float:
        instance, step = metric(), batch or len(values)
        for start in range(0, len(values), step):
            part = slice(start, start + step)
            instance.update(torch.from_numpy(values[part]).flatten(), torch.from_numpy(truth[part]).flatten().long())
        return float(instance.compute())

    return compute


def _anomalib(name: str, of_pixels: bool, batch: int = 32) -> Callable[[np.ndarray, np.ndarray], float]:
    """A metric of anomalib, updated with batches of images as its Engine does."""
    fields = ("anomaly_map", "gt_mask") if of_pixels else ("pred_score", "gt_label")

    def compute(values: np.ndarray, truth: np.ndarray) -> float:
        metric = getattr(anomalib_metrics, name)(fields=fields)
        for start in range(0, len(values), batch):
            part = slice(start, start + batch)
            tensors = torch.from_numpy(values[part]).float(), torch.from_numpy(truth[part]).int()
            metric.update(SimpleNamespace(**dict(zip(fields, tensors, strict=True)), batch_size=len(tensors[0])))
        return float(metric.compute())

    return compute


def _flat(function: Callable) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda values, truth: float(function(truth.ravel(), values.ravel()))


def sklearn_f1max(truth: np.ndarray, values: np.ndarray) -> float:
    """The largest F1 on scikit-learn's precision-recall curve; 0 / 0 is left out, as ``nanmax`` does."""
    precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, values)
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(2 * precision * recall / (precision + recall)))


IMPLEMENTATIONS: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "I-AUROC": {
        OURS: lambda s, y: float(metrics.image_auroc(s, y)),
        "scikit-learn": _flat(sklearn.metrics.roc_auc_score),
        "torchmetrics": _torch(BinaryAUROC),
        "torchmetrics, 200 thresholds": _torch(lambda: BinaryAUROC(thresholds=200)),
        "torchmetrics, batches of 8": _torch(BinaryAUROC, 8),
        "anomalib": _anomalib("AUROC", of_pixels=False),
    },
    "P-AUROC": {
        OURS: lambda m, y: float(metrics.pixel_auroc(m, y)),
        "scikit-learn": _flat(sklearn.metrics.roc_auc_score),
        "torchmetrics": _torch(BinaryAUROC),
        "torchmetrics, 200 thresholds": _torch(lambda: BinaryAUROC(thresholds=200)),
        "anomalib": _anomalib("AUROC", of_pixels=True),
    },
    "P-AP": {
        OURS: lambda m, y: float(metrics.pixel_ap(m, y)),
        "scikit-learn": _flat(sklearn.metrics.average_precision_score),
        "torchmetrics": _torch(BinaryAveragePrecision),
        "anomalib (AUPR)": _anomalib("AUPR", of_pixels=True),
    },
    "P-F1max": {
        OURS: lambda m, y: float(metrics.pixel_f1max(m, y)),
        "scikit-learn": _flat(sklearn_f1max),
        "anomalib": _anomalib("F1Max", of_pixels=True),
    },
    "AUPRO": {
        OURS: lambda m, y: float(metrics.aupro(m, y)),
        "anomalib": _anomalib("AUPRO", of_pixels=True),
        "compute_pro, 200 thresholds": conventions.aupro_on_grid,
        "four neighbours": conventions.aupro_four_neighbours,
    },
}


# --- inputs as public code changes them -------------------------------------------------------------------------------


def with_outlier(maps: np.ndarray) -> np.ndarray:
    """One pixel of the first map at 10,000 times the maps' range above their maximum: a dead sensor pixel."""
    changed = maps.copy()
    changed[0, 0, 0] = maps.max() + 1e4 * np.ptp(maps)
    return changed


def soft_masks(masks: np.ndarray) -> np.ndarray:
    """Masks resized bilinearly to half the side and back, every grey pixel counted as a defect: bool [N, H, W]."""
    small = torch.from_numpy(conventions.resized_masks(masks, masks.shape[1] // 2))[:, None]
    back = torch.nn.functional.interpolate(small, masks.shape[1:], mode="bilinear")[:, 0]
    return (back > 0).numpy()


INPUTS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "as recorded": lambda maps, masks: (maps, masks),
    "maps as 8-bit pictures": lambda maps, masks: (conventions.as_pictures(maps).astype(np.float32), masks),
    "one outlier pixel": lambda maps, masks: (with_outlier(maps), masks),
    "masks resized, every grey pixel": lambda maps, masks: (maps, soft_masks(masks)),
}


def adeval(python: str, case: Case, maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """ADEval's numbers under our names, computed by another Python."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file.name, maps=maps, masks=masks, scores=case.scores, labels=case.labels)
        done = subprocess.run([python, "-c", ADEVAL, file.name], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    names = {"i_auroc": "I-AUROC", "p_auroc": "P-AUROC", "p_aupr": "P-AP", "p_aupro": "AUPRO"}
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}


Values = dict[tuple[str, str, str], dict[tuple[str, str], float]]
"""(metric, inputs, implementation) -> (task, method) -> value."""


def measure(all_cases: list[Case], python: str | None) -> Values:
    """Every metric of every case by every implementation on every kind of inputs."""
    values: Values = {}
    for case, (inputs, change) in itertools.product(all_cases, INPUTS.items()):
        maps, masks = change(case.maps, case.masks)
        at = (case.task, case.method)
        for metric, implementations in IMPLEMENTATIONS.items():
            of_images = metric == "I-AUROC"
            if of_images and inputs != "as recorded":
                continue
            data = (case.scores, case.labels) if of_images else (maps, masks)
            for name, compute in implementations.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torchmetrics speaks of constant classes and of memory
                    values.setdefault((metric, inputs, name), {})[at] = compute(*data)
        for metric, value in (adeval(python, case, maps, masks) if python else {}).items():
            if inputs == "as recorded" or metric != "I-AUROC":
                values.setdefault((metric, inputs, "ADEval"), {})[at] = value
        print(f"{case.task} {case.method}: {inputs}", flush=True)
    return values


def turned_pairs(ours: Mapping[tuple[str, str], float], theirs: Mapping[tuple[str, str], float]) -> tuple[int, int]:
    """(pairs of methods of one task whose order turns round, all such pairs)."""
    pairs = [(a, b) for a, b in itertools.combinations(ours, 2) if a[0] == b[0] and ours[a] != ours[b]]
    return sum((ours[a] - ours[b]) * (theirs[a] - theirs[b]) <= 0 for a, b in pairs), len(pairs)


def agreeing(values: Values, metric: str, inputs: str) -> list[list[str]]:
    """Implementations in groups that agree to 1e-6 with the first of their group on every run."""
    groups: list[list[str]] = []
    for found_metric, found_inputs, name in values:
        if (found_metric, found_inputs) != (metric, inputs):
            continue
        found = values[metric, inputs, name]
        for group in groups:
            first = values[metric, inputs, group[0]]
            if all(abs(found[at] - first[at]) < 1e-6 for at in found):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def rows(values: Values) -> list[dict]:
    """One row a metric, kind of inputs and group of agreeing implementations: the difference from this study's value of
    the recorded maps and masks."""
    table = []
    for metric, inputs in dict.fromkeys((metric, inputs) for metric, inputs, _ in values):
        ours = values[metric, "as recorded", OURS]
        for group in agreeing(values, metric, inputs):
            found = values[metric, inputs, group[0]]
            differences = np.array([found[at] - ours[at] for at in ours])
            turned, pairs = turned_pairs(ours, found)
            table.append(
                {
                    "metric": metric,
                    "inputs": inputs,
                    "implementation": "; ".join(group),
                    "difference, median": float(np.median(differences)),
                    "lowest": float(differences.min()),
                    "highest": float(differences.max()),
                    "pairs of methods in another order": f"{turned} of {pairs}",
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True, help="folder of a finished report whose runs kept maps")
    parser.add_argument("--adeval", metavar="PYTHON", help="Python of an environment with adeval==1.1.0, numpy<2.4")
    options = parser.parse_args()
    found = list(cases(options.report))
    if not found:
        parser.error(f"{options.report}: no finished run has maps.npz with masks; run the study with maps first")
    values = measure(found, options.adeval)
    methods = sorted({case.method for case in found})
    tasks = sorted({case.task for case in found})
    packages = ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "torchmetrics", "anomalib"))
    if options.adeval:
        packages += ", ADEval 1.1.0"
    note = (
        f"{len(found)} runs: {', '.join(methods)} on {', '.join(tasks)}. {packages}. Difference: the implementation's "
        "value minus this study's exact value of the recorded maps and masks, over the runs. compute_pro is the "
        "function that DDAD, SimpleNet and RD4AD share: 200 even thresholds, rescaled at the last one below an FPR "
        "of 0.3. Implementations in one row agree to 1e-6."
    )
    tables = [
        {"title": title, "rows": [row for row in rows(values) if wanted(row)], "note": note if first else ""}
        for first, (title, wanted) in enumerate(
            (
                ("Same inputs, other implementations", lambda row: row["inputs"] == "as recorded"),
                ("Inputs changed as public code changes them", lambda row: row["inputs"] != "as recorded"),
            )
        )
    ]
    harness.write("evaluation", argparse.Namespace(device="cpu", quick=False, threads=torch.get_num_threads()), tables)


if __name__ == "__main__":
    main()
