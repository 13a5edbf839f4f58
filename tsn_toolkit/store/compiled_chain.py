"""The layers of one owner by compiled code (`layer_decoder/module.c`), several times faster than by arrays; for what an owner answers with.

What counts are the arrays (`walk.py`): they say what is wrong with damaged bytes. Compiled code gives up whatever breaks the format, and is not there
where the package was installed without a C compiler.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.large_runs import read_large_run
from tsn_toolkit.store.layer_blobs import PLANES, SHARED
from tsn_toolkit.store.layout import Architecture, CodedLayer, KeptSlots, UnitMasks
from tsn_toolkit.store.part import BlobReader
from tsn_toolkit.store.part_files import PartFiles
from tsn_toolkit.vocabulary import TRUNK

_INTERFACE = 1
"""That of the module; an editable install may have an older one."""

_TABLES = 1 << 11
"""More than the bytes of all tables and sizes of one layer, in any of its blobs."""

_RUNS = 1 << 10
"""Bytes to work in beside those for each slot, as `open_layer` in C asks for them."""


@functools.cache
def compiled_decoder() -> ModuleType | None:
    """The compiled module; None where it is not wanted, was not built for want of a C compiler, or is left from another version of its source."""
    if os.environ.get("TSN_TOOLKIT_PURE", "0") not in ("", "0"):
        return None
    try:
        module = importlib.import_module("tsn_toolkit.store._layer_decoder")
    except ImportError:
        return None
    return module if module.INTERFACE == _INTERFACE else None


class GivenUpError(Exception):
    """The arrays must read these layers."""


class _State(NamedTuple):
    """One layer on its way down the chain, large enough for every layer; in the order in which the compiled functions take it.

    Attributes:
        q, known, states: a byte for each slot, see `layer_decoder/module.c`.
        scale: float32, one for each output.
        room: bytes to work in.
        all: int32 (2,), what all of known and of states are, or -1.
    """

    q: NDArray[np.uint8]
    known: NDArray[np.uint8]
    states: NDArray[np.uint8]
    scale: NDArray[np.float32]
    room: NDArray[np.uint8]
    all: NDArray[np.int32]


@dataclass(frozen=True)
class LayerAnswer:
    """One layer as an owner answers with it; good until the next one is asked for.

    Attributes:
        layer: of the record.
        scale: float32 (out_channels,), as in `OwnerLayer`.
    """

    layer: CodedLayer
    scale: NDArray[np.float32]
    _decoder: ModuleType
    _state: _State

    @property
    def q(self) -> NDArray[np.int8]:
        """What the owner answers with: int8, shape of the weight, 0 where pruned; a new array."""
        q = np.empty(self.layer.shape, np.int8)
        self._decoder.answer(*self._state, self.layer.shape[0], self.layer.size, q)
        return q

    def weights_(self, out: NDArray[np.float32]) -> None:
        """Writes scale[output] * q into `out`, float32 with the shape of the weight, contiguous."""
        self._decoder.answer(*self._state, self.layer.shape[0], self.layer.size, out)


class _Owner:
    """One owner's layers, read in order."""

    def __init__(self, files: PartFiles, name: str) -> None:
        part = files.open(name)
        with files.naming(name):
            self._unread = part.read_layers().unread()
        self.masks = part.unit_masks
        self._half, self._trunk = part.precision == "half", name == TRUNK
        self._at = np.zeros(len(self._blobs), np.int64)

    @property
    def _blobs(self) -> tuple[BlobReader, ...]:
        return self._unread[1:]

    @property
    def is_seed(self) -> bool:
        """Whether it holds no layer."""
        return self._trunk and not self._unread.kinds

    def read(self, decoder: ModuleType, index: int, architecture: Architecture, state: _State, *, held: bool, last: bool) -> None:
        """The next layer, over what the state holds.

        Raises:
            ValueError: the arrays must read it.
        """
        kind, layer = self._unread.kinds[index], architecture.layers[index]
        rows, columns, shape = _box(architecture, self.masks, layer)
        windows = [blob.window(most) for blob, most in zip(self._blobs, _most_bytes(kind, layer))]
        self._at[:] = [place for _, place in windows]
        parts = [data for data, _ in windows]

        def read_large(start: int, size_bytes: int, bits: int, count: int) -> tuple[NDArray[np.uint8], int]:
            run = read_large_run(memoryview(parts[1])[start : start + size_bytes], 1 << bits, count)
            return run.data, run.width

        decoder.decode_layer(*parts, self._at, self._half, self._trunk, kind, *shape, rows, columns, *state, held, last, read_large)
        for blob, place in zip(self._blobs, self._at.tolist()):
            blob.take_up_to(place)

    def finish(self) -> None:
        """Checks that its blobs are used up.

        Raises:
            PartError: bytes are left.
        """
        for blob in self._blobs:
            blob.finish()


