"""The states of one layer's kept slots, written in the form that takes the fewest bytes.

A mask marks some slots: those that the task uses, or those in which it owns bits. What the mask leaves open follows: an absent slot (where the frozen
view holds nothing) is OWN when marked and PRUNED when not; of a present one a second bit says REUSE or not, and in a layer that refines a third says
REFINE or OWN. Where a plan has one rule for all present slots, the second and third bits are certain and cost one byte each.

Bytes: layout | marks << 3 | depth << 4 | has state depth << 7; the state depth unless it is 0; the sizes of the pattern; the bitmap or the positions;
the runs of mask bits, second bits and third bits (see `mask_runs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.masks.granularity import parse_granularity
from tsn_toolkit.numerics.bits import MAX_WIDTH, pack_bits, packed_size_bytes, unpack_bits
from tsn_toolkit.store.known_slots import KnownSlots
from tsn_toolkit.store.layout import MAX_LENGTH
from tsn_toolkit.store.mask_forms import MAX_DEPTH, Layout, Marks, MaskForm
from tsn_toolkit.store.mask_runs import Exchange, RunReader, RunSource, RunWriter, Tally
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.store.patterns import choice_contexts, exchange_blocks, exchange_choices, fit_blocks, fit_choices
from tsn_toolkit.store.varint import take_varint, varint
from tsn_toolkit.vocabulary import SlotState

_STATES = len(SlotState)
_CHUNK = 1 << 18
_PLACES_CHUNK = 1 << 14
_MAX_GROUP = 99
_WORD_BITS = 32
_PLAIN = (Layout.BITMAP, Layout.POSITIONS)
_SIZES = {Layout.BLOCKS: 1, Layout.CHOICES: 2}
_DEPTHS = range(MAX_DEPTH + 1)


def encode_mask(states: NDArray[np.uint8], known: KnownSlots, granularity: str, *, refines: bool) -> tuple[MaskForm, bytes]:
    """Writes the states of one layer.

    Args:
        states: uint8 (n,) of the kept slots; REUSE and REFINE only where something is present.
        known: of these slots.
        granularity: that the mask was made with; another form is taken where that is cheaper or the states do not fit it.
        refines: whether REFINE may occur.
    """
    counts = _count_states(states, known)
    form = _choose_form(states, known, granularity, counts, refines)
    marked = _marked(states, form.marks)
    mask_tally = _mask_tally(known, marked, form, counts)
    second, third = _state_tallies(counts, form.marks, refines)
    writer = RunWriter()
    exchange_marks(form, known, marked, writer.kind(mask_tally.chances(form.depth)))
    state_sinks = (writer.kind(tally.chances(form.state_depth)) for tally in (second, third))
    exchange_states(form, known, marked.copy(), states, refines, *state_sinks)
    return form, _head_bytes(form) + _plain_bytes(form, marked) + writer.to_bytes()


def decode_mask(blob: BlobReader, known: KnownSlots, *, refines: bool) -> tuple[MaskForm, NDArray[np.uint8]]:
    """Reads what `encode_mask` wrote: the form, and the states uint8 (n,) of patches, as large as `known` and the mask allow.

    Raises:
        PartError, NumericsError: the bytes are not those of a mask.
    """
    form = _take_form(blob)
    if refines or form.layout in (*_PLAIN, Layout.CHOICES):
        known = known.refined(1)
    plain = _take_plain(form, blob, known)
    reader = RunReader(blob)
    marks, second, third = reader.kind(), reader.kind(), reader.kind()
    known, marked = _read_marks(form, known, plain, marks)
    if known.grain > 1 and second.if_certain(_state_contexts(form, known, marked), 2 << form.state_depth) is None:
        known, marked = known.refined(1), np.repeat(marked, known.grain)
    states = exchange_states(form, known, marked, marked.view(np.uint8), refines, second, third)
    reader.finish()
    return form, states


def _state_contexts(form: MaskForm, known: KnownSlots, marked: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Contexts of the second bits, in order; at depth 0 all are 1, and one stands for all."""
    undecided = _undecided(form, known, marked)
    return known.at(undecided).contexts(form.state_depth) if form.state_depth else np.ones(int(undecided.any()), np.uint8)


