"""What the figures of the comparison show, in a sentence each with its numbers.

Used by notebook 08; entry points: every function takes the table that its figure draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from diffad_utils.analyses import by_defect, over_tasks
from diffad_utils.analyses.comparison import Ranks
from diffad_utils.analyses.method_results import BASELINE, MethodResult
from diffad_utils.study import RunRecord, claims


def _counted(names: Sequence[str]) -> str:
    """``a, b and c``; ``none`` without any."""
    names = list(dict.fromkeys(names))
    return "none" if not names else names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def of_tasks(measured: Sequence[MethodResult], records: Sequence[RunRecord] = ()) -> str:
    """How many tasks, methods and images the comparison has, and by the runs how large the images are."""
    images = {row.task: int(row.values["images"]) for row in measured}
    named = ", ".join(f"{task} ({count} test images)" for task, count in images.items())
    methods = {row.method for row in measured}
    partly = "Not every method was run on every task. " * (len(measured) < len(methods) * len(images))
    return (
        f"{len(methods)} methods on {len(images)} task{'s' * (len(images) > 1)}: {named}. A red line is the outline of "
        f"the defect, where the data set has masks. {partly}{of_image_sizes(records)} {of_training(records)}"
    ).rstrip()


def of_training(records: Sequence[RunRecord]) -> str:
    """Which methods learn from the normal images of several categories at once, by their ``setting``; empty if none
    does."""
    most: dict[str, tuple[int, int]] = {}
    for record in records:
        setting = record.experiments.get("setting")
        if isinstance(setting, dict) and len(setting.get("categories", ())) > 1:
            size = len(setting["categories"]), int(setting["training images"])
            most[record.method] = max(most.get(record.method, size), size)
    return " ".join(
        f"{method} learns one network from the normal images of up to {categories} categories together ({images} "
        "images)."
        for method, (categories, images) in most.items()
    )


def of_image_sizes(records: Sequence[RunRecord]) -> str:
    """How large the images are that each method sees: with a difference in size, two methods differ in more than
    themselves."""
    methods: dict[int, set[str]] = {}
    for record in records:
        if size := record.manifest["parameters"].get("image_size"):
            methods.setdefault(int(size), set()).add(record.method)
    if len(methods) < 2:
        return f"All methods see images of {next(iter(methods), 0)} pixels a side." if methods else ""
    most = max(methods, key=lambda size: len(methods[size]))
    others = [f"{size} for {_counted(sorted(methods[size]))}" for size in sorted(methods) if size != most]
    return (
        f"Images have {most} pixels a side for most methods, {'; '.join(others)}. A larger image shows smaller "
        "defects, so between methods of different sizes not only the method differs. A control has the size of its "
        "method."
    )


def of_answer(table: pd.DataFrame) -> str:
    """`diffusion_controls.against_controls`: who is best on each task, and how many are above baseline and control."""
    ours = table[table["family"] == "diffusion"]
    best = [table.loc[part.index[0]] for _, part in table.groupby("task", sort=False)]
    leaders = [f"{row['method']} on {row['task']} ({row['I-AUROC']:.3f})" for row in best]
    won = sum(row["family"] == "diffusion" for row in best)
    beaten = ours[ours["control high"] < ours["I-AUROC"]]
    weak = int((beaten["control"] <= beaten["baseline"]).sum())
    drawn = (
        f" The first panel is the mean over {len(best)} tasks, of the methods that were run on all, with Student's "
        f"intervals over tasks; of the tasks the {over_tasks.BESIDE_MEAN} with the most methods are drawn."
        if len(best) > over_tasks.MANY
        else ""
    )
    return (
        f"Highest on its task: {_counted(leaders)}; {won} of {len(best)} are diffusion methods. In "
        f"{int(ours['above both'].sum())} of {len(ours)} cases a diffusion method is above the trivial baseline and "
        f"above its control, both by paired intervals. In {weak} of the {len(beaten)} cases above a control, the "
        "control's I-AUROC is not above the trivial baseline's. The black line at a diamond is the paired interval of "
        "method minus control, laid around the control: a line wholly left of its blue point says that the method is "
        "better than the control, one wholly right of it that it is worse. The other intervals of the picture are not "
        f"paired, so they may overlap and still belong to a real difference.{drawn}"
    )


def of_controls(found: pd.DataFrame) -> str:
    """`diffusion_controls.controls`: where the method is above, below, or not shown to differ from its strongest
    control without diffusion, and from itself untrained."""
    if found.empty:
        return "No run recorded a control without diffusion, so these runs cannot say what diffusion adds."
    own = found[found["kind"] == "no_diffusion"]
    few = len(found) <= over_tasks.MOST_ROWS
    up, down = own[own["low"] > 0], own[own["high"] < 0]
    said = (
        f"Of {len(own)} comparisons of a method with its strongest control on a task, the method is above in {len(up)}"
        f"{_named(up) * few} and below in {len(down)}{_named(down) * few}; in {len(own) - len(up) - len(down)} no "
        "difference is shown."
    )
    untrained = found[found["kind"] == "untrained"]
    if len(untrained):
        said += f" Against itself untrained a method is above in {(untrained['low'] > 0).sum()} of {len(untrained)}."
    if few:
        return f"{said} What a control leaves out is in the table below. Methods without one are not shown."
    return (
        f"{said} Of several tasks the figure has the mean, with Student's intervals over tasks; the table has each. "
        "What a control leaves out is there, too."
    )


def _named(rows: pd.DataFrame) -> str:
    """The methods of some controls with their tasks, in brackets; empty without any."""
    tasks = rows.groupby("method", sort=False)["task"].agg(", ".join)
    return f" ({'; '.join(f'{method} on {on}' for method, on in tasks.items())})" if len(tasks) else ""


def of_case(case: str, rows: pd.DataFrame) -> str:
    """One strip of `example_cases.cases`; how a strip is read stands above the first, as it holds for all."""
    meaning = {
        "found": "Defective images above the threshold, those that the method is surest of",
        "missed": "Defective images not above the threshold, those that look most normal to the method",
        "invented": "Normal images above the threshold, the false alarms with the highest scores",
    }[case]
    methods = _counted([f"{row.method} on {row.task}" for row in rows.itertuples()])
    return f"{meaning}; {len(rows)} images, by the best diffusion method of each task: {methods}."


def of_pairs(pairs: pd.DataFrame) -> str:
    """`comparison.pairwise`: how many pairs differ beyond their interval."""
    unclear = int(((pairs["low"] <= 0) & (pairs["high"] >= 0)).sum())
    smallest = float(pairs.loc[(pairs["low"] > 0) | (pairs["high"] < 0), "difference"].abs().min())
    least = f" The smallest difference that is clear is {smallest:.3f}." if np.isfinite(smallest) else ""
    return (
        f"{unclear} of {len(pairs)} pairs have an interval that contains zero: these images and trainings do not "
        f"show which of the two is better.{least} The intervals are not adjusted for the number of pairs."
        f"{over_tasks.left_out(pairs, over_tasks.MATRICES)}"
    )


def of_ranks(ranked: Ranks) -> str:
    """`comparison.ranks`: the first and the last, Friedman's p, and which methods have no rank."""
    order = ranked.average.index
    several = len(ranked.left_out) > 1
    without = (
        f" Without {', '.join(ranked.left_out)}: {'they were' if several else 'it was'} not measured on every task."
        if ranked.left_out
        else ""
    )
    return (
        f"First of {len(order)} methods on average: {order[0]} (rank {ranked.average.iloc[0]:.1f}); last: {order[-1]}. "
        f"Friedman's p is {ranked.p:.2g} over {ranked.tasks} tasks. Ranks say nothing about the size of a difference."
        f"{without}"
    )


