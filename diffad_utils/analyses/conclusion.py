"""The study's answer in sentences, from the ledger and the comparison.

Used by notebook 08; entry points: `short_answer`, `answer`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffad_utils import plots
from diffad_utils.analyses import ledger as judged
from diffad_utils.analyses import method_list, over_tasks, shown_ledger
from diffad_utils.analyses.comparison import ABOVE, against_baseline, difference
from diffad_utils.analyses.method_results import BASELINE, MethodResult
from diffad_utils.study import Run, RunRecord, claims, write_atomically


def summary_record(records: Sequence[RunRecord], found: list[dict], folder: Path) -> RunRecord:
    """The comparison's own findings in the form of a run's, with the weights of all runs, for `claims.ledger`."""
    weights = {entry["name"]: entry for record in records for entry in record.manifest["weights"]}
    manifest = {"notebook": "08_comparison", "weights": list(weights.values())}
    return RunRecord(folder, "", "", "comparison", 0, {}, {}, {}, {}, manifest, [], found)


REASONS = ("C09", "C07", "C14", "C03", "C26", "C31", "C30", "C37", "C47a", "C68")
"""Claims that the sources give as reasons why diffusion models find defects or do not."""

MOST_WORDS = 80
"""Of the short answer."""

SHOWN_AS = {"textures": "procedural textures"}
"""Data set -> what the answer calls it, where its name does not say that it is not of real images."""

YES = "Yes, here."


def answer(ledger: pd.DataFrame, measured: Sequence[MethodResult], controls: pd.DataFrame) -> list[str]:
    """Five paragraphs from the ledger (`ledger.ledger`), the measurements and `diffusion_controls.controls`: how good,
    what stands behind the counts, at what cost, why, and what became of the claims."""
    counts = _behind_the_counts(measured, controls)
    return [_how_good(measured), *counts, _cost(measured), _reasons(ledger), _count_of_claims(ledger)]


def _cost(measured: Sequence[MethodResult]) -> str:
    """Milliseconds an image of both kinds of detectors."""
    times: dict[str, list[float]] = {"diffusion": [], "other": []}
    for row in measured:
        if row.method != BASELINE and "ms an image" in row.values:
            times["diffusion" if row.family == "diffusion" else "other"].append(row.values["ms an image"])
    if not times["diffusion"]:
        return "No diffusion method has a time here, so nothing can be said about their cost."
    said = [f"{np.median(v):.3g} ({min(v):.3g} to {max(v):.3g})" if v else "–" for v in times.values()]
    return (
        f"At what cost: an image takes a diffusion method {said[0]} ms in the median, lowest and highest in brackets, "
        f"and a detector without diffusion {said[1]} ms, on the machine of these runs."
    )


class Cases(NamedTuple):
    """(task, method) of diffusion methods: all with a trivial baseline, those above it, those with a control without
    diffusion, and those above it."""

    all: set[tuple[str, str]]
    above: set[tuple[str, str]]
    controlled: set[tuple[str, str]]
    adds: set[tuple[str, str]]


def cases(measured: Sequence[MethodResult], controls: pd.DataFrame) -> Cases:
    """The cases that the answer counts, by paired intervals; ``controls`` are `diffusion_controls.controls`."""
    ours = [row for row in against_baseline(measured).itertuples() if _is_diffusion(measured, row.task, row.method)]
    own = controls[controls["kind"] == "no_diffusion"].itertuples()
    own = [row for row in own if _is_diffusion(measured, row.task, row.method)]
    return Cases(
        {(row.task, row.method) for row in ours},
        {(row.task, row.method) for row in ours if row.verdict == ABOVE},
        {(row.task, row.method) for row in own},
        {(row.task, row.method) for row in own if row.low > 0},
    )


def short_answer(measured: Sequence[MethodResult], controls: pd.DataFrame) -> str:
    """The study's answer in at most `MOST_WORDS` words, from the measurements and `diffusion_controls.controls`."""
    found = cases(measured, controls)
    duels = [_duel(measured, task) for task in dict.fromkeys(row.task for row in measured)]
    outcomes = [outcome for outcome in duels if outcome]
    wins, losses = outcomes.count("better than"), outcomes.count("worse than")
    if not found.all:
        return "No diffusion method has a finished run and a trivial baseline here, so there is no answer yet."
    if not found.above:
        opening = "No, not here."
    elif outcomes and losses == len(outcomes):
        opening = "They find defects, but detectors without diffusion find more."
    elif found.controlled and not found.adds:
        opening = "They find defects, but diffusion is not shown to be why."
    else:
        opening = "Yes, here." if outcomes and wins == len(outcomes) else "Sometimes."
    text = f"{opening} Of {len(found.all)} cases (a method on a task), diffusion beats the trivial baseline in "
    text += f"{len(found.above)}"
    if found.controlled:
        of = f" (of {len(found.controlled)})" * (len(found.controlled) != len(found.all))
        text += f", its strongest control without diffusion in {len(found.adds)}{of}"
        text += f", both in {len(found.above & found.adds)}"
    rest = f". {_best_on_average(measured)}"
    if outcomes:
        tasks = f"task{'s' * (len(outcomes) > 1)}"
        rest += (
            f"The best diffusion method of a task beats the best other detector on {wins} of {len(outcomes)} {tasks}"
        )
        rest += f", loses on {losses}."
    where = _by_data_set(found) if found.controlled else ""
    room = len(f"{text}{where}{rest}".split()) <= MOST_WORDS
    return f"{text}{where * room}{rest}".strip()


