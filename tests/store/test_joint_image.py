"""Pack and unpack give the store back byte for byte; in the words every bit has one owner and its declared readers (I13)."""

import hashlib
import json
import shutil
import struct
from dataclasses import replace

import mixed_store
import numpy as np
import pytest
import store_samples
import test_two_task_example as by_hand
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.contracts import LayerCodes, LayerPlanes, LayerRecord, ModelGraph, Refinement, TaskResult, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.numerics import large_runs
from tsn_toolkit.store import packing, values
from tsn_toolkit.store.image_file import ImageFile, Rest, image_from_bytes, image_to_bytes
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.joint_layout import LayerLayout
from tsn_toolkit.store.mask_forms import Layout
from tsn_toolkit.store.packing import pack_store, unpack_store
from tsn_toolkit.store.part import read_part
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.words import Words

PRUNED, REUSE, OWN, REFINE = range(4)


@pytest.fixture(params=[False, True], ids=["checkpoint", "seed"])
def store(request, tmp_path):
    return mixed_store.make_mixed_store(tmp_path / "store", fresh=request.param)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def equal(one, other):
    """Whether two `TaskWeights` are the same to the bit."""

    def leaves(value):
        if isinstance(value, dict):
            return [(key, leaf) for key in sorted(value) for leaf in leaves(value[key])]
        if isinstance(value, np.ndarray):
            return [(value.dtype.str, value.shape, value.tobytes())]
        return [leaf for item in vars(value).values() for leaf in leaves(item)] if hasattr(value, "__dict__") else [value]

    return leaves(one) == leaves(other)


# ------------------------------------------------------------------------------------------------------------ pack and unpack


def test_unpacking_gives_every_byte_back(store, tmp_path):
    file = tmp_path / "store.tsn"
    pack_store(store, file)
    back = unpack_store(file, tmp_path / "back")
    assert files(back.path) == files(store.path)
    pack_store(back, tmp_path / "again.tsn")
    assert (tmp_path / "again.tsn").read_bytes() == file.read_bytes()
    image = JointImage.open(file)
    for entry in store.entries:
        assert equal(image.decode(entry.name), store.weights(entry.name))
    assert not equal(image.decode("a"), store.weights("b"))


def test_every_form_of_masks_and_codes_comes_back(tmp_path):
    store = mixed_store.make_formed_store(tmp_path / "store")
    assert {held.form.layout for entry in store.entries for _, held in store.layers(entry.name) if held.form is not None} == set(Layout)
    image = pack_store(store, tmp_path / "packed")
    assert files(unpack_store(tmp_path / "packed", tmp_path / "back").path) == files(store.path)
    assert all(equal(image.decode(entry.name), store.weights(entry.name)) for entry in store.entries)
    assert {run.head[0] for part in image.parts.bare.values() if part for run in part.runs if run.head} == {values.PACKED, values.COARSE}


def test_a_partial_store_is_the_tasks_with_their_chains_and_nothing_else(store, tmp_path):
    image = pack_store(store, tmp_path / "b.tsn", ["b"])
    back = unpack_store(tmp_path / "b.tsn", tmp_path / "b")
    assert sorted(files(back.path)) == ["manifest.json", "tasks/000-a.safetensors", "tasks/001-b.safetensors", "trunk.safetensors"]
    assert all(data == files(store.path)[path] for path, data in files(back.path).items() if path != "manifest.json")
    assert equal(back.weights("b"), store.weights("b")) and equal(image.decode("b"), store.weights("b"))
    assert back.codes_hash("a") == store.codes_hash("a")
    with pytest.raises(StoreError, match="no task `d`"):
        back.weights("d")
    back.commit(mixed_store.mixed_task(back, "g", parent="b"), {})
    both = pack_store(store, tmp_path / "both.tsn", ["f", "b"])
    assert [entry.path for entry in both.entries] == [f"tasks/{name}.safetensors" for name in ("000-a", "001-b", "003-d", "004-e", "005-f")]
    assert (tmp_path / "b.tsn").stat().st_size < (tmp_path / "both.tsn").stat().st_size
    with pytest.raises(StoreError, match="no task `x`"):
        pack_store(store, tmp_path / "x.tsn", ["a", "x"])
    assert not (tmp_path / "x.tsn").exists()


