"""The comparison as Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import pandas as pd

from diffad_utils.analyses.method_results import BASELINE, COST, QUALITY


def display_name(row: pd.Series) -> str:
    """The method as tables show it; the floor with its statistic."""
    if row["method"] != BASELINE:
        return row["method"]
    return f"trivial floor ({row['statistic']})" if row.get("statistic") else "trivial floor"


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
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if known else "")


def formatted(found: pd.DataFrame, winners: set[tuple[str, str, str]], mark: Callable[[str, str], str]) -> pd.DataFrame:
    """The table as texts for people: data, method and the known columns.

    ``mark(text, kind)`` decorates cells: kind "floor" (the floor's row), "grey" (not above the floor) or "bold" (better
    than every other method, `clear_winners`).
    """
    columns = [name for name in ("images", *QUALITY, *COST) if name in found]
    rows = []
    for _, row in found.iterrows():
        place, method = f"{row['dataset']}/{row['category']}", row["method"]
        kind = "floor" if method == BASELINE else "grey" if row["above_floor"] is False else ""
        decorate = (lambda text, kind=kind: mark(text, kind)) if kind else str
        cells = {"data": decorate(place), "method": decorate(display_name(row)), "seeds": decorate(str(row["seeds"]))}
        for name in columns:
            text = _text(row, name)
            cells[name] = mark(text, "bold") if (place, method, name) in winners else decorate(text)
        rows.append(cells)
    return pd.DataFrame(rows)


def _markdown_mark(text: str, kind: str) -> str:
    return {"bold": f"**{text}**", "floor": f"*{text}*", "grey": f'<span style="color:#8a919b">{text}</span>'}[kind]


def _latex_mark(text: str, kind: str) -> str:
    return {"bold": rf"\textbf{{{text}}}", "floor": rf"\textit{{{text}}}", "grey": rf"\textcolor{{gray}}{{{text}}}"}[
        kind
    ]


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("–", "--")


def to_markdown(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> str:
    """The table in Markdown: the floor in italics, what is not above it in grey, clear winners in bold."""
    cells = formatted(found, winners, _markdown_mark)
    align = ["left", "left", *["right"] * (cells.shape[1] - 2)]
    return cells.to_markdown(index=False, colalign=align, disable_numparse=True) + "\n"


def to_latex(found: pd.DataFrame, winners: set[tuple[str, str, str]]) -> str:
    """The table for a paper: needs booktabs and xcolor; marks as in `to_markdown`."""
    cells = formatted(found, winners, _latex_mark)
    lines = [" & ".join(_escaped(str(cell)) for cell in row) + r" \\" for row in [cells.columns, *cells.to_numpy()]]
    start = f"\\begin{{tabular}}{{ll{'r' * (cells.shape[1] - 2)}}}"
    return "\n".join([start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def to_html(found: pd.DataFrame, winners: set[tuple[str, str, str]], columns: Sequence[str] | None = None) -> str:
    """The table for a page, grouped by place: value with its interval in small print; marks as in `to_markdown`."""
    columns = [name for name in columns or ("images", *QUALITY, *COST) if name in found]
    heads = "".join(f"<th>{name}</th>" for name in columns)
    lines = [f"<table class='results'><thead><tr><th class='text'>Method</th>{heads}</tr></thead>"]
    for (dataset, category), part in found.groupby(["dataset", "category"], sort=False):
        place = f"{dataset}/{category}"
        lines.append(
            f"<tbody><tr class='place'><th class='text' colspan='{len(columns) + 1}'>{html.escape(place)}</th></tr>"
        )
        for _, row in part.iterrows():
            kind = "floor" if row["method"] == BASELINE else "grey" if row["above_floor"] is False else ""
            style = {"floor": "font-style:italic", "grey": "color:#7b838e", "": ""}[kind]
            cells = []
            for name in columns:
                value, _, bounds = _text(row, name).partition(" [")
                value = f"<b>{value}</b>" if (place, row["method"], name) in winners else value
                cells.append(
                    f"<td>{value}" + (f"<small>{bounds[:-1].replace(', ', '–')}</small>" if bounds else "") + "</td>"
                )
            name = html.escape(display_name(row)).replace(":", ":<wbr>")
            lines.append(f"<tr class='{kind}' style='{style}'><td class='text'>{name}</td>{''.join(cells)}</tr>")
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])
