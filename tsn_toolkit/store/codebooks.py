"""Codebooks: 2**bit_width int8 entries, ascending within [-127, 127].

Up to 5 bits an entry is a byte. Wider ones are 254 + 2**bit_width bits: entry i sets bit entry + 127 + i, all others are 0.
"""

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.bits import pack_bits, packed_size_bytes, unpack_bits
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.vocabulary import MAX_CODE

_WIDEST_AS_BYTES = 5


def encode_codebook(codebook: NDArray[np.int8]) -> bytes:
    """The bytes of an ascending codebook int8 (2**bit_width,), or of an empty one."""
    if len(codebook) <= 1 << _WIDEST_AS_BYTES:
        return codebook.tobytes()
    bits = np.zeros(2 * MAX_CODE + len(codebook), np.uint8)
    bits[codebook.astype(np.int64) + MAX_CODE + np.arange(len(codebook))] = 1
    return pack_bits(bits, 1)


def take_codebook(blob: BlobReader, bit_width: int) -> NDArray[np.int8]:
    """Reads one codebook: int8 (2**bit_width,), empty for 0 bits.

    Raises:
        PartError: the blob ends early, or the entries are not ascending in [-127, 127].
    """
    entries = 1 << bit_width if bit_width else 0
    if bit_width <= _WIDEST_AS_BYTES:
        codebook = np.frombuffer(blob.take(entries), np.int8)
        if (np.diff(codebook.astype(np.int16)) < 0).any() or (codebook < -MAX_CODE).any():
            raise PartError(f"a codebook is not ascending within [-{MAX_CODE}, {MAX_CODE}]: {codebook.tolist()[:8]}")
        return codebook
    size = 2 * MAX_CODE + entries
    places = np.flatnonzero(unpack_bits(blob.take(packed_size_bytes(size, 1)), 1, size))
    if len(places) != entries:
        raise PartError(f"a codebook of {bit_width} bits has {len(places)} entries")
    return (places - MAX_CODE - np.arange(entries)).astype(np.int8)
