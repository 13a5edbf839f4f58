"""Bits of a mask as runs by context: the stream, and the chance of each context in the order in which contexts first occur.

Bytes: number of 32-bit words of the stream, the stream, the chances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.bit_runs import ALWAYS, NEVER, BitDecoder, Run, chance_bits, encode_bit_runs, nearest_chance
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.numerics.lookup import look_up
from tsn_toolkit.store.known_slots import Contexts, count_contexts, merge_by, split_by
from tsn_toolkit.store.mask_forms import MAX_DEPTH
from tsn_toolkit.store.part import BlobReader
from tsn_toolkit.store.varint import take_varint, varint

_WORD_BYTES = 4
_BYTE_VALUES = 256


class Exchange(Protocol):
    """Bits of one kind by context: a writer takes the bits it is given and returns them, a reader returns those it reads."""

    def by_context(self, contexts: Contexts, numbers: int, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bits uint8 (n,), whose contexts (n,) lie below `numbers`."""

    def alike(self, number: int, count: int, bits: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | bool:
        """`count` bits of one context; what they all are where that is certain."""


@dataclass(frozen=True)
class Tally:
    """How many bits are set and how many there are in each context of full depth.

    Attributes:
        ones, totals: int64 (extra, 2**MAX_DEPTH, 2): by extra context, ancestors that use the slot, present.
    """

    ones: NDArray[np.int64]
    totals: NDArray[np.int64]

    @classmethod
    def empty(cls, extra: int = 1) -> Tally:
        """Nothing counted yet; contexts are numbered extra * 2**(MAX_DEPTH + 1) + that of the slot."""
        return cls(np.zeros((extra, 1 << MAX_DEPTH, 2), np.int64), np.zeros((extra, 1 << MAX_DEPTH, 2), np.int64))

    def by_context(self, contexts: Contexts, numbers: int, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Counts bits (n,) in contexts (n,), in place, and returns them."""
        self.totals[:] += count_contexts(contexts, numbers).reshape(self.totals.shape)
        self.ones[:] += count_contexts(contexts[np.flatnonzero(bits)], numbers).reshape(self.ones.shape)
        return bits

    def alike(self, number: int, count: int, bits: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Counts bits of one context, in place, and returns them."""
        counted = bits()
        self.totals.reshape(-1)[number] += count
        self.ones.reshape(-1)[number] += int(counted.sum(dtype=np.int64))
        return counted

    def at(self, depth: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ones and totals of contexts of `depth` ancestors, by number."""
        extra = len(self.ones)
        ones, totals = (counts.reshape(extra, 1 << depth, -1, 2).sum(axis=2).reshape(-1) for counts in (self.ones, self.totals))
        return ones, totals

    def cost(self, depth: int) -> tuple[float, int]:
        """Bits of the stream and bits of the chances, in contexts of `depth` ancestors."""
        ones, totals = self.at(depth)
        occurring = totals > 0
        ones, totals = ones[occurring], totals[occurring]
        return float(chance_bits(ones, totals, nearest_chance(ones, totals)).sum()), 8 * len(totals)

    def entropy_bits(self, depth: int, *, by_context: bool = True) -> float:
        """Entropy of the bits given their contexts of `depth` ancestors, or given nothing."""
        ones, totals = self.at(depth)
        counts = np.stack([ones, totals - ones], axis=-1)
        return ideal_bits(counts if by_context else counts.sum(axis=0))

    def chances(self, depth: int) -> NDArray[np.uint8]:
        """The chance of every context of `depth` ancestors."""
        return nearest_chance(*self.at(depth))


class RunWriter:
    """Collects runs, then writes them."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._chances = bytearray()

    def kind(self, chances: NDArray[np.uint8]) -> RunSink:
        """Takes bits of one kind, whose contexts have these chances."""
        return RunSink(chances, self._runs, self._chances)

    def to_bytes(self) -> bytes:
        """What was collected."""
        stream = encode_bit_runs(self._runs)
        return varint(len(stream) // _WORD_BYTES) + stream + bytes(self._chances)


class RunSink:
    """One kind of bits of a `RunWriter`."""

    def __init__(self, chances: NDArray[np.uint8], runs: list[Run], written: bytearray) -> None:
        self._chances, self._runs, self._written = chances, runs, written
        self._known: set[int] = set()

    def by_context(self, contexts: Contexts, numbers: int, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Adds a run for each context that occurs."""
        occurring = np.flatnonzero(count_contexts(contexts, numbers)).tolist()
        chances = [self._chance(number) for number in occurring]
        if any(NEVER < chance < ALWAYS for chance in chances):
            self._runs += zip(split_by(contexts, bits, occurring), chances, strict=True)
        return bits

    def alike(self, number: int, count: int, bits: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | bool:
        """Adds one run."""
        chance = self._chance(number)
        if chance in (NEVER, ALWAYS):
            return chance == ALWAYS
        run = bits()
        self._runs.append((run, chance))
        return run

    def _chance(self, number: int) -> int:
        chance = int(self._chances[number])
        if number not in self._known:
            self._known.add(number)
            self._written.append(chance)
        return chance


class RunReader:
    """Reads what a `RunWriter` wrote."""

    def __init__(self, blob: BlobReader) -> None:
        """Takes the stream; chances are taken from the blob as they are needed."""
        self._blob = blob
        self._stream = BitDecoder(blob.take(_WORD_BYTES * take_varint(blob)))

    def kind(self) -> RunSource:
        """Gives bits of the next kind."""
        return RunSource(self._blob, self._stream)

    def finish(self) -> None:
        """Checks that the stream is used up."""
        self._stream.finish()


class RunSource:
    """One kind of bits of a `RunReader`."""

    def __init__(self, blob: BlobReader, stream: BitDecoder) -> None:
        self._blob, self._stream = blob, stream
        self._known: dict[int, int] = {}

    def by_context(self, contexts: Contexts, numbers: int, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Reads a run for each context that occurs."""
        sizes = count_contexts(contexts, numbers)
        known = self._if_certain(contexts, sizes)
        if known is not None:
            return known
        occurring = np.flatnonzero(sizes).tolist()
        return merge_by(contexts, [self._stream.read_packed(self._chance(number), int(sizes[number])) for number in occurring], occurring)

    def if_certain(self, contexts: Contexts, numbers: int) -> NDArray[np.uint8] | None:
        """Bits that follow from the contexts alone, so that slots of the same context need not be told apart; None where runs must be read."""
        return self._if_certain(contexts, count_contexts(contexts, numbers))

    def _if_certain(self, contexts: Contexts, sizes: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        occurring = np.flatnonzero(sizes).tolist()
        chances = [self._chance(number) for number in occurring]
        if contexts.dtype != np.uint8 or not all(chance in (NEVER, ALWAYS) for chance in chances):
            return None
        if len(set(chances)) < 2:
            return np.full(len(contexts), chances[:1] == [ALWAYS], np.uint8)
        always = np.zeros(_BYTE_VALUES, np.uint8)
        always[occurring] = np.array(chances) == ALWAYS
        return look_up(contexts.view(np.uint8), always)

    def alike(self, number: int, count: int, bits: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | bool:
        """Reads one run."""
        chance = self._chance(number)
        return chance == ALWAYS if chance in (NEVER, ALWAYS) else self._stream.read(chance, count)

    def _chance(self, number: int) -> int:
        if number not in self._known:
            self._known[number] = self._blob.take(1)[0]
        return self._known[number]
