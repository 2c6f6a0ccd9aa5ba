"""What the front page shows before its tables: the answer, its figure, real examples, and a card a source."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import markupsafe
import pandas as pd

from diffad_utils import study
from diffad_utils.io.paths import repository
from diffad_utils.io.png import data_uri
from diffad_utils.report import narrow
from diffad_utils.report.environment import environment
from diffad_utils.study import claims

ANSWER, STRIPS, FURTHER = "answer", ("found", "missed", "invented"), ("pareto", "conventions")
"""Figures of the summary notebook on the front page; the others are on its own page."""

FIGURE_DPI, FOREST_DPI = 100, 90
"""Of `study.Run.figure`; of forest plots, whose letters are larger than those of other figures (70 in the file)."""

QUOTED = 3
"""Claims of a kind that a card spells out; the ledger has all of them."""


def figures(record: study.RunRecord, names: Sequence[str]) -> list[dict]:
    """The figures of a run by name, in the order of ``names``: name, caption, text (sentences), tail, and shown, the
    picture as HTML."""
    by_name, versions = {figure["name"]: figure for figure in record.figures}, on_phones(record)
    found = []
    for name in names:
        path = record.folder / "figures" / f"{name}.png"
        if name in by_name and path.is_file():
            figure = by_name[name]
            caption, text = figure["caption"], figure.get("text", [])
            shown = _shown(path, FIGURE_DPI, " ".join([caption, *text]), f"Figure: {caption}", versions.get(caption))
            found.append({"name": name, "caption": caption, "text": text, "tail": figure["provenance"], "shown": shown})
    return found


def on_phones(record: study.RunRecord) -> dict[str, str]:
    """Caption of a figure of a run -> address of its version for narrow screens, ``figures/<name>-narrow.png``, where
    the run saved one."""
    paths = {figure["caption"]: record.folder / "figures" / f"{figure['name']}-narrow.png" for figure in record.figures}
    return {caption: data_uri(path) for caption, path in paths.items() if path.is_file()}


def _shown(path: Path, dpi: float, alt: str, label: str, version: str | None = None) -> markupsafe.Markup:
    """A picture as HTML, in a box of `narrow`."""
    least = narrow.readable_width(path.read_bytes(), dpi)
    image = f'<img style="--least: {least}px" src="{data_uri(path)}" alt="{html.escape(alt)}">'
    if version:
        return markupsafe.Markup(narrow.box(narrow.picture(image, version), label))
    return markupsafe.Markup(narrow.box(image, label, least))


def sources(path: Path | None = None) -> pd.DataFrame:
    """``data/published/sources.csv``: source_id (index), name, title, by, address, says."""
    path = path or repository() / "data" / "published" / "sources.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("source_id")


def cards(ledger: Sequence[dict]) -> list[dict]:
    """One card a source: what it says, and its claims that stand, fall or vary, how many are undecided or not judged.

    ``measured`` has what was measured here on images, ``by_itself`` what the source's own formulas or printed tables
    decide; both (label, kind, rows), of which ``quoted`` are spelled out.

    Parameters
    ----------
    ledger : rows of `claims.ledger` as dicts.
    """
    found, datasets = [], claims.published_claims()["datasets"]
    for source_id, source in sources().iterrows():
        rows = [row for row in ledger if row["source_id"] == source_id]
        on_images = {row["claim_id"] for row in rows if datasets[row["claim_id"]] != "none"}

        def of(*verdicts, rows=rows):
            return [row for row in rows if row["verdict"] in verdicts]

        held, failed, varied = (
            [row for row in of(claims.VARIES) if row["in_every_task"] == side]
            for side in (claims.SUPPORTED, claims.NOT_SUPPORTED, "")
        )
        kinds = [
            ("Stands", "supported", of(claims.SUPPORTED)),
            ("Falls", "not-supported", of(claims.NOT_SUPPORTED)),
            ("Holds in every task where measured, by different amounts", "varies", held),
            ("Fails in every task where measured, by different amounts", "varies", failed),
            ("Varies", "varies", varied),
        ]
        parts = {
            name: [
                (label, kind, [row for row in part if (row["claim_id"] in on_images) is here])
                for label, kind, part in kinds
            ]
            for name, here in (("measured", True), ("by_itself", False))
        }
        counts = {
            "claims": len(rows),
            "undecided": len(of(claims.INCONCLUSIVE, claims.OPEN)),
            "elsewhere": len(of(claims.NOT_TESTED, claims.OUT_OF_SCOPE)),
        }
        found.append(source.to_dict() | parts | counts | {"quoted": QUOTED})
    return found


def forest(record: study.RunRecord | None, claim: str, reason: str) -> markupsafe.Markup | None:
    """The forest plot of a claim as HTML, where the summary drew one; ``reason`` is that of its verdict."""
    path = record.folder / "figures" / f"claim_{claim}.png" if record else None
    if not (path and path.is_file()):
        return None
    label = f"Forest plot of {claim}"
    return _shown(path, FOREST_DPI, f"{label}: {reason}", label)


FORESTS = "forests.html"


def write_forests(root: Path, record: study.RunRecord | None, ledger: Sequence[dict]) -> set[str]:
    """Write the page of forest plots into a report's folder, where the summary drew any; returns the claims on it.

    They have a page of their own since with many categories the front page would be too large for a phone.
    """
    pictures = {row["claim_id"]: forest(record, row["claim_id"], row["reason"]) for row in ledger}
    shown = [row | {"forest": pictures[row["claim_id"]]} for row in ledger if pictures[row["claim_id"]]]
    if shown:
        study.write_atomically(root / FORESTS, environment().get_template(FORESTS).render(shown=shown))
    return {row["claim_id"] for row in shown}


def summary(record: study.RunRecord) -> markupsafe.Markup | None:
    """The table of the summary notebook's last section; None for a run that recorded none."""
    from diffad_utils.report import tables  # brings torch, which the command line can do without

    path = record.folder / "summary.csv"
    return markupsafe.Markup(tables.summary_html(pd.read_csv(path))) if path.is_file() else None
