"""The figures of notebook 03, each from what its section measured. Used by notebook 03; every function is a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffad_utils import plots
from diffad_utils.analyses.img2img_edits import EditStudy
from diffad_utils.analyses.img2img_settings import Response, crossing, reconstruction_std
from diffad_utils.analyses.img2img_two_passes import TwoPassStudy
from diffad_utils.analyses.task import Task
from diffad_utils.methods.base import Prediction


def examples(task: Task) -> Figure:
    """Six defects and two normal images, with their counterparts and masks where the data set has them."""
    shown = task.take(task.examples(6, 2))
    rows = {"test images": shown.images}
    if task.has_counterparts:
        rows["defect-free counterparts"] = shown.batch["twin"]
    if task.has_masks:
        rows["masks"] = shown.masks
    return plots.labelled_rows(rows, shown.kinds)


def intervals(table: pd.DataFrame, value: str, title: str, reference: float = 0.5) -> Figure:
    """``value`` with its interval (low, high), one row an entry of the index; a dotted line at ``reference``."""
    chart = table.rename_axis("row").reset_index().assign(group=title)
    return plots.intervals_chart(chart, "row", value, "low", "high", value, "group", reference)


def strips(task: Task, x_hats: Sequence[Tensor], strengths: Sequence[float]) -> Figure:
    """The images of a task, after the autoencoder and over strength, with residuals."""
    masks = task.masks if task.has_masks else None
    return plots.strength_strips(task.images, torch.stack([*x_hats]), masks, [0, *strengths], task.kinds)


def over_strength(edits: EditStudy) -> Figure:
    """Removal, fidelity and survival over strength, with the oracle's removal."""
    curve = edits.curve()
    met = crossing(*(curve[name].tolist() for name in ("strength", "removal", "fidelity")))
    curves = {name: name for name in ("removal", "fidelity", "survival")}
    return plots.compromise(curve, "strength", curves, "strength", met, edits.oracle_row()["removal"])


def all_settings(edits: EditStudy) -> Figure:
    """Mean removal against mean drift of every setting."""
    points = edits.points()
    return plots.pareto(points, points["not_beaten"].tolist(), "drift", "removal", "strength", (0.5, 0.5))


def small_defects(edits: EditStudy) -> Figure:
    """Drift over the defect, by the defect's area."""
    half = edits.drifts["smaller_half"].map({True: "smaller half", False: "larger half"})
    table = edits.drifts.assign(defects=half)
    return plots.points_by_size(
        table, "area", "log2_drift", "defects", "area of the defect, % of the image", "log2 (drift / defect)"
    )


def two_pass_examples(task: Task, first: Prediction, cells: Tensor, second: Prediction) -> Figure:
    """Both passes on six defects and two normal images, and the mask between them."""
    rows = task.examples(6, 2)
    pictures = {
        "x": task.images[rows],
        "first pass": first.reconstruction[rows],
        "mask found": cells[rows],
        "second pass": second.reconstruction[rows],
    }
    return plots.labelled_rows(pictures, task.take(rows).kinds)


def two_passes(study: TwoPassStudy) -> Figure:
    """Removal, drift and survival over strength, one pass against two."""
    panels = {"removal": "removal", "drift": "drift / defect's size", "survival": "survival of the defect"}
    return plots.panels_with_intervals(study.table(), "strength", panels, study.axis, "editor", columns=3)


def spread(images: Tensor, varied: Mapping[str, Tensor], count: int = 8) -> Figure:
    """Images, a reconstruction, and the standard deviation of each pixel over what was varied."""
    names = {"seed": "seeds", "guidance_scale": "guidance"}
    rows = {"x": images[:count], "x̂": next(iter(varied.values()))[0, :count]}
    for field, x_hats in varied.items():
        rows[f"deviation over {names[field]}"] = reconstruction_std(x_hats[:, :count])
    return plots.labelled_rows(rows)


def prompts(images: Tensor, redrawn: Mapping[str, Tensor]) -> Figure:
    """Images, and what each prompt makes of them."""
    return plots.labelled_rows({"x": images} | dict(redrawn), side=0.95)


def round_trips(table: pd.DataFrame) -> Figure:
    """Drift after DDIM inversion and back, over steps, by guidance."""
    label = "drift / autoencoder's error"
    return plots.lines_with_intervals(table, "steps", "drift", "guidance", "DDIM steps each way", label, log_x=True)


def score_parts(prediction: Prediction, labels: Tensor) -> Figure:
    """Both parts of the hybrid score, each in its own unit."""
    parts = {"squared error": prediction.parts["mse"], "1 - CLIP cosine": prediction.parts["clip"]}
    return plots.score_histograms(parts, labels)


def changes(images: Tensor, response: Response, count: int = 6) -> Figure:
    """Normal images, changed in three ways that are as visible."""
    return plots.labelled_rows({"x": images[:count]} | {name: x[:count] for name, x in response.changed.items()})


def sweep(table: pd.DataFrame, steps: int) -> Figure:
    """Heat maps of the settings that run ``steps`` steps, over strength and guidance."""
    panels = {"I-AUROC": "I-AUROC", "AUPRO": "AUPRO", "ssim": "SSIM, normal images"}
    axes = {"strength": "strength", "guidance_scale": "guidance", "num_inference_steps": "steps"}
    shown = {name: title for name, title in panels.items() if name in table}
    x, y, rows = axes
    return plots.heat_maps(table[table["num_inference_steps"] == steps], shown, x, y, rows, axes)
