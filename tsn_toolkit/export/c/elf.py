"""Bytes of flash and RAM that a linked program takes, from the section headers of its ELF file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tsn_toolkit.errors import ExportError

_ALLOCATED, _WRITABLE, _NO_BITS = 2, 1, 8


@dataclass(frozen=True)
class LinkedBytes:
    """What a program occupies.

    Attributes:
        flash_bytes: code, constants and initial values.
        ram_bytes: data that is written to, with and without initial values; the stack is not in it.
    """

    flash_bytes: int
    ram_bytes: int


def linked_bytes(path: Path) -> LinkedBytes:
    """Sizes of the sections of a little-endian ELF file that are loaded to a device.

    Raises:
        ExportError: it is no such file.
    """
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1 or data[4] not in (1, 2):
        raise ExportError(f"`{path.name}` is not a little-endian ELF file. Compile for the target's processor.")
    wide = data[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)
    entry_size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
    flash = ram = 0
    for index in range(count):
        start = table + index * entry_size
        _, kind, flags, _, _, size = struct.unpack_from("<IIQQQQ" if wide else "<IIIIII", data, start)
        if flags & _ALLOCATED:
            flash += 0 if kind == _NO_BITS else size
            ram += size if kind == _NO_BITS or flags & _WRITABLE else 0
    return LinkedBytes(flash, ram)