def of_cost(timed: pd.DataFrame, front: pd.Series) -> str:
    """`comparison.pareto`: which methods no other beats in accuracy and time."""
    best = timed[front]
    ours = sorted(set(best.loc[best["family"] == "diffusion", "method"]))
    fastest = timed.loc[timed["ms an image"].idxmin()]
    slowest = timed.loc[timed["ms an image"].idxmax()]
    if not (timed["family"] == "diffusion").any():
        unbeaten = "There is no diffusion method among them."
    elif ours:
        unbeaten = f"Diffusion methods that no other method beats in both on some task: {_counted(ours)}."
    else:
        unbeaten = "On every task each diffusion method has another method that is as fast and as accurate, or better."
    return (
        f"Between the fastest ({fastest['method']}, {fastest['ms an image']:.3g} ms) and the slowest "
        f"({slowest['method']}, {slowest['ms an image']:.3g} ms) lies a factor of "
        f"{slowest['ms an image'] / fastest['ms an image']:.0f}. {unbeaten} "
        f"Times are of this machine, with other work beside, and have no interval: close ones may change places."
        f"{over_tasks.left_out(timed, over_tasks.PANELS)}"
    )


def of_localisation(table: pd.DataFrame) -> str:
    """Rank correlation of I-AUROC and AUPRO over methods, by task, and the method whose localisation lags furthest
    behind, the trivial baseline left out."""
    table = table[table["method"] != BASELINE]
    by_task = [part[["I-AUROC", "AUPRO"]].corr("spearman").iloc[0, 1] for _, part in table.groupby("task")]
    known = [value for value in by_task if np.isfinite(value)]
    joint = (
        f"over the methods of a task the rank correlation is {min(known):.2f} to {max(known):.2f}"
        if known
        else "there is no rank correlation"
    )
    worst = table.loc[(table["I-AUROC"] - table["AUPRO"]).idxmax()]
    chance = "Its ranking is not shown to be better than chance. " if worst.get("I-AUROC low", 1.0) <= 0.5 else ""
    return (
        f"Of {len(table)} results: {joint}. Furthest above the diagonal: "
        f"{worst['method']} on {worst['task']}, I-AUROC {worst['I-AUROC']:.3f} with an AUPRO of "
        f"{worst['AUPRO']:.3f}. {chance}The two metrics have different scales and levels of chance, so "
        f"the diagonal is only a guide, and the figure does not say what a method looks at."
        f"{over_tasks.left_out(table, over_tasks.PANELS)}"
    )


