"""A reader of stores written from docs/store-format.md alone: it shares no code with the package."""

import json
import struct
from itertools import product
from math import prod
from pathlib import Path

from plain_reader_blobs import OWN, PRUNED, REFINE, REUSE, codebook, codes, mask, read_part, vector

MEMORY = {"uint8": "B", "int64": "q", "float16": "e", "float32": "f"}


def units_of(value, size):
    if value == "=":
        return list(range(size))
    if isinstance(value, int):
        return [unit for unit in range(size) for _ in range(value)]
    return [start + step * i for start, step, count in value for i in range(count)]


class PlainStore:
    """A store read whole. `q[task][layer]` and `scales[task][layer]` are lists in C order, `revisions[task]` is what its metadata say of it."""

    def __init__(self, folder):
        self.read(lambda path: (Path(folder) / path).read_bytes())

    def read(self, file):
        """Reads every part; `file` gives the bytes of a path."""
        manifest = json.loads(file("manifest.json"))
        self.record = None
        self.view, self.present, self.uses, self.scales = {}, {}, {}, {}
        self.q, self.norms, self.biases, self.heads, self.ranges, self.names, self.revisions, self.memory = {}, {}, {}, {}, {}, {}, {}, {}
        self.handed, self.free = {}, {}  # free parameters: what an owner hands down (None where nobody has the entry), what it answers with
        for entry in (manifest["trunk"], *manifest["tasks"]):
            metadata, blobs = read_part(file(entry["path"]))
            self.record = self.record or metadata["architecture"]
            self._read(metadata, blobs)

    def take_codes(self, owner, layer, slots, width, blob):
        """The next codes of a layer, one for each of these slots."""
        return codes(blob, len(slots), width)

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
        inherited = self.names.get(parent, {"norms": self.record["norms"], "biases": self.record["biases"], "ranges": []})
        self.names[name] = {key: metadata.get(key, value) for key, value in inherited.items()}
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
        self.ranges[name] = {key: struct.unpack("<fh?", blobs["ranges"].take(7)) for key in self.names[name]["ranges"]}
        self.revisions[name] = metadata.get("revision")
        self.memory[name] = {
            key: list(struct.unpack(f"<{prod(shape)}{MEMORY[kind]}", blobs["memory"].take(struct.calcsize(f"<{prod(shape)}{MEMORY[kind]}"))))
            for key, kind, shape in (metadata["revision"]["memory"] if "revision" in metadata else [])
        }
        self._read_free(name, parent, metadata, blobs["free_parameters"], masks, precision)
        assert all(blob.at == len(blob.data) for blob in blobs.values())

    def _read_free(self, name, parent, metadata, blob, masks, precision):
        records = self.record.get("free_parameters", [])
        owned = metadata.get("free_parameters", []) if parent else range(len(records) if metadata["kind"] == "checkpoint" else 0)
        self.handed[name], self.free[name] = {}, {}
        for position, (parameter, shape) in enumerate(records):
            dead = [self._dead(masks, parameter, dim, length) for dim, length in enumerate(shape)]
            places = list(product(*(range(length) for length in shape)))
            kept = [i for i, place in enumerate(places) if not any(dead[dim][index] for dim, index in enumerate(place))]
            values = list(self.handed[parent][parameter]) if parent else [None] * len(places)
            if position in owned:
                length = dead[-1].count(False) if shape else 1
                own = [value for _ in range(len(kept) // length) for value in vector(blob, length, precision)]
                for i, value in zip(kept, own, strict=True):
                    values[i] = value
            self.handed[name][parameter] = values
            self.free[name][parameter] = [value if i in kept else 0.0 for i, value in enumerate(values)]

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
                signs = self.take_codes(name, layer, kept, 1, blobs["values"])
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
                found = [self.take_codes(name, layer, own, width, blobs["values"])]
                found.append(self.take_codes(name, layer, residual, refine, blobs["values"]) if refine else [])
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
