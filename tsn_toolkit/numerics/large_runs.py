"""Large runs of few symbols as bytes that the Huffman stage of Zstandard (RFC 8878) codes.

An ANS coder handles one symbol at a time, some ten nanoseconds each. Here a byte stands for several symbols, or for all symbols up to the next rare
one, and costs about a nanosecond; the result is one or two per cent larger. A run's symbols are ranks 0..alphabet-1. Its payload is one byte that
says how, then

- 0, fields: one frame of all ranks, packed into the least width of 1, 2, 4 and 8 bits that holds them (`pack_bits`);
- 1, gaps: the rank that is left out (uint8), the number of gap bytes and the length of their frame (uint32, little-endian), that frame, and, if the
  alphabet has more than two symbols, one frame of the other ranks in order, those above the one left out lowered by one, packed in the same way.
  A gap byte g < 255 stands for g times the rank left out and then another one; 255 stands for 255 times the rank left out. What follows the last
  other rank is not stored.

A frame is a complete Zstandard frame with its content size, without checksum and dictionary.
"""

import struct

import numpy as np
import zstandard
from numpy.typing import NDArray

from tsn_toolkit.numerics.bits import pack_bits, packed_size_bytes
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.packed_codes import PackedCodes

_FIELDS, _GAPS = 0, 1
_LONG_GAP = 255
_GAP_HEAD = struct.Struct("<BII")
_LARGEST_COUNT = (1 << 31) - 1
_WINDOW_BITS = 17
_GAPS_PAY_FROM = 0.75
"""Share of the most frequent symbol from which gaps can be the smaller form."""


def encode_large_run(ranks: NDArray[np.uint8], counts: NDArray[np.int64]) -> bytes:
    """The payload of a run, in the smaller of the two forms.

    Args:
        ranks: uint8 (n,), n at least 1, below the alphabet's size.
        counts: int64 (alphabet,), how often each rank occurs; at least two entries.
    """
    payload = bytes([_FIELDS]) + _frame(pack_bits(ranks, _width(len(counts))))
    frequent = int(counts.argmax())
    if counts[frequent] < _GAPS_PAY_FROM * len(ranks):
        return payload
    gaps = _encode_gaps(ranks, frequent, len(counts))
    return gaps if len(gaps) < len(payload) else payload


def decode_large_run(payload: bytes | memoryview, alphabet: int, count: int) -> NDArray[np.uint8]:
    """Reads a run one rank to a byte: uint8 (count,); see `read_large_run`."""
    return read_large_run(payload, alphabet, count).codes()


def read_large_run(payload: bytes | memoryview, alphabet: int, count: int) -> PackedCodes:
    """Reads a run of `count` ranks, at least 1, of an alphabet of at least two.

    Raises:
        NumericsError: the payload does not hold exactly such a run.
    """
    if payload[:1] == bytes([_FIELDS]):
        return _ranks(payload[1:], alphabet, count)
    return PackedCodes.plain(_decode_gaps(payload, alphabet, count))


def _decode_gaps(payload: bytes | memoryview, alphabet: int, count: int) -> NDArray[np.uint8]:
    if payload[:1] != bytes([_GAPS]) or len(payload) < 1 + _GAP_HEAD.size:
        raise NumericsError(f"a coded run of {len(payload)} bytes has no known form")
    frequent, gap_count, length = _GAP_HEAD.unpack_from(payload, 1)
    body = payload[1 + _GAP_HEAD.size :]
    if frequent >= alphabet or gap_count > count or length > len(body):
        raise NumericsError(f"a coded run of {count} symbols has {gap_count} gaps in {length} bytes beside symbol {frequent} of {alphabet}")
    places = _places(np.frombuffer(_content(body[:length], gap_count), np.uint8), count)
    ranks = np.full(count, frequent, np.uint8)
    if alphabet > 2:
        others = _ranks(body[length:], alphabet - 1, len(places)).codes()
        ranks[places] = others + (others >= frequent)
    elif len(body) > length:
        raise NumericsError(f"a coded run has {len(body) - length} bytes too many")
    else:
        ranks[places] = 1 - frequent
    return ranks


def _encode_gaps(ranks: NDArray[np.uint8], frequent: int, alphabet: int) -> bytes:
    places = np.flatnonzero(ranks != frequent)
    gaps = np.diff(places, prepend=-1) - 1
    longs = gaps // _LONG_GAP
    gap_bytes = np.full(len(gaps) + int(longs.sum()), _LONG_GAP, np.uint8)
    gap_bytes[np.cumsum(longs + 1) - 1] = gaps % _LONG_GAP
    frame = _frame(gap_bytes.tobytes())
    others = b""
    if alphabet > 2:
        values = ranks[places]
        others = _frame(pack_bits(values - (values > frequent), _width(alphabet - 1)))
    return bytes([_GAPS]) + _GAP_HEAD.pack(frequent, len(gap_bytes), len(frame)) + frame + others


def _places(gap_bytes: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    """Where the other ranks stand; all below `count`."""
    ends = gap_bytes < _LONG_GAP
    reach = int(gap_bytes.sum(dtype=np.int64)) + int(np.count_nonzero(ends))
    if reach > min(count, _LARGEST_COUNT):
        raise NumericsError(f"the gaps of a coded run of {count} symbols reach to symbol {reach}")
    steps = gap_bytes.astype(np.int32)
    steps += ends
    places: NDArray[np.int32] = np.cumsum(steps, dtype=np.int32) - np.int32(1)
    return places if ends.all() else places[ends]


def _ranks(frame: bytes | memoryview, alphabet: int, count: int) -> PackedCodes:
    width = _width(alphabet)
    ranks = PackedCodes.of(_content(frame, packed_size_bytes(count, width)), width, count)
    if alphabet < 1 << width and ranks.largest_possible() >= alphabet and (largest := int(ranks.codes().max(initial=0))) >= alphabet:
        raise NumericsError(f"a coded run holds symbol {largest} of an alphabet of {alphabet}")
    return ranks


def _width(alphabet: int) -> int:
    return next(width for width in (1, 2, 4, 8) if alphabet <= 1 << width)


def _frame(content: bytes) -> bytes:
    """One frame. A short match table and long matches only: the literals' Huffman code is what compresses, and repetitions rarely are."""
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        window_log=_WINDOW_BITS,
        hash_log=6,
        chain_log=6,
        search_log=1,
        min_match=7,
        target_length=0,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def _content(frame: bytes | memoryview, size_bytes: int) -> bytes:
    """The content of a frame, which must be `size_bytes` long; checked before memory is taken for it.

    Raises:
        NumericsError: it is no such frame, or bytes follow it.
    """
    try:
        stated = zstandard.get_frame_parameters(frame).content_size
        if stated != size_bytes:
            raise NumericsError(f"a coded run's frame should hold {size_bytes} bytes, but states {stated}")
        decompressor = zstandard.ZstdDecompressor(max_window_size=max(size_bytes, 1 << _WINDOW_BITS))
        content = decompressor.decompress(frame, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise NumericsError(f"a coded run's frame cannot be read ({error})") from error
    if len(content) != size_bytes:
        raise NumericsError(f"a coded run's frame should hold {size_bytes} bytes, got {len(content)}")
    return content
