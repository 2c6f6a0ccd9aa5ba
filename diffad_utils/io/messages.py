"""What messages about a wrong name have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(got: object, known: Iterable[object], mark: str = "'") -> str:
    """`` (did you mean 'name'?)`` with the known name closest to ``got`` between ``mark``; empty if none is close.

    >>> did_you_mean("texture", ["elpv", "textures"])
    " (did you mean 'textures'?)"
    """
    close = difflib.get_close_matches(str(got), [str(name) for name in known], n=1)
    return f" (did you mean {mark}{close[0]}{mark}?)" if close else ""
