"""What a cell displays."""

from __future__ import annotations

from typing import Any


def display(*contents: Any) -> None:
    """Display contents in a notebook, texts as Markdown; nothing outside of one."""
    from IPython import get_ipython
    from IPython.display import Markdown
    from IPython.display import display as show

    for content in contents if get_ipython() is not None else ():
        show(Markdown(content) if isinstance(content, str) else content)
