"""A reader of stores written from docs/store-format.md alone: it shares no code with the package."""

import json
import struct
from itertools import product
from pathlib import Path

from test_format_document import bits_model, chances, packed, read, table_model

PRUNED, REUSE, OWN, REFINE = range(4)
BLOBS = ("layers", "masks", "values", "codebooks", "scales", "norms", "biases", "head", "ranges")


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


def read_part(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = json.loads(header["__metadata__"]["tsn"])
    assert metadata["schema"] == 1 and list(header) == ["__metadata__", "blobs"]
    blobs, at = {}, 8 + size
    for name, length in zip(BLOBS, metadata["blobs"], strict=True):
        blobs[name] = Blob(data[at : at + length])
        at += length
    assert at == len(data)
    return metadata, blobs


def vector(blob, count, precision):
    data = blob.take(1 + 2 * count if precision == "half" else 4 + count)
    return read(precision, [], count, data)


def codes(blob, count, width):
    if not count:
        return []
    form = blob.byte()
    if form == 0:
        return blob.packed(width, count)
    if form == 1:
        table = [int.from_bytes(blob.take(2), "little") for _ in range((1 << width) - 1)]
        table.append((1 << 15) - sum(table))
    else:
        assert form == 2
        counts = list(blob.take(1 << width))
        table = [max(1, (c << 15) // sum(counts)) if c else 0 for c in counts]
        table[counts.index(max(counts))] += (1 << 15) - sum(table)
    words = Words(blob.take(blob.varint()))
    possible = [symbol for symbol, f in enumerate(table) if f]
    found = [possible[words.symbol(table_model(table))] if len(possible) > 1 else possible[0] for _ in range(count)]
    words.finish()
    return found


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


def units_of(value, size):
    if value == "=":
        return list(range(size))
    if isinstance(value, int):
        return [unit for unit in range(size) for _ in range(value)]
    return [start + step * i for start, step, count in value for i in range(count)]


class PlainStore:
    """A store read whole. `q[task][layer]` and `scale[task][layer]` are lists in C order."""

    def __init__(self, folder):
        folder = Path(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        self.record = None
        self.view, self.present, self.uses, self.scales = {}, {}, {}, {}
        self.q, self.norms, self.biases, self.heads, self.names = {}, {}, {}, {}, {}
        for entry in (manifest["trunk"], *manifest["tasks"]):
            metadata, blobs = read_part(folder / entry["path"])
            self.record = self.record or metadata["architecture"]
            self._read(metadata, blobs)

    def _dead(self, masks, parameter, dim, length):
        dead = [False] * length
        for name, size, members in self.record["groups"]:
            for member, axis, units in members:
                if (member, axis) == (parameter, dim) and name in masks:
                    dead = [old or (unit >= 0 and not masks[name][unit]) for old, unit in zip(dead, units_of(units, size), strict=True)]
        return dead

    def _dead_entries(self, masks, module, length):
        named = {member for _, _, members in self.record["groups"] for member, axis, _ in members if axis == 0}
        parameter = next((f"{module}.{s}" for s in ("bias", "weight", "running_mean", "running_var") if f"{module}.{s}" in named), module)
        return self._dead(masks, parameter, 0, length)

    def _spread(self, values, dead):
        values = iter(values)
        return [0.0 if gone else next(values) for gone in dead]

    def _read(self, metadata, blobs):
        name, parent = metadata["name"], metadata.get("parent")
        precision = metadata.get("vectors", "half")
        masks = {}
        for index in metadata.get("groups", []):
            group, size, _ = self.record["groups"][index]
            masks[group] = blobs["masks"].packed(1, size)
        for table in (self.view, self.present, self.uses, self.scales, self.q):
            table[name] = {}
        kinds = list(blobs["layers"].take(len(blobs["layers"].data))) or [None] * len(self.record["layers"])
        for (layer, shape), kind in zip(self.record["layers"], kinds, strict=True):
            self._read_layer(name, parent, layer, shape, kind, masks, blobs, precision)
        inherited = self.names.get(parent, {"norms": self.record["norms"], "biases": self.record["biases"]})
        self.names[name] = {key: metadata.get(key, inherited[key]) for key in ("norms", "biases")}
        for key, found in (("norms", self.norms), ("biases", self.biases)):
            found[name] = {}
            for module, length in self.names[name][key]:
                dead = self._dead_entries(masks, module, length)
                vectors = [self._spread(vector(blobs[key], dead.count(False), precision), dead) for _ in range(2 if key == "norms" else 1)]
                found[name][module] = vectors
        classes = len(metadata["classes"]) if parent else metadata["head_classes"]
        if classes:
            dead = self._dead(masks, f"{self.record['head'][0]}.weight", 1, self.record["head"][1])
            width = blobs["head"].byte()
            stored = [code - (1 << width - 1) for code in codes(blobs["head"], classes * dead.count(False), width)]
            rows = [self._spread(stored[row * dead.count(False) :], dead) for row in range(classes)]
            self.heads[name] = rows, vector(blobs["head"], classes, precision), vector(blobs["head"], classes, precision)
        assert all(blob.at == len(blob.data) for key, blob in blobs.items() if key != "ranges")

    def _read_layer(self, name, parent, layer, shape, kind, masks, blobs, precision):
        places = list(product(*(range(length) for length in shape)))
        size = len(places)
        dead = [self._dead(masks, f"{layer}.weight", dim, length) for dim, length in enumerate(shape)]
        kept = [i for i, place in enumerate(places) if not any(dead[dim][index] for dim, index in enumerate(place))]
        view = list(self.view[parent][layer]) if parent else [0] * size
        present = list(self.present[parent][layer]) if parent else [0] * size
        uses = [list(u) for u in self.uses[parent][layer]] if parent else [[] for _ in range(size)]
        scale = self.scales[parent][layer] if parent else None
        states = [PRUNED] * size
        outputs = [not gone for gone in dead[0]]
        if kind is None:
            pass
        elif kind == 255:
            for i in kept:
                states[i] = REUSE if present[i] else PRUNED
        else:
            width, refine = (1, 0) if kind == 254 else (kind & 15, kind >> 4)
            if kind == 254:
                signs = codes(blobs["values"], len(kept), 1)
                gain = self._spread(struct.unpack(f"<{sum(outputs)}b", blobs["codebooks"].take(sum(outputs))), dead[0])
                for i, sign in zip(kept, signs, strict=True):
                    states[i] = REFINE
                    view[i] = max(-127, min(127, view[i] + int(gain[places[i][0]]) * (1 if sign else -1)))
            else:
                if parent:
                    rows = [[(int(present[i]), uses[i]) for i in kept if places[i][0] == output] for output in range(shape[0]) if outputs[output]]
                    for i, state in zip(kept, mask(blobs["masks"], rows, refine > 0), strict=True):
                        states[i] = state
                else:
                    states = [OWN] * size
                own, residual = ([i for i in kept if states[i] == state] for state in (OWN, REFINE))
                found = codes(blobs["values"], len(own), width), codes(blobs["values"], len(residual), refine)
                books = codebook(blobs["codebooks"], width), codebook(blobs["codebooks"], refine)
                for i, code in zip(own, found[0], strict=True):
                    view[i] = books[0][code]
                for i, code in zip(residual, found[1], strict=True):
                    view[i] = max(-127, min(127, view[i] + books[1][code]))
            if blobs["scales"].byte():
                own_scale = self._spread(vector(blobs["scales"], sum(outputs), precision), dead[0])
                scale = [mine if keep else (scale[c] if scale else 0.0) for c, (mine, keep) in enumerate(zip(own_scale, outputs, strict=True))]
        self.view[name][layer] = view
        self.present[name][layer] = [int(old or state >= OWN) for old, state in zip(present, states, strict=True)]
        self.uses[name][layer] = [[int(state != PRUNED), *u] for u, state in zip(uses, states, strict=True)] if parent else uses
        self.scales[name][layer] = scale
        self.q[name][layer] = [0 if state == PRUNED else value for state, value in zip(states, view, strict=True)]
