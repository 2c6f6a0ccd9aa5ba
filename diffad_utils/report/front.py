"""What the front page shows before its tables: the answer, its figure, real examples, and a card a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import markupsafe
import pandas as pd

from diffad_utils import study
from diffad_utils.io.paths import repository
from diffad_utils.io.png import data_uri
from diffad_utils.study import claims

ANSWER, STRIPS, FURTHER = "answer", ("found", "missed", "invented"), ("pareto", "conventions")
"""Figures of the summary notebook on the front page; the others are on its own page."""

QUOTED = 3
"""Claims of a kind that a card spells out; the ledger has all of them."""


def figures(record: study.RunRecord, names: Sequence[str]) -> list[dict]:
    """The figures of a run by name, in the order of ``names``: name, caption, text (sentences), tail, uri, and narrow,
    the address of its version for narrow screens, or None."""
    by_name = {figure["name"]: figure for figure in record.figures}
    found = []
    for name in names:
        path = record.folder / "figures" / f"{name}.png"
        if name in by_name and path.is_file():
            figure, narrow = by_name[name], path.with_name(f"{name}-narrow.png")
            found.append(
                {
                    "name": name,
                    "caption": figure["caption"],
                    "text": figure.get("text", []),
                    "tail": figure["provenance"],
                    "uri": data_uri(path),
                    "narrow": data_uri(narrow) if narrow.is_file() else None,
                }
            )
    return found


def sources(path: Path | None = None) -> pd.DataFrame:
    """``data/published/sources.csv``: source_id (index), name, title, by, address, says."""
    path = path or repository() / "data" / "published" / "sources.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("source_id")


def cards(ledger: Sequence[dict]) -> list[dict]:
    """One card a source: what it says, and the claims that stand, fall, vary, are undecided or were not judged here.

    Parameters
    ----------
    ledger : rows of `claims.ledger` as dicts.
    """
    found = []
    for source_id, source in sources().iterrows():
        rows = [row for row in ledger if row["source_id"] == source_id]

        def of(*verdicts, rows=rows):
            return [row for row in rows if row["verdict"] in verdicts]

        undecided = of(claims.INCONCLUSIVE, claims.OPEN)
        found.append(
            source.to_dict()
            | {
                "claims": len(rows),
                "kinds": [
                    ("Stands", "supported", of(claims.SUPPORTED)),
                    ("Falls", "not-supported", of(claims.NOT_SUPPORTED)),
                    ("Varies", "varies", of(claims.VARIES)),
                ],
                "undecided": len(undecided),
                "elsewhere": len(of(claims.NOT_TESTED, claims.OUT_OF_SCOPE)),
                "quoted": QUOTED,
            }
        )
    return found


def forest(record: study.RunRecord | None, claim: str) -> str | None:
    """The forest plot of a claim as a ``data:`` address, where the summary drew one."""
    path = record.folder / "figures" / f"claim_{claim}.png" if record else None
    return data_uri(path) if path and path.is_file() else None


def summary(record: study.RunRecord) -> markupsafe.Markup | None:
    """The table of the summary notebook's last section; None for a run that recorded none."""
    from diffad_utils.report import tables  # brings torch, which the command line can do without

    path = record.folder / "summary.csv"
    return markupsafe.Markup(tables.summary_html(pd.read_csv(path))) if path.is_file() else None
