"""Free parameters in a store: who owns them, what is handed down, what they cost, and what is refused."""

from dataclasses import replace

import free_store
import numpy as np
import pytest
from free_store import FIRST, HEIR, SHAPES, UNITS, WIDE, free_graph, free_task, free_values

from tsn_toolkit.contracts import FreeParameterRecord, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.integrity import verify_store
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.manifest import Manifest, hash_bytes, read_manifest
from tsn_toolkit.store.packing import pack_store, unpack_store
from tsn_toolkit.store.part import BLOBS, FREE, MEMORY, read_part, write_part
from tsn_toolkit.store.record import architecture_from_json, architecture_to_json
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store

EVERY = np.ones(UNITS, bool)


@pytest.fixture
def store(tmp_path):
    return free_store.make_free_store(tmp_path / "store")


@pytest.fixture
def trained(tmp_path):
    return free_store.make_free_trunk_store(tmp_path / "trained")


def same(one, other):
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == np.float32 and one[name].shape == SHAPES[name]
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def bytes_of_free(store, task):
    """What the part of a task takes for free parameters."""
    parts = {part["path"]: part["breakdown"] for part in inspect_store(store)["parts"]}
    return parts[store.entry(task).path].get("free_parameters", 0)


def test_a_task_answers_with_its_own_values_and_an_heir_with_the_nearest_owners(store):
    first, wide = store.weights("first").free_parameters, store.weights("wide").free_parameters
    same(store.weights("heir").free_parameters, {**first, "token": first["token"] * HEIR, "positions": first["positions"] * HEIR})
    assert (first["token"][..., ~FIRST] == 0).all() and (first["token"][..., FIRST] != 0).all()
    assert (wide["token"][..., ~WIDE] == 0).all() and not np.array_equal(wide["token"][..., FIRST & WIDE], first["token"][..., FIRST & WIDE])
    np.testing.assert_array_equal(wide["factor"], first["factor"])
    assert store.weights("first").free_parameters["scale"].shape == ()


def test_what_children_of_a_chain_inherit_entry_by_entry(store):
    """A unit that the nearest owner removed has the value of the owner before; one that nobody kept has none."""
    view, first, wide = store.frozen_parameters("wide")["token"], store.weights("first").free_parameters, store.weights("wide").free_parameters
    assert view.present.reshape(-1).tolist() == (FIRST | WIDE).tolist() == [True] * 6
    assert view.value.reshape(-1).tolist() == np.where(WIDE, wide["token"], first["token"]).reshape(-1).tolist()
    assert store.frozen_parameters("heir")["token"].present.reshape(-1).tolist() == FIRST.tolist()
    assert not any(held.present.any() for held in store.frozen_parameters("trunk").values())


def test_only_an_owner_pays(store, trained):
    rows = 2 * 4 + 1, 3 * (2 * 4 + 1), 2 * 4 + 1, 2 + 1  # token, positions (four of six units are kept), factor, scale: a vector per row
    assert bytes_of_free(store, "first") == sum(rows)
    assert bytes_of_free(store, "heir") == 0
    assert bytes_of_free(store, "wide") == (5 + 4) + 3 * (5 + 4)  # int8: a step and five bytes per row
    assert bytes_of_free(trained, "kept") == 0 and bytes_of_free(trained, "own") == 9
    blobs = {name: len(store.part(name).part.sizes_bytes) for name in ("trunk", "first", "heir", "wide")}
    assert blobs == {"trunk": 11, "first": 11, "heir": 9, "wide": 11}
    marginal = {task["name"]: task["marginal_bytes"] for task in inspect_store(store)["tasks"]}
    assert marginal["first"] >= store.entry("first").size_bytes and sum(part["bytes"] for part in inspect_store(store)["parts"]) == sum(
        file.stat().st_size for file in store.path.rglob("*") if file.is_file()
    )


def test_a_store_without_free_parameters_says_nothing_of_them(tmp_path):
    graph = replace(free_graph(), free_parameters=())
    rng = np.random.default_rng(0)
    store = Store.create(tmp_path / "store", trunk=TrunkResult("seed", 7, {}, {}, {}, None), graph=graph, recipe={})
    store.commit(free_task(rng, store, "only", "trunk", FIRST, {}), {})
    for path in ("trunk.safetensors", store.entries[0].path):
        assert b"free_parameters" not in (store.path / path).read_bytes() and b'schema\\":1' in (store.path / path).read_bytes()
    assert store.weights("only").free_parameters == {}


