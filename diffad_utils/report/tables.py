"""The comparison as Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from diffad_utils.analyses import ledger as judged
from diffad_utils.analyses import shown_ledger
from diffad_utils.analyses.method_results import BASELINE, COST, QUALITY
from diffad_utils.study import Run, claims, numbers, write_atomically


def display_name(row: pd.Series) -> str:
    """The method as tables show it; the trivial baseline with its statistic."""
    if row["method"] != BASELINE:
        return row["method"]
    return f"trivial baseline ({row['statistic']})" if row.get("statistic") else "trivial baseline"


def _text(row: pd.Series, name: str) -> str:
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    if name in ("NFE", "parameters", "images"):
        return f"{value:,.0f}".replace(",", " ")
    if name in COST:
        return f"{value:.3g}"
    bounds = [row.get(f"{name} {side}") for side in ("low", "high")]
    known = all(bound is not None and not pd.isna(bound) for bound in bounds)
    low, high = (numbers.number(bound) if known else "" for bound in bounds)
    return numbers.number(value) + (f" [{low}, {high}]" if known else "")


def formatted(found: pd.DataFrame, winners: set[tuple[str, str, str]], mark: Callable[[str, str], str]) -> pd.DataFrame:
    """The table as texts for people: data, method and the known columns.

    ``mark(text, kind)`` decorates cells: kind "baseline" (the trivial baseline's row), "grey" (not above the baseline)
    or "bold" (better than every other method, `clear_winners`).
    """
    columns = [name for name in ("images", *QUALITY, *COST) if name in found]
    rows = []
    for _, row in found.iterrows():
        task, method = f"{row['dataset']}/{row['category']}", row["method"]
        kind = "baseline" if method == BASELINE else "grey" if row["above_baseline"] is False else ""
        decorate = (lambda text, kind=kind: mark(text, kind)) if kind else str
        cells = {"data": decorate(task), "method": decorate(display_name(row)), "seeds": decorate(str(row["seeds"]))}
        for name in columns:
            text = _text(row, name)
            cells[name] = mark(text, "bold") if (task, method, name) in winners else decorate(text)
        rows.append(cells)
    return pd.DataFrame(rows)


def _markdown_mark(text: str, kind: str) -> str:
    return {"bold": f"**{text}**", "baseline": f"*{text}*", "grey": f'<span style="color:#8a919b">{text}</span>'}[kind]


def _latex_mark(text: str, kind: str) -> str:
    return {"bold": rf"\textbf{{{text}}}", "baseline": rf"\textit{{{text}}}", "grey": rf"\textcolor{{gray}}{{{text}}}"}[
        kind
    ]


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("–", "--")


def to_markdown(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> str:
    """The table in Markdown: the trivial baseline in italics, what is not above it in grey, clear winners in bold."""
    cells = formatted(found, winners, _markdown_mark)
    align = ["left", "left", *["right"] * (cells.shape[1] - 2)]
    return cells.to_markdown(index=False, colalign=align, disable_numparse=True) + "\n"


def to_latex(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> str:
    """The table for a paper: needs booktabs and xcolor; marks as in `to_markdown`."""
    cells = formatted(found, winners, _latex_mark)
    style = cells.style.hide(axis="index").format(_escaped).format_index(_escaped, axis="columns")
    return style.to_latex(hrules=True, column_format="ll" + "r" * (cells.shape[1] - 2))


def write_files(run: Run, found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> None:
    """``table.csv``, ``table.md`` and ``table.tex`` in a run's folder."""
    write_atomically(run.path("table.csv"), found.to_csv(index=False, float_format="%.10g"))
    write_atomically(run.path("table.md"), to_markdown(found, winners))
    write_atomically(run.path("table.tex"), to_latex(found, winners))


def to_html(found: pd.DataFrame, winners: set[tuple[str, str, str]], columns: Sequence[str] | None = None) -> str:
    """The table for a page, grouped by task: value with its interval in small print; marks as in `to_markdown`."""
    columns = [name for name in columns or ("images", *QUALITY, *COST) if name in found]
    heads = "".join(f"<th>{name}</th>" for name in columns)
    lines = [f"<table class='results stack sortable'><thead><tr><th class='text'>Method</th>{heads}</tr></thead>"]
    for (dataset, category), part in found.groupby(["dataset", "category"], sort=False):
        task = f"{dataset}/{category}"
        lines.append(
            f"<tbody><tr class='task'><th class='text' colspan='{len(columns) + 1}'>{html.escape(task)}</th></tr>"
        )
        for _, row in part.iterrows():
            kind = "baseline" if row["method"] == BASELINE else "grey" if row["above_baseline"] is False else ""
            style = {"baseline": "font-style:italic", "grey": "color:#7b838e", "": ""}[kind]
            cells = []
            for name in columns:
                value, _, bounds = _text(row, name).partition(" [")
                value = f"<b>{value}</b>" if (task, row["method"], name) in winners else value
                cells.append(
                    f"<td data-head='{name}'>{value}"
                    + (f"<small>{bounds[:-1].replace(', ', '–')}</small>" if bounds else "")
                    + "</td>"
                )
            name = html.escape(display_name(row)).replace(":", ":<wbr>")
            lines.append(f"<tr class='{kind}' style='{style}'><td class='text'>{name}</td>{''.join(cells)}</tr>")
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


def summary_html(summary: pd.DataFrame) -> str:
    """`diffusion_controls.summary_table` for a page: a row a method, intervals in small print, the sentence last."""
    heads = (
        "Method",
        "Tasks",
        "I-AUROC",
        "Defects found",
        "AUPRO",
        "I-AUROC of its control",
        "I-AUROC of the baseline",
        "ms an image",
        "What follows",
    )
    cells = "".join(f"<th class='text'>{head}</th>" for head in heads)
    lines = [f"<table class='summary stack sortable'><thead><tr>{cells}</tr></thead><tbody>"]
    for row in summary.to_dict("records"):
        bounds = [
            _with_interval(row, "I-AUROC", "low", "high"),
            _number(row.get("recall"), ".0%"),
            _with_interval(row, "AUPRO", "AUPRO low", "AUPRO high"),
        ]
        plain = [_number(row[name], ".3f") for name in ("without diffusion", "trivial baseline")]
        texts = [str(row["tasks"]), *bounds, *plain, _number(row.get("ms an image"), ".3g")]
        kind = "" if row["family"] == "diffusion" else " class='other'"
        named = [f"<td data-head='{head}'>{text}</td>" for head, text in zip(heads[1:-1], texts, strict=True)]
        method = html.escape(row["method"]).replace(":", ":<wbr>")
        lines.append(
            f"<tr{kind}><td class='text'><b>{method}</b></td>{''.join(named)}"
            f"<td class='text wrap'>{row['follows']}</td></tr>"
        )
    return "\n".join([*lines, "</tbody></table>"])


def folded(title: str, content: str) -> str:
    """HTML behind a click, scrolled sideways by itself where it is wide."""
    title = html.escape(title)
    box = f"<div class='scroll' tabindex='0' role='region' aria-label='{title}'>{content}</div>"
    return f"<details><summary>{title}</summary>{box}</details>"


# --- for the summary notebook, as `IPython.display.HTML` --------------------------------------------------------------


def every_value(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> Any:
    """`to_html` behind a click."""
    return _shown(f"{len(found)} rows", to_html(found, winners))


def every_control(controls: pd.DataFrame) -> Any:
    """`diffusion_controls.controls` behind a click."""
    shown = controls.assign(kind=controls["kind"].str.replace("_", " "))
    return _shown(f"{len(shown)} controls", shown.to_html(index=False, border=0, float_format="{:.3f}".format))


CLAIM_HEADS = {"claim_id": "claim", "would_change": "what would change it"}
"""Columns of `claims.ledger` -> their headings."""


def judged_claims(ledger: pd.DataFrame) -> Any:
    """Claims with a verdict (`claims.ledger`), its reason and what would change it."""
    rows = shown_ledger.for_readers(ledger[~ledger["verdict"].isin([claims.NOT_TESTED, claims.OUT_OF_SCOPE])])
    rows = rows.assign(
        verdict=rows["verdict"] + rows["claim_id"].isin(judged.EXPLORATORY).map({True: ", exploratory", False: ""})
    )
    shown = rows[["claim_id", "statement", "verdict", "reason", "would_change", "data"]].rename(columns=CLAIM_HEADS)
    return _shown(f"{len(rows)} judged claims", shown.to_html(index=False, border=0))


def untested_claims(ledger: pd.DataFrame) -> Any:
    """The other claims."""
    rows = ledger[ledger["verdict"].isin([claims.NOT_TESTED, claims.OUT_OF_SCOPE])]
    shown = rows[["claim_id", "statement", "verdict", "would_change"]].rename(columns=CLAIM_HEADS)
    title = f"{len(rows)} claims that are not tested, and what each needs"
    return _shown(title, shown.to_html(index=False, border=0))


def methods(listed: pd.DataFrame) -> Any:
    """`method_list.table` behind a click."""
    return _shown(f"{len(listed)} methods, and where each is from", listed.to_html(index=False, border=0))


def shares(found: pd.DataFrame, title: str) -> Any:
    """`by_defect.by_method` behind a click, in percent."""
    numbers_of = {name: (lambda value: _number(value, ".0%")) for name in found.columns.drop("method")}
    plain = found.rename_axis(columns=None)
    return _shown(title, plain.to_html(index=False, border=0, formatters=numbers_of, na_rep="–"))


def claims_beside_printed(ledger: pd.DataFrame) -> Any:
    """`shown_ledger.beside_printed`."""
    rows = shown_ledger.beside_printed(ledger)
    return _shown(f"{len(rows)} claims beside what is printed", rows.to_html(index=False, border=0))


def summary(found: pd.DataFrame) -> Any:
    """`summary_html`, in the open."""
    return _shown("", summary_html(found))


def _shown(title: str, content: str) -> Any:
    from IPython.display import HTML

    return HTML(folded(title, content) if title else content)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or pd.isna(value) else format(value, form)


def _with_interval(row: dict, name: str, low: str, high: str) -> str:
    if row.get(name) is None or pd.isna(row[name]):
        return "–"
    if pd.isna(row[low]):
        return numbers.number(row[name])
    return f"{numbers.number(row[name])}<small>{numbers.number(row[low])}–{numbers.number(row[high])}</small>"
