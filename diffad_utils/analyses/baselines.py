"""The bars that a diffusion model has to clear: trivial statistics, and established detectors without diffusion.

Used by notebook 01. Entry points: `measure`, `run_detectors`, `compared`, `trivial_table`, `trivial_by_category`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch

from diffad_utils import data, metrics
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import detects, relation, signed
from diffad_utils.io import store
from diffad_utils.methods.anomalib_models import BY_NAME
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.invad.detector import InvAD
from diffad_utils.methods.trivial import Trivial, best_statistic
from diffad_utils.study.run import Run

LARGEST, MEAN = 0.70, 0.62
"""What the best trivial statistic may reach on a category of `textures`, and on average over them."""
TITLES = {
    "patchcore": "PatchCore",
    "padim": "PaDiM",
    "fastflow": "FastFlow",
    "stfpm": "STFPM",
    "reverse_distillation": "RD4AD",
    "cfa": "CFA",
    "winclip": "WinCLIP",
    "ganomaly": "GANomaly",
    "draem": "DRAEM",
}


def detectors(run: Run) -> dict[str, Detector]:
    """The detectors that the parameter ``baselines`` names, unfitted, with the run's settings; title -> detector."""
    p = run.parameters
    steps = {"train_steps": p.baseline_steps}
    settings = {
        "patchcore": {"coreset_ratio": p.coreset_ratio, "subsampling": p.coreset},
        "fastflow": steps,
        "stfpm": steps,
        "reverse_distillation": steps,
        "cfa": steps,
    }
    shared = {"image_size": p.image_size, "backbone": p.backbone, "allow_mini": True}
    without_backbone = {  # each at a size of its own, but DRAEM
        "winclip": {"clip": p.winclip_weights},
        "ganomaly": steps,
        "draem": steps | {"image_size": p.image_size},
    }
    made: dict[str, Detector] = {}
    for name in p.baselines:
        own = without_backbone[name] if name in without_backbone else shared | settings.get(name, {})
        made[TITLES[name]] = BY_NAME[f"anomalib:{name}"](**own, seed=run.seed, device=run.device)
    return made