def _by_data_set(found: Cases) -> str:
    """In how many cases of each data set both are beaten, in brackets; empty with one data set."""

    def of(chosen: set[tuple[str, str]]) -> Counter:
        return Counter(task.split("/")[0] for task, _ in chosen)

    total, both = of(found.all), of(found.above & found.adds)
    named = [f"{both[name]} of {total[name]} on {SHOWN_AS.get(name, name)}" for name in sorted(total)]
    return f" ({', '.join(named)})" if len(named) > 1 else ""


def _best_everywhere(measured: Sequence[MethodResult]) -> dict[bool, list[MethodResult]]:
    """The results of the best method by mean I-AUROC among those measured on every task: of diffusion (True), and of
    the others but the trivial baseline (False)."""
    known = [row for row in measured if "I-AUROC" in row.samples and row.method != BASELINE]
    tasks = {row.task for row in known}
    best: dict[bool, list[MethodResult]] = {}
    for method in dict.fromkeys(row.method for row in known):
        mine = sorted((row for row in known if row.method == method), key=lambda row: row.task)
        kind = mine[0].family == "diffusion"
        if {row.task for row in mine} == tasks and (kind not in best or _mean(mine) > _mean(best[kind])):
            best[kind] = mine
    return best


def _mean(rows: Sequence[MethodResult]) -> float:
    return float(np.mean([row.values["I-AUROC"] for row in rows]))


def _best_on_average(measured: Sequence[MethodResult]) -> str:
    """The best diffusion method and the best other detector over all tasks; empty without both."""
    best = _best_everywhere(measured)
    if len(best) < 2:
        return ""
    ours, other = best[True], best[False]
    over = f"Averaged over {len(ours)} tasks, the" if len(ours) > 1 else "The"
    return (
        f"{over} best diffusion method, {ours[0].method}, has I-AUROC {_mean(ours):.3f}, the best other detector, "
        f"{other[0].method}, {_mean(other):.3f}. "
    )