ALONE = "No diffusion method, or no other detector, was run on every task, so the table stands alone."


def of_recall(found: pd.DataFrame, false_alarms: float) -> str:
    """`by_defect.recall`: the best diffusion method and the best other detector of those that were run on all tasks."""
    if (best := _best_two(found, ["task"])) is None:
        return ALONE
    ours, other = best
    return (
        f"With at most {false_alarms:.0%} of normal images flagged, the best diffusion method, {ours.name}, finds "
        f"{ours.mean():.0%} and the best other detector, {other.name}, {other.mean():.0%} of the defective images, "
        f"averaged over {len(ours)} task{'s' * (len(ours) > 1)}. A threshold in use is set without test images, so its "
        "share of false alarms would be another."
    )


def of_kinds(found: pd.DataFrame, false_alarms: float) -> str:
    """`by_defect.recall_by_kind`: on which kind the best diffusion method of those on all tasks falls furthest behind
    the best other detector, and the kind that is hardest for both."""
    if (best := _best_two(found, ["task", "defect"])) is None:
        return ALONE
    ours, other = (shares.groupby("defect").mean().rename(shares.name) for shares in best)
    gap, hardest = (other - ours).idxmax(), pd.concat([ours, other], axis="columns").max(axis="columns").idxmin()
    behind = (
        f"{ours.name} falls furthest behind {other.name} on {gap}: {ours[gap]:.0%} against {other[gap]:.0%} found"
        if other[gap] > ours[gap]
        else f"{ours.name} falls behind {other.name} on no kind"
    )
    return (
        f"With at most {false_alarms:.0%} of normal images flagged, {behind}. Hardest for both is {hardest}: "
        f"{ours[hardest]:.0%} and {other[hardest]:.0%}. They are the best of those that were run on all of these "
        f"tasks. A kind has {found['n'].min()} images or more on a task, so shares of single kinds are rough."
    )