def test_values_that_are_inherited_are_not_stored_again(trained):
    """A task may hand all over; what is as its parent's costs nothing, in any precision."""
    rng = np.random.default_rng(3)
    held = trained.weights("own").free_parameters
    entry = trained.commit(free_task(rng, trained, "child", "own", EVERY, held), {})
    assert FREE not in trained.part("child").part.sizes_bytes and entry.parent == "own"
    same(trained.weights("child").free_parameters, held)


def test_retiring_and_a_kill_leave_heirs_as_they_were(store):
    heir = store.weights("heir").free_parameters
    with pytest.raises(StoreError, match="`first` cannot be retired, its bits are read by its children"):
        retire_task(store.path, "first")
    retire_task(store.path, "wide")
    same(Store.open(store.path).weights("heir").free_parameters, heir)


@pytest.mark.parametrize("tasks", [None, ["heir"], ["wide"]])
def test_a_packed_file_carries_them(store, tmp_path, tasks):
    pack_store(store, tmp_path / "packed.tsn", tasks)
    image = JointImage.open(tmp_path / "packed.tsn")
    for task in tasks or ["first", "heir", "wide"]:
        same(image.decode(task).free_parameters, store.weights(task).free_parameters)
    back = unpack_store(tmp_path / "packed.tsn", tmp_path / "unpacked")
    for entry in back.entries:
        assert (back.path / entry.path).read_bytes() == (store.path / entry.path).read_bytes()
        same(back.weights(entry.name).free_parameters, store.weights(entry.name).free_parameters)
    assert verify_store(back) == {entry.name: store.codes_hash(entry.name) for entry in back.entries}


def changed(**values):
    """Free parameters of a valid task with some values otherwise, or left out where None."""

    def change(free):
        return {name: value for name, value in ({**free, **values}).items() if value is not None}

    return change


