"""Damaged stores and packed files, a few hundred of the cases that benchmarks/fuzz_store.py runs by the ten thousand (I12)."""

import json
import os
import random
import time
import tracemalloc

import mixed_store
import numpy as np
import pytest
import store_damage
import store_fuzz
from edge_store import make_edge_store
from free_store import make_free_store, make_free_trunk_store
from fuzz_subjects import image_subject, store_subject
from store_damage import KINDS, Case, cases_of
from store_fuzz import Subject, examine

from tsn_toolkit.errors import StoreError
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.large_runs import decode_large_run, encode_large_run
from tsn_toolkit.store.fields import named_lengths
from tsn_toolkit.store.image_file import ImageFile, Rest, image_from_bytes, image_to_bytes
from tsn_toolkit.store.manifest import hash_bytes
from tsn_toolkit.store.mask_forms import Layout
from tsn_toolkit.store.packing import pack_store
from tsn_toolkit.store.part import PartError, read_part, write_part
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.values import LARGE


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Folder of a store on a checkpoint, of one with every form of masks, of edge cases, of two with free parameters, and packed files of them."""
    folder = tmp_path_factory.mktemp("fuzz")
    pack_store(mixed_store.make_mixed_store(folder / "mixed"), folder / "mixed.tsn")
    pack_store(mixed_store.make_formed_store(folder / "forms"), folder / "forms.tsn")
    pack_store(make_edge_store(folder / "edges"), folder / "edges.tsn")
    pack_store(make_free_store(folder / "free"), folder / "free.tsn")
    pack_store(make_free_trunk_store(folder / "free-trunk"), folder / "free-trunk.tsn")
    return folder


WHOLE = {"mixed": 30, "forms": 30, "edges": 12, "free": 30, "free-trunk": 12}
"""Store -> damaged copies of it."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_store_is_refused_by_name_or_another_model(stores, kind):
    for name, count in WHOLE.items():
        subject = store_subject(stores / name)
        for _, vouched, cases in cases_of(subject.pristine, count, kinds=[kind]):
            findings = examine(subject, cases, stores / name)
            assert findings.failures == []
            assert findings.outcomes["refused"] > count * (0.3 if vouched else 0.9), findings.outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_packed_file_is_refused_by_section_or_another_model(stores, tmp_path, kind):
    for name, count in WHOLE.items():
        subject = image_subject(stores / f"{name}.tsn")
        for _, vouched, cases in cases_of(subject.pristine, count * 2 // 3, kinds=[kind]):
            findings = examine(subject, cases, tmp_path)
            assert findings.failures == []
            assert findings.outcomes["refused"] > count * (0.15 if vouched else 0.55), findings.outcomes


def test_what_an_error_must_name(stores):
    """A part, or where its damage has a meaning a part below it; of a packed file the section with the first changed byte."""
    subject = store_subject(stores / "mixed")
    a, b, c = (f"tasks/00{number}-{name}.safetensors" for number, name in enumerate("abc"))
    assert subject.names({}, Case(a, "flip", False, 0)) == (a,) and subject.names({}, Case(a, "flip", True, 0)) == (a, b, c)
    assert subject.names({}, Case(c, "flip", True, 0)) == (c,) and subject.names({}, Case("manifest.json", "flip", False, 0)) == ("manifest.json",)
    file, subject = "mixed.tsn", image_subject(stores / "mixed.tsn")
    data = subject.pristine[file]
    assert subject.names({file: data[:-1]}, Case(file, "cut", False, 0)) == ("tasks/005-f.safetensors",)
    assert subject.names({file: data + b"x"}, Case(file, "graft", False, 0)) == ("its sections",)
    assert "header" in subject.names({file: data[:60]}, Case(file, "cut", False, 0))
    words = 48 + int.from_bytes(data[12:16], "little")
    assert subject.names({file: data[:words] + bytes([data[words] ^ 1]) + data[words + 1 :]}, Case(file, "flip", False, 0)) == ("layer `fc1`",)
    image = image_from_bytes(data)
    changed = image_to_bytes(ImageFile(image.words, {**image.rests, b: Rest(b"", image.rests[b].counts)}))
    assert subject.names({file: changed}, Case(file, "cut", True, 0)) == (b, c, "layer `fc1`", "layer `fc2`", "tasks/...")


def test_small_stores_hold_what_the_large_ones_hold(stores, tmp_path):
    """The benchmark damages the pieces: every task with all its ancestors, and every layout of masks and encoding of a layer that the whole has."""

    def contents(store):
        layers = [(entry.name, layer.name, owned.form) for entry in store.entries for layer, owned in store.layers(entry.name)]
        held = {(task, layer, form and int(form.layout)) for task, layer, form in layers}
        return held, {entry.name: entry.parent for entry in store.entries}

    pieces = [contents(store) for store in mixed_store.make_small_stores(tmp_path).values()]
    whole = [contents(Store.open(stores / name)) for name in WHOLE]
    assert set().union(*(held for held, _ in pieces)) == set().union(*(held for held, _ in whole))
    assert {item for _, tasks in pieces for item in tasks.items()} == {item for _, tasks in whole for item in tasks.items()}


def test_the_store_of_edge_cases_holds_them(stores):
    store = Store.open(stores / "edges")
    assert [len(store.part(entry.name).part.sizes_bytes) for entry in store.entries] == [9, 9, 10, 9] and len(store.revision("new").rows) == 2
    assert store.part("trunk").part.blob("values").take(1)[0] == store.part("gaps").part.blob("values").take(1)[0] == LARGE
    one = store.part("one")
    assert [store.architecture.kept_slots(one.unit_masks, layer).size for layer in store.architecture.layers] == [1024, 1]


def test_vouched_damage_reaches_the_decoder(stores):
    """Some of it is another valid model, some is refused for what the bytes mean, and not one case by a hash."""
    subject = store_subject(stores / "mixed")
    reasons = set()
    for case in [Case("tasks/001-b.safetensors", "flip", True, number) for number in range(60)]:
        files = subject.damage(subject.pristine, case)
        store_fuzz.write_files(stores / "mixed", files)
        try:
            subject.read(stores / "mixed", False)
            reasons.add("model")
        except StoreError as error:
            reasons.add(str(error).split("damaged: ")[1][:20])
            assert "SHA-256" not in str(error) and "bytes, the manifest says" not in str(error)
        store_fuzz.write_files(stores / "mixed", subject.pristine)
    assert "model" in reasons and len(reasons) > 8


@pytest.mark.parametrize("rarity", [0.01, 0.6])
def test_damaged_large_runs(rarity):
    """Runs of codes that the small stores above are too small for, as gaps and as fields; a bomb is no way to more memory than the run takes."""
    rng, count, alphabet = np.random.default_rng(0), 20_000, 16
    ranks = (rng.integers(1, alphabet, count) * (rng.random(count) < rarity)).astype(np.uint8)
    payload = encode_large_run(ranks, np.bincount(ranks, minlength=alphabet))
    assert payload[0] == (rarity < 0.1)
    outcomes = set()
    tracemalloc.start()
    for number in range(300):
        damaged = store_damage.damage(payload, KINDS[number % 4], random.Random(number), [bytes(range(256))])
        try:
            decoded = decode_large_run(damaged, alphabet, count)
            assert decoded.dtype == np.uint8 and decoded.shape == (count,) and decoded.max() < alphabet
            outcomes.add("another run")
        except NumericsError:
            outcomes.add("refused")
    assert tracemalloc.get_traced_memory()[1] < 32 * count
    tracemalloc.stop()
    assert outcomes == {"another run", "refused"}


# ------------------------------------------------------------------------------------------------------------- bombs by design


def vouch(folder, part, data):
    body = json.loads((folder / "manifest.json").read_bytes())
    for row in (body["trunk"], *body["tasks"]):
        if row["path"] == part:
            row |= {"sha256": hash_bytes(data), "size_bytes": len(data)}
    return {part: data, "manifest.json": store_damage.with_own_hash(body)}


def units_of(groups, units, members=40):
    groups[0][2] += [[f"x{number}.weight", 0, units] for number in range(members)]


def many_positions(metadata, blobs):
    """Task `a` keeps one unit of each group, so that fc2 has one slot; fc1 has no slot of its own, fc2 2**35 - 1 positions."""
    metadata |= {"groups": [0, 1]}
    blobs["masks"] = bytes([1, 1]) + bytes([Layout.PARENT, 0]) + bytes.fromhex("02 ffffffff7f 00")


TRUNK_FILE, TASK_FILE = "trunk.safetensors", "tasks/000-a.safetensors"
BOMBS = {
    "runs of units": (TRUNK_FILE, lambda metadata, _: units_of(metadata["architecture"]["groups"], [[0, 0, 1 << 28]])),
    "repeated units": (TRUNK_FILE, lambda metadata, _: units_of(metadata["architecture"]["groups"], 1 << 24)),
    "a group of many units": (
        TRUNK_FILE,
        lambda metadata, _: metadata["architecture"]["groups"].append(["big", 1 << 28, [["big.weight", 0, "="]]]),
    ),
    "a layer beyond the limit": (TRUNK_FILE, lambda metadata, _: metadata["architecture"]["layers"].append(["big", [1 << 14, 1 << 14, 2]])),
    "many positions in one slot": (TASK_FILE, many_positions),
    "a trunk of many classes": (TRUNK_FILE, lambda metadata, _: metadata.update(head_classes=1 << 28)),
}


@pytest.mark.parametrize("fresh", [False, True], ids=["checkpoint", "seed"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_few_bytes_do_not_ask_for_gigabytes(tmp_path, bomb, fresh):
    store = mixed_store.make_mixed_store(tmp_path / "store", fresh=fresh, tasks="a")
    path, change = BOMBS[bomb]
    metadata, blobs = read_part((store.path / path).read_bytes())
    change(metadata, blobs)
    subject = store_subject(store.path)
    files = vouch(store.path, path, write_part(metadata, blobs))
    declared = (200 << 20) // store_fuzz.BYTES_PER_SLOT
    bombed = Subject(subject.pristine, lambda pristine, case: {**pristine, **files}, subject.read, lambda files: declared, subject.names)
    findings = examine(bombed, [Case(path, "graft", True, 0)], store.path)
    assert findings.outcomes == {"refused": 1}, findings.failures


def test_vectors_have_a_limit_together():
    assert named_lengths([["a", 1 << 23], ["b", 1 << 23]]) == (("a", 1 << 23), ("b", 1 << 23))
    with pytest.raises(PartError, match="more than 16777216 entries"):
        named_lengths([["a", 1 << 23], ["b", 1 << 23], ["c", 1]])


def test_a_head_of_dead_features_does_not_ask_for_gigabytes(tmp_path):
    """A head whose features are all dead stores no code, whatever its classes and features are."""
    store = mixed_store.make_mixed_store(tmp_path / "store", fresh=True, tasks="a")
    metadata, blobs = read_part(store.part_bytes(store.trunk_entry))
    record = metadata["architecture"]
    record["head"][1] = 1 << 22
    record["groups"].append(["dead", 2, [["head.weight", 1, [[1, 0, 1 << 22]]]]])
    for group in record["groups"]:
        group[2] = [member for member in group[2] if member[0] != "head.weight" or group[0] == "dead"]
    trunk = write_part(metadata, blobs)
    subject = store_subject(store.path)
    first = vouch(store.path, "trunk.safetensors", trunk)
    store_fuzz.write_files(store.path, first)
    metadata, blobs = read_part(subject.pristine["tasks/000-a.safetensors"])
    index = len(record["groups"]) - 1
    metadata |= {"groups": [*metadata["groups"], index], "classes": list(range(1000))}
    masks = blobs["masks"]
    cut = len([group for group in metadata["groups"] if group != index])
    blobs = {**blobs, "masks": masks[:cut] + b"\1" + masks[cut:], "head": b"\0" + bytes(2000) + b"\0" + bytes(2000)}
    files = {**subject.pristine, **first, **vouch(store.path, "tasks/000-a.safetensors", write_part(metadata, blobs))}
    store_fuzz.write_files(store.path, subject.pristine)
    bombed = Subject(subject.pristine, lambda pristine, case: files, subject.read, lambda files: 8 << 20, subject.names)
    findings = examine(bombed, [Case("tasks/000-a.safetensors", "graft", True, 0)], store.path)
    assert findings.outcomes == {"refused": 1}, findings.failures


# -------------------------------------------------------------------------------------------------------- the fuzzer can fail


def misread(how):
    def read(folder, thorough):
        if (folder / "file").read_bytes() == b"pristine":
            return
        if how == "hang":
            time.sleep(30)
        if how == "death":
            os._exit(3)
        if how == "traceback":
            raise IndexError("list index out of range")
        if how == "memory":
            np.ones(1 << 25)
        if how == "unnamed":
            raise StoreError("something is wrong")
        if how == "memory error":
            raise StoreError("file") from MemoryError()

    return read


@pytest.mark.parametrize(
    ("how", "vouched", "outcome"),
    [
        ("hang", True, "hang"),
        ("death", True, "death"),
        ("traceback", True, "traceback"),
        ("memory", True, "memory"),
        ("memory error", True, "memory"),
        ("unnamed", True, "unnamed"),
        ("nothing", False, "accepted"),
        ("nothing", True, "model"),
    ],
)
def test_the_fuzzer_finds_what_it_looks_for(tmp_path, monkeypatch, how, vouched, outcome):
    monkeypatch.setattr(store_fuzz, "SECONDS_PER_CASE", 1)
    damaged, declared, names = lambda pristine, case: {"file": b"damaged"}, lambda files: 0, lambda files, case: ("file",)
    subject = Subject({"file": b"pristine"}, damaged, misread(how), declared, names)
    findings = examine(subject, [Case("file", "flip", vouched, number) for number in range(2)], tmp_path)
    assert findings.outcomes == {outcome: 2}
    assert len(findings.failures) == (0 if outcome == "model" else 2)
