"""Damaged copies of stores and packed files.

A case is (file, kind, vouched, number) and always gives the same bytes. `vouched` means that every hash is computed again, so that not the hashes but
the decoder's own checks meet the damage.
"""

import hashlib
import json
import random
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tsn_toolkit.store.image_file import ImageFile, Rest, image_from_bytes, image_to_bytes
from tsn_toolkit.store.manifest import hash_bytes
from tsn_toolkit.store.part import PartError, canonical_json, read_part, write_part
from tsn_toolkit.store.words import Words

KINDS = ("flip", "cut", "swap", "graft")

_NUMBER = re.compile(rb"-?\d+")
_EXTREMES = b"0 -1 1 2 7 9 255 65536 1048576 16777216 268435457 1000000000000 1e3 18446744073709551616".split()


def damage(data: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    """One damaged copy of some bytes; nearly always another than they were."""
    for _ in range(8):
        changed = _damage_once(data, kind, draw, donors)
        if changed != data:
            break
    return changed


def _damage_once(data: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    if not changed:
        return b"\0" * draw.randint(1, 4)
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            changed[draw.randrange(len(changed))] ^= draw.choice((1 << draw.randrange(8), draw.randrange(1, 256)))
    elif kind == "cut":
        start, stop = _range(changed, draw)
        del changed[start : len(changed) if draw.random() < 0.3 else stop]
    elif kind == "swap":
        (a, b), (c, d) = sorted((_range(changed, draw), _range(changed, draw)))
        b = min(b, c)
        changed[a:d] = changed[c:d] + changed[b:c] + changed[a:b]
    else:
        donor = draw.choice([data, *donors])
        start, stop = _range(changed, draw)
        first, last = _range(donor, draw)
        changed[start : start if draw.random() < 0.3 else stop] = donor[first:last]
    return bytes(changed)


def damage_json(text: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    """One damaged copy of JSON, half of the time in a number alone, so that it often still parses."""
    numbers = list(_NUMBER.finditer(text))
    if draw.random() < 0.5 or not numbers:
        return damage(text, kind, draw, donors)
    spot = draw.choice(numbers)
    if kind == "flip":
        new = str(int(spot[0]) ^ 1 << draw.randrange(12)).encode()
    elif kind == "cut":
        new = b"" if draw.random() < 0.3 else (spot[0][:-1] or b"0")
    elif kind == "swap":
        new = draw.choice(numbers)[0]
    else:
        new = draw.choice(_EXTREMES)
    return text[: spot.start()] + new + text[spot.end() :]


def damage_part(data: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    """One damaged copy of a part: the bare bytes, or one blob or the metadata inside an intact file."""
    where = draw.random()
    if where < 0.2:
        return damage(data, kind, draw, donors)
    metadata, blobs = read_part(data)
    others = [read_part(donor) for donor in donors]
    full = sorted(name for name, blob in blobs.items() if blob)
    if where < 0.5 or not full:
        texts = [canonical_json(other).encode() for other, _ in others]
        text = damage_json(canonical_json(metadata).encode(), kind, draw, texts)
        try:
            return write_part(json.loads(text), blobs)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return damage(data, kind, draw, donors)
    name = draw.choice(full)
    if kind == "graft" and draw.random() < 0.3:
        return write_part(metadata, {**blobs, name: draw.choice([other.get(name, b"") for _, other in others])})
    return write_part(metadata, {**blobs, name: damage(blobs[name], kind, draw, [other.get(name, b"") for _, other in others])})


def _range(data: bytes | bytearray, draw: random.Random) -> tuple[int, int]:
    """A short or, sometimes, long range of some bytes."""
    start = draw.randrange(len(data) + 1)
    length = draw.choice((1, 2, 4, draw.randint(1, 32), draw.randint(1, len(data) + 1)))
    return start, min(start + length, len(data))


@dataclass(frozen=True)
class Case:
    """One damaged copy: which file, how, whether hashes are computed again, and the number that seeds it."""

    file: str
    kind: str
    vouched: bool
    number: int

    def random(self) -> random.Random:
        """The case's own generator."""
        return random.Random(f"{self.file} {self.kind} {self.vouched} {self.number}")


def damage_store(pristine: dict[str, bytes], case: Case) -> dict[str, bytes]:
    """The files of a store with one of them damaged (and vouched for)."""
    draw = case.random()
    data = pristine[case.file]
    donors = [other for path, other in sorted(pristine.items()) if path not in (case.file, "manifest.json")]
    if not case.vouched:
        return {**pristine, case.file: damage(data, case.kind, draw, donors)}
    if case.file == "manifest.json":
        return {**pristine, case.file: _vouch_manifest(damage_json(_manifest_body(data), case.kind, draw, [data]), data)}
    changed = damage_part(data, case.kind, draw, donors)
    body = json.loads(pristine["manifest.json"])
    for row in (body["trunk"], *body["tasks"]):
        if row["path"] == case.file:
            row |= {"sha256": hash_bytes(changed), "size_bytes": len(changed)}
    return {**pristine, case.file: changed, "manifest.json": with_own_hash(body)}


def _manifest_body(data: bytes) -> bytes:
    return canonical_json({key: value for key, value in json.loads(data).items() if key != "sha256"}).encode()


def _vouch_manifest(body: bytes, original: bytes) -> bytes:
    try:
        return with_own_hash(json.loads(body))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return body or original[:-1]


def with_own_hash(body: dict) -> bytes:
    content = {key: value for key, value in body.items() if key != "sha256"}
    return canonical_json({**content, "sha256": hash_bytes(canonical_json(content).encode())}).encode()


def damage_image(data: bytes, case: Case) -> bytes:
    """A packed file with one damage: anywhere, or (vouched) in its header or in one section, all hashes of the file right."""
    draw = case.random()
    if not case.vouched:
        return damage(data, case.kind, draw, [data])
    image = image_from_bytes(data)
    where = draw.random()
    if where < 0.2:
        size = int.from_bytes(data[12:16], "little")
        header = damage_json(data[48 : 48 + size].rstrip(), case.kind, draw, [data])
        header += b" " * (-len(header) % 8)
        return data[:12] + struct.pack("<I32s", len(header), hashlib.sha256(header).digest()) + header + data[48 + size :]
    if where < 0.5:
        layer = draw.choice(sorted(image.words))
        words = image.words[layer]
        changed = damage(words.to_bytes(), case.kind, draw, [other.to_bytes() for other in image.words.values()])
        changed = (changed + words.to_bytes()[len(changed) :])[: len(words.to_bytes())]
        with suppress(PartError):
            return image_to_bytes(ImageFile({**image.words, layer: Words.from_bytes(changed, words.count, words.width)}, image.rests))
        return data
    path = draw.choice(sorted(image.rests))
    rest = image.rests[path]
    if path == "manifest.json":
        left = _vouch_manifest(damage_json(_manifest_body(rest.data), case.kind, draw, [rest.data]), rest.data)
    else:
        donors = [other.data for other_path, other in sorted(image.rests.items()) if other_path not in (path, "manifest.json")]
        left = damage_part(rest.data, case.kind, draw, donors)
    counts = rest.counts if draw.random() < 0.9 else tuple(max(0, count + draw.choice((-1, 1, 1000))) for count in rest.counts)
    return image_to_bytes(ImageFile(image.words, {**image.rests, path: Rest(left, counts)}))


def cases_of(files: Iterable[str], count: int, *, kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, bool, list[Case]]]:
    """`count` cases of each kind, plain and vouched, spread evenly over the files: kind, vouched, cases."""
    order = sorted(files)
    for kind in kinds:
        for vouched in (False, True):
            yield kind, vouched, [Case(order[number % len(order)], kind, vouched, number) for number in range(count)]
