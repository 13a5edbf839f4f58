"""Checked readers of single JSON fields: a wrong type or an out-of-range number in a damaged part is a `PartError`, never a surprise later."""

from tsn_toolkit.store.layout import MAX_LENGTH, NamedLengths
from tsn_toolkit.store.part import PartError


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise PartError(f"expected a text in the metadata, got {value!r:.80}")
    return value


def integer(value: object, low: int, high: int) -> int:
    """An integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PartError(f"expected an integer in {low}..{high} in the metadata, got {value!r:.80}")
    return value


def number(value: object) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1.8e308:
        raise PartError(f"expected a number in the metadata, got {value!r:.80}")
    return float(value)


def listing(value: object, length: int | None = None) -> list[object]:
    """A list, of a given length if one is given."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        wanted = "a list" if length is None else f"a list of {length}"
        raise PartError(f"expected {wanted} in the metadata, got {value!r:.80}")
    return value


def named_lengths(value: object) -> NamedLengths:
    """A list of [name, length], names distinct, at most `MAX_LENGTH` entries in all."""
    entries = tuple((text(name), integer(length, 0, MAX_LENGTH)) for name, length in (listing(entry, 2) for entry in listing(value)))
    if len({name for name, _ in entries}) != len(entries):
        raise PartError("the metadata names a norm or bias twice")
    if sum(length for _, length in entries) > MAX_LENGTH:
        raise PartError(f"the metadata give its norms or biases more than {MAX_LENGTH} entries")
    return entries
