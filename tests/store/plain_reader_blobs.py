"""Blobs of parts, read as docs/store-format.md describes them: this shares no code with the package."""

import json
import struct

import zstandard
from test_format_document import bits_model, chances, packed, read, table_model

PRUNED, REUSE, OWN, REFINE = range(4)
BLOBS = ("layers", "masks", "values", "codebooks", "scales", "norms", "biases", "head", "ranges", "memory", "free_parameters")


class Blob:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def packed(self, width, count):
        return packed(self.take((width * count + 7) // 8), width, count)


class Words:
    """ANS words, decoded one symbol at a time."""

    def __init__(self, data):
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.state = 0
        while self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def symbol(self, starts):
        r = self.state % (1 << 24)
        k = next(k for k in range(len(starts) - 1) if starts[k] <= r < starts[k + 1])
        self.state = (self.state >> 24) * (starts[k + 1] - starts[k]) + r - starts[k]
        if self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return k

    def bits(self, f, count):
        if f in (0, 1 << 15):
            return [int(f > 0)] * count
        found = []
        while len(found) < count:
            j = min(8, count - len(found))
            symbol = self.symbol(bits_model(f, j))
            found += [symbol >> i & 1 for i in range(j)]
        return found

    def finish(self):
        assert self.state == 0 and not self.words


def read_part(data):
    """Metadata and blobs; one of nine blobs has an empty memory, one of schema 1 no free parameters."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = json.loads(header["__metadata__"]["tsn"])
    assert metadata["schema"] in (1, 2) and list(header) == ["__metadata__", "blobs"]
    blobs, at = {}, 8 + size
    assert len(metadata["blobs"]) in ((9, 10) if metadata["schema"] == 1 else (11,))
    for name, length in zip(BLOBS, [*metadata["blobs"], 0, 0][:11], strict=True):
        blobs[name] = Blob(data[at : at + length])
        at += length
    assert at == len(data)
    return metadata, blobs


def vector(blob, count, precision):
    data = blob.take(1 + 2 * count if precision == "half" else 4 + count)
    return read(precision, [], count, data)


def code_table(blob, form, width):
    """Frequencies behind the form byte of codes; none for packed codes and large runs."""
    if form == 1:
        table = [int.from_bytes(blob.take(2), "little") for _ in range((1 << width) - 1)]
        return [*table, (1 << 15) - sum(table)]
    if form == 2:
        counts = list(blob.take(1 << width))
        if not any(counts):
            return [1 << 15] + [0] * (len(counts) - 1)
        table = [max(1, (c << 15) // sum(counts)) if c else 0 for c in counts]
        table[counts.index(max(counts))] += (1 << 15) - sum(table)
        return table
    assert form in (0, 3)
    return None


def codes(blob, count, width):
    if not count:
        return []
    form = blob.byte()
    table = code_table(blob, form, width)
    if form == 0:
        return blob.packed(width, count)
    data = blob.take(blob.varint())
    if form == 3:
        return large_run(data, count, width)
    words = Words(data)
    possible = [symbol for symbol, f in enumerate(table) if f]
    found = [possible[words.symbol(table_model(table))] if len(possible) > 1 else possible[0] for _ in range(count)]
    words.finish()
    return found


def large_run(data, count, width):
    def field(symbols):
        return next(w for w in (1, 2, 4, 8) if symbols <= 1 << w)

    if data[0] == 0:
        return packed(zstandard.decompress(data[1:]), field(1 << width), count)
    assert data[0] == 1
    left_out, gap_bytes, frame = struct.unpack("<BII", data[1:10])
    gaps = zstandard.decompress(data[10 : 10 + frame])
    assert len(gaps) == gap_bytes
    number = sum(gap < 255 for gap in gaps)
    others = [1 - left_out] * number if width == 1 else packed(zstandard.decompress(data[10 + frame :]), field((1 << width) - 1), number)
    others = iter(others if width == 1 else [code + (code >= left_out) for code in others])
    found = []
    for gap in gaps:
        found += [left_out] * gap + ([next(others)] if gap < 255 else [])
    return found + [left_out] * (count - len(found))


def codebook(blob, width):
    if width <= 5:
        return read("codebook", [width], 1 << width, blob.take(1 << width)) if width else []
    return read("codebook", [width], 1 << width, blob.take((254 + (1 << width) + 7) // 8))


def runs(words, blob, contexts, known):
    """Bits by context: {place: bit}. `contexts` is {place: number} in the order of the slots."""
    found = {}
    for number in sorted(set(contexts.values())):
        places = [place for place, other in contexts.items() if other == number]
        if number not in known:
            known[number] = chances()[blob.byte()]
        found.update(zip(places, words.bits(known[number], len(places)), strict=True))
    return found


def mask(blob, rows, refines):
    """States of the kept slots; `rows` are lists of (present, uses of ancestors, nearest first)."""
    slots = [slot for row in rows for slot in row]
    head = blob.byte()
    layout, marks, depth = head & 7, head >> 3 & 1, head >> 4 & 7
    state_depth = blob.byte() if head & 0x80 else 0
    sizes = [blob.varint() for _ in range({4: 1, 5: 2}.get(layout, 0))]
    marked = [0] * len(slots)
    if layout == 1:
        marked = blob.packed(1, len(slots))
    if layout == 2:
        count, width = blob.varint(), (len(slots) - 1).bit_length()
        low = blob.packed(min(width, 16), count)
        high = blob.packed(max(width - 16, 0), count)
        for a, b in zip(low, high, strict=True):
            marked[a | b << 16] = 1
    words = Words(blob.take(4 * blob.varint()))

    def context(slot, d):
        present, uses = slots[slot]
        return present + 2 * sum(use << d - 1 - i for i, use in enumerate(uses[:d]))

    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    if layout == 0:
        found = runs(words, blob, {slot: context(slot, depth) for slot in range(len(slots))}, {})
        marked = [found[slot] for slot in range(len(slots))]
    if layout == 3:
        marked = [int(bool(uses) and uses[0]) for _, uses in slots]
    if layout == 4:
        blocks = [range(first, min(first + sizes[0], end)) for start, end in zip(starts, starts[1:]) for first in range(start, end, sizes[0])]
        found = runs(words, blob, {block[0]: context(block[0], depth) for block in blocks}, {})
        for block in blocks:
            for slot in block:
                marked[slot] = found[block[0]]
    if layout == 5:
        n, m = sizes
        groups = [range(first, min(first + m, end)) for start, end in zip(starts, starts[1:]) for first in range(start, end, m)]
        left, known = [min(n, len(group)) for group in groups], {}
        for step in range(m):
            open_slots = {}
            for g, group in enumerate(groups):
                if step < len(group):
                    slots_left = len(group) - step
                    marked[group[step]] = int(left[g] == slots_left)
                    if 0 < left[g] < slots_left:
                        open_slots[group[step]] = ((slots_left * (n + 1) + left[g]) << depth + 1) + context(group[step], depth)
            for slot, bit in runs(words, blob, open_slots, known).items():
                marked[slot] = bit
            left = [count - (marked[group[step]] if step < len(group) else 0) for count, group in zip(left, groups)]
    states = [OWN if bit else PRUNED for bit in marked]
    second = {i: context(i, state_depth) for i, (present, _) in enumerate(slots) if present and marked[i] == (marks == 0)}
    for slot, bit in runs(words, blob, second, {}).items():
        states[slot] = REUSE if bit else states[slot]
    if refines:
        third = {i: context(i, state_depth) for i, (present, _) in enumerate(slots) if present and states[i] == OWN}
        for slot, bit in runs(words, blob, third, {}).items():
            states[slot] = REFINE if bit else OWN
    words.finish()
    return states
