"""Own codes of all layers of a part as one blob.

First, per layer, its packed codes or its frequency table, whichever leads to fewer bytes; then one stream with the codes of the layers that have a
table. A table is 2**bit_width - 1 unsigned 16-bit frequencies; the last code has the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.bits import pack_bits, packed_size_bytes, unpack_bits
from tsn_toolkit.numerics.entropy import TOTAL, RunDecoder, coded_bits, encode_runs, quantize_frequencies
from tsn_toolkit.store.part import BlobReader, PartError

PACKED = 0
CODED = 1

_STREAM_OVERHEAD_BITS = 64


@dataclass(frozen=True)
class ValueSpan:
    """One layer's share of the blob: number of codes, bits per code, `PACKED` or `CODED`."""

    count: int
    bit_width: int
    form: int


def encode_values(layers: Sequence[tuple[NDArray[np.uint8], int]]) -> tuple[list[int], bytes]:
    """Codes the blob.

    Args:
        layers: per layer its codes uint8 (n,) and its bit width.

    Returns:
        Per layer `PACKED` or `CODED`, and the blob.
    """
    forms, spans, runs = [], [], []
    for codes, bit_width in layers:
        counts = np.bincount(codes, minlength=1 << bit_width)
        frequencies = quantize_frequencies(counts)
        table = frequencies[:-1].astype("<u2").tobytes()
        coded = coded_bits(counts, frequencies) + 8 * len(table) + _STREAM_OVERHEAD_BITS
        if coded < 8 * packed_size_bytes(len(codes), bit_width):
            forms.append(CODED)
            spans.append(table)
            runs.append((codes, frequencies))
        else:
            forms.append(PACKED)
            spans.append(pack_bits(codes, bit_width))
    return forms, b"".join(spans) + encode_runs(runs)


def decode_values(data: bytes, spans: Sequence[ValueSpan]) -> list[NDArray[np.uint8]]:
    """Reads the blob back: per layer its codes, uint8 (n,).

    Raises:
        PartError, NumericsError: the blob does not hold exactly these codes.
    """
    blob = BlobReader("values", data)
    packed = []
    for span in spans:
        size_bytes = packed_size_bytes(span.count, span.bit_width) if span.form == PACKED else 2 * ((1 << span.bit_width) - 1)
        packed.append(blob.take(size_bytes))
    stream = RunDecoder(blob.rest())
    codes = []
    for span, field in zip(spans, packed, strict=True):
        if span.form == PACKED:
            codes.append(unpack_bits(field, span.bit_width, span.count).astype(np.uint8))
            continue
        frequencies = np.frombuffer(field, "<u2").astype(np.int64)
        rest = TOTAL - int(frequencies.sum())
        if rest < 0:
            raise PartError(f"code frequencies exceed their total {TOTAL} by {-rest}")
        codes.append(stream.read(np.append(frequencies, rest), span.count))
    stream.finish()
    return codes
