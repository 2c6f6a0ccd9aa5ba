"""How an effect with its interval is said in a sentence: one rule for all notebooks.

Used by notebooks 01 to 07; entry points: `relation`, `signed`, `detects`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffad_utils.study import numbers


def relation(low: float, high: float, reference: float = 0.0) -> str:
    """Where the whole of an interval lies against a reference.

    Examples
    --------
    >>> relation(0.01, 0.2), relation(-0.3, 0.2), relation(0.3, 0.4, reference=0.5)
    ('above', 'not shown to differ from', 'below')
    """
    return "above" if low > reference else "below" if high < reference else "not shown to differ from"


def signed(effect: Any, digits: int = 3) -> str:
    """(value, low, high, ...), a sequence of numbers, with signs; none is rounded to nothing (`numbers.effect`).

    Examples
    --------
    >>> signed((0.1, -0.02, 0.25))
    '+0.100 [-0.020, +0.250]'
    """
    return numbers.effect(effect, digits)


def worded(effect: Any, smallest: float = 1e-4) -> str:
    """(value, low, high, ...) as `signed` says it, but a value or an end smaller than ``smallest`` in words, as a zero
    with a sign misleads.

    Examples
    --------
    >>> worded((0.1, -0.02, 0.25)), worded((0.0, -0.02, 0.03)), worded((0.01, -7e-6, 0.03)), worded((0, 0, 0))
    ('+0.100 [-0.020, +0.250]', 'no difference [-0.020, +0.030]', '+0.010 [just below 0, +0.030]', 'exactly 0')
    """
    value, *ends = (float(each) for each in effect[:3])
    if min(abs(each) for each in (value, *ends)) >= smallest or value == ends[0] == ends[1]:
        return signed(effect)
    shown = "no difference" if abs(value) < smallest else numbers.number(value, sign="+")
    words = [numbers.number(end, sign="+") if abs(end) >= smallest else _beside_zero(end) for end in ends]
    return f"{shown} [{', '.join(words)}]"


def _beside_zero(value: float) -> str:
    return "0" if value == 0 else "just above 0" if value > 0 else "just below 0"


def enumerated(parts: Sequence[str], last: str = "and") -> str:
    """Parts of a sentence in a row.

    Examples
    --------
    >>> enumerated(["a"]), enumerated(["a", "b", "c"]), enumerated(["a", "b"], "or")
    ('a', 'a, b and c', 'a or b')
    """
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def detects(method: str, differences: Mapping[str, Any], said: Callable[[Any], str] = signed) -> str:
    """Whether a method detects better than its rivals, in one sentence without its full stop.

    Parameters
    ----------
    method : as the sentence begins.
    differences : rival -> (value, low, high, ...), the I-AUROC of the method minus the rival's.
    said : how a difference is said; `signed` or `worded`.

    Examples
    --------
    >>> detects("ESM", {"SGM": (0.1, -0.1, 0.3), "chance": (0.2, 0.1, 0.3)}).split(", and ")[0]
    'ESM detects better than chance (+0.200 [+0.100, +0.300])'
    >>> detects("ESM", {"SGM": (0.1, -0.1, 0.3), "a": (0.0, -0.1, 0.1)}).replace("+0.100 [-0.100, +0.300]", "...")
    'ESM is not shown to detect better or worse than SGM (...) or a (+0.000 [-0.100, +0.100])'
    """
    kinds = {
        "above": "detects better than",
        "below": "detects worse than",
        "not shown to differ from": "is not shown to detect better or worse than",
    }
    parts = []
    for kind, words in kinds.items():
        rivals = [f"{rival} ({said(e)})" for rival, e in differences.items() if relation(*e[1:3]) == kind]
        if rivals:
            parts.append(f"{words} {enumerated(rivals, 'or' if kind.startswith('not') else 'and')}")
    return f"{method} {', and '.join(parts)}"
