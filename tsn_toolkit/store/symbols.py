"""Mask symbols: what a task does at each slot, coded given what is already known of the slot.

The symbol of a slot is its `SlotState`. Its context is (does the frozen view hold a value here) + the symbols of the `depth` nearest task ancestors
at the same slot: context = present + 2 * (a_1 + 3 * a_2 + 9 * a_3 + 27 * a_4), a_1 the parent's symbol. Only slots inside the kept units have
symbols.

Per layer the writer takes the depth 0..4 that costs fewest bytes, tables included. The table of a context that occurs is one unsigned 16-bit
frequency of PRUNED and, where the frozen view holds a value and PRUNED is not certain, one of REUSE; OWN has the rest. So REUSE of nothing cannot be
written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.entropy import TOTAL, RunDecoder, coded_bits, quantize_frequencies
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.vocabulary import SlotState

MAX_DEPTH = 4
_ALPHABET = len(SlotState)

Run = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class SlotContext:
    """What is known of the kept slots of one layer before its symbols: flat arrays in C order.

    Attributes:
        present: bool (n,), the frozen view holds a value.
        ancestors: uint8 (n,) symbols of each task ancestor, nearest first; at most `MAX_DEPTH`.
    """

    present: NDArray[np.bool_]
    ancestors: Sequence[NDArray[np.uint8]]

    def numbers(self, depth: int) -> NDArray[np.uint8]:
        """Context number of every slot: uint8 (n,) below 2 * 3**depth."""
        context = self.present.astype(np.uint8)
        weight = 2
        for symbols in self.ancestors[:depth]:
            context += np.uint8(weight) * symbols
            weight *= _ALPHABET
        return context


def count_symbols(contexts: NDArray[np.uint8], symbols: NDArray[np.uint8], depth: int) -> NDArray[np.int64]:
    """How often each symbol stands in each context: int64 (2 * 3**depth, 3)."""
    rows = 2 * _ALPHABET**depth
    flat = contexts.astype(np.int64) * _ALPHABET + symbols
    return np.bincount(flat, minlength=rows * _ALPHABET).reshape(rows, _ALPHABET)


def encode_symbols(context: SlotContext, symbols: NDArray[np.uint8]) -> tuple[int, bytes, list[Run]]:
    """Codes one layer's symbols.

    Returns:
        The context depth chosen, the frequency tables, and the runs for the stream, one per context that occurs, in order of the context's number.
    """
    best: tuple[float, int, bytes, NDArray[np.int64]] | None = None
    for depth in range(min(MAX_DEPTH, len(context.ancestors)) + 1):
        counts = count_symbols(context.numbers(depth), symbols, depth)
        frequencies = np.array([quantize_frequencies(row) for row in counts])
        tables = b"".join(_table_bytes(row, number % 2 == 1) for number, row in enumerate(frequencies) if counts[number].any())
        cost = coded_bits(counts, frequencies) + 8 * len(tables)
        if best is None or cost < best[0]:
            best = cost, depth, tables, frequencies
    assert best is not None
    _, depth, tables, frequencies = best
    return depth, tables, [(symbols[slots], frequencies[number]) for number, slots in _by_context(context.numbers(depth))]


def read_tables(context: SlotContext, depth: int, blob: BlobReader) -> list[NDArray[np.int64]]:
    """Reads the tables of one layer: int64 (3,) for each context that occurs.

    Raises:
        PartError: the blob ends early, or the frequencies exceed their total.
    """
    occurs = np.flatnonzero(np.bincount(context.numbers(depth), minlength=1))
    return [_read_table(blob, present=number % 2 == 1) for number in occurs.tolist()]


def decode_symbols(context: SlotContext, depth: int, tables: list[NDArray[np.int64]], stream: RunDecoder) -> NDArray[np.uint8]:
    """Reads one layer's symbols from the stream: uint8 (n,)."""
    symbols = np.empty(len(context.present), np.uint8)
    for (_, slots), table in zip(_by_context(context.numbers(depth)), tables, strict=True):
        symbols[slots] = stream.read(table, len(slots))
    return symbols


def _by_context(contexts: NDArray[np.uint8]) -> list[tuple[int, NDArray[np.intp]]]:
    """Context numbers that occur, ascending, each with its slots in order."""
    order = np.argsort(contexts, kind="stable")
    sizes = np.bincount(contexts, minlength=1)
    ends = np.cumsum(sizes)
    return [(int(number), order[ends[number] - sizes[number] : ends[number]]) for number in np.flatnonzero(sizes)]


def _table_bytes(frequencies: NDArray[np.int64], present: bool) -> bytes:
    pruned, reuse, _ = frequencies.tolist()
    assert present or reuse == 0, "REUSE where the frozen view holds nothing"
    fields = [pruned, reuse] if present and pruned < TOTAL else [pruned]
    return np.array(fields, "<u2").tobytes()


def _read_table(blob: BlobReader, *, present: bool) -> NDArray[np.int64]:
    pruned = int.from_bytes(blob.take(2), "little")
    reuse = int.from_bytes(blob.take(2), "little") if present and pruned < TOTAL else 0
    if pruned + reuse > TOTAL:
        raise PartError(f"mask frequencies {pruned} + {reuse} exceed their total {TOTAL}")
    return np.array([pruned, reuse, TOTAL - pruned - reuse], np.int64)