def _read_marks(form: MaskForm, known: KnownSlots, plain: NDArray[np.bool_] | None, marks: RunSource) -> tuple[KnownSlots, NDArray[np.bool_]]:
    """Mask bits in the largest patches of which the mask says one thing, and what is known of these."""
    if form.layout == Layout.BLOCKS:
        aligned = known.row_length * known.grain % form.sizes[0] == 0
        known = known.refined(math.gcd(known.grain, form.sizes[0]) if aligned else 1)
    elif form.layout == Layout.SLOTS and known.grain > 1:
        certain = marks.if_certain(known.contexts(form.depth), 2 << form.depth)
        if certain is not None:
            return known, certain.view(np.bool_)
        known = known.refined(1)
    given = np.broadcast_to(np.False_, known.size) if plain is None else plain  # a reader of a stream needs none, and this is one byte of memory
    return known, exchange_marks(form, known, given, marks)


def mask_entropy_bits(states: NDArray[np.uint8], known: KnownSlots, form: MaskForm, *, refines: bool) -> float:
    """Entropy of the bits that a form codes, given their contexts; of a bitmap or a list of positions that of the mask bits without context."""
    counts = _count_states(states, known)
    second, third = _state_tallies(counts, form.marks, refines)
    mask = 0.0
    if form.layout != Layout.PARENT:
        mask = _mask_tally(known, _marked(states, form.marks), form, counts).entropy_bits(form.depth, by_context=form.layout not in _PLAIN)
    return mask + second.entropy_bits(form.state_depth) + third.entropy_bits(form.state_depth)