def test_a_store_without_tasks(tmp_path):
    for fresh in (False, True):
        store = mixed_store.make_mixed_store(tmp_path / f"{fresh}", fresh=fresh, tasks="")
        image = pack_store(store, tmp_path / f"{fresh}.tsn")
        assert files(unpack_store(tmp_path / f"{fresh}.tsn", tmp_path / f"{fresh} back").path) == files(store.path)
        assert [(words.count, words.width) for words in image.file.words.values()] == ([(0, 0), (0, 0)] if fresh else [(20, 3), (12, 3)])


SIZES = st.tuples(st.integers(1, 7), st.integers(1, 9))


@st.composite
def odd_layers(draw):
    """Trunk bits, and up to three tasks over each other: states and widths of one layer of any size, or a plane."""
    outputs, inputs = draw(SIZES)
    count = outputs * inputs
    tasks = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["empty", "full", "reuse", "any", "any", "plane"]))
        drawn = {"empty": [PRUNED] * count, "full": [OWN] * count, "reuse": [REUSE] * count, "plane": [REFINE] * count}
        states = drawn.get(kind) or draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
        tasks.append((kind, np.array(states).reshape(outputs, inputs), draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.integers(0, 99))))
    return draw(st.integers(0, 8)), (outputs, inputs), tasks


def layer_codes(states, bits, refine_bits, seed, above):
    """Random codes for these states, where the owner above has a value at `above`."""
    rng = np.random.default_rng(seed)
    states = np.where(above | (states == PRUNED), states, OWN).astype(np.uint8)
    ones = np.ones(len(states), np.float32)

    def codes(state, width):
        return rng.integers(0, 1 << width, int((states == state).sum())).astype(np.uint8)

    def book(width):
        return np.sort(rng.choice(np.arange(-127, 128), min(1 << width, 255), replace=False)).astype(np.int8)[np.minimum(np.arange(1 << width), 254)]

    bits = bits if (states == OWN).any() else 0
    refinement = Refinement(codes(REFINE, refine_bits), book(refine_bits), refine_bits) if (states == REFINE).any() else None
    return LayerCodes(states, codes(OWN, bits), book(bits) if bits else np.zeros(0, np.int8), bits, ones, refinement=refinement)


@given(odd_layers())
@settings(max_examples=25, deadline=None)
def test_any_width_size_and_mask_comes_back(tmp_path_factory, case):
    folder = tmp_path_factory.mktemp("odd")
    check_one_layer(folder, *case)
    shutil.rmtree(folder)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_comes_back(tmp_path, bits):
    states = np.random.default_rng(bits).integers(0, 4, (3, 5, 7))
    check_one_layer(tmp_path, bits, (5, 7), [("any", some, 1 + (bits + k) % 8, 9 - bits, k) for k, some in enumerate(states)])


def check_one_layer(folder, trunk_bits, shape, tasks):
    """Packs and unpacks a store of one layer; `tasks` as `odd_layers` draws them."""
    head = mixed_store.HeadState(np.ones((2, shape[0]), np.int8), np.ones(2, np.float32), np.ones(2, np.float32))
    layers = (LayerRecord("fc", "Linear", shape, 1), LayerRecord("head", "Linear", (2, shape[0]), 1))
    graph = ModelGraph((), (), layers, (), "head", (shape[1],), "odd")
    full = layer_codes(np.full(shape, OWN), trunk_bits, 0, 0, np.ones(shape, bool))
    trunk = TrunkResult("checkpoint", 0, {"fc": full}, {}, {}, head, 64) if trunk_bits else TrunkResult("seed", 0, {}, {}, {}, None, 64)
    store = Store.create(folder / "store", trunk=trunk, graph=graph, recipe={})
    parent = "trunk"
    for number, (kind, states, bits, refine_bits, seed) in enumerate(tasks):
        if kind == "plane":
            gain = np.arange(shape[0], dtype=np.int8)
            layer = LayerPlanes(np.random.default_rng(seed).random(shape) < 0.5, gain, np.ones(shape[0], np.float32))
        else:
            layer = layer_codes(states, bits, refine_bits, seed, store.frozen_view(parent)["fc"].present)
        store.commit(TaskResult(f"t{number}", parent, "exact", "odd", (0, 1), {}, {"fc": layer}, {}, {}, head, {}), {})
        parent = f"t{number}"
    image = pack_store(store, folder / "packed")
    assert files(unpack_store(folder / "packed", folder / "back").path) == files(folder / "store")
    for entry in store.entries:
        assert equal(image.decode(entry.name), store.weights(entry.name))


# --------------------------------------------------------------------------------------------------------------- the bytes


