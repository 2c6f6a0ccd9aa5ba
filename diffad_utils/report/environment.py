"""The templates of the report, and what all of them can use."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import jinja2
import markupsafe
import pandas as pd

TEMPLATES = Path(__file__).resolve().parent / "templates"


def inline(name: str) -> markupsafe.Markup:
    """A file of the templates' folder as it is, for a page that holds all it needs."""
    return markupsafe.Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def script_digest(name: str) -> str:
    """The checksum by which a page's content policy allows the script ``name`` and no other."""
    return base64.b64encode(hashlib.sha256(inline(name).encode()).digest()).decode()


def environment() -> jinja2.Environment:
    """Jinja with the templates; a name that a page is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["number"] = lambda value: "–" if pd.isna(value) else f"{value:.4g}"
    made.globals |= {"inline": inline, "css": inline("page.css")}
    made.globals["script_digest"] = lambda name: markupsafe.Markup(script_digest(name))
    return made
