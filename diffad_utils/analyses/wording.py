"""How an effect with its interval is said in a sentence: one rule for all notebooks.

Used by notebooks 01 to 07; entry points: `relation`, `signed`.
"""

from __future__ import annotations

from typing import Any


def relation(low: float, high: float, reference: float = 0.0) -> str:
    """Where the whole of an interval lies against a reference.

    Examples
    --------
    >>> relation(0.01, 0.2), relation(-0.3, 0.2), relation(0.3, 0.4, reference=0.5)
    ('above', 'not shown to differ from', 'below')
    """
    return "above" if low > reference else "below" if high < reference else "not shown to differ from"


def signed(effect: Any, digits: int = 3) -> str:
    """(value, low, high, ...), a sequence of numbers, with signs.

    Examples
    --------
    >>> signed((0.1, -0.02, 0.25))
    '+0.100 [-0.020, +0.250]'
    """
    value, low, high = map(float, effect[:3])
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
