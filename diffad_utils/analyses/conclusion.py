"""The study's answer in sentences, from the ledger and the comparison.

Used by notebook 08; entry points: `findings_between_methods`, `answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffad_utils.analyses.comparison import against_baseline, difference
from diffad_utils.analyses.method_results import BASELINE, MethodResult
from diffad_utils.study import RunRecord, claims

CLAIMS_BETWEEN_METHODS = (
    ("C15", "autoencoder", "img2img", "I-AUROC"),
    ("C30", "anomalib:patchcore", "img2img", "I-AUROC"),
    ("C30", "anomalib:patchcore", "img2img", "AUPRO"),
)
"""Claims that compare methods of different notebooks: the claim says that the first is better by the metric."""


def findings_between_methods(measured: Sequence[MethodResult], section: str) -> list[dict]:
    """A finding (`claims.finding`, with dataset and category) for each of `CLAIMS_BETWEEN_METHODS` and place that has
    both methods."""
    at = {(row.place, row.method): row for row in measured}
    found = []
    for claim, better, worse, name in CLAIMS_BETWEEN_METHODS:
        for place in dict.fromkeys(row.place for row in measured):
            a, b = at.get((place, better)), at.get((place, worse))
            effect = difference(a, b, name) if a is not None and b is not None else None
            if effect is not None:
                row = claims.finding(
                    claim, *effect, len(a.scores), measure=f"{name} of {better} minus {worse}", section=section
                )
                found.append(row | {"dataset": a.dataset, "category": a.category})
    return found


def joining_record(records: Sequence[RunRecord], found: list[dict], folder: Path) -> RunRecord:
    """The comparison's own findings in the form of a run's, with the weights of all runs, for `claims.ledger`."""
    weights = {entry["name"]: entry for record in records for entry in record.manifest["weights"]}
    manifest = {"notebook": "08_comparison", "weights": list(weights.values())}
    return RunRecord(folder, "", "", "comparison", 0, {}, {}, {}, {}, manifest, [], found)


REASONS = ("C03", "C07", "C09", "C14", "C26", "C30", "C31", "C37", "C47", "C68")
"""Claims about *why* diffusion models find defects or do not."""


def answer(ledger: pd.DataFrame, measured: Sequence[MethodResult]) -> list[str]:
    """Three sentences from the ledger (`claims.ledger`) and the measurements: how good, why, and what became of the
    claims."""
    return [_how_good(measured), _reasons(ledger), _count_of_claims(ledger)]


def _how_good(measured: Sequence[MethodResult]) -> str:
    floors = {(row.place, row.method): row.verdict for row in against_baseline(measured).itertuples()}
    sentences, outcomes = [], []
    for place in dict.fromkeys(row.place for row in measured):
        here = sorted(
            (r for r in measured if r.place == place and "I-AUROC" in r.samples), key=lambda r: -r.values["I-AUROC"]
        )
        ours = [r for r in here if r.family == "diffusion"]
        others = [r for r in here if r.family in ("clip", "classical") and r.method != BASELINE]
        if not ours:
            continue
        above = sum(floors.get((place, r.method)) == "above the floor" for r in ours)
        text = f"on {place}, {above} of {len(ours)} diffusion methods are above the trivial floor"
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
    caution = "Either best is picked on these test images, which the intervals do not account for." if outcomes else ""
    if len(sentences) > 6:
        counts = ", ".join(f"{kind} it on {outcomes.count(kind)}" for kind in dict.fromkeys(outcomes))
        return (
            f"{len(outcomes)} of {len(sentences)} categories also have a detector without diffusion: "
            f"against the best of them, the best diffusion method is {counts}. {caution}"
        ).strip()
    text = "; ".join(sentences) + f". {caution}"
    return (text[0].upper() + text[1:]).strip()


def _outcome(ours: MethodResult, other: MethodResult) -> str:
    _, low, high = difference(ours, other, "I-AUROC")
    return "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"


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

    def quoted(part):
        return "; ".join(f"“{row.statement.rstrip('.')}” ({row.claim_id})" for row in part.itertuples())

    supported, refuted = (rows[rows["verdict"] == verdict] for verdict in ("supported", "not supported"))
    pieces = [
        f"{name}: {quoted(part)}"
        for name, part in (("supported here", supported), ("not supported here", refuted))
        if len(part)
    ]
    open_ones = len(rows) - len(supported) - len(refuted)
    if not pieces:
        return (
            f"Of the {len(rows)} reasons that the sources give for success or failure, none is decided by these runs."
        )
    rest = f"; {open_ones} of {len(rows)} reasons are undecided or not tested" if open_ones else ""
    return "Of the reasons that the sources give for success or failure, " + "; ".join(pieces) + rest + "."


def _count_of_claims(ledger: pd.DataFrame) -> str:
    count = ledger["verdict"].value_counts()
    tested = len(ledger) - int(count.get("not tested here", 0))
    return (
        f"Of {len(ledger)} falsifiable claims of the sources, {tested} were tested here: {count.get('supported', 0)} "
        f"are supported, "
        f"{count.get('not supported', 0)} are not, and {count.get('inconclusive', 0)} stay inconclusive."
    )
