"""What the front page shows before its tables: the answer, its figure, real examples, and a card a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import markupsafe
import pandas as pd

from diffad_utils import study
from diffad_utils.io.paths import repository
from diffad_utils.io.png import data_uri
from diffad_utils.report import narrow
from diffad_utils.study import claims

ANSWER, STRIPS, FURTHER = "answer", ("found", "missed", "invented"), ("pareto", "conventions")
"""Figures of the summary notebook on the front page; the others are on its own page."""

FIGURE_DPI, FOREST_DPI = 100, 90
"""Of `study.Run.figure`; of forest plots, whose letters are larger than those of other figures (70 in the file)."""

FORMULAS, PRINTED = "by its formulas", "by its printed tables"
"""What decides a claim that is not measured on images."""

QUOTED = 3
"""Claims of a kind that a card spells out; the ledger has all of them."""


def figures(record: study.RunRecord, names: Sequence[str]) -> list[dict]:
    """The figures of a run by name, in the order of ``names``: name, caption, text (sentences), tail, uri, least (CSS
    pixels across), and narrow, the address of its version for narrow screens, or None."""
    by_name = {figure["name"]: figure for figure in record.figures}
    found = []
    for name in names:
        path = record.folder / "figures" / f"{name}.png"
        if name in by_name and path.is_file():
            figure, on_phones = by_name[name], path.with_name(f"{name}-narrow.png")
            found.append(
                {
                    "name": name,
                    "caption": figure["caption"],
                    "text": figure.get("text", []),
                    "tail": figure["provenance"],
                    "uri": data_uri(path),
                    "least": narrow.readable_width(path.read_bytes(), FIGURE_DPI),
                    "narrow": data_uri(on_phones) if on_phones.is_file() else None,
                }
            )
    return found


def sources(path: Path | None = None) -> pd.DataFrame:
    """``data/published/sources.csv``: source_id (index), name, title, by, address, says."""
    path = path or repository() / "data" / "published" / "sources.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("source_id")


def cards(ledger: Sequence[dict]) -> list[dict]:
    """One card a source: what it says, and the claims that stand, fall, vary, are undecided or were not judged here.

    What was measured here on images comes first, then what is decided by formulas, then by the source's own tables.

    Parameters
    ----------
    ledger : rows of `claims.ledger` as dicts, in its order.
    """
    table = claims.published_claims()

    def basis(row: dict) -> str:
        kind, datasets = table.loc[row["claim_id"], ["kind", "datasets"]]
        return PRINTED if kind == "arithmetic" else FORMULAS if datasets == "none" else ""

    found = []
    for source_id, source in sources().iterrows():
        rows = [row | {"basis": basis(row)} for row in ledger if row["source_id"] == source_id]
        rows.sort(key=lambda row: ("", FORMULAS, PRINTED).index(row["basis"]))

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


def forest(record: study.RunRecord | None, claim: str) -> dict | None:
    """The forest plot of a claim, where the summary drew one: uri, least (CSS pixels across)."""
    path = record.folder / "figures" / f"claim_{claim}.png" if record else None
    if not (path and path.is_file()):
        return None
    return {"uri": data_uri(path), "least": narrow.readable_width(path.read_bytes(), FOREST_DPI)}


def summary(record: study.RunRecord) -> markupsafe.Markup | None:
    """The table of the summary notebook's last section; None for a run that recorded none."""
    from diffad_utils.report import tables  # brings torch, which the command line can do without

    path = record.folder / "summary.csv"
    return markupsafe.Markup(tables.summary_html(pd.read_csv(path))) if path.is_file() else None
