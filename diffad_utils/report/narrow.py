"""Tables that fit a narrow screen: each cell carries the heading of its column, and the style sheet puts the cells of a
row under each other where the screen is narrow (`table.stack` in page.css)."""

from __future__ import annotations

import re


def stacked(body: str) -> str:
    """HTML with its tables in that form; those with several rows of headings stay as they are, and scroll.

    Parameters
    ----------
    body : of a page, as nbconvert makes it from a notebook.
    """
    return re.sub(r"<table\b.*?</table>", lambda found: _stacked(found.group()), body, flags=re.DOTALL)


def _stacked(table: str) -> str:
    from bs4 import BeautifulSoup

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
    for row in root.find_all("tr")[1:]:
        cells = row.find_all(["th", "td"], recursive=False)
        for cell, name in zip(cells, names[-len(cells) :], strict=False):
            if cell.name == "td" and name:
                cell["data-head"] = name
    root["class"] = [*root.get("class", []), "stack"]
    return str(soup)
