"""Every method against its control without diffusion and against the trivial baseline, in one figure and one table.

Used by notebook 08 and the report; entry points: `controls`, `against_controls`, `summary_table`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffad_utils.analyses import over_tasks
from diffad_utils.analyses.comparison import ABOVE, against_baseline, difference
from diffad_utils.analyses.method_results import BASELINE, MethodResult, average_of, family_of, seed_error, with_seeds
from diffad_utils.study import RunRecord

KINDS = {"no_diffusion": "the same features scored without diffusion", "untrained": "the same method, untrained"}
"""Kinds of controls, and what one is where its record does not say."""

RECORDED = {
    "no_diffusion": "no_diffusion",
    "no_diffusion_closed_form": "no_diffusion",  # 05: a Gaussian of the training images in the place of the network
    "no_diffusion_map": "no_diffusion",  # 06: D3AD's map at T = 0
    "no_diffusion_neighbours": "no_diffusion",  # 06: D3AD's nearest-neighbour gate, for what shares it
    "no_diffusion_one_category": "no_diffusion",  # 07: standardised on one category
    "untrained": "untrained",
}
"""Key under ``experiments`` of a method's record that holds a control -> its kind.

Each has I-AUROC of the control, and ``difference``, ``low``, ``high``: method minus control, paired over images.
"""

CONTROL_COLUMNS = ["task", "method", "kind", "what", "I-AUROC", "difference", "low", "high"]


def controls(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The controls that runs of diffusion methods recorded, averaged over seeds, columns `CONTROL_COLUMNS`; empty where
    none did. For a method without diffusion, such as a network on latents, there is nothing to leave out.

    Of several controls of one kind on a task the strongest, by I-AUROC, stands for all. It is picked on the test
    images, which is in the control's favour; the interval is against that one. Over several seeds the difference and
    the ends of its interval over images are means, and the spread over seeds is added (`method_results.with_seeds`).
    """
    rows = []
    for record in (record for record in records if family_of(record) == "diffusion"):
        for key, kind in RECORDED.items():
            entry = record.experiments.get(key)
            if isinstance(entry, dict) and {"I-AUROC", "difference", "low", "high"} <= entry.keys():
                numbers = [entry[name] for name in ("I-AUROC", "difference", "low", "high")]
                task = f"{record.dataset}/{record.category}"
                rows.append([key, task, record.method, kind, entry.get("what", KINDS[kind]), *numbers])
    found = pd.DataFrame(rows, columns=["key", *CONTROL_COLUMNS])
    one = ["key", *CONTROL_COLUMNS[:3]]
    error = found.groupby(one, sort=False)["difference"].agg(seed_error).to_numpy()
    how = {"what": "last"} | dict.fromkeys(CONTROL_COLUMNS[4:], "mean")
    found = found.groupby(one, as_index=False, sort=False).agg(how)
    found["low"], found["high"] = with_seeds(found["difference"], found["low"], found["high"], error)
    strongest = found.groupby(CONTROL_COLUMNS[:3], sort=False)["I-AUROC"].idxmax()
    return found.loc[strongest, CONTROL_COLUMNS].reset_index(drop=True)


def against_controls(measured: Sequence[MethodResult], found: pd.DataFrame) -> pd.DataFrame:
    """What the figure of the answer draws: a row a method and task, by I-AUROC within a task.

    Columns task, method, family, I-AUROC, low, high, control (I-AUROC of its strongest control without diffusion,
    NaN where none was recorded), control low, control high (the paired interval of their difference, laid at the
    control: it reaches the method's I-AUROC where that interval contains zero), baseline, baseline low, baseline high
    (of the trivial baseline; NaN without one), and above both: whether the paired intervals are above the trivial
    baseline and above that control.
    """
    own = found[found["kind"] == "no_diffusion"].set_index(["task", "method"])
    apart = own["I-AUROC"] + own["difference"]
    ends_of = pd.DataFrame({"control": own["I-AUROC"], "low": apart - own["high"], "high": apart - own["low"]})
    of_control = dict(zip(ends_of.index, ends_of.itertuples(index=False, name=None), strict=True))
    low_of = own["low"].to_dict()
    verdicts = {(row.task, row.method): row.verdict for row in against_baseline(measured).itertuples()}
    baselines = {row.task: row for row in measured if row.method == BASELINE}
    rows = []
    for row in measured:
        if row.method == BASELINE or "I-AUROC" not in row.values:
            continue
        baseline = baselines.get(row.task)
        ends = (np.nan, np.nan) if baseline is None else baseline.interval("I-AUROC")
        value = np.nan if baseline is None else baseline.values["I-AUROC"]
        control = of_control.get((row.task, row.method), (np.nan,) * 3)
        value_of = (row.values["I-AUROC"], *row.interval("I-AUROC"))
        both = verdicts.get((row.task, row.method)) == ABOVE and low_of.get((row.task, row.method), -np.inf) > 0
        rows.append([row.task, row.method, row.family, *value_of, *control, value, *ends, both])
    names = ["task", "method", "family", "I-AUROC", "low", "high", "control", "control low", "control high"]
    names += ["baseline", "baseline low", "baseline high", "above both"]
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values(["task", "I-AUROC"], ascending=[True, False], ignore_index=True)


def pooled_control(found: pd.DataFrame, method: str) -> tuple[float, float, float, float] | None:
    """(I-AUROC of the control, difference, low, high) of a method, averaged over tasks, with the interval of
    `over_tasks.mean_over_tasks`, as in the figures; None without a control."""
    rows = found[(found["method"] == method) & (found["kind"] == "no_diffusion")]
    if rows.empty:
        return None
    return float(rows["I-AUROC"].mean()), *over_tasks.mean_over_tasks(rows["difference"], rows["low"], rows["high"])


