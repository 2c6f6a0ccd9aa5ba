"""Numbers as a reader sees them: none is rounded to nothing.

Used by the analyses, the ledger and the report.
"""

from __future__ import annotations

from collections.abc import Sequence

PRECISION = 1e-12
"""An effect of this size or less is zero up to the rounding of double precision."""


def number(value: float, digits: int = 3, sign: str = "") -> str:
    """A number with that many decimals; one that would be rounded to zero has one significant digit instead.

    Parameters
    ----------
    sign : "+" for a sign also above zero.

    Examples
    --------
    >>> number(0.1234), number(0.1234, 2, "+"), number(-0.0002, 3), number(3e-7, 3, "+"), number(0)
    ('0.123', '+0.12', '-0.0002', '+3e-07', '0.000')
    """
    text = f"{value:{sign}.{digits}f}"
    return text if float(text) or not value else f"{value:{sign}.1g}"


def effect(interval: Sequence[float], digits: int = 3, sign: str = "+", unit: str = "") -> str:
    """An effect with its interval, (value, low, high, ...); in words where all three are zero, at least up to rounding.

    Examples
    --------
    >>> effect((0.1, -0.0002, 0.25))
    '+0.100 [-0.0002, +0.250]'
    >>> effect((1.254, 1.006, 1.494), 2, sign="", unit=" dB")
    '1.25 dB [1.01, 1.49]'
    >>> effect((0, 0, 0)), effect((5e-16, 0, 7e-16))
    ('exactly 0', 'zero up to rounding (at most 7e-16)')
    """
    value, low, high = map(float, interval[:3])
    largest = max(abs(value), abs(low), abs(high))
    if largest == 0:
        return "exactly 0"
    if largest < PRECISION:
        return f"zero up to rounding (at most {largest:.0e})"
    shown = (number(each, digits, sign) for each in (value, low, high))
    return "{}{unit} [{}, {}]".format(*shown, unit=unit)


def share(value: float, digits: int = 0) -> str:
    """A share in percent; one that is not zero is not shown as 0 %.

    Examples
    --------
    >>> share(0.374, 1), share(0.00001, 1), share(0.0)
    ('37.4%', 'less than 0.1%', 'none')
    """
    if value == 0:
        return "none"
    text = f"{value:.{digits}%}"
    return text if float(text[:-1]) else f"less than {10.0**-digits:g}%"
