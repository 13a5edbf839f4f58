"""Codes of one layer in the form that takes the fewest bytes.

Bytes: a form byte, then

- PACKED: the codes (`pack_bits`);
- CODED: 2**bit_width - 1 unsigned 16-bit frequencies, the last code having the rest of 2**15; length of the stream; the stream;
- COARSE: the same with a table of 2**bit_width bytes in proportion to the frequencies (see `quantize_frequencies`), which pays for few codes;
- LARGE: length of the payload; the payload (see `large_runs.py`), which is decoded many times faster than a stream and hardly larger.

No codes take no bytes.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.bits import pack_bits, packed_size_bytes
from tsn_toolkit.numerics.counting import count_numbers
from tsn_toolkit.numerics.entropy import TOTAL, RunDecoder, coded_bits, encode_runs, quantize_frequencies
from tsn_toolkit.numerics.large_runs import encode_large_run, read_large_run
from tsn_toolkit.numerics.packed_codes import PackedCodes
from tsn_toolkit.numerics.streams import LARGE as LARGE_COUNT
from tsn_toolkit.numerics.streams import worth_it
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.store.varint import take_varint, varint

PACKED, CODED, COARSE, LARGE = range(4)

_WORD_BYTES = 4
_LARGEST_BYTE = 255

CodeRun = tuple[NDArray[np.uint8], int]
"""Codes (n,) and bits per code."""


def encode_values(runs: Iterable[CodeRun]) -> bytes:
    """The blob that holds these runs one after the other."""
    return b"".join(encode_codes(codes, bit_width) for codes, bit_width in runs)


def encode_codes(codes: NDArray[np.uint8], bit_width: int) -> bytes:
    """Codes uint8 (n,) below 2**bit_width in their cheapest form."""
    if not len(codes):
        return b""
    counts = count_numbers(codes, 1 << bit_width)
    exact = quantize_frequencies(counts)
    coarse = _coarse_table(counts)
    tables = {
        CODED: (exact, exact[:-1].astype("<u2").tobytes()),
        COARSE: (quantize_frequencies(coarse), coarse.tobytes()),
    }
    sizes = {form: len(table) + _WORD_BYTES + coded_bits(counts, frequencies) / 8 for form, (frequencies, table) in tables.items()}
    form = min(sizes, key=lambda key: sizes[key])
    if sizes[form] >= packed_size_bytes(len(codes), bit_width):
        return pack_codes(codes, bit_width)
    if len(codes) >= LARGE_COUNT:
        payload = encode_large_run(codes, counts)
        if worth_it(payload, coded_bits(counts, exact)):
            return bytes([LARGE]) + varint(len(payload)) + payload
    return encode_with_head(bytes([form]) + tables[form][1], codes, bit_width)


def pack_codes(codes: NDArray[np.uint8], bit_width: int) -> bytes:
    """Codes in the form that can hold any of them."""
    return encode_with_head(bytes([PACKED]), codes, bit_width) if len(codes) else b""


def encode_with_head(head: bytes, codes: NDArray[np.uint8], bit_width: int) -> bytes:
    """Codes behind a form byte and a table that are given.

    Raises:
        PartError, NumericsError: it is no such head, or its table has no place for one of the codes.
    """
    if head == bytes([PACKED]):
        return head + pack_bits(codes, bit_width)
    if head == bytes([LARGE]):
        payload = encode_large_run(codes, count_numbers(codes, 1 << bit_width))
        return head + varint(len(payload)) + payload
    reader = BlobReader.of("values", head)
    frequencies = _take_table(reader, reader.take(1)[0], bit_width)
    reader.finish()
    stream = encode_runs([(codes, frequencies)])
    return head + varint(len(stream)) + stream


def take_head(blob: BlobReader, bit_width: int) -> bytes:
    """The form byte and the table of codes; the blob stands behind them afterwards.

    Raises:
        PartError: there is no such form.
    """
    form = blob.take(1)
    return form + blob.take(_table_size_bytes(form[0], bit_width))


def skip_codes(blob: BlobReader, head: bytes, count: int, bit_width: int) -> None:
    """Leaves the codes behind a head unread."""
    blob.take(packed_size_bytes(count, bit_width) if head[0] == PACKED else take_varint(blob))


def read_codes(blob: BlobReader, count: int, bit_width: int) -> PackedCodes:
    """Reads `count` codes.

    Raises:
        PartError, NumericsError: the blob does not hold exactly these codes.
    """
    if not count:
        return PackedCodes.plain(np.zeros(0, np.uint8))
    form = blob.take(1)[0]
    if form == PACKED:
        return PackedCodes.of(blob.take(packed_size_bytes(count, bit_width)), bit_width, count)
    if form == LARGE:
        return read_large_run(blob.take(take_varint(blob)), 1 << bit_width, count)
    frequencies = _take_table(blob, form, bit_width)
    stream = RunDecoder(blob.take(take_varint(blob)))
    codes = stream.read(frequencies, count)
    stream.finish()
    return PackedCodes.plain(codes)


def decode_codes(blob: BlobReader, count: int, bit_width: int) -> NDArray[np.uint8]:
    """The same, unpacked: uint8 (count,)."""
    return read_codes(blob, count, bit_width).codes()


def _coarse_table(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    largest = int(counts.max())
    return np.where(counts > 0, np.maximum((counts * _LARGEST_BYTE + largest // 2) // largest, 1), 0).astype(np.uint8)


def _table_size_bytes(form: int, bit_width: int) -> int:
    if form not in (PACKED, CODED, COARSE, LARGE):
        raise PartError(f"there is no form {form} of codes")
    return {CODED: 2 * ((1 << bit_width) - 1), COARSE: 1 << bit_width}.get(form, 0)


def _take_table(blob: BlobReader, form: int, bit_width: int) -> NDArray[np.int64]:
    table = blob.take(_table_size_bytes(form, bit_width))
    if form == COARSE:
        return quantize_frequencies(np.frombuffer(table, np.uint8))
    frequencies = np.frombuffer(table, "<u2").astype(np.int64)
    rest = TOTAL - int(frequencies.sum())
    if rest < 0:
        raise PartError(f"code frequencies exceed their total {TOTAL} by {-rest}")
    return np.append(frequencies, rest)
