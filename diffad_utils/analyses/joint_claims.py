"""Four claims that no notebook can judge alone, from what runs of several methods and categories recorded.

C36: the same score with diffusion in pixels, in latents and in features. C62: one number of diffusion steps for all
categories, against one for each. C67: a printed difference, against those between trainings. C24c: how well LoRA with
CLIP keeps normal images, against the autoencoder.

Used by notebook 08; entry points: `spaces`, `spaces_in_words`, `findings`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats

from diffad_utils.metrics import bootstrap, intervals
from diffad_utils.study import RunRecord, claims, verdicts
from diffad_utils.study.outcomes import FEWEST_SEEDS

RESIDUALS = {"pixel_ddpm": ("pixels", "mse"), "sgm": ("latents", "re")}
"""Method -> (space that is diffused, part of its score that is the residual averaged over the image)."""

METHOD_OF = {"pixels": "pixel_ddpm", "latents": "sgm", "features": "invad"}
"""Whose network diffuses in a space."""


def spaces(records: Sequence[RunRecord], n: int = 1000) -> pd.DataFrame:
    """I-AUROC of one score, the mean residual between what was noised and its reconstruction, by the diffused space.

    Pixels: pixel_ddpm. Latents: SGM. Features: InvAD's network, used to reconstruct, as notebook 07 recorded it; of its
    noise levels the middle one, so that none is picked by its result.

    Parameters
    ----------
    n : resamples of the images.

    Returns
    -------
    One row a run: dataset, category, seed, space, method, I-AUROC, low, high, images, training (see `claims.findings`),
    and for a chart task and label.
    """
    rows = []
    for record in records:
        where = {"dataset": record.dataset, "category": record.category, "seed": record.seed}
        where["training"] = claims.training_of(record) or f"{record.dataset}/{record.category}"
        if record.method in RESIDUALS:
            space, part = RESIDUALS[record.method]
            images = record.scores()
            if part in images:
                labels = images["label"].to_numpy()
                drawn = intervals.auroc(images[part].to_numpy(), labels, bootstrap.bootstrap_counts(labels, n))[:, 0]
                found = dict(zip(("I-AUROC", "low", "high"), bootstrap.bootstrap_percentiles(drawn), strict=True))
                rows.append(where | {"space": space, "method": record.method, **found, "images": len(images)})
        elif record.method == "invad" and isinstance(record.experiments.get("rivals"), list):
            middle = _middle_level(record.experiments["rivals"], f"{record.dataset}/{record.category}")
            if middle is not None:
                found = {name: middle[name] for name in ("I-AUROC", "low", "high")}
                shown = {"space": "features", "method": f"InvAD's network, {middle['method']}"}
                drawn_for_sweeps = record.manifest["parameters"].get("sweep_images", math.inf)
                rows.append(where | shown | found | {"images": min(len(record.scores()), drawn_for_sweeps)})
    columns = ["dataset", "category", "seed", "space", "method", "I-AUROC", "low", "high", "images", "training"]
    table = pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)
    several = table["seed"].nunique() > 1
    label = table["space"] + (", seed " + table["seed"].astype(str) if several else "")
    return table.assign(task=table["dataset"] + "/" + table["category"], label=label)


def _middle_level(rivals: Sequence[dict], task: str) -> dict | None:
    """The reconstruction from the middle one of the noise levels that were run with one number of steps."""
    named = [(re.fullmatch(r"reconstruction, t = (\d+), (\d+) steps?", row["method"]), row) for row in rivals]
    swept = [(int(match[1]), int(match[2]), row) for match, row in named if match and row["group"] == task]
    if not swept:
        return None
    counts = [steps for _, steps, _ in swept]
    most = max(set(counts), key=counts.count)
    levels = sorted((t, i) for i, (t, steps, _) in enumerate(swept) if steps == most)
    return swept[levels[len(levels) // 2][1]][2]


def space_findings(found: pd.DataFrame, section: str) -> list[dict]:
    """C36 from `spaces`: features minus pixels, a finding a category and seed that have both.

    The intervals of both are combined as if they were of different images, so that of the difference is too wide.
    """
    rows = []
    for (dataset, category, seed), part in found.groupby(["dataset", "category", "seed"], sort=False):
        of = part.drop_duplicates("space").set_index("space")
        if not {"pixels", "features"} <= set(of.index):
            continue
        a, b = of.loc["features"], of.loc["pixels"]
        errors = [verdicts.standard_error(row["low"], row["high"]) for row in (a, b)]
        effect, half = float(a["I-AUROC"] - b["I-AUROC"]), 1.96 * float(np.hypot(*errors))
        measure = "I-AUROC of the mean residual of diffusion in feature space minus in pixel space"
        note = f"{a['method']} minus {b['method']}; sizes, steps and training differ as the methods' do"
        row = claims.finding(
            "C36",
            effect,
            effect - half,
            effect + half,
            int(of["images"].min()),
            measure=measure,
            section=section,
            note=note,
        )
        where = {"dataset": dataset, "category": category, "seed": int(seed), "training": str(a["training"])}
        rows.append(row | where)
    return rows


def spaces_in_words(found: pd.DataFrame) -> str:
    """What the picture of `spaces` shows, from the findings of `space_findings` as well."""
    differences = space_findings(found, "")
    if not differences:
        return "No task has a run in pixels and one in features, so the spaces cannot be compared."
    above = sum(row["interval"][0] > 0 for row in differences)
    below = sum(row["interval"][1] < 0 for row in differences)
    runs = len(differences)
    if above or below:
        rest = runs - above - below
        tasks = len({(row["dataset"], row["category"]) for row in differences})
        said = f"In features the score is above the one in pixels in {above} of {runs} runs (on {tasks} task"
        said += f"{'s' * (tasks > 1)}), and below it in {below}"
        said += f"; in the other {rest} no difference is shown." if rest else "."
    else:
        where = {1: "the one run", 2: "either run"}.get(runs, f"any of {runs} runs")
        said = f"No difference between features and pixels is shown in {where}."
    return (
        f"{said} The images of the two are not paired, so their interval is too wide rather than too narrow. Networks, "
        "sizes and steps are those of the methods, so the picture compares methods that diffuse in these spaces, and "
        "not the spaces alone."
    )


def choice_for_each(
    scores: Sequence[ArrayLike], labels: Sequence[ArrayLike], splits: int = 50, n: int = 300, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """I-AUROC of each category's best setting minus that of the one that is best for all: a lower and an upper bound.

    A setting reaches too much, on average, on the images on which it was found to be the best, and on others too
    little. So the images of each category are halved. With its own setting found on one half, the one for all on the
    other, and both measured on this other half the difference is too small; with both exchanged it is too large. Both
    halves play both parts, over ``splits`` random halves.

    Parameters
    ----------
    scores, labels : [S, N_c] of S settings and [N_c] in {0, 1}, for each category.
    n : resamples of the images.

    Returns
    -------
    (lower, upper) for each category, draws [n + 1] each, that of the data first.

    Raises
    ------
    ValueError
        Fewer than two categories, or other numbers of settings in one than in another.
    """
    scores = [np.asarray(values, dtype=np.float64) for values in scores]
    anomalous = [np.asarray(values) == 1 for values in labels]
    if len(scores) < 2 or len({len(values) for values in scores}) > 1:
        raise ValueError(f"expected two or more categories with one set of settings, got {[s.shape for s in scores]}")
    wins = [intervals.pair_wins(s, a) for s, a in zip(scores, anomalous, strict=True)]
    counts = [bootstrap.bootstrap_counts(a, n, seed) for a in anomalous]
    generator, total = np.random.default_rng(seed), [(np.zeros(n + 1), np.zeros(n + 1)) for _ in scores]
    for _ in range(splits):
        halves = [intervals.random_half(a, generator) for a in anomalous]
        here, there = (  # what each setting reaches on a half and on the other: [categories, S]
            np.stack([intervals.aurocs_on(*of) for of in zip(wins, anomalous, rows, strict=True)])
            for rows in (halves, [~half for half in halves])
        )
        for measured, other, second in ((here, there, False), (there, here, True)):
            lower = other.argmax(axis=1), measured.mean(axis=0).argmax()
            upper = measured.argmax(axis=1), other.mean(axis=0).argmax()
            for c, (w, a, half, times) in enumerate(zip(wins, anomalous, halves, counts, strict=True)):
                for bound, (own, one) in zip(total[c], (lower, upper), strict=True):
                    gap = w[own[c]] - w[one]
                    bound += intervals.mean_over_pairs(gap, a, half != second, times) / (2 * splits)
    return total


def timestep_findings(records: Sequence[RunRecord], section: str, method: str = "ESM", n: int = 300) -> list[dict]:
    """C62: the T_d of each category minus one T_d for all, from the sweeps that notebook 05 recorded.

    Two findings a category and seed, a lower and an upper bound (`choice_for_each`), from the seeds that have two
    categories with the same T_d or more.
    """
    runs: dict[tuple, list[tuple[RunRecord, dict]]] = {}
    for record in records:
        kept = record.experiments.get("timestep_scores", {}).get(method)
        if kept is not None:
            runs.setdefault((record.seed, *kept["T_d"]), []).append((record, kept))
    rows = []
    for (seed, *steps), members in runs.items():
        if len(members) < 2 or len(steps) < 2:
            continue
        drawn = choice_for_each([k["scores"] for _, k in members], [k["labels"] for _, k in members], n=n)
        note = f"T_d of {', '.join(map(str, steps))}; {len(members)} categories"
        for (record, kept), bounds in zip(members, drawn, strict=True):
            where = {"dataset": record.dataset, "category": record.category, "seed": seed}
            for which, draws in zip(("other", "the same"), bounds, strict=True):
                found_on = f"the best T_d of a category, found on {which} images"
                measure = f"I-AUROC of {method} with {found_on}, minus that with one T_d for all"
                effect = bootstrap.bootstrap_percentiles(draws)
                row = claims.finding("C62", *effect, len(kept["labels"]), measure=measure, section=section, note=note)
                rows.append(row | where)
    return rows


def identity_findings(records: Sequence[RunRecord], section: str, n: int = 1000) -> list[dict]:
    """C24c: the mean squared error of a normal test image and its reconstruction, by LoRA minus by the autoencoder.

    A finding a category and seed that have both on the same normal images; in 1e-3 of squared grey values of [0, 1].
    """
    runs = {(r.dataset, r.category, r.seed, r.method): r for r in records if r.method in ("lora", "autoencoder")}
    rows = []
    for (dataset, category, seed, method), record in runs.items():
        other = runs.get((dataset, category, seed, "autoencoder"))
        if method != "lora" or other is None:
            continue
        tables = [run.scores().set_index("key") for run in (record, other)]
        if not all({"mse", "label"} <= set(table) for table in tables) or set(tables[0].index) != set(tables[1].index):
            continue
        normal = tables[0].index[tables[0]["label"] == 0]
        error, of_autoencoder = (table.loc[normal, "mse"].to_numpy() for table in tables)
        effect = bootstrap.mean_interval(1000 * (error - of_autoencoder), n, seed)
        measure = "identity error of LoRA with CLIP minus that of the autoencoder, 1e-3 of the mean squared error"
        found = claims.finding("C24c", *effect, len(normal), measure=measure, section=section, note="normal images")
        rows.append(found | {"dataset": dataset, "category": category, "seed": seed})
    return rows


PRINTED_GAIN = 0.026
"""C67: I-AUROC of ESM minus SGM on MVTec AD, 97.4 - 94.8 points (ESM2025, table 1)."""


def against_chance(differences: ArrayLike, printed: float = PRINTED_GAIN) -> tuple[float, float, float]:
    """log2 of ``printed`` over two standard deviations of ``differences`` over trainings [S], with its 95 % interval.

    The logarithm of a standard deviation s of S values is too small on average by (log(f / 2) - psi(f / 2)) / 2, with
    f = S - 1 (Bartlett and Kendall, Supplement to the Journal of the Royal Statistical Society 8, 1946); this is added.
    So its mean over categories is not biased, which that of s itself is, by 11 % with three trainings. The interval is
    that of a chi-squared variance.

    Raises
    ------
    ValueError
        Fewer than `FEWEST_SEEDS` trainings, or differences that are all equal, whose logarithm is infinite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    freedom = len(differences) - 1
    if freedom + 1 < FEWEST_SEEDS or np.ptp(differences) == 0:
        raise ValueError(f"expected {FEWEST_SEEDS} or more trainings that differ, got {differences.tolist()}")
    deviation = np.std(differences, ddof=1)
    unbiased = np.exp((np.log(freedom / 2) - special.digamma(freedom / 2)) / 2)
    ends = np.sqrt(freedom / stats.chi2.ppf([0.025, 0.975], freedom))
    value, low, high = (float(np.log2(printed / (2 * deviation * factor))) for factor in (unbiased, *ends))
    return value, low, high


