"""From what a notebook's sections measured to its findings on published claims, and their table.

Used by notebooks 02 to 08; entry points: `judge`, `shown`.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from diffad_utils.analyses.shown_ledger import zeros
from diffad_utils.study import claims

Effect = tuple[float, float, float, int]
"""Effect, the ends of its 95 % interval, and the number of images behind it."""


def judge(
    found: Mapping[str | tuple[str, str], Effect],
    sections: Mapping[str, Sequence[str]],
    notes: Mapping[str, str] | None = None,
) -> list[dict]:
    """A finding (`claims.finding`) for each entry of ``found``, measured as data/published/claims.csv fixes it.

    Parameters
    ----------
    found : claim, or (claim, variant) where the table has several, to (effect, low, high, n), signed so that larger
        speaks for the claim. A variant is one of the claim's ``variants``, or begins with one; one that begins like the
        measure replaces it, others are added.
    sections : heading of a section -> the claims that it measures, for the link.
    notes : claim -> what a reader must know, such as "48 steps of training"; "" is the note of all the others.

    Raises
    ------
    ValueError
        as `claims.finding`; a claim that is in no section.
    """
    table, headings = claims.published_claims(), {name: head for head, names in sections.items() for name in names}
    rows = []
    for key, values in found.items():
        claim, variant = (key, "") if isinstance(key, str) else key
        if claim not in headings:
            raise ValueError(f"{claim} is in none of the sections {list(sections)}: name it in one")
        row = table.loc[claims.claim_row(claim, variant, table)]
        note = (notes or {}).get(claim, (notes or {}).get("", ""))
        whole = row["measure"].split()[0].rstrip(":") == variant.partition(" ")[0].rstrip(":,")
        measure = variant if whole else f"{row['measure']} ({variant})" if variant else row["measure"]
        rows.append(claims.finding(row.name, *values, measure=measure, section=headings[claim], note=note))
    return rows


def shown(findings: Sequence[dict], not_judged: Sequence[dict] = ()) -> Any:
    """The findings of a run for reading, as an `IPython.display.HTML`: each claim's statement, and below it what was
    measured, the effect with its interval, the margin, the number of images and what this run says.

    Parameters
    ----------
    findings : of `claims.finding`; one with a key ``seed`` is of the training with this seed, one with ``dataset`` and
        ``category`` of this task.
    not_judged : dicts with claim_id, measure and why: measured, but no evidence.
    """
    from IPython.display import HTML

    return HTML(to_html(findings, not_judged))


def to_html(findings: Sequence[dict], not_judged: Sequence[dict] = ()) -> str:
    """What `shown` displays. On a narrow screen the report's pages put the cells of a row under each other."""
    table = claims.published_claims()
    usual = Counter(f["note"] for f in findings).most_common(1)[0][0] if findings else ""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for f in findings:
        seed = f", training with seed {f['seed']}" if f.get("seed") is not None else ""
        effect, said = claims.effect_and_note(f)
        effect = zeros(effect)
        said = said if said != usual else ""
        notes = [NO_DATA, said] if table.loc[f["claim_id"], "datasets"] == "none" else [said]
        note = "".join(f"<small>{html.escape(text)}</small>" for text in notes if text)
        task = f", {f['dataset']}/{f['category']}" if "dataset" in f else ""
        cells = (
            html.escape(f["measure"] + task + seed) + note,
            html.escape(effect),
            f"{f['margin']:g}",
            str(f["n"]),
            f["verdict"],
        )
        rows.setdefault(f["claim_id"], []).append(cells)
    for entry in not_judged:
        why = html.escape(f"not judged: {entry['why']}")
        rows.setdefault(entry["claim_id"], []).append((html.escape(entry["measure"]), "–", "–", "–", why))
    lines = ["<table class='claims stack'><thead><tr>"]
    lines += [f"<th class='text'>{head}</th>" for head in HEADS] + ["</tr></thead>"]
    for claim, measured in sorted(rows.items()):
        statement = f"<b>{claim}</b> {html.escape(table.loc[claim, 'statement'])}"
        lines.append(f"<tbody><tr class='task'><th class='text' colspan='{len(HEADS)}'>{statement}</th></tr>")
        for first, *others in measured:
            named = zip(HEADS[1:], others, strict=True)
            rest = "".join(f"<td class='text' data-head='{head}'>{text}</td>" for head, text in named)
            lines.append(f"<tr><td class='text wrap'>{first}</td>{rest}</tr>")
        lines.append("</tbody>")
    note = f"<p>Unless a row says otherwise: {html.escape(usual)}.</p>" if usual else ""
    return "".join(lines) + "</table>" + note


NO_DATA = "does not depend on images or weights"
"""The note of a claim about formulas or printed numbers."""

HEADS = ("What was measured", "Effect and 95 % interval", "Margin", "n (images, defects or pairs)", "In this run")