def compared(run: Run) -> dict[str, Detector]:
    """The detectors that are run on every backbone beside nearest patch, unfitted; those of anomalib only where the
    parameter ``baselines`` has them."""
    p = run.parameters
    made: dict[str, Detector] = {
        title: detector for title, detector in detectors(run).items() if title in ("PaDiM", "PatchCore")
    }
    grid = max(2, p.image_size // 16)  # cells of the paper's size: it has 16 at 256 px
    made["InvAD"] = InvAD(
        image_size=p.image_size,
        grid=grid,
        train_steps=p.invad_steps,
        learning_rate=1e-3,
        seed=run.seed,
        device=run.device,
    )
    return made


def measure(detector: Detector, task: Task) -> tuple[Prediction, dict[str, float]]:
    """Fit on the training images and predict all test images, with the time of both.

    Returns
    -------
    prediction, ``{"fit_s", "ms_per_image"}``.

    Raises
    ------
    RuntimeError: an image's score depends on what else is predicted.
    """
    start = store.clock()
    detector.fit(task.train)
    fit_s, start = store.clock() - start, store.clock()
    prediction = detector.predict_dataset(task.test)
    timing = {"fit_s": fit_s, "ms_per_image": 1000 * (store.clock() - start) / len(task.test)}
    detector.check_batch_independence(task.batch, prediction)
    return prediction, timing


def run_detectors(run: Run, task: Task, trivial: TrivialBaseline) -> tuple[dict[str, Prediction], pd.DataFrame]:
    """Fit, measure and record the detectors that the parameter ``baselines`` names, each in a run folder of its own.

    Returns
    -------
    title -> prediction of all test images; table with ``method``, metrics, the interval of I-AUROC (``low, high``) and
    the times of `measure`, a row a detector.
    """
    found, rows = {}, []
    for title, detector in detectors(run).items():
        found[title], timing = measure(detector, task)
        values = metrics.evaluate(found[title], task.batch)
        for resolved in detector.resolved_weights().values():
            run.note_weights(resolved)
        run.record_method(
            detector.name,
            found[title],
            task.batch,
            values,
            detector=detector,
            maps=True,
            timing=timing,
            trivial_baseline=trivial.record(),
        )
        interval = task.accuracy(found[title].score)
        rows.append({"method": title, **values, "low": interval["low"], "high": interval["high"], **timing})
    return found, pd.DataFrame(rows)


def trivial_table(task: Task, prediction: Prediction) -> pd.DataFrame:
    """I-AUROC of the trivial score and of each statistic, best first: ``statistic, I-AUROC, low, high``."""
    scores = {"largest deviation (the score)": prediction.score, **prediction.parts}
    rows = [{"statistic": name, **task.accuracy(values)} for name, values in scores.items()]
    return pd.DataFrame(rows).sort_values("I-AUROC", ascending=False, ignore_index=True)


def trivial_by_category(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """The best trivial statistic in every category of the run's data set (in its own alone with ``survey`` false).

    Returns
    -------
    table with ``category, best statistic, I-AUROC, low, high`` (95 % over images); categories that are left out because
    their test images are all of one kind.

    Raises
    ------
    ValueError: for `textures` and seed 0, if a category gives more away than it was built to (`LARGEST`, `MEAN`).
    """
    p = run.parameters
    names = data.categories(p.dataset, root=p.data_root or None) if p.survey else [p.category]
    found = {name: _trivial_of(run, name) for name in names}
    table = pd.DataFrame([{"category": name, **row} for name, row in found.items() if row])
    if p.dataset == "textures" and p.seed == 0 and p.survey:
        largest, mean = table["I-AUROC"].max(), table["I-AUROC"].mean()
        if largest > LARGEST or mean > MEAN:
            raise ValueError(
                f"trivial statistics on textures: largest {largest:.3f}, mean {mean:.3f}, expected at most {LARGEST} "
                f"and {MEAN}; the generator gives something away"
            )
    return table, [name for name, row in found.items() if row is None]


def _trivial_of(run: Run, category: str) -> dict | None:
    p = run.parameters
    index = data.load_index(p.dataset, root=p.data_root or None, category=category, seed=p.seed)
    if set(index.loc[index["split"] == "test", "label"]) != {0, 1}:
        return None
    train, test = (data.ImageDataset(index[index["split"] == split], size=p.survey_size) for split in ("train", "test"))
    parts = Trivial(image_size=p.survey_size, device="cpu").fit(train).predict_dataset(test).parts
    labels = torch.tensor(test.index["label"].to_numpy())
    statistic, auroc = best_statistic(parts, labels)
    low, high = metrics.bootstrap_interval(
        metrics.image_auroc, parts[statistic], labels, n=p.bootstrap_samples, seed=p.seed
    )
    return {"best statistic": statistic, "I-AUROC": auroc, "low": low, "high": high}


# -- in sentences ------------------------------------------------------------------------------------------------------


def in_words(difference: tuple[float, float, float], what: str) -> str:
    """ "is above X (+0.05 [+0.02, +0.08])": a paired difference (value, low, high), judged by its whole interval."""
    return f"is {relation(*difference[1:])} {what} ({signed(difference)})"


def of_trivial(statistics: pd.DataFrame, trivial: TrivialBaseline) -> str:
    """statistics : `trivial_table`."""
    best = statistics.set_index("statistic").loc[trivial.statistic]
    return (
        f"The best statistic is {trivial.statistic}: I-AUROC {best['I-AUROC']:.3f} [{best['low']:.3f}, "
        f"{best['high']:.3f}] (95 % interval over images). It was chosen with the test labels. So it is a "
        "hurdle for methods, and not a method."
    )


def of_categories(table: pd.DataFrame, left_out: list[str]) -> str:
    """table, left_out : `trivial_by_category`."""
    highest = table.loc[table["I-AUROC"].idxmax()]
    left = f" Left out, because all their test images have the same label: {', '.join(left_out)}." if left_out else ""
    return (
        f"The highest I-AUROC of {len(table)} categories is {highest['I-AUROC']:.3f} ({highest['category']}, "
        f"{highest['best statistic']}), the mean {table['I-AUROC'].mean():.3f}.{left} The best of several statistics "
        "tends to lie above one half even if none of them is of use."
    )


def without_survey(category: str, survey_size: int, image_size: int) -> str:
    """Instead of `of_categories`, where only the run's own category is measured."""
    size = f" Its images are {survey_size} px wide here and {image_size} px above, so the two values may differ."
    return (
        f"Not measured in this run (`survey` is false): the other categories. The table has {category} alone."
        + size * (survey_size != image_size)
    )


def of_best(task: Task, found: Mapping[str, Prediction], table: pd.DataFrame, trivial: TrivialBaseline) -> str:
    """found, table : `run_detectors`."""
    best = table.loc[table["I-AUROC"].idxmax(), "method"]
    gain = task.difference(found[best].score, trivial.chosen.score)
    return (
        f"The best of them, {best}, {in_words(gain, 'the trivial baseline')}. It was chosen as the best of several on "
        "the same images, so this difference tends to be too large."
    )


def answer(task: Task, found: Mapping[str, Prediction], trivial: TrivialBaseline) -> str:
    """Notebook 01's two questions and what this run answers; found : `run_detectors`."""
    kinds = len({kind for kind, label in zip(task.kinds, task.labels.tolist(), strict=True) if label})
    size = f"; half of them cover less than {task.defect_areas.median():.1%} of the image" if task.has_masks else ""

    def reaches(score: torch.Tensor) -> str:
        row = task.accuracy(score)
        return f"{row['I-AUROC']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"

    said = (
        f"**What do the images and their defects look like?** On {task.name} {int(task.labels.sum())} of "
        f"{len(task.keys)} test images are defective, of {kinds} {'kinds' if kinds > 1 else 'kind'}{size}. **How well "
        f"are the defects found without any diffusion model?** The best trivial statistic has an I-AUROC of "
        f"{reaches(trivial.chosen.score)}"
    )
    if not found:
        return said + ". No established detector was run."
    best = max(found, key=lambda name: task.accuracy(found[name].score)["I-AUROC"])
    gain = {"the trivial baseline": task.difference(found[best].score, trivial.chosen.score)}
    return (
        f"{said}, the best of {len(found)} established detectors {reaches(found[best].score)}: {detects(best, gain)}. "
        "Both were picked on these test images."
    )


def of_maps(table: pd.DataFrame) -> str:
    """table : `run_detectors`."""
    if "AUPRO" not in table:
        return "Without masks it cannot be checked whether these maps are right."
    best = table.loc[table["AUPRO"].idxmax()]
    return (
        f"{best['method']} localises best: AUPRO {best['AUPRO']:.3f} (area under the per-region overlap up to a "
        "false-positive rate of 0.3, all test images with masks; 1 is perfect). The images above are only examples."
    )