def test_words_by_hand(tmp_path):
    """The store that is computed on paper in test_two_task_example.

    Slot by slot, from bit 0: the trunk's code (2 bits), then a's (1 bit), then b's (3 bits); the widest word has 5 bits.
      0: 0, a 1 -> 00100 =  4      1: 1, b 5 -> 10101 = 21      2: 2 -> 00010 = 2
      3: 3, b 0 -> 00011 =  3      4: 2, a 0 -> 00010 =  2      5: 1 -> 00001 = 1
    4 + 21 << 5 + 2 << 10 + 3 << 15 + 2 << 20 + 1 << 25 = 0x02218aa4, little-endian, padded to 8 bytes.
    """
    store = Store.create(tmp_path / "store", trunk=by_hand.TRUNK, graph=by_hand.GRAPH, recipe={})
    store.commit(by_hand.task("a", "trunk", by_hand.A_STATES, by_hand.A_CODES, by_hand.A_BOOK, 1), {})
    store.commit(by_hand.task("b", "a", by_hand.B_STATES, by_hand.B_CODES, by_hand.B_BOOK, 3), {})
    image = pack_store(store, tmp_path / "packed")
    words = image.words("fc")
    assert (words.count, words.width, words.to_bytes().hex()) == (6, 5, "a48a210200000000")
    assert [image.owner_of("fc", 1, bit) for bit in range(6)] == ["trunk", "trunk", "b", "b", "b", None]
    assert [image.owner_of("fc", 0, bit) for bit in range(5)] == ["trunk", "trunk", "a", None, None]
    # Slot 2: the trunk's; a has pruned it, b reuses it. Slot 0: a's value, which b reuses. Slot 3: b's own, so nobody reads the trunk's.
    assert [image.readers_of("fc", slot, 0) for slot in (2, 0, 3, 1)] == [("b",), (), (), ("a",)]
    assert image.readers_of("fc", 0, 2) == ("b",) and image.readers_of("fc", 0, 4) == ()


