"""The packed file: a fixed preamble, a header of canonical JSON, the word arrays of all layers, then the rest of each file of the store.

The byte layout is in docs/joint-image.md.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass

from tsn_toolkit.store.fields import integer, listing, text
from tsn_toolkit.store.layout import MAX_SLOTS
from tsn_toolkit.store.part import PartError, canonical_json
from tsn_toolkit.store.words import ALIGNMENT_BYTES, Words, words_size_bytes
from tsn_toolkit.vocabulary import MAX_WORD_BITS

MAGIC = b"TSNIMAGE"
VERSION = 1

_LayerRow = tuple[str, int, int, str]  # name, width, count, SHA-256
_FileRow = tuple[str, int, str, tuple[int, ...]]  # path, size in bytes, SHA-256, numbers of codes
_PREAMBLE = struct.Struct("<8sII32s")  # magic, version, bytes of the header, SHA-256 of the header


@dataclass(frozen=True)
class Rest:
    """What is left of a file of the store.

    Attributes:
        data: its bytes, without codes that stand in the words.
        counts: numbers of those codes, one for each run of codes in the part; empty where the file stands whole.
    """

    data: bytes
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageFile:
    """What a packed file holds.

    Attributes:
        words: layer name -> its words, in the order of the architecture record.
        rests: path in the store's folder -> what is left of that file; `manifest.json` first, then the parts in order of their commits.
    """

    words: dict[str, Words]
    rests: dict[str, Rest]


def is_image(data: bytes) -> bool:
    """Whether a file's first bytes are those of a packed file."""
    return data[: len(MAGIC)] == MAGIC


def image_to_bytes(image: ImageFile) -> bytes:
    """The file's bytes: the same for the same content."""
    arrays = [words.to_bytes() for words in image.words.values()]
    layers = [[name, words.width, words.count, _hash(data)] for (name, words), data in zip(image.words.items(), arrays, strict=True)]
    files = [[path, len(rest.data), _hash(rest.data), list(rest.counts)] for path, rest in image.rests.items()]
    header = _padded(canonical_json({"layers": layers, "files": files}))
    preamble = _PREAMBLE.pack(MAGIC, VERSION, len(header), hashlib.sha256(header).digest())
    return b"".join([preamble, header, *arrays, *(rest.data for rest in image.rests.values())])


def image_from_bytes(data: bytes) -> ImageFile:
    """Reads a packed file; every byte of it is covered by a hash.

    Raises:
        PartError: the file is damaged or of another version; the message names the section.
    """
    layers, files, offset = _read_header(data)
    words, rests = {}, {}
    for name, width, count, digest in layers:
        said = f"words of layer `{name}`"
        section = _take(data, offset, words_size_bytes(count, width), said, digest)
        try:
            words[name] = Words.from_bytes(section, count, width)
        except PartError as error:
            raise PartError(f"{said}: {error}") from error
        offset += len(section)
    for path, size_bytes, digest, counts in files:
        section = _take(data, offset, size_bytes, f"`{path}`", digest)
        rests[path] = Rest(section, counts)
        offset += len(section)
    if offset != len(data) or len(words) != len(layers) or len(rests) != len(files):
        raise PartError(f"its sections do not make up the whole file: {len(data) - offset} bytes are left, or a name stands twice")
    return ImageFile(words, rests)


def _read_header(data: bytes) -> tuple[list[_LayerRow], list[_FileRow], int]:
    """Rows of the layers, rows of the files, and where the header ends."""
    if not is_image(data):
        raise PartError(f"it does not begin with {MAGIC.decode()}, as a packed store does")
    if len(data) < _PREAMBLE.size:
        raise PartError(f"its preamble ends after {len(data)} of {_PREAMBLE.size} bytes")
    _, version, size_bytes, digest = _PREAMBLE.unpack_from(data)
    if version != VERSION:
        raise PartError(f"it has version {version}, this version reads {VERSION}")
    end = _PREAMBLE.size + size_bytes
    raw = data[_PREAMBLE.size : end]
    if len(raw) != size_bytes or hashlib.sha256(raw).digest() != digest:
        raise PartError("its header does not have the size or the hash that the preamble says")
    try:
        body = json.loads(raw)
        if not isinstance(body, dict) or set(body) != {"layers", "files"} or _padded(canonical_json(body)) != raw:
            raise PartError("it is not the canonical JSON of layers and files")
        return [_layer_row(row) for row in listing(body["layers"])], [_file_row(row) for row in listing(body["files"])], end
    except (ValueError, RecursionError) as error:
        raise PartError(f"its header cannot be read: {error}") from error


def _layer_row(row: object) -> _LayerRow:
    name, width, count, digest = listing(row, 4)
    return text(name), integer(width, 0, MAX_WORD_BITS), integer(count, 0, MAX_SLOTS), text(digest)


def _file_row(row: object) -> _FileRow:
    path, size_bytes, digest, counts = listing(row, 4)
    return text(path), integer(size_bytes, 0, 1 << 40), text(digest), tuple(integer(count, 0, MAX_SLOTS) for count in listing(counts))


def _padded(header: str) -> bytes:
    """The header's bytes, with spaces up to where the words may begin."""
    raw = header.encode()
    return raw + b" " * (-(_PREAMBLE.size + len(raw)) % ALIGNMENT_BYTES)


def _take(data: bytes, offset: int, size_bytes: int, name: str, digest: str) -> bytes:
    section = data[offset : offset + size_bytes]
    if len(section) != size_bytes:
        raise PartError(f"{name} should take {size_bytes} bytes, {len(section)} are left")
    if _hash(section) != digest:
        raise PartError(f"{name} does not have the hash that the header says")
    return section


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