def _best_two(found: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.Series, pd.Series] | None:
    """Recall by ``columns`` of the best diffusion method and of the best other detector, by mean, among those that have
    all values which any of them has; None without both. The trivial baseline is left out."""
    found = found[found["method"] != BASELINE]
    table = found.pivot_table("recall", ["family", "method"], columns, aggfunc="mean").dropna()
    table = table.loc[table.mean(axis="columns").sort_values(ascending=False).index]
    ours = table.index.get_level_values("family") == "diffusion"
    if not len(table) or ours.all() or not ours.any():
        return None
    best = [part.iloc[0].rename(part.index[0][1]) for part in (table[ours], table[~ours])]
    return best[0], best[1]


def of_sizes(sizes: pd.DataFrame, false_alarms: float) -> str:
    """`by_defect.recall_by_size`: recall of the smallest, the middle and the largest defects, by the best diffusion
    method and the best other detector of those on all tasks."""
    if (best := _best_two(by_defect.over_seeds(sizes), ["task", "bin"])) is None:
        return ALONE
    said = [f"{shares.name} finds " + ", ".join(f"{x:.0%}" for x in shares.groupby("bin").mean()) for shares in best]
    return (
        f"With at most {false_alarms:.0%} of normal images flagged, of the smallest, the middle and the largest third "
        f"of the defects {'; '.join(said)}, averaged over tasks. A group has {sizes['n'].min()} images or more on a "
        "task. Size is not all that differs between the groups: small defects are also of other kinds."
    )


def of_conventions(effects: pd.DataFrame, gap_of: Mapping[str, float]) -> str:
    """How often one convention moves a metric by more than the median gap between the best two in papers' tables."""
    judged = effects[effects["metric"].isin(list(gap_of))]
    if judged.empty:
        return "No convention moved a metric that the printed tables have, so there is nothing to compare."
    larger = (judged["change"].abs() > judged["metric"].map(gap_of)).groupby(judged["metric"]).mean()
    parts = [
        f"{gap_of[metric]:.4f} of {metric}, and {share:.0%} of our changes are larger"
        for metric, share in larger.items()
    ]
    most = judged.loc[judged["change"].abs().idxmax()]
    return (
        f"In the median of the printed tables the best two methods differ by {'; by '.join(parts)}. A change is what "
        f"one convention alone moves a metric here. The largest is {most['change']:+.3f} of {most['metric']} "
        f"(“{most['convention']}”). Printed averages are over whole data sets, our changes of single tasks."
    )


def of_papers(ranges: pd.DataFrame) -> str:
    """`published.disagreements` with a range above zero: the largest, and how many."""
    top = ranges.iloc[0]
    return (
        f"{len(ranges)} averages stand in the sources with different values; the widest range is {top['range']:.3f} "
        f"({top['method']}, {top['metric']} on {top['dataset']}). Nothing here was measured by us."
    )


def of_ledger(ledger: pd.DataFrame) -> str:
    """How many claims the figure shows and on which side of the margin."""
    shown = ledger[ledger["low"].notna()]
    count = shown["verdict"].value_counts()
    sides = ", ".join(f"{count.get(verdict, 0)} {verdict}" for verdict in claims.DECIDED)
    sides += f", {count.get(claims.VARIES, 0)} that vary"
    return (
        f"{len(shown)} claims have an interval pooled over categories: {sides}, the others undecided. An interval "
        "clear of the margin decides nothing by itself: Holm's correction, categories and seeds count as well. What "
        "lies far outside is drawn at the edge. The forest plot of each claim is in the report."
    )