def _behind_the_counts(measured: Sequence[MethodResult], controls: pd.DataFrame) -> list[str]:
    """What a reader must know of the counts of the short answer: whose methods they are, how strong the controls were,
    and that intervals are not adjusted; and the difference of the best two detectors. Empty without a case."""
    found = cases(measured, controls)
    if not found.all:
        return []
    sentences = []
    own = {case for case in found.all if not method_list.is_from_elsewhere(case[1])}
    for cases_of, what in ((found.all - own, "of methods from elsewhere"), (own, "of combinations made in this study")):
        if own and cases_of:
            counts = [len(cases_of & part) for part in (found.above, found.adds, found.above & found.adds)]
            sentences.append(
                f"{len(cases_of)} cases are {what}: above the trivial baseline in {counts[0]}, above the control in "
                f"{counts[1]}, above both in {counts[2]}."
            )
    baseline = {row.task: row.values["I-AUROC"] for row in measured if row.method == BASELINE}
    rows = controls[controls["kind"] == "no_diffusion"].to_dict("records")
    weak = {(row["task"], row["method"]) for row in rows if row["I-AUROC"] <= baseline.get(row["task"], -1)}
    weak &= found.adds
    if weak:
        sentences.append(
            f"In {len(weak)} of the {len(found.adds)} cases above a control, that control's I-AUROC is not above the "
            "trivial baseline's, so there the win alone says little."
        )
    chance = 0.025 * len(found.all)
    many = f": if no method differed from the baseline, about {chance:.0f} of {len(found.all)} would lie above it"
    many = f"{many} by chance" if chance >= 0.5 else ""
    sentences.append(f"The intervals are not adjusted for their number{many}.")
    return [" ".join([*sentences, *_best_two(_best_everywhere(measured))])]


def _best_two(best: Mapping[bool, Sequence[MethodResult]]) -> list[str]:
    """The difference of `_best_everywhere`, as a sentence; none without both, or with fewer tasks than
    Student's interval needs."""
    if len(best) < 2 or len(best[True]) < over_tasks.FEWEST:
        return []
    by_task = [difference(*pair, "I-AUROC") for pair in zip(best[True], best[False], strict=True)]
    if None in by_task:
        return []
    change, low, high = over_tasks.mean_over_tasks(*np.transpose(by_task))
    return [
        f"Averaged over tasks, {best[True][0].method} minus {best[False][0].method} is {change:+.3f} [{low:+.3f}, "
        f"{high:+.3f}], Student's interval over {len(by_task)} tasks; both were chosen on these images."
    ]


def _is_diffusion(measured: Sequence[MethodResult], task: str, method: str) -> bool:
    return any((row.task, row.method, row.family) == (task, method, "diffusion") for row in measured)


def _duel(measured: Sequence[MethodResult], task: str) -> str:
    """How the best diffusion method of a task compares with the best other detector; empty without both."""
    here = [row for row in measured if row.task == task and "I-AUROC" in row.samples and row.method != BASELINE]
    best = {}
    for row in sorted(here, key=lambda row: row.values["I-AUROC"]):
        best[row.family == "diffusion"] = row
    outcome = _outcome(best[True], best[False]) if len(best) == 2 else ""
    return "" if outcome == OTHER_IMAGES else outcome


def _how_good(measured: Sequence[MethodResult]) -> str:
    baselines = {(row.task, row.method): row.verdict for row in against_baseline(measured).itertuples()}
    sentences, outcomes = [], []
    for task in dict.fromkeys(row.task for row in measured):
        here = sorted(
            (r for r in measured if r.task == task and "I-AUROC" in r.samples), key=lambda r: -r.values["I-AUROC"]
        )
        ours = [r for r in here if r.family == "diffusion"]
        others = [r for r in here if r.family in ("clip", "classical") and r.method != BASELINE]
        if not ours:
            continue
        above = sum(baselines.get((task, r.method)) == ABOVE for r in ours)
        text = f"on {task}, {above} of {len(ours)} diffusion methods are above the trivial baseline"
        if others:
            outcomes.append(_outcome(ours[0], others[0]))
            text += (
                f", and the best of them ({ours[0].method}, I-AUROC {ours[0].values['I-AUROC']:.3f}) is "
                f"{outcomes[-1]} the best "
                f"detector without diffusion ({others[0].method}, {others[0].values['I-AUROC']:.3f})"
            )
            text += _against_the_best_without_clip(ours[0], others)
        sentences.append(text)
    if not sentences:
        return "No diffusion method has a finished run here, so nothing can be said about their accuracy yet."
    caution = "Both winners were chosen on these test images; the intervals ignore that choice." if outcomes else ""
    if len(sentences) > 6:
        counts = ", ".join(f"{kind} it on {outcomes.count(kind)}" for kind in dict.fromkeys(outcomes))
        return (
            f"{len(outcomes)} of {len(sentences)} categories also have a detector without diffusion: "
            f"against the best of them, the best diffusion method is {counts}. {caution}"
        ).strip()
    text = "; ".join(sentences) + f". {caution}"
    return (text[0].upper() + text[1:]).strip()


