"""From what a notebook's sections measured to its findings on published claims, and their table.

Used by notebooks 02 and 04; entry points: `judge`, `table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

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


def table(findings: Sequence[dict]) -> pd.DataFrame:
    """The findings of a run for reading: claim, statement, effect, low, high, margin, n, in this run, measure."""
    statements = claims.published_claims()["statement"]
    return pd.DataFrame(
        {
            "claim": f["claim_id"],
            "statement": statements[f["claim_id"]],
            "effect": f["effect"],
            "low": f["interval"][0],
            "high": f["interval"][1],
            "margin": f["margin"],
            "n": f["n"],
            "in this run": f["verdict"],
            "measure": f["measure"],
        }
        for f in sorted(findings, key=lambda f: (f["claim_id"], f["measure"]))
    )