def sides_by_task(differences: pd.DataFrame, method: str) -> list[int]:
    """`side` of a method against its rival on each task, from columns method, low and high."""
    return [side(row.low, row.high) for row in differences[differences["method"] == method].itertuples()]


def side(low: float, high: float) -> int:
    """1 if an interval lies above zero, -1 if below, 0 if it contains zero."""
    return 1 if low > 0 else -1 if high < 0 else 0


def summary_table(measured: Sequence[MethodResult], found: pd.DataFrame, recall: pd.DataFrame) -> pd.DataFrame:
    """The table at the end: a row a method, diffusion first, then those with the most tasks, then by I-AUROC; each
    averaged over the tasks it has, with intervals of `over_tasks.mean_over_tasks`; of two or three tasks none, since
    Student's would say nothing.

    Of ``found`` (`controls`) and ``recall`` (`by_defect.recall`). Columns method, family, tasks; I-AUROC, low, high;
    recall; AUPRO, AUPRO low, AUPRO high; without diffusion; trivial baseline (over the same tasks); ms an image;
    follows: a sentence.
    """
    found_share = recall.groupby("method")["recall"].mean()
    baselines = {row.task: row for row in measured if row.method == BASELINE}
    against, without = against_baseline(measured), found[found["kind"] == "no_diffusion"]
    rows = []
    for method in dict.fromkeys(row.method for row in measured if row.method != BASELINE):
        mine = [row for row in measured if row.method == method and "I-AUROC" in row.samples]
        if not mine:
            continue
        own = average_of(mine, "all")
        localised = [row for row in mine if "AUPRO" in row.values]
        others = [baselines[row.task] for row in mine if row.task in baselines]
        baseline = average_of(others, "all") if len(others) == len(mine) else None
        control = pooled_control(found, method)
        times = [row.values["ms an image"] for row in mine if "ms an image" in row.values]
        cells = {"method": method, "family": own.family, "tasks": len(mine), "I-AUROC": own.values["I-AUROC"]}
        cells |= dict(zip(("low", "high"), _ends(mine, "I-AUROC"), strict=True))
        cells["recall"] = found_share.get(method, np.nan)
        if localised:
            cells |= dict(zip(("AUPRO low", "AUPRO high"), _ends(localised, "AUPRO"), strict=True))
            cells["AUPRO"] = average_of(localised, "all").values["AUPRO"]
        cells["without diffusion"] = control[0] if control else np.nan
        cells["trivial baseline"] = baseline.values["I-AUROC"] if baseline else np.nan
        cells["ms an image"] = float(np.mean(times)) if times else np.nan
        over = _over_baseline(mine, others) if baseline else None
        by_task = [sides_by_task(differences, method) for differences in (against, without)]
        cells["follows"] = what_follows(own.family, over, control, *by_task)
        rows.append(cells)
    names = ["method", "family", "tasks", "I-AUROC", "low", "high", "recall", "AUPRO", "AUPRO low", "AUPRO high"]
    names += ["without diffusion", "trivial baseline", "ms an image", "follows"]
    table = pd.DataFrame(rows, columns=names)
    order = table.assign(first=table["family"] == "diffusion").sort_values(["first", "tasks", "I-AUROC"])
    return table.loc[order.index[::-1]].reset_index(drop=True)


def _ends(rows: Sequence[MethodResult], metric: str) -> tuple[float, float]:
    """Ends of the interval of a method's mean over tasks, of a metric in [0, 1]; NaN where a task has none, as without
    maps."""
    if 1 < len(rows) < over_tasks.FEWEST:
        return np.nan, np.nan
    ends = np.array([row.interval(metric) or (np.nan, np.nan) for row in rows])
    _, low, high = over_tasks.mean_over_tasks([row.values[metric] for row in rows], *ends.T)
    return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


def _over_baseline(
    rows: Sequence[MethodResult], baselines: Sequence[MethodResult]
) -> tuple[float, float, float] | None:
    """Mean I-AUROC of a method minus that of the trivial baseline on the same tasks, low, high; None if it is not known
    on one."""
    by_task = [difference(*pair, "I-AUROC") for pair in zip(rows, baselines, strict=True)]
    return None if None in by_task else over_tasks.mean_over_tasks(*np.transpose(by_task))


def what_follows(
    family: str,
    over_baseline: tuple[float, float, float] | None,
    control: tuple[float, float, float, float] | None,
    of_baseline: Sequence[int] = (),
    of_control: Sequence[int] = (),
) -> str:
    """What the intervals say: (difference, low, high) to the baseline, `pooled_control`, and `side` by task of both.

    Of the controls it says whether the method is above or below the strongest.
    """
    first = "Not compared with the trivial baseline."
    if over_baseline is not None:
        first = _compared(over_baseline[1:], of_baseline, "the trivial baseline")
    if family != "diffusion":
        return first
    if control is None:
        return f"{first} No control without diffusion was recorded."
    return f"{first} {_compared(control[2:], of_control, 'its strongest control')}"


def _compared(ends: Sequence[float], by_task: Sequence[int], rival: str) -> str:
    """How a method compares with a rival on average, by the ends of the interval, and on how many tasks, since one may
    carry an average; of two or three the average is left out, since Student's interval would say nothing."""
    counts = f"of {len(by_task)} tasks better in {by_task.count(1)}, worse in {by_task.count(-1)}"
    if 1 < len(by_task) < over_tasks.FEWEST:
        return f"Against {rival}: {counts}."
    verdict = {1: "better than", -1: "worse than", 0: "not shown to differ from"}[side(*ends)]
    if len(by_task) < 2:
        return f"{verdict.capitalize()} {rival}{', on one task' * len(by_task)}."
    return f"On average {verdict} {rival}: {counts}."
