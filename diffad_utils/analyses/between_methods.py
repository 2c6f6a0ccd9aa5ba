"""Claims that compare methods of different notebooks, and img2img beside its rivals.

C15a, C15b, C30, C57 to C59, C86, C87: one method minus another. C40: time an image. C85: D3AD's localisation against
the best other diffusion method. Each run of a method is compared by itself, so that a claim between trainings has a
finding a training.

Used by notebook 08; entry points: `findings`, `slides_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from diffad_utils import metrics
from diffad_utils.analyses import img2img_claims
from diffad_utils.analyses.comparison import ABOVE, against_baseline, difference, same_images
from diffad_utils.analyses.method_results import BASELINE, MethodResult, measure
from diffad_utils.study import RunRecord, claims

ANY_OTHER = "any other method"

COMPARED = (
    ("C15a", "autoencoder", "img2img", "I-AUROC"),
    ("C30", "anomalib:patchcore", "img2img", "I-AUROC"),
    ("C30", "anomalib:patchcore", "img2img", "AUPRO"),
    ("C15b", "anomalib:ganomaly", "img2img", "I-AUROC"),
    ("C57", "esm_sigma", "glad", "I-AUROC"),
    ("C57", "esm_sigma", "glad", "P-AUROC"),
    ("C58a", "esm_sigma", "glad", "I-AUROC"),
    ("C58b", "glad", "esm_sigma", "P-AUROC"),
    ("C59", "esm_sigma", "glad", "I-AUROC"),
    ("C59", "esm_sigma", "glad", "P-AUROC"),
    ("C86", "d3ad", ANY_OTHER, "AUPRO"),
    ("C87a", "d3ad", "anomalib:draem", "P-AUROC"),
    ("C87a", "d3ad", "anomalib:draem", "AUPRO"),
    ("C87b", "anomalib:draem", "d3ad", "I-AUROC"),
)
"""Claim, method that it says is better, the other, metric."""

CALLED = {
    "d3ad": "D3AD",
    "esm_sigma": "ESM-sigma",
    "glad": "GLAD",
    "anomalib:ganomaly": "GANomaly",
    "anomalib:draem": "DRAEM",
}
"""The name of a method in the measures of claims.csv, where it is not its own."""

UNTRAINED = "img2img"
"""It trains nothing, so where it was run once, this run stands beside every training of another method."""

NO_RIVAL = ("_inversion", "_masked", "_simplex")
"""Variants of this study, no methods of a paper."""

SLIDES_RIVALS = ("anomalib:patchcore", "anomalib:padim", "autoencoder")
"""What C30 says is better suited than img2img; claims.csv judges by PatchCore, the others are shown beside it."""

IDENTITY = "error over the autoencoder's"
"""The row of the run of img2img that has its identity error."""

Measure = Callable[[RunRecord], MethodResult]


def findings(
    records: Sequence[RunRecord], measured: Sequence[MethodResult], section: str, n: int = 1000, seed: int = 0
) -> list[dict]:
    """Every finding of the claims that compare methods of different notebooks: those of `COMPARED`, C40 and C85.

    Each is from `claims.finding`, with data set, category and seed, for each task that has the methods and that the
    claim is about.

    Parameters
    ----------
    records : all runs. measured : the same, by `method_results.measure`.
    n, seed : resamples of the images, as for `measured`.
    """
    alone: dict[str, MethodResult] = {}

    def one(record: RunRecord) -> MethodResult:
        key = str(record.folder)
        if key not in alone:
            (alone[key],) = measure([record], n, seed)
        return alone[key]

    scored = [record for record in records if (record.folder / "scores.parquet").is_file()]
    found = [row for pair in COMPARED for row in _differences(scored, measured, one, *pair, section)]
    return found + speed_findings(measured, section) + localisation_findings(scored, measured, section, one)


def _differences(
    records: Sequence[RunRecord],
    measured: Sequence[MethodResult],
    one: Measure,
    claim: str,
    better: str,
    worse: str,
    name: str,
    section: str,
) -> list[dict]:
    """The findings of one row of `COMPARED`: a finding a task, pair of methods and seed."""
    rows = []
    for task in dict.fromkeys((row.dataset, row.category) for row in measured):
        if not is_about(claim, task[0]):
            continue
        here = [record for record in records if (record.dataset, record.category) == task]
        others = [worse] if worse != ANY_OTHER else _other_methods(here, better)
        note = _restriction(measured, here) if UNTRAINED in (better, worse) else ""
        for other in others:
            for a, b in pairs(here, better, other):
                effect = difference(one(a), one(b), name)
                if effect is not None:
                    text = f"{name} of {CALLED.get(better, better)} minus {CALLED.get(other, other)}"
                    n = len(one(a).scores.index.intersection(one(b).scores.index))
                    found = claims.finding(claim, *effect, n, measure=text, section=section, note=note)
                    rows.append(found | {"dataset": task[0], "category": task[1], "seed": max(a.seed, b.seed)})
    return rows


def is_about(claim: str, dataset: str) -> bool:
    """Whether a claim says something about a data set: any, or those that claims.csv names."""
    named = claims.published_claims()["datasets"][claim]
    return named == "any" or dataset in named.split()


def _other_methods(records: Sequence[RunRecord], method: str) -> list[str]:
    names = dict.fromkeys(record.method for record in records)
    return [name for name in names if name not in (method, BASELINE) and not name.endswith(NO_RIVAL)]


def pairs(records: Sequence[RunRecord], a: str, b: str) -> list[tuple[RunRecord, RunRecord]]:
    """The runs of two methods on a task, seed by seed; see `UNTRAINED` for one that was run once."""
    of = {name: {record.seed: record for record in records if record.method == name} for name in (a, b)}
    for name, other in ((a, b), (b, a)):
        if name == UNTRAINED and len(of[name]) == 1:
            (only,) = of[name].values()
            of[name] = dict.fromkeys(of[other], only)
    return [(of[a][seed], of[b][seed]) for seed in sorted(of[a].keys() & of[b].keys())]


def _restriction(measured: Sequence[MethodResult], records: Sequence[RunRecord]) -> str:
    """What the reader must know of findings about img2img on a task (`img2img_claims.restriction`)."""
    record = next((record for record in records if record.method == UNTRAINED), None)
    if record is None:
        return ""
    at = {row.method: row for row in measured if (row.dataset, row.category) == (record.dataset, record.category)}
    gain = difference(at[UNTRAINED], at[BASELINE], "I-AUROC") if BASELINE in at and UNTRAINED in at else None
    weights = record.manifest["parameters"].get("weights", "")
    # without a baseline nothing is known against it
    return img2img_claims.restriction(record.dataset, record.category, weights, gain or (np.inf, np.inf, np.inf))


def rivals(measured: Sequence[MethodResult], method: str, task: str) -> list[MethodResult]:
    """The other diffusion methods of a task that are above the trivial baseline by the paired interval."""
    verdicts = {(row.task, row.method): row.verdict for row in against_baseline(measured).itertuples()}
    return [
        row
        for row in measured
        if (row.task, row.family) == (task, "diffusion")
        and row.method != method
        and not row.method.endswith(NO_RIVAL)
        and verdicts.get((task, row.method)) == ABOVE
    ]


def speed_findings(measured: Sequence[MethodResult], section: str) -> list[dict]:
    """C40: time an image of the fastest other diffusion method that is not worse, over InvAD's, for each task.

    Not worse: by no more than `claims.MARGIN` of I-AUROC. The interval is from `timing_error`, and n is the number of
    times that this is computed from; without it, no finding.
    """
    found, (error, n) = [], timing_error(measured)
    for row in measured:
        if row.method != "invad" or "ms an image" not in row.values or error is None:
            continue
        least = row.values["I-AUROC"] - claims.MARGIN
        others = [
            other
            for other in rivals(measured, "invad", row.task)
            if other.values["I-AUROC"] >= least and "ms an image" in other.values
        ]
        if others:
            fastest = min(others, key=lambda other: other.values["ms an image"])
            ratio = fastest.values["ms an image"] / row.values["ms an image"]
            text = f"time an image of the fastest other diffusion method ({fastest.method}) over InvAD's"
            note = "a time holds as well as those of one method on several tasks agree"
            width = float(np.exp(1.96 * np.sqrt(2) * error))
            ends = ratio / width, ratio * width
            of = claims.finding("C40", ratio, *ends, n, measure=text, section=section, note=note)
            found.append(of | {"dataset": row.dataset, "category": row.category})
    return found


def timing_error(measured: Sequence[MethodResult]) -> tuple[float | None, int]:
    """Standard deviation of the logarithm of a method's time an image, from methods that ran on several tasks, and the
    number of these times.

    A method sees images of one size on every task of a profile, so its times differ by what else the machine did. None
    where no method has two tasks.
    """
    timed = [row for row in measured if "ms an image" in row.values]
    times = pd.Series([np.log(row.values["ms an image"]) for row in timed], [row.method for row in timed], dtype=float)
    groups = times.groupby(level=0)
    times = times[groups.transform("size") > 1]
    groups = times.groupby(level=0)
    freedom = len(times) - groups.ngroups
    if not freedom:
        return None, 0
    return float(np.sqrt(((times - groups.transform("mean")) ** 2).sum() / freedom)), len(times)


def localisation_findings(
    records: Sequence[RunRecord],
    measured: Sequence[MethodResult],
    section: str,
    one: Measure,
    datasets: Sequence[str] = ("visa",),
) -> list[dict]:
    """C85: mean of P-AUROC and AUPRO, D3AD minus the best other diffusion method that is above the trivial baseline, on
    the data that the claim names. The best is the same for all seeds of a category."""
    found = []
    for row in measured:
        others = rivals(measured, "d3ad", row.task) if row.method == "d3ad" and row.dataset in datasets else []
        others = [other for other in others if {"P-AUROC", "AUPRO"} <= other.values.keys()]
        if not others:
            continue
        best = max(others, key=lambda other: other.values["P-AUROC"] + other.values["AUPRO"]).method
        here = [record for record in records if (record.dataset, record.category) == (row.dataset, row.category)]
        for a, b in pairs(here, "d3ad", best):
            gaps = [difference_samples(one(a), one(b), name) for name in ("P-AUROC", "AUPRO")]
            known = [gap for gap in gaps if gap is not None]
            if len(known) == len(gaps):
                middle = float(np.mean([gap[0] for gap in known]))
                low, high = metrics.percentile_interval(np.mean([gap[1] for gap in known], axis=0))
                text = f"mean of P-AUROC and AUPRO: D3AD minus the best other diffusion method ({best})"
                note = "the best is picked on these images, which favours it"
                of = claims.finding(
                    "C85", middle, low, high, len(one(a).scores), measure=text, section=section, note=note
                )
                found.append(of | {"dataset": row.dataset, "category": row.category, "seed": a.seed})
    return found


def difference_samples(a: MethodResult, b: MethodResult, name: str) -> tuple[float, np.ndarray] | None:
    """a minus b of a metric, and the same of each resample [n]; None where it is not known of both on the same
    images."""
    if name not in a.samples or name not in b.samples or not same_images(a, b):
        return None
    return a.values[name] - b.values[name], a.samples[name] - b.samples[name]


def slides_table(measured: Sequence[MethodResult], records: Sequence[RunRecord]) -> pd.DataFrame:
    """C30 beside its rivals: each of `SLIDES_RIVALS` minus img2img, and the identity error of img2img.

    Columns task, compared, value, low, high. The identity error is of the first seed: how far the reconstruction of a
    normal image is from it, over the same of the autoencoder alone (log2 of squared errors; 0 is no further).
    """
    at = {(row.task, row.method): row for row in measured}
    rows = []
    for (task, method), ours in at.items():
        for name in ("I-AUROC", "AUPRO") if method == "img2img" else ():
            for rival in SLIDES_RIVALS:
                other = at.get((task, rival))
                effect = difference(other, ours, name) if other is not None else None
                if effect is not None:
                    rows.append([task, f"{name}: {rival} minus img2img", *effect])
    first: dict[tuple[str, str], RunRecord] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.method == "img2img":
            first.setdefault((record.dataset, record.category), record)
    for record in first.values():
        for row in record.experiments.get("identity", []):
            if row["measure"] == IDENTITY:
                text = f"log2 of img2img's squared {IDENTITY}"
                rows.append([f"{record.dataset}/{record.category}", text, row["log2"], row["low"], row["high"]])
    return pd.DataFrame(rows, columns=["task", "compared", "value", "low", "high"]).sort_values(
        "task", kind="stable", ignore_index=True
    )
