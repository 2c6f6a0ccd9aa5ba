"""Tables and figures for narrow screens.

Tables: each cell carries the heading of its column, so that a narrow screen can put the cells of a row under each other
(`table.stack` in page.css); columns of words begin at the left. Figures, and tables with several rows of headings, keep
the width at which they can be read, in a box that scrolls sideways and that the Tab key reaches; the page itself never
does.
"""

from __future__ import annotations

import html
import itertools
import re

from bs4 import BeautifulSoup

SMALLEST_POINTS = 7.0
"""The smallest letters of the study's figures (`plots`)."""
READABLE_PIXELS = 9.0
"""Their height on a page, in CSS pixels, at least."""
PHONE_PIXELS = 360
"""What a phone shows of a figure, in CSS pixels across; of a wider one a line below says that it scrolls."""


def readable_width(content: bytes, dpi: float) -> int:
    """CSS pixels across, at least, for a PNG of ``dpi`` pixels an inch: less, and its letters cannot be read."""
    across = int.from_bytes(content[16:20], "big")  # of the header
    return round(across * 72 / dpi * READABLE_PIXELS / SMALLEST_POINTS)


def box(content: str, label: str, width: int = 0) -> str:
    """HTML that scrolls sideways by itself where it is wider than the page; ``width`` in CSS pixels, 0 if unknown."""
    kind = "wide far" if width > PHONE_PIXELS else "wide"
    return f'<div class="{kind}" tabindex="0" role="region" aria-label="{html.escape(label)}">{content}</div>'


def scrolled(body: str) -> str:
    """HTML with each figure of a notebook in such a box.

    Parameters
    ----------
    body : of a page, as nbconvert makes it from a notebook.
    """
    number = itertools.count(1)

    def boxed(found: re.Match) -> str:
        width = re.search(r'\bwidth="(\d+)"', found.group())
        return box(found.group(), f"Figure {next(number)} of this page", int(width[1]) if width else 0)

    return re.sub(r'(?<=<div class="output_png output_subarea">\n)<img [^>]*>', boxed, body)


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
