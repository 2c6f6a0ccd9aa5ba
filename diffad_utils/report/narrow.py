"""Tables and figures for narrow screens.

Tables: each cell carries the heading of its column, so that a narrow screen can put the cells of a row under each other
(`table.stack` in page.css); columns of words begin at the left. Figures: a narrow screen shows the version that the run
saved for it, or else all of the figure, however small, and a tap enlarges it. An enlarged figure, and a table with
several rows of headings, has the width at which it can be read, in a box that scrolls sideways and that the Tab key
reaches; the page itself never does.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Mapping

from bs4 import BeautifulSoup

SMALLEST_POINTS = 7.0
"""The smallest letters of the study's figures (`plots`)."""
READABLE_PIXELS = 9.0
"""Their height on a page, in CSS pixels, at least."""
PHONE_PIXELS = 400
"""A figure up to this readable width is shown by a phone as it is, its letters at least 8 CSS pixels high; a wider one
can be enlarged."""
PHONES = "(max-width: 40rem)"
"""The narrow screens of page.css."""

SPELT_OUT = {
    "n": "n (number)",
    "NFE": "NFE (network evaluations)",
    "T_d": "T_d (timestep noised to)",
    "noise_timestep": "T_d (timestep noised to)",
    "low": "interval, low end",
    "high": "interval, high end",
}
"""Headings of columns that are symbols or names of parameters -> what a page writes."""


def readable_width(content: bytes, dpi: float) -> int:
    """CSS pixels across, at least, for a PNG of ``dpi`` pixels an inch: less, and its letters cannot be read."""
    across = int.from_bytes(content[16:20], "big")  # of the header
    return round(across * 72 / dpi * READABLE_PIXELS / SMALLEST_POINTS)


def box(content: str, label: str, width: int = 0) -> str:
    """HTML that scrolls sideways by itself where it is wider than the page; ``width`` of a figure in CSS pixels, beyond
    `PHONE_PIXELS` a narrow screen fits it to its own width until it is tapped."""
    label = html.escape(label)
    if width > PHONE_PIXELS:
        content = f'<label class="zoom"><input type="checkbox" aria-label="Enlarge: {label}">{content}</label>'
    return f'<div class="wide" tabindex="0" role="region" aria-label="{label}">{content}</div>'


def picture(image: str, on_phones: str) -> str:
    """HTML of an ``img`` in whose place narrow screens show the picture with the address ``on_phones``."""
    return f'<picture><source media="{PHONES}" srcset="{on_phones}">{image}</picture>'


def boxed(body: str, on_phones: Mapping[str, str] | None = None) -> str:
    """HTML with each figure of a notebook in such a box.

    Parameters
    ----------
    body : of a page, as nbconvert makes it from a notebook.
    on_phones : alternative text of a figure -> address of its version for narrow screens.
    """
    number = itertools.count(1)

    def in_box(found: re.Match) -> str:
        image, label = found.group(), f"Figure {next(number)} of this page"
        alt, width = (re.search(rf'\b{name}="([^"]*)"', image) for name in ("alt", "width"))
        version = (on_phones or {}).get(html.unescape(alt[1]) if alt else "")
        if version:
            return box(picture(image, version), label)
        return box(image, label, int(width[1]) if width else 0)

    return re.sub(r'(?<=<div class="output_png output_subarea">\n)<img [^>]*>', in_box, body)


def folded(body: str) -> str:
    """HTML with the code of each cell in a ``details`` that page styles keep open but on narrow screens.

    Parameters
    ----------
    body : of a page, as nbconvert makes it from a notebook.
    """
    code = r'(?<=<div class="input_area">\n)<div class=" ?highlight hl-\w+"><pre>.*?</pre></div>'
    return re.sub(
        code, lambda found: f'<details class="code"><summary>Code</summary>{found.group()}</details>', body, flags=re.S
    )


def stacked(body: str) -> str:
    """HTML with its tables in that form; those with several rows of headings scroll.

    Parameters
    ----------
    body : of a page, as nbconvert makes it from a notebook.
    """
    return re.sub(r"<table\b.*?</table>", lambda found: _stacked(found.group()), body, flags=re.DOTALL)


def _stacked(table: str) -> str:
    soup = BeautifulSoup(table, "html.parser")
    root = soup.table
    if root is None or root.thead is None or "stack" in root.get("class", []):
        return table
    headings = root.thead.find_all("tr")
    under = [cell.get_text(strip=True) for cell in headings[1].find_all(["td", "th"])] if len(headings) == 2 else []
    if len(under) > 1 and not any(under[1:]):
        headings.pop().extract()  # the name of the index, in a row of its own
    if len(headings) != 1:
        return box(table, "Table")
    for cell in headings[0].find_all(["th", "td"]):
        if (text := cell.get_text(strip=True)) in SPELT_OUT:
            cell.string = SPELT_OUT[text]
    names = [cell.get_text(" ", strip=True) for cell in headings[0].find_all(["th", "td"])]
    columns: dict[int, list] = {}
    for row in root.find_all("tr")[1:]:
        cells = row.find_all(["th", "td"], recursive=False)
        for column, cell in enumerate(cells, len(names) - len(cells)):
            columns.setdefault(column, []).append(cell)
            if cell.name == "td" and names[column]:
                cell["data-head"] = names[column]
    for column, cells in columns.items():
        if any(re.search(r"[^\W\d_]{2}", re.sub("(?i)nan|none|inf", "", cell.get_text())) for cell in cells):
            for cell in [*cells, headings[0].find_all(["th", "td"])[column]]:
                cell["class"] = [*cell.get("class", []), "text"]
    root["class"] = [*root.get("class", []), "stack"]
    return str(soup)