def answers(files: PartFiles, owner: str) -> Iterator[LayerAnswer]:
    """Every layer of a task, in the order of the record.

    Raises:
        GivenUpError: the arrays must read them all.
        StoreError: there is no such owner, or a part of its chain is damaged; the message names the part.
    """
    decoder = compiled_decoder()
    if decoder is None:
        raise GivenUpError
    architecture = files.open(TRUNK).architecture
    owners = [_Owner(files, name) for name in files.chain(owner)]
    state = _new_state(architecture, owners)
    for index, layer in enumerate(architecture.layers):
        held = False
        state.all[:] = 0
        for one in owners:
            if not one.is_seed:
                try:
                    one.read(decoder, index, architecture, state, held=held, last=one is owners[-1])
                except (ValueError, OSError) as error:
                    raise GivenUpError from error
                held = True
        yield LayerAnswer(layer, state.scale[: layer.shape[0]], decoder, state)
    try:
        for one in owners:
            one.finish()
    except ValueError as error:
        raise GivenUpError from error


def _most_bytes(kind: int, layer: CodedLayer) -> tuple[int, int, int, int]:
    """Bytes that one layer of a kind may take of each blob; a writer takes the smallest form, and none is larger than packed bits."""
    own, refine = (1, 0) if kind == PLANES else (kind & 0xF, kind >> 4)
    bits = max(own, refine) if kind != SHARED else 0
    masks = (3 if refine else 2) * layer.size // 8
    return _TABLES + masks, _TABLES + bits * layer.size // 8, _TABLES + layer.shape[0], _TABLES + 4 * layer.shape[0]


def _new_state(architecture: Architecture, owners: list[_Owner]) -> _State:
    largest = max((layer.size for layer in architecture.layers), default=0)
    rows = max((layer.shape[0] for layer in architecture.layers), default=0)
    has_parent, drops_units = sum(not one.is_seed for one in owners) > 1, any(one.masks for one in owners)
    q, known, states = (np.empty(length, np.uint8) for length in (largest, largest if has_parent else 0, largest))
    room = np.empty(largest + largest // 8 + _RUNS + (2 * largest if drops_units else 0), np.uint8)
    return _State(q, known, states, np.empty(rows, np.float32), room, np.zeros(2, np.int32))


def _box(architecture: Architecture, masks: UnitMasks, layer: CodedLayer) -> tuple[bytes, bytes, tuple[int, int, int]]:
    """Kept outputs and inputs, empty where all are, and the layer's shape as outputs, inputs and slots of each pair."""
    shape = layer.shape
    kept: KeptSlots = architecture.kept_slots(masks, layer)
    if any(dim > 1 for dim in kept.kept):
        raise ValueError("units that count along another dimension")
    rows, columns = (kept.kept[dim].tobytes() if dim in kept.kept else b"" for dim in (0, 1))
    inputs = shape[1] if len(shape) > 1 else 1
    return rows, columns, (shape[0], inputs, layer.size // (shape[0] * inputs))
