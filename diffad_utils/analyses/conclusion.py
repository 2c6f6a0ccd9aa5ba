"""The study's answer in sentences, from the ledger and the comparison.

Used by notebook 08; entry points: `short_answer`, `answer`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffad_utils import plots
from diffad_utils.analyses import ledger as judged
from diffad_utils.analyses import shown_ledger
from diffad_utils.analyses.comparison import ABOVE, against_baseline, difference
from diffad_utils.analyses.method_results import BASELINE, MethodResult
from diffad_utils.study import Run, RunRecord, claims, write_atomically


def summary_record(records: Sequence[RunRecord], found: list[dict], folder: Path) -> RunRecord:
    """The comparison's own findings in the form of a run's, with the weights of all runs, for `claims.ledger`."""
    weights = {entry["name"]: entry for record in records for entry in record.manifest["weights"]}
    manifest = {"notebook": "08_comparison", "weights": list(weights.values())}
    return RunRecord(folder, "", "", "comparison", 0, {}, {}, {}, {}, manifest, [], found)


REASONS = {
    "C09": "img2img's residuals show drift, not defects",
    "C07": "img2img has no strength that removes defects and keeps texture",
    "C14": "an autoencoder rebuilds normal images better than img2img",
    "C03": "the autoencoder of latents loses small defects",
    "C26": "img2img's scores see style, not defects",
    "C31": "D3AD's denoising adds reconstruction error",
    "C30": "",
    "C37": "",
    "C47a": "",
    "C68": "",
}
"""Claims that the sources give as reasons why diffusion models find defects or do not; in few words what was measured,
where the claim says why not."""

MOST_WORDS = 70
"""Of the short answer."""

YES = "Yes, here."


def answer(ledger: pd.DataFrame, measured: Sequence[MethodResult]) -> list[str]:
    """Four paragraphs from the ledger (`ledger.ledger`) and the measurements: how good, at what cost, why, and what
    became of the claims."""
    return [_how_good(measured), _cost(measured), _reasons(ledger), _count_of_claims(ledger)]


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


def short_answer(measured: Sequence[MethodResult], controls: pd.DataFrame, ledger: pd.DataFrame) -> str:
    """The study's answer in at most `MOST_WORDS` words, from the measurements, `diffusion_controls.controls` and the
    ledger (`ledger.ledger`)."""
    ours = [row for row in against_baseline(measured).itertuples() if _is_diffusion(measured, row.task, row.method)]
    above = {(row.task, row.method) for row in ours if row.verdict == ABOVE}
    own = controls[controls["kind"] == "no_diffusion"]
    own = own[[_is_diffusion(measured, row.task, row.method) for row in own.itertuples()]]
    adds = {(row.task, row.method) for row in own.itertuples() if row.low > 0}
    duels = [_duel(measured, task) for task in dict.fromkeys(row.task for row in measured)]
    outcomes = [outcome for outcome in duels if outcome]
    wins, losses = outcomes.count("better than"), outcomes.count("worse than")
    if not ours:
        return "No diffusion method has a finished run and a trivial baseline here, so there is no answer yet."
    if not above:
        opening = "No, not here."
    elif outcomes and losses == len(outcomes):
        opening = "They find defects, but detectors without diffusion find more."
    elif len(own) and not adds:
        opening = "They find defects, but diffusion is not shown to be why."
    else:
        opening = YES if outcomes and wins == len(outcomes) else "Sometimes."
    text = f"{opening} Of {len(ours)} cases, diffusion beats the trivial baseline in {len(above)}"
    if len(own):
        out_of = f" (of {len(own)})" * (len(own) != len(ours))
        text += f", its strongest control without diffusion in {len(adds)}{out_of}, and both in {len(above & adds)}"
    if outcomes:
        text += f". Its best method beats the best other detector on {wins} of {len(outcomes)} tasks, loses on {losses}"
    if opening == YES:
        return f"{text}."
    return f"{text}. {_why_not(ledger, MOST_WORDS - len(text.split()))}"


def _why_not(ledger: pd.DataFrame, words: int) -> str:
    """The sources' reasons against diffusion that hold in every task where they were measured, each with the number of
    these tasks, as many as ``words`` words have room for."""
    held = ledger[ledger["in_every_task"] == claims.SUPPORTED].set_index("claim_id")
    text = ""
    for claim, reason in REASONS.items():
        if not (reason and claim in held.index):
            continue
        amounts = ", by varying amounts" * (held["verdict"][claim] == claims.VARIES)
        said = f"{reason}{amounts} ({claim}, {held['categories'][claim]} tasks)"
        longer = f"{text}; {said}" if text else f"Reasons that hold in every task measured: {said}"
        if len(longer.split()) <= words:
            text = longer
    return f"{text or 'Why (not) is not decided here'}."


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
    return f"{said} That a reason holds does not say how much detection it costs: claims on I-AUROC say that."


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
        f"inconclusive; {of(claims.OUT_OF_SCOPE)} name data that are not here{rest}."
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
