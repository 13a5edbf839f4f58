"""A reader of packed stores written from docs/joint-image.md alone: it shares no code with the package."""

import hashlib
import json

from plain_reader import PlainStore
from plain_reader_blobs import code_table, codes


class PlainImage(PlainStore):
    """A packed store read whole, its codes out of the words. Masks never follow from codes, so a first pass finds who owns which bits."""

    def __init__(self, file):
        data = file.read_bytes()
        size = int.from_bytes(data[12:16], "little")
        raw = data[48 : 48 + size]
        assert data[:12] == b"TSNIMAGE" + bytes([1, 0, 0, 0]) and data[16:48] == hashlib.sha256(raw).digest() and (48 + size) % 8 == 0
        header, at = json.loads(raw), 48 + size
        self.words, self.counts, rests = {}, {}, {}
        for layer, width, count, sha256 in header["layers"]:
            section = data[at : at + 8 * -(-count * width // 64)]
            assert hashlib.sha256(section).hexdigest() == sha256
            self.words[layer] = width, count, int.from_bytes(section, "little")
            at += len(section)
        for path, length, sha256, counts in header["files"]:
            rests[path] = data[at : at + length]
            assert hashlib.sha256(rests[path]).hexdigest() == sha256
            at += length
            self.counts[path] = counts
        assert at == len(data)
        manifest = json.loads(rests["manifest.json"])
        self.beside = {entry["name"] for entry in manifest["tasks"] if entry["isolation"] == "none"}
        self.bits, self.offsets, self.taken = {layer: {} for layer in self.words}, None, {}
        self.read(rests.__getitem__)
        for layer, bits in self.bits.items():
            widths = [sum(bits_of_owner for _, bits_of_owner in owners) for owners in bits.values()]
            assert (max(widths, default=0), len(widths)) == self.words[layer][:2]
        assert [self.taken.get(owner, []) for owner in ("trunk", *(entry["name"] for entry in manifest["tasks"]))] == list(self.counts.values())[1:]
        self.offsets = {layer: {slot: word for word, slot in enumerate(sorted(bits))} for layer, bits in self.bits.items()}
        self.read(rests.__getitem__)

    def take_codes(self, owner, layer, slots, width, blob):
        if owner in self.beside:
            return codes(blob, len(slots), width)
        if slots:
            form = blob.byte()
            code_table(blob, form, width)
            if form == 3:
                blob.take(blob.varint())
        if self.offsets is None:
            self.taken.setdefault(owner, []).append(len(slots))
            for slot in slots:
                self.bits[layer].setdefault(slot, []).append((owner, width))
            return [0] * len(slots)
        return [self._code(owner, layer, slot, width) for slot in slots]

    def _code(self, owner, layer, slot, width):
        word_bits, _, array = self.words[layer]
        owners = self.bits[layer][slot]
        offset = sum(bits for _, bits in owners[: [name for name, _ in owners].index(owner)])
        return array >> self.offsets[layer][slot] * word_bits + offset & (1 << width) - 1
