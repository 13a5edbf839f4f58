"""Numbers as text: exact, with units, and `not measured` for None and for NaN, which a measurement without samples gives."""

from __future__ import annotations

from math import isnan

NOT_MEASURED = "not measured"


def count(value: float | None) -> str:
    """A whole number with thousands separators.

    >>> count(46285), count(None)
    ('46,285', 'not measured')
    """
    return NOT_MEASURED if value is None or isnan(value) else f"{int(value):,}"


def size(value_bytes: float | None) -> str:
    """Bytes in the largest binary unit that leaves at least 1, to three digits.

    >>> size(512), size(46285), size(1125 * 1024)
    ('512 B', '45.2 KiB', '1.10 MiB')
    """
    if value_bytes is None or isnan(value_bytes):
        return NOT_MEASURED
    amount, unit = float(value_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{int(value_bytes)} B" if unit == "B" else f"{three_digits(amount)} {unit}"


def macs(value: float | None) -> str:
    """Multiply-accumulates in thousands, millions or billions, to three digits.

    >>> macs(850), macs(41_300_000)
    ('850', '41.3 M')
    """
    if value is None or isnan(value):
        return NOT_MEASURED
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{three_digits(value / limit)} {unit}"
    return f"{int(value)}"


def fraction(value: float | None) -> str:
    """A fraction in [0, 1], or a difference of two, to four decimals.

    >>> fraction(0.98611), fraction(-0.0139)
    ('0.9861', '-0.0139')
    """
    return NOT_MEASURED if value is None or isnan(value) else f"{value:.4f}"


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, to three digits.

    >>> milliseconds(0.02134), milliseconds(13.3)
    ('0.0213', '13.3')
    """
    return NOT_MEASURED if value is None or isnan(value) else three_digits(value)


def ratio(value: float | None, reference: float | None) -> str:
    """`value` as a multiple of `reference`, or "" where either is missing or the reference is 0.

    >>> ratio(25, 100), ratio(None, 100)
    ('0.250', '')
    """
    return "" if value is None or not reference else three_digits(value / reference)


def three_digits(value: float) -> str:
    """A positive number to three significant digits, without an exponent.

    >>> [three_digits(x) for x in (0.000123, 0.5, 9.996, 45.21, 1234.5)]
    ['0.000123', '0.500', '10.00', '45.2', '1234']
    """
    if value <= 0:
        return f"{value:g}"
    decimals = 2
    while value * 10**decimals < 100 and decimals < 9:
        decimals += 1
    while decimals > 0 and value * 10 ** (decimals - 1) >= 100:
        decimals -= 1
    return f"{value:.{decimals}f}"