def chance_findings(records: Sequence[RunRecord], section: str) -> list[dict]:
    """C67 from C44, ESM minus SGM, of the trainings of each category: a finding a category with three or more.

    A category whose trainings have all the same difference, such as 0 where both are perfect, has none.
    """
    found, rows = claims.findings(records), []
    gains = found[(found["claim_id"] == "C44") & (found["variant"] != "")]
    for (dataset, category), of in gains.groupby(["dataset", "category"], sort=False):
        trained = of.drop_duplicates("seed")
        if len(trained) < FEWEST_SEEDS or trained["effect"].nunique() == 1:
            continue
        note = f"seeds {', '.join(map(str, sorted(trained['seed'])))}"
        measure = f"log2 of the printed difference ({PRINTED_GAIN}) over two standard deviations over seeds of ours"
        effect = against_chance(trained["effect"])
        row = claims.finding("C67", *effect, int(trained["n"].min()), measure=measure, section=section, note=note)
        where = {"dataset": dataset, "category": category, "seed": int(trained["seed"].min())}
        rows.append(row | where | {"training": f"{dataset}/{category}"})
    return rows


def findings(records: Sequence[RunRecord], section: str) -> list[dict]:
    """C36, C62, C67 and C24c, from all runs."""
    joint = space_findings(spaces(records), section) + timestep_findings(records, section)
    return joint + chance_findings(records, section) + identity_findings(records, section)