OTHER_IMAGES = "measured on other images than"
"""In the place of a comparison, where two methods share too few test images."""


def _outcome(ours: MethodResult, other: MethodResult) -> str:
    found = difference(ours, other, "I-AUROC")
    if found is None:
        return OTHER_IMAGES
    _, low, high = found
    return "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"


def _against_the_best_without_clip(ours: MethodResult, others: Sequence[MethodResult]) -> str:
    """The comparison once more where the best rival is CLIP's, which has learnt from captions what damage looks
    like."""
    rest = [r for r in others if r.family != "clip"]
    if others[0] in rest or not rest:
        return ""
    return (
        f"; without CLIP's it is {_outcome(ours, rest[0])} the best ({rest[0].method}, {rest[0].values['I-AUROC']:.3f})"
    )


def _reasons(ledger: pd.DataFrame) -> str:
    rows = ledger[ledger["claim_id"].isin(REASONS)]
    quoted: dict[str, list[str]] = {
        "supported here": [],
        "not supported here": [],
        "clearly above the margin in every task where measured, by different amounts": [],
        "clearly below the margin in every task where measured, by different amounts": [],
    }
    for row in rows.itertuples():
        if row.in_every_task:
            where = "above" if row.in_every_task == claims.SUPPORTED else "below"
            name = f"clearly {where} the margin in every task where measured, by different amounts"
            name = name if row.verdict == claims.VARIES else f"{row.verdict} here"
            quoted[name].append(f"“{row.statement.rstrip('.')}” ({row.claim_id}, {row.categories} tasks)")
    pieces = [f"{name}: {'; '.join(part)}" for name, part in quoted.items() if part]
    if not pieces:
        return (
            f"The sources give {len(rows)} reasons for success or failure. None can be decided here: that takes two "
            f"tasks that agree, with {judged.FEWEST_IMAGES} images or more each."
        )
    rest = len(rows) - sum(map(len, quoted.values()))
    tail = f"; {rest} of {len(rows)} reasons vary between tasks, are undecided, or rest on too little" if rest else ""
    said = "Of the reasons that the sources give for success or failure, " + "; ".join(pieces) + tail + "."
    own = ledger.set_index("claim_id")["verdict"].get("C15a")
    rival = f" Whether the autoencoder of C14 also detects better is C15a: {own}." if isinstance(own, str) else ""
    return (
        f"{said} That a reason holds does not say how much detection it costs: claims on I-AUROC say that.{rival} A "
        "claim is held against the rival that it names, which need not be the strongest."
    )


def _count_of_claims(ledger: pd.DataFrame) -> str:
    count = ledger["verdict"].value_counts()

    def of(verdict):
        return int(count.get(verdict, 0))

    in_size = int(((ledger["verdict"] == claims.VARIES) & (ledger["in_every_task"] != "")).sum())
    only = f" ({in_size} of them in size only: clearly on one side of the margin in each)" if in_size else ""
    untested = of(claims.NOT_TESTED) + of(claims.OUT_OF_SCOPE)
    rest = f", and {of(claims.NOT_TESTED)} need an experiment that these runs lack" if of(claims.NOT_TESTED) else ""
    return (
        f"Of {len(ledger)} falsifiable claims of the sources, {len(ledger) - untested} were judged here: "
        f"{of(claims.SUPPORTED)} are supported, {of(claims.NOT_SUPPORTED)} are not, {of(claims.VARIES)} vary between "
        f"categories{only}, {of(claims.OPEN)} that say “some” are open, and {of(claims.INCONCLUSIVE)} stay "
        f"inconclusive; {of(claims.OUT_OF_SCOPE)} name data that are not here{rest}. {_exploratory(ledger)}".strip()
    )


