"""Verdicts on published claims from recorded runs: evidence in numbers, a rule fixed in advance, no judgement by
eye.

Used by notebooks 02 to 08; entry points: `finding`, `ledger`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffad_utils.io.paths import repository
from diffad_utils.study.records import RunRecord

MARGIN = 0.02
"""The smallest difference of an I-AUROC that matters; "no worse" means no more than this below."""


def published_claims(path: str | Path | None = None) -> pd.DataFrame:
    """The falsifiable claims of the sources, indexed by claim_id (columns source_id, statement, how_to_test,
    supported_by)."""
    return pd.read_csv(path or repository() / "data" / "published" / "claims.csv", dtype=str).set_index("claim_id")


SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"


NOT_TESTED = "not tested here"


def finding(
    claim: str,
    effect: float,
    low: float,
    high: float,
    n: int,
    *,
    measure: str,
    section: str,
    margin: float = 0.0,
    note: str = "",
) -> dict:
    """What one run says about one claim, as a row of ``claims.json``.

    The rule is the same for every claim. ``effect`` is signed so that larger speaks for the claim, ``low`` and ``high``
    are the ends of its 95 % interval, and the margin is stated with the measure: *supported* if the whole interval lies
    above the margin, *not supported* if all of it lies below, *inconclusive* otherwise. A claim of "better" has margin
    0 or the smallest difference that matters, a claim of "no worse" a negative margin.

    Parameters
    ----------
    claim : id in ``data/published/claims.csv``.
    n : number of images (or pairs, defects, ...) behind the interval.
    measure : what the effect is, with its unit: "I-AUROC of ESM minus SGM".
    section : heading of the notebook's section that computes it, for the link.
    note : a restriction the reader must know, such as "a small model, trained for 160 steps".

    Raises ``ValueError`` for an unknown claim, a value that is not finite, or an interval that is not ordered.
    """
    if claim not in published_claims().index:
        raise ValueError(f"claim {claim!r} is not in data/published/claims.csv")
    effect, low, high, margin = float(effect), float(low), float(high), float(margin)
    if not all(math.isfinite(value) for value in (effect, low, high, margin)) or low > high:
        raise ValueError(
            f"{claim}: effect {effect}, interval [{low}, {high}], margin {margin}: must be finite and ordered"
        )
    judged = SUPPORTED if low > margin else NOT_SUPPORTED if high < margin else INCONCLUSIVE
    return {
        "claim_id": claim,
        "verdict": judged,
        "effect": effect,
        "interval": [low, high],
        "margin": margin,
        "n": int(n),
        "measure": measure,
        "section": section,
        "note": note,
    }


EXISTENTIAL = frozenset({"C16", "C25", "C26", "C63"})
"""Claims that say "some" or "sometimes": one case is enough."""


def pool(verdicts: Sequence[str], existential: bool = False) -> str:
    """The verdict on a claim from those of its findings, over runs, data sets and measures: all agree, else
    *inconclusive*.

    An ``existential`` claim (`EXISTENTIAL`) is supported by a single supported finding; with many findings that is
    generous to it, as one in forty is supported by chance. Without any finding: *not tested here*.
    """
    if not verdicts:
        return NOT_TESTED
    if existential and SUPPORTED in verdicts:
        return SUPPORTED
    return verdicts[0] if len(set(verdicts)) == 1 else INCONCLUSIVE


def findings(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Every finding of the runs, one row each (a run that joins others names data set and category itself): the keys of
    `finding` with ``low`` and ``high`` for the interval, and
    dataset, category, seed, method, notebook, weights (names, with "mini" where a shipped one stood in) and folder."""
    rows = []
    for record in records:
        names = [f"{entry['name']}{' (mini)' if entry['is_mini'] else ''}" for entry in record.manifest["weights"]]
        where = {
            "dataset": record.dataset,
            "category": record.category,
            "seed": record.seed,
            "method": record.method,
            "notebook": record.manifest["notebook"],
            "weights": ", ".join(names) or "none",
            "folder": str(record.folder),
        }
        for row in record.claims:
            low, high = row["interval"]
            rows.append(
                where | {name: value for name, value in row.items() if name != "interval"} | {"low": low, "high": high}
            )
    columns = [
        "claim_id",
        "verdict",
        "effect",
        "low",
        "high",
        "margin",
        "n",
        "measure",
        "section",
        "note",
        "dataset",
        "category",
        "seed",
        "method",
        "notebook",
        "weights",
        "folder",
    ]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["claim_id", "measure", "dataset", "category", "seed"], ignore_index=True
    )


def ledger(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a claim of ``claims.csv``, in its order: claim_id, source_id, statement, verdict (`pool`), and what it
    rests on.

    findings : how many. notebooks, data, weights : which, joined by commas; empty without a finding.
    """
    found = findings(records)
    groups = dict(tuple(found.groupby("claim_id", sort=False)))

    def joined(values):
        return ", ".join(dict.fromkeys(values))

    rows = []
    for claim, published in published_claims().iterrows():
        part = groups.get(claim, found.iloc[:0])
        rows.append(
            {
                "claim_id": claim,
                "source_id": published["source_id"],
                "statement": published["statement"],
                "verdict": pool(part["verdict"].tolist(), claim in EXISTENTIAL),
                "findings": len(part),
                "notebooks": joined(part["notebook"]),
                "data": joined(part["dataset"] + "/" + part["category"]),
                "weights": joined(part["weights"]),
            }
        )
    return pd.DataFrame(rows)