def exchange_marks(form: MaskForm, known: KnownSlots, marked: NDArray[np.bool_], exchange: Exchange) -> NDArray[np.bool_]:
    """Mask bits of all slots (n,), written or read in the order of the form; a form without a stream returns `marked`."""
    if form.layout == Layout.SLOTS:
        return exchange.by_context(known.contexts(form.depth), 2 << form.depth, marked.view(np.uint8)).view(np.bool_)
    if form.layout == Layout.BLOCKS:
        return exchange_blocks(known, form.sizes[0] // known.grain, marked, form.depth, exchange)
    if form.layout == Layout.CHOICES:
        return exchange_choices(known, form.sizes[0], form.sizes[1], marked, form.depth, exchange)
    return marked


def exchange_states(
    form: MaskForm,
    known: KnownSlots,
    marked: NDArray[np.bool_],
    states: NDArray[np.uint8],
    refines: bool,
    second: Exchange,
    third: Exchange,
) -> NDArray[np.uint8]:
    """States of all slots (n,), the second and third bits written from `states` or read; `marked` is written over where it can be."""
    undecided = _undecided(form, known, marked)
    marks = marked.view(np.uint8)
    found = np.left_shift(marks, 1, out=marks if marks.flags.writeable else None)  # OWN where marked
    base = SlotState.OWN if form.marks == Marks.USED else SlotState.PRUNED
    _exchange_state(found, undecided, base, SlotState.REUSE, known, form.state_depth, states, second)
    if refines:
        undecided = known.present & (found == SlotState.OWN)
        _exchange_state(found, undecided, SlotState.OWN, SlotState.REFINE, known, form.state_depth, states, third)
    return found


def _undecided(form: MaskForm, known: KnownSlots, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Slots (n,) whose state the mask leaves open."""
    return known.present & marked if form.marks == Marks.USED else known.present > marked


def _exchange_state(
    found: NDArray[np.uint8],
    undecided: NDArray[np.bool_],
    base: SlotState,
    state: SlotState,
    known: KnownSlots,
    depth: int,
    states: NDArray[np.uint8],
    exchange: Exchange,
) -> None:
    """Sets `found`, which is `base` at undecided slots, to `state` at those whose bit is 1, in place."""
    count = int(np.count_nonzero(undecided))
    if not count:
        return

    def given() -> NDArray[np.uint8]:
        return np.asarray(states[undecided] == state).view(np.uint8)

    if depth:
        bits: NDArray[np.uint8] | bool = exchange.by_context(known.at(undecided).contexts(depth), 2 << depth, given())
    else:
        bits = exchange.alike(1, count, given)
    step = np.array(state - base, np.int8).view(np.uint8)  # adding it wraps where the state is the lower number
    if isinstance(bits, np.ndarray):
        _add_in_order_(found, undecided, bits, step)
    elif bits:
        found += np.multiply(undecided.view(np.uint8), step, out=undecided.view(np.uint8))


def _add_in_order_(found: NDArray[np.uint8], where: NDArray[np.bool_], bits: NDArray[np.uint8], step: NDArray[np.uint8]) -> None:
    """Adds a step where a bit is set, of bits (k,) that stand for the k entries that are marked, in place."""
    taken = 0
    for start in range(0, len(found), _PLACES_CHUNK):
        part = found[start : start + _PLACES_CHUNK]
        places = where[start : start + _PLACES_CHUNK].nonzero()[0]
        part[places] += bits[taken : taken + len(places)] * step
        taken += len(places)


def _count_states(states: NDArray[np.uint8], known: KnownSlots) -> NDArray[np.int64]:
    """How often each state stands in each context of full depth: (2**MAX_DEPTH, 2, 4)."""
    counts = np.zeros((2 << MAX_DEPTH) * _STATES, np.int64)
    for start in range(0, known.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        numbers = known.at(part).contexts(MAX_DEPTH).astype(np.uint16)
        numbers <<= 2
        numbers |= states[part]
        counts += np.bincount(numbers, minlength=len(counts))
    return counts.reshape(1 << MAX_DEPTH, 2, _STATES)


def _mask_tally(known: KnownSlots, marked: NDArray[np.bool_], form: MaskForm, counts: NDArray[np.int64]) -> Tally:
    if form.layout in (Layout.BLOCKS, Layout.CHOICES):
        tally = Tally.empty(choice_contexts(*form.sizes) if form.layout == Layout.CHOICES else 1)
        exchange_marks(replace(form, depth=MAX_DEPTH), known, marked, tally)
        return tally
    first = SlotState.REUSE if form.marks == Marks.USED else SlotState.OWN
    return Tally(counts[None, ..., first:].sum(axis=-1), counts[None].sum(axis=-1))


def _state_tallies(counts: NDArray[np.int64], marks: Marks, refines: bool) -> tuple[Tally, Tally]:
    """Of the second and the third bits, which present slots alone have."""
    present = (counts * np.array([[0], [1]]))[None]
    undecided = present[..., SlotState.REUSE :] if marks == Marks.USED else present[..., : SlotState.OWN]
    own = present[..., SlotState.OWN :]
    third = Tally(own[..., 1], own.sum(axis=-1)) if refines else Tally.empty()
    return Tally(present[..., SlotState.REUSE], undecided.sum(axis=-1)), third


def _choose_form(states: NDArray[np.uint8], known: KnownSlots, granularity: str, counts: NDArray[np.int64], refines: bool) -> MaskForm:
    """The form that takes the fewest bits; of equals the one found first."""
    costs = []
    for marks in Marks:
        second, third = _state_tallies(counts, marks, refines)
        state_costs = [tuple(map(sum, zip(second.cost(depth), third.cost(depth), strict=True))) for depth in _DEPTHS]
        state_depth = min(_DEPTHS, key=lambda depth: sum(state_costs[depth]))
        for stream_bits, plain_bits, form in _mask_costs(_marked(states, marks), known, counts, marks, granularity):
            chosen = replace(form, state_depth=state_depth)
            words = math.ceil((stream_bits + state_costs[state_depth][0]) / _WORD_BITS)
            costs.append((words * _WORD_BITS + plain_bits + state_costs[state_depth][1] + 8 * len(_head_bytes(chosen)), chosen))
    return min(costs, key=lambda cost: cost[0])[1]


def _mask_costs(
    marked: NDArray[np.bool_], known: KnownSlots, counts: NDArray[np.int64], marks: Marks, granularity: str
) -> Iterator[tuple[float, int, MaskForm]]:
    """Bits of the stream and other bits of the mask in every form that can hold it."""
    forms = [MaskForm(Layout.SLOTS, marks)]
    pattern = parse_granularity(granularity)
    if pattern.block > 1 and fit_blocks(known, pattern.block, marked):
        forms.append(MaskForm(Layout.BLOCKS, marks, sizes=(pattern.block,)))
    if pattern.group and fit_choices(known, pattern.keep, pattern.group, marked):
        forms.append(MaskForm(Layout.CHOICES, marks, sizes=(pattern.keep, pattern.group)))
    for form in forms:
        tally = _mask_tally(known, marked, form, counts)
        yield from ((*tally.cost(depth), replace(form, depth=depth)) for depth in _DEPTHS)
    yield 0.0, 8 * packed_size_bytes(known.size, 1), MaskForm(Layout.BITMAP, marks)
    tally = _mask_tally(known, marked, forms[0], counts)
    count = int(tally.ones.sum())
    yield 0.0, 8 * (len(varint(count)) + _positions_size_bytes(count, known.size)), MaskForm(Layout.POSITIONS, marks)
    used_by_parent = slice(1 << MAX_DEPTH - 1, None)
    if tally.ones[:, used_by_parent].sum() == count == tally.totals[:, used_by_parent].sum():
        yield 0.0, 0, MaskForm(Layout.PARENT, marks)


def _marked(states: NDArray[np.uint8], marks: Marks) -> NDArray[np.bool_]:
    return np.asarray(states >= (SlotState.REUSE if marks == Marks.USED else SlotState.OWN))


def _head_bytes(form: MaskForm) -> bytes:
    head = bytes([form.layout | form.marks << 3 | form.depth << 4 | (form.state_depth > 0) << 7])
    return head + (bytes([form.state_depth]) if form.state_depth else b"") + b"".join(varint(size) for size in form.sizes)


def _take_form(blob: BlobReader) -> MaskForm:
    head = blob.take(1)[0]
    if head & 7 > max(Layout):
        raise PartError(f"there is no mask layout {head & 7}")
    layout, marks, depth = Layout(head & 7), Marks(head >> 3 & 1), head >> 4 & 7
    state_depth = blob.take(1)[0] if head >= 0x80 else 0
    if state_depth > MAX_DEPTH or (head >= 0x80 and not state_depth) or (depth and layout in (*_PLAIN, Layout.PARENT)):
        raise PartError(f"a mask of layout {layout.name} cannot use {depth} and {state_depth} ancestors as context")
    sizes = tuple(take_varint(blob) for _ in range(_SIZES.get(layout, 0)))
    if sizes and not (1 <= sizes[0] <= MAX_LENGTH and (layout == Layout.BLOCKS or sizes[0] <= sizes[1] <= _MAX_GROUP)):
        raise PartError(f"a mask cannot have {layout.name} of sizes {sizes}")
    return MaskForm(layout, marks, depth, state_depth, sizes)


def _plain_bytes(form: MaskForm, marked: NDArray[np.bool_]) -> bytes:
    if form.layout == Layout.BITMAP:
        return pack_bits(marked, 1)
    if form.layout != Layout.POSITIONS:
        return b""
    positions = np.flatnonzero(marked)
    low, high = _position_widths(len(marked))
    return varint(len(positions)) + pack_bits(positions & (1 << low) - 1, low) + pack_bits(positions >> low, high)


def _take_plain(form: MaskForm, blob: BlobReader, known: KnownSlots) -> NDArray[np.bool_] | None:
    """The mask bits of a form without a stream; None of one with a stream."""
    if form.layout == Layout.PARENT:
        return known.used_by_parent()
    if form.layout == Layout.BITMAP:
        return unpack_bits(blob.take(packed_size_bytes(known.size, 1)), 1, known.size).view(np.bool_)
    if form.layout != Layout.POSITIONS:
        return None
    count = take_varint(blob)
    if count > known.size:
        raise PartError(f"a mask of {known.size} slots has {count} positions")
    positions, shift = np.zeros(count, np.int64), 0
    for width in filter(None, _position_widths(known.size)):
        positions |= unpack_bits(blob.take(packed_size_bytes(count, width)), width, count).astype(np.int64) << shift
        shift += width
    if (np.diff(positions) <= 0).any() or (positions >= known.size).any():
        raise PartError("the positions of a mask do not ascend within its slots")
    marked = np.zeros(known.size, np.bool_)
    marked[positions] = True
    return marked


def _position_widths(slots: int) -> tuple[int, int]:
    """Bits of the lower and the upper part of one position."""
    width = max(slots - 1, 0).bit_length()
    return min(width, MAX_WIDTH), max(width - MAX_WIDTH, 0)


def _positions_size_bytes(count: int, slots: int) -> int:
    return sum(packed_size_bytes(count, width) for width in _position_widths(slots))