REFUSED = {
    "another shape": (changed(token=np.zeros((1, UNITS), np.float32)), r"free parameter `token` must be float32 \(1, 1, 6\), got float32 \(1, 6\)"),
    "another kind of numbers": (changed(factor=np.zeros(4)), r"free parameter `factor` must be float32 \(4,\), got float64"),
    "an unknown name": (changed(tokens=np.zeros(2, np.float32)), "free parameter `tokens` is not in the store's architecture; it has"),
    "a missing one": (changed(positions=None), "free parameter `positions` is left out, but neither the trunk nor an ancestor holds"),
    "no number": (changed(scale=np.float32(np.nan).reshape(())), "free parameter `scale`: stored values must be finite"),
    "infinity": (changed(factor=np.array([1, np.inf, 0, 0], np.float32)), "free parameter `factor`: stored values must be finite"),
    "not rounded": (changed(factor=np.array([1 / 3, 1, 0, 0], np.float32)), 'free parameter `factor`: value .*round_rows\\(values, "half"\\)'),
    "a dead unit": (changed(token=np.ones((1, 1, UNITS), np.float32)), "free parameter `token` must hold 0 at entries of dead units, 2 are not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_commit_of_wrong_values_is_refused_by_name_and_writes_nothing(tmp_path, case):
    change, message = REFUSED[case]
    rng = np.random.default_rng(1)
    store = Store.create(tmp_path / "store", trunk=TrunkResult("seed", 7, {}, {}, {}, None), graph=free_graph(), recipe={})
    result = free_task(rng, store, "bad", "trunk", FIRST, change(free_values(rng, FIRST)))
    before = (store.path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=f"task `bad`: {message}"):
        store.commit(result, {})
    assert (store.path / "manifest.json").read_bytes() == before and not list((store.path / "tasks").glob("*"))


@pytest.mark.parametrize("names", [("token", "positions", "factor"), (*SHAPES, "more")])
def test_a_trunk_holds_exactly_the_records_parameters(tmp_path, names):
    rng = np.random.default_rng(1)
    free = {name: free_values(rng).get(name, np.zeros(1, np.float32)) for name in names}
    layers = {"fc": free_store.samples.own_layer(rng, np.full((UNITS, 4), free_store.OWN), 4)}
    with pytest.raises(StoreError, match="a `checkpoint` trunk must hold exactly the free parameters"):
        Store.create(tmp_path / "s", trunk=TrunkResult("checkpoint", 7, layers, {}, {}, None, free_parameters=free), graph=free_graph(), recipe={})
    with pytest.raises(StoreError, match=r"a `seed` trunk must hold exactly the free parameters \[\]"):
        Store.create(tmp_path / "s", trunk=TrunkResult("seed", 7, {}, {}, {}, None, free_parameters=free_values(rng)), graph=free_graph(), recipe={})


def rehash(folder, part, data):
    """Writes a part and the manifest that vouches for it."""
    (folder / part).write_bytes(data)
    manifest, _ = read_manifest(folder)
    entries = tuple(
        replace(entry, sha256=hash_bytes(data), size_bytes=len(data)) if entry.path == part else entry
        for entry in (manifest.trunk, *manifest.entries)
    )
    (folder / "manifest.json").write_bytes(Manifest(entries[0], entries[1:]).to_bytes())


def with_free(data):
    return lambda metadata, blobs: (metadata, {**blobs, FREE: data(blobs[FREE])})


def owning(positions):
    return lambda metadata, blobs: (metadata | {"free_parameters": positions}, blobs)


def without(key):
    return lambda metadata, blobs: ({name: value for name, value in metadata.items() if name != key}, blobs)


DAMAGE = {
    "a byte less": (with_free(lambda blob: blob[:-1]), r"free parameter `scale` of shape \(\): blob `free_parameters` ends early"),
    "a byte more": (with_free(lambda blob: blob + b"\0"), "blob `free_parameters` has 1 bytes too many"),
    "no number": (
        with_free(lambda blob: blob[:1] + b"\xff\xff" + blob[3:]),
        r"free parameter `token` of shape \(1, 1, 6\): a stored value is not a finite float32",
    ),
    "an unknown position": (owning([0, 1, 2, 4]), r"expected an integer in 0\.\.3 in the metadata, got 4"),
    "positions that fall": (owning([1, 0, 2, 3]), "positions of its free parameters do not ascend"),
    "a position twice": (owning([0, 0, 2, 3]), "positions of its free parameters do not ascend"),
    "no position": (owning([]), "positions of its free parameters do not ascend"),
    "a word": (owning("all"), "expected a list"),
    "one less": (owning([0, 1, 3]), "blob `free_parameters` has"),
    "no list": (without("free_parameters"), "disagree about whether it owns free parameters"),
    "no blob": (lambda metadata, blobs: (metadata, {name: blobs[name] for name in BLOBS}), "disagree about whether it owns free parameters"),
    "a memory": (lambda metadata, blobs: (metadata, {**blobs, MEMORY: b"\1"}), "memory"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_that_the_hashes_vouch_for_is_refused_with_part_and_parameter(store, case):
    change, message = DAMAGE[case]
    path = store.entry("first").path
    rehash(store.path, path, write_part(*change(*read_part((store.path / path).read_bytes()))))
    with pytest.raises(StoreError, match=f"{path}.*{message}"):
        verify_store(Store.open(store.path))


def test_a_task_whose_entries_nobody_holds_is_refused_when_read(store):
    path = store.entry("wide").path
    metadata, blobs = read_part((store.path / path).read_bytes())
    token = {**blobs, FREE: blobs[FREE][:9]}
    rehash(store.path, path, write_part(metadata | {"free_parameters": [0]}, token))
    with pytest.raises(StoreError, match=f"{path}.*`positions`: neither the task nor an ancestor holds all of its kept entries"):
        Store.open(store.path).weights("wide")


RECORDS = {
    "twice": ([["a", [2]], ["a", [2]]], "names a free parameter twice"),
    "none": ([], "an empty list of free parameters"),
    "too many dimensions": ([["a", [1] * 9]], "free parameter `a` cannot have shape .*at most 8 dimensions"),
    "too large": ([["a", [1 << 14, 1 << 14]], ["b", [1]]], "free parameter `b` cannot have shape .*at most 268435456 entries"),
    "a length of 0": ([["a", [0]]], "expected an integer in 1.."),
    "no shape": ([["a", 3]], "expected a list"),
    "another length": ([["token", [1, 1, 5]]], "dimension 2 of `token` has 6 entries in group `fc`, expected 5"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_breaks_a_rule_is_refused(store, case):
    value, message = RECORDS[case]
    record = architecture_to_json(store.architecture)
    assert architecture_from_json(record).free_parameters == tuple(FreeParameterRecord(name, shape) for name, shape in SHAPES.items())
    with pytest.raises(ValueError, match=message):
        architecture_from_json({**record, "free_parameters": value})


def test_a_trunks_schema_and_record_agree(store):
    metadata, blobs = read_part((store.path / "trunk.safetensors").read_bytes())
    rehash(store.path, "trunk.safetensors", write_part(metadata, {name: blobs[name] for name in BLOBS}))
    with pytest.raises(StoreError, match="trunk.safetensors.*disagree about whether there are free parameters"):
        Store.open(store.path)
    record = {name: value for name, value in metadata["architecture"].items() if name != "free_parameters"}
    rehash(store.path, "trunk.safetensors", write_part(metadata | {"architecture": record}, blobs))
    with pytest.raises(StoreError, match="trunk.safetensors.*disagree about whether there are free parameters"):
        Store.open(store.path)
