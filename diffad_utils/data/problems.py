"""How faults of a data set are written down: a problem, and a report of all of them.

What may be touched: a new rule gets its word in `Problem`. Scripts read these names (`diffad data check --json`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Problem:
    """One thing wrong, or worth knowing. rule is "layout" (cannot be read as this data set), "label" (normal or
    anomalous, in doubt), "count", "missing" (a file
    that is listed or called for), "unreadable", "mask" (unreadable, empty, wrong size, covering nearly everything),
    "orphan" (mask of no image), "split" (a part of it has no images), "copy" (a picture in two places), "unread" (files
    that no reader takes), "range" (grey values) or "metric" (what is left out of which)."""

    file: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: [{self.rule}] {self.message}"


@dataclass(frozen=True)
class Report:
    """What `report` found. problems: of consequence, to be mended before numbers are believed; notes: what was taken
    for what, and what is left out; categories: one dict a category, see `table`."""

    dataset: str
    root: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing of consequence is wrong."""
        return not self.problems

    def table(self) -> pd.DataFrame:
        """One row a category: train, test normal, test anomalous (images); masks (usable ones), without mask (anomalous
        test images), mask kind, regions, mask share (median, of the image); image size, bits, values; copies."""
        return pd.DataFrame(self.categories)

    def to_dict(self) -> dict:
        """The report as plain lists and dictionaries, for JSON."""
        return {"ok": self.ok} | asdict(self)