def _exploratory(ledger: pd.DataFrame) -> str:
    """How many of the claims with a verdict are exploratory (`ledger.EXPLORATORY`); empty without any."""
    decided = ledger[ledger["verdict"].isin([*claims.DECIDED, claims.VARIES])]
    names = [name for name in decided["claim_id"] if name in judged.EXPLORATORY]
    if not names:
        return ""
    return (
        f"Of those that are supported, not supported or vary, {len(names)} are exploratory, since their measure was "
        f"changed after runs had been seen: {', '.join(names)}."
    )


UNSTABLE = ("training s", "ms an image", "memory GiB")
"""Costs, which differ from run to run and so stay out of ``metrics.json``."""


def plain_tables(tables: Mapping[str, pd.DataFrame]) -> dict[str, list[dict]]:
    """Tables as ``metrics.json`` can hold them: one dict a row, None for what is unknown, without `UNSTABLE`."""
    stable = {name: table.drop(columns=[cost for cost in UNSTABLE if cost in table]) for name, table in tables.items()}
    return {name: table.astype(object).where(table.notna(), None).to_dict("records") for name, table in stable.items()}


def save_narrow(run: Run, name: str, figure: Figure) -> None:
    """``figures/<name>-narrow.png``: a figure as the report shows it on phones; the figure is closed."""
    figure.savefig(run.path(f"figures/{name}-narrow.png"), dpi=100, metadata={"Software": None})
    plt.close(figure)


def write_ledger(run: Run, ledger: pd.DataFrame, findings: pd.DataFrame) -> None:
    """``ledger.csv`` with every interval (a column ``interval`` says which tell nothing), ``findings.parquet``
    (thousands of rows) and ``beside_printed.csv`` in the summary's folder."""
    shown = shown_ledger.for_readers(ledger)
    shown["exploratory"] = shown["claim_id"].isin(judged.EXPLORATORY)
    write_atomically(run.path("ledger.csv"), shown.to_csv(index=False, float_format="%.10g"))
    rows = findings.drop(columns="folder")
    rows.to_parquet(run.path("findings.parquet"), index=False, compression="zstd")
    write_atomically(run.path("beside_printed.csv"), shown_ledger.beside_printed(ledger).to_csv(index=False))


FOREST_ROWS = 40
"""A forest plot with more cannot be read, and a page with eighty of them is too large for a phone."""


def drawn_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of a forest plot (`shown_ledger.forest_rows`) those that are drawn: beyond `FOREST_ROWS` of them no
    single seeds, and if they are still more, only the pooled effects, all variants in one panel."""
    if len(rows) > FOREST_ROWS:
        rows = rows[rows["level"] != "seed"]
    if len(rows) > FOREST_ROWS:
        pooled = rows[rows["level"] == "pooled"]
        labels = pooled["variant"].tolist()
        common = os.path.commonprefix(labels).split(" ")[:-2]  # noqa: RUF071 (no paths: what all labels begin with)
        short = [label.removeprefix(" ".join(common)).strip() for label in labels]
        rows = pooled.assign(label=short, variant="all categories together")
    return rows


def draw_forests(run: Run, records: Sequence[RunRecord], findings: pd.DataFrame) -> None:
    """``figures/claim_<id>.png`` for each claim with two categories or more, for the report's ledger."""
    for name, judgement in claims.judgements(records).items():
        rows = drawn_rows(shown_ledger.forest_rows(judgement, findings))
        if (rows["level"] == "pooled").any():
            figure = plots.claim_forest(rows, judgement.margin)
            figure.savefig(run.path(f"figures/claim_{name}.png"), dpi=70, metadata={"Software": None})
            plt.close(figure)
