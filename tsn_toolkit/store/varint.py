"""Unsigned integers of as many bytes as they need: seven bits to a byte, the lowest first, the top bit set on all but the last."""

from tsn_toolkit.store.part import BlobReader, PartError

_MAX_BYTES = 5


def varint(value: int) -> bytes:
    """The bytes of a number in [0, 2**35).

    >>> varint(5).hex(), varint(300).hex()
    ('05', 'ac02')
    """
    low = []
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])


def take_varint(blob: BlobReader) -> int:
    """Reads one.

    Raises:
        PartError: it has more than five bytes, or a last byte of 0 that could be left out.
    """
    value = 0
    for position in range(_MAX_BYTES):
        byte = blob.take(1)[0]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if position and not byte:
                break
            return value
    raise PartError("a number in a blob is not written in the fewest bytes, or has more than five")
