"""Tables of notebooks for a page. Each cell carries the heading of its column, so that a narrow screen can put the
cells of a row under each other (`table.stack` in page.css). Columns of words begin at the left.
"""

from __future__ import annotations

import re

from bs4 import BeautifulSoup


def stacked(body: str) -> str:
    """HTML with its tables in that form; those with several rows of headings stay as they are, and scroll.

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
        return table
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
