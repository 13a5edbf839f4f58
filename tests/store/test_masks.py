"""Masks come back in every form, the cheapest form is taken, and damaged ones are refused."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.packed_codes import PackedCodes
from tsn_toolkit.store import masks
from tsn_toolkit.store.known_slots import KnownSlots, count_contexts, merge_by, split_by
from tsn_toolkit.store.mask_forms import Layout, Marks, MaskForm
from tsn_toolkit.store.masks import decode_mask, encode_mask
from tsn_toolkit.store.part import BlobReader, PartError

PRUNED, REUSE, OWN, REFINE = range(4)


def known_slots(rng, rows, row_length, ancestors=2):
    count = rows * row_length
    history = rng.integers(0, 256, count).astype(np.uint8) & np.uint8(0xFF << 8 - ancestors & 0xFF)
    return KnownSlots(rng.random(count) < rng.choice([0, 0.4, 1]), history, row_length)


def states_of(known, marked, rule, rng):
    """`select`: used slots are REUSE or OWN; `replace`: marked slots are OWN, others REUSE; `mixed`: anything that is possible."""
    if rule == "select":
        states = np.where(marked, np.where(known.present, REUSE, OWN), PRUNED)
    elif rule == "replace":
        states = np.where(marked, OWN, np.where(known.present, REUSE, PRUNED))
    else:
        drawn = rng.choice([REUSE, OWN, REFINE], known.size)
        states = np.where(marked, np.where(known.present, drawn, OWN), PRUNED)
    return states.astype(np.uint8)


def round_trip(states, known, granularity, refines):
    form, data = encode_mask(states, known, granularity, refines=refines)
    blob = BlobReader.of("masks", data)
    read_form, read_states = decode_mask(blob, known, refines=refines)
    blob.finish()
    assert read_form == form
    np.testing.assert_array_equal(read_states, states)
    return form, data


@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 3, 4, 9, 12]),
    st.sampled_from(["select", "replace", "mixed"]),
    st.sampled_from(["element", "block(2)", "block(3)", "block(4)", "block(6)", "block(8)", "block(5)", "2:4"]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_patches_are_read_as_their_slots(seed, grain, rule, granularity, density, by_patch):
    """A reader that knows the same of all slots of a patch finds what one finds that is told of each slot, and leaves the same bytes."""
    rng = np.random.default_rng(seed)
    rows, row_length = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    coarse = known_slots(rng, rows, row_length)
    coarse = KnownSlots(coarse.present, coarse.history, row_length, grain)
    known = coarse.refined(1)
    assert (known.size, known.row_length, known.grain) == (coarse.size * grain, row_length * grain, 1)
    if by_patch:
        marked = np.repeat(rng.random(coarse.size) < density, grain)
    elif granularity == "2:4":
        marked = choice_marks(rng, rows, row_length * grain, 2, 4)
    elif granularity != "element":
        marked = block_marks(rng, rows, row_length * grain, int(granularity[6:-1]))
    else:
        marked = rng.random(known.size) < density
    states = states_of(known, marked, rule, rng)
    form, data = encode_mask(states, known, granularity, refines=rule == "mixed")
    blob = BlobReader.of("masks", data + b"more")
    read_form, patches = decode_mask(blob, coarse, refines=rule == "mixed")
    assert read_form == form
    assert coarse.size * grain % len(patches) == 0
    np.testing.assert_array_equal(np.repeat(patches, known.size // len(patches)), states)
    assert blob.rest() == b"more"


def test_masks_of_patches_stay_patches():
    """The states of whole units and blocks are read without one number per slot."""
    fresh = KnownSlots(np.zeros(8, bool), np.zeros(8, np.uint8), 1, 48)
    everything = np.full(8 * 48, OWN, np.uint8)
    _, data = encode_mask(everything, fresh.refined(1), "unit", refines=False)
    assert decode_mask(BlobReader.of("masks", data), fresh, refines=False)[1].tolist() == [OWN] * 8
    blocks = np.random.default_rng(0).choice([PRUNED, OWN], 8 * 3).astype(np.uint8)
    _, data = encode_mask(np.repeat(blocks, 16), fresh.refined(1), "block(16)", refines=False)
    assert decode_mask(BlobReader.of("masks", data), fresh, refines=False)[1].tolist() == blocks.tolist()


def block_marks(rng, rows, row_length, size):
    kept = rng.random((rows, -(-row_length // size))) < 0.3
    return np.repeat(kept, size, axis=1)[:, :row_length].reshape(-1)


def choice_marks(rng, rows, row_length, keep, group):
    marks = np.zeros((rows, row_length), bool)
    for row in marks:
        for first in range(0, row_length, group):
            length = min(group, row_length - first)
            row[first + rng.permutation(length)[:keep]] = True
    return marks.reshape(-1)


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 40),
    st.sampled_from(["select", "replace", "mixed"]),
    st.sampled_from(["element", "unit", "block(1)", "block(3)", "block(50)", "1:4", "2:4", "4:4", "3:7", "1:90"]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_states_come_back(seed, rows, row_length, rule, granularity, density):
    rng = np.random.default_rng(seed)
    known = known_slots(rng, rows, row_length)
    if granularity.startswith("block"):
        marked = block_marks(rng, rows, row_length, int(granularity[6:-1]))
    elif ":" in granularity:
        marked = choice_marks(rng, rows, row_length, *map(int, granularity.split(":")))
    else:
        marked = rng.random(known.size) < density
    form, data = round_trip(states_of(known, marked, rule, rng), known, granularity, rule == "mixed")
    assert data[0] & 7 == form.layout


@given(st.integers(0, 2**32), st.sampled_from(["block(3)", "2:5"]))
@settings(max_examples=60, deadline=None)
def test_states_that_do_not_fit_their_granularity_come_back_too(seed, granularity):
    rng = np.random.default_rng(seed)
    known = known_slots(rng, 3, 17)
    form, _ = round_trip(states_of(known, rng.random(known.size) < 0.4, "select", rng), known, granularity, False)
    assert form.layout not in (Layout.BLOCKS, Layout.CHOICES) or granularity == "block(3)"


def test_no_slots_at_all():
    known = KnownSlots(np.zeros(0, bool), np.zeros(0, np.uint8), 0)
    for granularity in ("element", "block(4)", "2:4"):
        _, data = round_trip(np.zeros(0, np.uint8), known, granularity, False)
        assert len(data) <= 4


@pytest.mark.parametrize(
    ("marked", "history", "granularity", "layout", "most_bytes"),
    [
        (lambda rng: rng.random(6400) < 0.1, 0, "element", Layout.SLOTS, 410),
        (lambda rng: rng.random(6400) < 0.5, 0, "element", Layout.BITMAP, 804),
        (lambda rng: np.arange(6400) == 4711, 0, "element", Layout.POSITIONS, 6),
        (lambda rng: np.arange(6400) % 3 == 1, "same", "element", Layout.PARENT, 4),
        (lambda rng: block_marks(rng, 64, 100, 8), 0, "block(8)", Layout.BLOCKS, 110),
        (lambda rng: choice_marks(rng, 64, 100, 2, 4), 0, "2:4", Layout.CHOICES, 530),
        (lambda rng: np.ones(6400, bool), 0, "unit", Layout.SLOTS, 4),
    ],
)
def test_the_cheapest_form_is_taken(marked, history, granularity, layout, most_bytes):
    rng = np.random.default_rng(5)
    marks = marked(rng)
    used_before = marks.astype(np.uint8) * 0x80 if history == "same" else np.zeros(6400, np.uint8)
    known = KnownSlots(used_before > 0, used_before, 100)
    form, data = round_trip(states_of(known, marks, "select", rng), known, granularity, False)
    assert form.layout == layout and len(data) <= most_bytes
    sizes = {}
    for other, depth in product(Layout, (0, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks, "_choose_form", lambda *_, other=other, depth=depth: forced(other, depth, granularity))
            if fits(other, marks, known, granularity):
                sizes[other, depth] = len(encode_mask(states_of(known, marks, "select", rng), known, granularity, refines=False)[1])
    assert len(data) == min(sizes.values()) and len(sizes) >= 6


def forced(layout, depth, granularity):
    sizes = {"block(8)": (8,), "2:4": (2, 4)}.get(granularity, ())
    return MaskForm(layout, Marks.USED, depth if layout in (Layout.SLOTS, Layout.BLOCKS, Layout.CHOICES) else 0, 0, sizes)


def fits(layout, marks, known, granularity):
    if layout == Layout.PARENT:
        return np.array_equal(marks, known.used_by_parent())
    needed = {Layout.BLOCKS: "block(8)", Layout.CHOICES: "2:4"}.get(layout)
    return needed in (None, granularity)


def test_what_ancestors_use_makes_a_mask_cheaper():
    rng = np.random.default_rng(0)
    used = rng.random(20_000) < 0.1
    near = np.where(used, rng.random(20_000) < 0.9, rng.random(20_000) < 0.01)
    states = np.where(near, np.where(used, REUSE, OWN), PRUNED).astype(np.uint8)
    alone = KnownSlots(np.zeros(20_000, bool), np.zeros(20_000, np.uint8), 100)
    after = KnownSlots(used, used.astype(np.uint8) * 0x80, 100)
    form, data = round_trip(states, after, "element", False)
    _, blind = round_trip(np.where(near, OWN, PRUNED).astype(np.uint8), alone, "element", False)
    assert len(data) < 0.4 * len(blind) and form.layout == Layout.SLOTS


def test_a_layer_that_refines_nothing_pays_nothing_for_it():
    rng = np.random.default_rng(0)
    known = KnownSlots(np.ones(1000, bool), np.zeros(1000, np.uint8), 10)
    states = np.where(rng.random(1000) < 0.3, OWN, REUSE).astype(np.uint8)
    _, without = round_trip(states, known, "element", False)
    _, with_third_bit = round_trip(states, known, "element", True)
    assert len(with_third_bit) == len(without) + 1  # one chance, certain


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 300_000))
@settings(max_examples=15, deadline=None)
def test_grouping_by_context_and_back(seed, numbers, count):
    rng = np.random.default_rng(seed)
    contexts = np.minimum(rng.geometric(0.2, count) - 1, numbers - 1).astype(rng.choice([np.uint8, np.uint16]))
    values = rng.integers(0, 2, count).astype(np.uint8)
    sizes = count_contexts(contexts, numbers)
    occurring = np.flatnonzero(sizes).tolist()
    groups = split_by(contexts, values, occurring)
    for number, group in zip(occurring, groups):
        np.testing.assert_array_equal(group, values[contexts == number])
        assert sizes[number] == len(group)
    np.testing.assert_array_equal(merge_by(contexts, [PackedCodes.plain(group) for group in groups], occurring), values)


def slots(count, present=False):
    return KnownSlots(np.full(count, present), np.zeros(count, np.uint8), count)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("06 00", "no mask layout 6"),
        ("11 00", "layout BITMAP cannot use 1 and 0 ancestors"),
        ("80 00", "layout SLOTS cannot use 0 and 0 ancestors"),
        ("80 08", "layout SLOTS cannot use 0 and 8 ancestors"),
        ("04 00 00", "BLOCKS of sizes .0,."),
        ("05 03 02", "CHOICES of sizes .3, 2."),
        ("05 01 64", "CHOICES of sizes .1, 100."),
        ("01 ff ff 00", "a bit set beyond the last"),
        ("02 02 33 00", "do not ascend"),
        ("02 01 0f 00", "do not ascend within its slots"),
        ("02 0b 00 00", "a mask of 10 slots has 11 positions"),
        ("00 00 fb", "index in 0..250, got 251"),
        ("00 01 00000000 7d", "nonzero"),
        ("00 01 01000000", "ends early"),
        ("00 8000", "fewest bytes"),
    ],
)
def test_refuses(data, message):
    with pytest.raises((PartError, ValueError), match=message):
        decode_mask(BlobReader.of("masks", bytes.fromhex(data)), slots(10), refines=False)


@pytest.mark.parametrize(("count", "data", "states"), [(0, "02 00 00", []), (1, "02 00 00", [PRUNED]), (1, "02 01 00", [OWN])])
def test_positions_of_no_bits(count, data, states):
    """With at most one slot a position takes no bytes."""
    form, found = decode_mask(BlobReader.of("masks", bytes.fromhex(data)), slots(count), refines=False)
    assert form.layout == Layout.POSITIONS and found.tolist() == states


@pytest.mark.parametrize("count", [0, 1])
def test_more_positions_than_slots_take_no_memory(count):
    with pytest.raises(PartError, match=f"a mask of {count} slots has {(1 << 35) - 1} positions"):
        decode_mask(BlobReader.of("masks", bytes.fromhex("02 ffffffff7f 00")), slots(count), refines=False)
