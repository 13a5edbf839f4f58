"""The bytes of a WSN mask: the smallest of four codings, the store's own entropy coder among them, each decoded from its bytes alone.

Byte 0 names the coding; what follows is

    BITS      the packed bits
    LZMA      the same, compressed
    RUN       one chance, then one stream of `numerics/bit_runs.py`
    BY_USE    three chances, then one stream of three runs: slots that no earlier task used, slots that one but not the last used, the last one's
"""

from __future__ import annotations

import lzma

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.numerics.bit_runs import BitDecoder, encode_bit_runs, nearest_chance

BITS, LZMA, RUN, BY_USE = range(4)

_GROUPS = {RUN: 1, BY_USE: 3}


def encode_mask(mask: torch.Tensor, used: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The smallest coding.

    Args:
        mask: bool, any shape.
        used: bool, same shape; slots that an earlier task used.
        last: bool, same shape; slots of the task before, all among `used`.

    Returns:
        uint8 (bytes,).
    """
    bits = mask.numpy().reshape(-1).astype(np.uint8)
    packed = np.packbits(bits).tobytes()
    codings = (
        bytes([BITS]) + packed,
        bytes([LZMA]) + lzma.compress(packed, format=lzma.FORMAT_ALONE),
        *(bytes([form]) + _encoded_runs(bits, _groups(form, used, last), count) for form, count in _GROUPS.items()),
    )
    return torch.frombuffer(bytearray(min(codings, key=len)), dtype=torch.uint8)


def decode_mask(data: torch.Tensor, used: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The mask, bool of the shape of `used`, from its bytes and the masks of the tasks before."""
    form, body = int(data[0]), data[1:].numpy().tobytes()
    if form in _GROUPS:
        bits = _decoded_runs(body, _groups(form, used, last), _GROUPS[form])
    else:
        packed = lzma.decompress(body, format=lzma.FORMAT_ALONE) if form == LZMA else body
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=used.numel())
    return torch.from_numpy(bits.astype(np.bool_)).view(used.shape)


def _groups(form: int, used: torch.Tensor, last: torch.Tensor) -> NDArray[np.uint8]:
    """The run of each slot, uint8 (n,)."""
    if form == RUN:
        return np.zeros(used.numel(), np.uint8)
    groups: NDArray[np.uint8] = (used.to(torch.uint8) + last).numpy().reshape(-1)
    return groups


def _encoded_runs(bits: NDArray[np.uint8], groups: NDArray[np.uint8], count: int) -> bytes:
    runs = [bits[groups == group] for group in range(count)]
    chances = nearest_chance([int(run.sum()) for run in runs], [len(run) for run in runs])
    return chances.tobytes() + encode_bit_runs([(run, int(chance)) for run, chance in zip(runs, chances, strict=True)])


def _decoded_runs(body: bytes, groups: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    decoder, bits = BitDecoder(body[count:]), np.empty(len(groups), np.uint8)
    for group, chance in enumerate(body[:count]):
        own = groups == group
        bits[own] = decoder.read(chance, int(own.sum()))
    decoder.finish()
    return bits
