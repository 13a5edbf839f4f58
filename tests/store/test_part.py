"""A part is a safetensors file to the byte, and damaged ones are refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.part import BLOBS, BlobReader, PartError, bytes_source, file_source, open_part, read_part, write_part

METADATA = {"name": 'a "quoted" \\ näme', "numbers": [1, 2.5, None], "deep": {"b": 1, "a": {}}}
CONTENT = {name: bytes([number]) * number for number, name in enumerate(BLOBS)}


def test_what_is_written_is_read():
    data = write_part(METADATA, CONTENT)
    assert read_part(data) == (METADATA, CONTENT)
    assert write_part(dict(reversed(METADATA.items())), dict(reversed(CONTENT.items()))) == data


@pytest.mark.parametrize("content", [CONTENT, {}, {"head": b"\0" * 13}])
def test_it_is_the_file_that_safetensors_writes(content):
    data = write_part(METADATA, content)
    tensors = load(data)
    assert list(tensors) == ["blobs"] and tensors["blobs"].tobytes() == b"".join(content.get(name, b"") for name in BLOBS)
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["tsn"]
    assert save({"blobs": np.frombuffer(bytearray(tensors["blobs"].tobytes()), np.uint8)}, {"tsn": text}) == data


def test_blobs_are_read_piece_by_piece_from_a_file(tmp_path):
    data = write_part(METADATA, {**CONTENT, "values": bytes(range(256)) * 1024})
    (tmp_path / "part").write_bytes(data)
    sizes = []

    def counting(offset, size):
        sizes.append(size)
        return file_source(tmp_path / "part")(offset, size)

    part = open_part(counting, len(data))
    assert part.sizes_bytes["values"] == 1 << 18 and part.header_bytes + sum(part.sizes_bytes.values()) == len(data)
    reader = part.blob("values")
    assert reader.take(5) == bytes(range(5)) and reader.take(3) == b"\5\6\7"
    assert reader.take(100_000)[:2] == b"\10\11" and len(reader.rest()) == (1 << 18) - 100_008
    reader.finish()
    assert max(sizes) < 200_000


def header_of(data):
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def with_header(data, header):
    return len(header).to_bytes(8, "little") + header + data[8 + len(header_of(data)) :]


DATA = write_part(METADATA, CONTENT)
BAD = {
    "does not fit into its 4 bytes": DATA[:4],
    "does not fit into its": (1 << 40).to_bytes(8, "little") + DATA[8:],
    "or is longer than 16777216": (1 + (1 << 24)).to_bytes(8, "little") + bytes(1 + (1 << 24)),
    "not a readable part": with_header(DATA, b"{" + header_of(DATA)),
    "not canonical JSON": with_header(DATA, header_of(DATA).replace(b'{\\"blobs', b'{ \\"blobs')),
    "schema version is neither 1 nor 2": with_header(DATA, header_of(DATA).replace(b'schema\\":1', b'schema\\":3')),
    "sizes of 11 blobs": with_header(DATA, header_of(DATA).replace(b'schema\\":1', b'schema\\":2')),
    "sizes of 9 blobs": with_header(DATA, header_of(DATA).replace(b'blobs\\":[0,1,', b'blobs\\":[-1,2,')),
    "its header or its size": with_header(DATA, header_of(DATA).replace(b'"U8"', b'"I8"')),
    "its header or its size is": DATA + b"\0",
    "its header or its size is not": with_header(DATA, header_of(DATA) + b"        "),
}


@pytest.mark.parametrize("message", BAD)
def test_refuses(message):
    with pytest.raises(PartError, match=message):
        read_part(BAD[message])


def test_metadata_that_no_reader_takes_are_not_written():
    recipe = {"note": "x" * ((1 << 24) - 1000)}
    assert read_part(write_part({"name": "t", "recipe": recipe}, {}))[0]["recipe"] == recipe
    with pytest.raises(StoreError, match="part `t`: its metadata take 167.* bytes of 16777216. Shorten its recipe or plan"):
        write_part({"name": "t", "recipe": {"note": recipe["note"] + "x" * 1000}}, {})


def test_a_blob_gives_no_more_than_it_has():
    reader = BlobReader("masks", bytes_source(b"abcdef"), 1, 3)
    assert reader.take(2) == b"bc"
    with pytest.raises(PartError, match="blob `masks` ends early: 2 bytes wanted, 1 left"):
        reader.take(2)
    with pytest.raises(PartError, match="blob `masks` has 1 bytes too many"):
        reader.finish()
    with pytest.raises(PartError, match="the file is shorter than its header says"):
        BlobReader("masks", bytes_source(b"ab"), 0, 3).take(3)