def test_a_reader_of_twenty_lines_finds_a_code(store, tmp_path):
    """docs/joint-image.md is enough: plain Python reads the header and the residual codes of `b` out of the words."""
    pack_store(store, tmp_path / "packed")
    data = (tmp_path / "packed").read_bytes()
    magic, version, size, digest = struct.unpack_from("<8sII32s", data)
    header = data[48 : 48 + size]
    assert magic == b"TSNIMAGE" and version == 1 and hashlib.sha256(header).digest() == digest and (48 + size) % 8 == 0
    name, width, count, section_hash = json.loads(header)["layers"][0]
    section = data[48 + size : 48 + size + -(-count * width // 64) * 8]
    assert name == "fc1" and hashlib.sha256(section).hexdigest() == section_hash
    number = int.from_bytes(section, "little")
    states = {owner: store.states(owner)["fc1"].reshape(-1) for owner in "abcdf"}
    bits = {"a": [0, 0, 2, 0], "b": [0, 0, 3, 2], "c": [0, 0, 0, 1], "d": [0, 0, 1, 0], "f": [0, 0, 4, 0]}
    found, word = [], 0
    for slot in range(20):
        below = 3 if store.trunk().kind == "checkpoint" else 0
        all_bits = below + sum(bits[owner][states[owner][slot]] for owner in "abcdf")
        if states["b"][slot] == REFINE:
            offset = below + bits["a"][states["a"][slot]]
            found.append(number >> word * width + offset & 3)
        word += all_bits > 0
    assert word == count
    _, blobs = read_part(store.part_bytes(store.entry("b")))
    assert found == store.held("b")["fc1"].own.refinement.codes.tolist() and blobs["codebooks"]


# ---------------------------------------------------------------------------------------------------------------------- I13


def check_every_bit(image, layers):
    """Flips each bit of each word of some layers and compares what changes with owner and readers; returns how often each owner was met."""

    def answers(store):
        """Layer -> owner -> q, the trunk's included."""
        return {layer.name: {name: held.q for name, held in owners} for layer, owners in store.layers_of_all()}

    before, met = answers(image.store()), {}
    for layer in layers:
        for slot in range(before[layer]["trunk"].size):
            for bit in range(image.words(layer).width):
                owner = image.owner_of(layer, slot, bit)
                if owner is None and image.owner_of(layer, slot, 0) is None:
                    continue  # the slot has no word
                after, changed = answers(image.flip(layer, slot, bit).store()), set()
                for other, by_owner in after.items():
                    for name, q in by_owner.items():
                        slots = np.flatnonzero(q != before[other][name]).tolist()
                        assert slots in ([], [slot] * (other == layer)), f"bit {bit} of slot {slot} of {layer} changed slots {slots} of {other}"
                        changed |= {name} if slots else set()
                declared = {owner, *image.readers_of(layer, slot, bit)} - {None}
                assert changed == declared, f"bit {bit} of slot {slot} of {layer} is of {owner}, declared {declared}, changed {changed}"
                met[owner] = met.get(owner, 0) + 1
    return met


def test_flipping_a_bit_changes_exactly_its_owner_and_its_readers(store, tmp_path):
    image = pack_store(store, tmp_path / "packed")
    met = check_every_bit(image, ["fc2"] if store.trunk().kind == "seed" else ["fc1", "fc2"])
    assert met[None] > 5
    assert set(met) - {None} == ({"trunk", "a", "b", "c", "d", "f"} if store.trunk().kind == "checkpoint" else {"a", "c", "d"})


@pytest.mark.parametrize("fault", ["one bit up", "the next word", "bits of two owners exchanged"])
def test_a_broken_layout_is_found(tmp_path, monkeypatch, fault):
    """The check above fails where codes are read from other bits than the layout declares."""
    image = pack_store(mixed_store.make_mixed_store(tmp_path / "store"), tmp_path / "packed")
    read = LayerLayout.read

    def wrong(self, words, field):
        if field.owner == "d" and fault == "one bit up":
            field = replace(field, offsets=field.offsets + np.uint16(1))
        if field.owner == "d" and fault == "the next word":
            return words.read(np.minimum(self.word[field.slots] + 1, words.count - 1), field.offsets, field.bits)
        if fault == "bits of two owners exchanged" and field.owner in "ab" and field.bits > 1:
            field = replace(field, offsets=np.full(len(field.slots), 3 if field.owner == "b" else 5, np.uint16))
        return read(self, words, field)

    monkeypatch.setattr(LayerLayout, "read", wrong)
    with pytest.raises(AssertionError, match="bit . of slot"):
        check_every_bit(image, ["fc1"])


# ------------------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def packed(tmp_path):
    image = pack_store(mixed_store.make_mixed_store(tmp_path / "store"), tmp_path / "packed")
    return image, tmp_path / "packed"


def test_every_changed_byte_is_refused(packed):
    _, file = packed
    original = file.read_bytes()
    header_end = 48 + int.from_bytes(original[12:16], "little")
    for offset in [*range(60), *range(60, len(original), 37), len(original) - 1]:
        damaged = bytearray(original)
        damaged[offset] ^= 1 << offset % 8
        file.write_bytes(damaged)
        section = "begin with TSNIMAGE" if offset < 8 else "version" if offset < 12 else "header" if offset < header_end else "(words of layer )?`.*`"
        with pytest.raises(StoreError, match=f"packed: not an intact packed store: .*{section}"):
            JointImage.open(file)
    for size in (0, 7, 20, 100, len(original) - 1):
        file.write_bytes(original[:size])
        with pytest.raises(StoreError, match="not an intact packed store"):
            JointImage.open(file)
    file.write_bytes(original + b"\0")
    with pytest.raises(StoreError, match="1 bytes are left"):
        JointImage.open(file)


def rehashed(image, file, *, words=None, rests=None):
    """A packed file with some sections exchanged and all hashes right."""
    file.write_bytes(image_to_bytes(ImageFile({**image.file.words, **(words or {})}, {**image.file.rests, **(rests or {})})))


def test_words_that_do_not_fit_the_masks_are_refused(packed):
    image, file = packed
    free = next((slot, bit) for slot in range(20) for bit in range(image.words("fc1").width) if image.owner_of("fc1", slot, bit) is None)
    rehashed(image, file, words={"fc1": image.flip("fc1", *free).words("fc1")})
    with pytest.raises(StoreError, match="words of layer `fc1` have a bit set that nobody owns"):
        JointImage.open(file)
    beyond = image.words("fc1").data.copy()
    beyond[-3] |= 0x80  # in front of two bytes that stand in no file
    rehashed(image, file, words={"fc1": Words(20, 11, beyond)})
    with pytest.raises(StoreError, match="words of layer `fc1`: a bit is set beyond the last of 20 words of 11 bits"):
        JointImage.open(file)
    wide = Words.zeros(image.words("fc1").count, image.words("fc1").width + 1)
    rehashed(image, file, words={"fc1": wide})
    with pytest.raises(StoreError, match=r"words of layer `fc1` are 20 of 12 bits, its owners need 20 of 11"):
        JointImage.open(file)
    with pytest.raises(StoreError, match="slot 20 of layer `fc1` has no bit 0"):
        image.flip("fc1", 20, 0)
    with pytest.raises(StoreError, match="slot 0 of layer `fc1` has no bit 11"):
        image.flip("fc1", 0, 11)


def test_a_changed_code_unpacks_only_with_a_manifest_that_vouches_for_it(packed, tmp_path):
    image, file = packed
    slot = next(slot for slot in range(20) if image.owner_of("fc1", slot, 3) == "a")
    changed = image.flip("fc1", slot, 3)
    rehashed(changed, file)
    assert not equal(JointImage.open(file).decode("a"), image.decode("a"))
    with pytest.raises(StoreError, match="part `tasks/000-a.safetensors` is damaged: it does not come back with the SHA-256"):
        unpack_store(file, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_numbers_of_codes_that_are_wrong_are_refused(packed):
    image, file = packed
    path = "tasks/000-a.safetensors"
    rest = image.file.rests[path]
    for counts, message in (
        (rest.counts[:-1], "part `tasks/000-a.safetensors` is damaged"),
        ((rest.counts[0] - 1, *rest.counts[1:]), "`tasks/000-a.safetensors`"),
        ((1 << 28, *rest.counts[1:]), "claim more codes than its words can hold"),
    ):
        rehashed(image, file, rests={path: Rest(rest.data, counts)})
        with pytest.raises(StoreError, match=message):
            JointImage.open(file)
    rehashed(image, file, rests={"tasks/009-x.safetensors": rest})
    with pytest.raises(StoreError, match="names other files than the 9 of the header"):
        JointImage.open(file)


@pytest.mark.parametrize("choice", ["packed only", "another table", "another Zstandard"])
def test_parts_of_another_writer_come_back_too(tmp_path, monkeypatch, choice):
    """Forms and tables of codes are kept, so that what a later or an earlier writer chose does not matter."""
    if choice == "packed only":
        monkeypatch.setattr(values, "coded_bits", lambda counts, frequencies: 1e9)
    elif choice == "another Zstandard":
        monkeypatch.setattr(values, "worth_it", lambda payload, coded_bits: True)
        monkeypatch.setattr(large_runs, "_frame", lambda content: zstandard.ZstdCompressor(level=19, write_checksum=False).compress(content))
    else:
        quantize = values.quantize_frequencies
        monkeypatch.setattr(values, "quantize_frequencies", lambda counts: quantize(np.asarray(counts, np.int64) + 9))
        monkeypatch.setattr(values, "_coarse_table", lambda counts: np.full(len(counts), 1, np.uint8))
    graph = store_samples.make_graph(10)
    Store.create(tmp_path / "store", trunk=store_samples.make_trunk(graph), graph=graph, recipe={})
    monkeypatch.undo()
    Store.create(tmp_path / "usual", trunk=store_samples.make_trunk(graph), graph=graph, recipe={})
    assert files(tmp_path / "store") != files(tmp_path / "usual")
    store = Store.open(tmp_path / "store")
    store.commit(store_samples.make_task(store, "a"), {})
    image = pack_store(store, tmp_path / "packed")
    assert files(unpack_store(tmp_path / "packed", tmp_path / "back").path) == files(tmp_path / "store")
    kept = [run.head for run in image.parts.bare["trunk.safetensors"].runs if run.head[0] == values.LARGE]
    assert [len(head) > 1000 for head in kept] == ([True] if choice == "another Zstandard" else [])


def test_a_large_run_leaves_two_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "worth_it", lambda payload, coded_bits: True)
    graph = store_samples.make_graph(10)
    store = Store.create(tmp_path / "store", trunk=store_samples.make_trunk(graph), graph=graph, recipe={})
    image = pack_store(store, tmp_path / "packed")
    assert [run.head.hex() for run in image.parts.bare["trunk.safetensors"].runs if run.count > 20000] == ["0300"]
    assert files(unpack_store(tmp_path / "packed", tmp_path / "back").path) == files(tmp_path / "store")


def test_what_stands_in_the_way(packed, tmp_path):
    image, file = packed
    store = Store.open(tmp_path / "store")
    (tmp_path / "letter").write_text("mine")
    for place in (tmp_path / "letter", tmp_path / "store"):
        with pytest.raises(StoreError, match=f"{place}: exists and is not a packed store"):
            pack_store(store, place)
    assert (tmp_path / "letter").read_text() == "mine"
    for place in (tmp_path / "store" / "packed", tmp_path / "store" / "tasks" / "packed"):
        with pytest.raises(StoreError, match=f"{place}: lies in the store, which holds its own parts alone"):
            pack_store(store, place)
        assert not place.exists()
    with pytest.raises(StoreError, match="letter: not an intact packed store: it does not begin with TSNIMAGE"):
        unpack_store(tmp_path / "letter", tmp_path / "back")
    with pytest.raises(StoreError, match="nowhere: cannot be read"):
        JointImage.open(tmp_path / "nowhere")
    for place in (tmp_path / "store", tmp_path / "letter"):
        with pytest.raises(StoreError, match="exists and is not an empty folder"):
            unpack_store(file, place)
    (tmp_path / "empty").mkdir()
    assert files(unpack_store(file, tmp_path / "empty").path) == files(store.path)
    before = file.read_bytes()
    pack_store(store, file, ["a"])
    assert file.read_bytes() != before and image.entries != JointImage.open(file).entries


def test_a_stopped_write_leaves_nothing_half(packed, tmp_path, monkeypatch):
    _, file = packed
    before, done = file.read_bytes(), []
    write = packing.write_atomic

    def stop_after_two(path, data):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write(path, data)

    monkeypatch.setattr(packing, "write_atomic", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        unpack_store(file, tmp_path / "back")
    monkeypatch.undo()
    assert not (tmp_path / "back").exists()
    (tmp_path / ".back.part" / "tasks").mkdir(parents=True)  # as a kill would leave it
    assert files(unpack_store(file, tmp_path / "back").path) == files(tmp_path / "store")

    monkeypatch.setattr(packing, "write_bytes", lambda path, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="bytes cannot be written .No space left on device"):
        pack_store(Store.open(tmp_path / "store"), file)
    assert file.read_bytes() == before


def test_bits_of_a_retired_task_are_gone_from_the_words(packed, tmp_path):
    image, _ = packed
    retire_task(tmp_path / "store", "f")
    smaller = pack_store(Store.open(tmp_path / "store"), tmp_path / "smaller")
    owners = {smaller.owner_of("fc1", slot, bit) for slot in range(20) for bit in range(smaller.words("fc1").width)}
    assert "f" not in owners and owners >= {"trunk", "a", "b", "d"}
    assert equal(smaller.decode("e"), image.decode("e"))


def test_a_store_in_memory_is_read_only(packed):
    image, _ = packed
    with pytest.raises(StoreError, match="no folder to write a store into"):
        image.store().commit(mixed_store.mixed_task(image.store(), "g", parent="c"), {})


def test_commands(tsn, tmp_path):
    store = mixed_store.make_mixed_store(tmp_path / "store")
    done = tsn("pack", store.path, tmp_path / "packed", "--json")
    assert done.exit_code == 0, done.stderr
    result, size = json.loads(done.stdout), (tmp_path / "packed").stat().st_size
    assert (result["tasks"], result["total_bytes"]) == (list("abcdef"), size)
    described = json.loads(tsn("inspect", tmp_path / "packed", "--json").stdout)
    assert described["total_bytes"] == size and result["word_bytes"] == sum(layer["bytes"] for layer in described["layers"])
    assert described["layers"][0] | {"own_bits": 0} == {"name": "fc1", "words": 20, "word_bits": 11, "bytes": 32, "own_bits": 0}
    image = image_from_bytes((tmp_path / "packed").read_bytes())
    owned = sum(JointImage.open(tmp_path / "packed").owner_of("fc1", slot, bit) is not None for slot in range(20) for bit in range(11))
    assert sum(described["layers"][0]["own_bits"].values()) == owned and len(image.rests) == len(described["parts"])
    assert "fc1" in tsn("inspect", tmp_path / "packed").stdout
    unpacked = json.loads(tsn("unpack", tmp_path / "packed", tmp_path / "back", "--json").stdout)
    assert unpacked["total_bytes"] == sum(map(len, files(store.path).values())) and files(tmp_path / "back") == files(store.path)
    assert "tasks a, b" in tsn("pack", store.path, tmp_path / "device", "--task", "b").stdout
    refused = tsn("unpack", tmp_path / "device", tmp_path / "back")
    assert refused.exit_code == 1 and "exists and is not an empty folder" in refused.stderr
