"""What a commit refuses, before it writes a byte."""

from dataclasses import replace

import numpy as np
import pytest
import store_samples as samples
from store_samples import SHAPES

from tsn_toolkit.contracts import ActivationRange, GroupMember, HeadState, LayerCodes, LayerPlanes, NormState, Refinement, UnitGroup
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path):
    graph = samples.make_graph()
    return Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})


def with_layer(result, layer, **changes):
    return replace(result, layers={**result.layers, layer: replace(result.layers[layer], **changes)})


def changed(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


def dead_slot(result, layer):
    return tuple(np.argwhere(~samples.expand(result.unit_masks, samples.make_graph())[layer])[0])


def norm(size):
    return NormState(np.ones(size, np.float32), np.ones(size, np.float32))


def odd(result):
    return np.full(2, 1.0001, np.float32)


BAD = {
    "a task's name .* got `Ä`": lambda r: replace(r, name="Ä"),
    "got `trunk`": lambda r: replace(r, name="trunk"),
    "no task `nobody`": lambda r: replace(r, parent="nobody"),
    "got `soft`": lambda r: replace(r, isolation="soft"),
    "got 'two'": lambda r: replace(r, classes=(1, "two")),
    "unknown group `conv9`": lambda r: replace(r, unit_masks={"conv9": np.ones(3, bool)}),
    r"bool \(6,\), got bool \(5,\)": lambda r: replace(r, unit_masks={"conv1": np.ones(5, bool)}),
    "keeps 0 of 6": lambda r: replace(r, unit_masks={"conv1": np.zeros(6, bool)}),
    r"layers \['head'\]": lambda r: replace(r, layers={**r.layers, "head": r.layers["fc"]}),
    r"states must be uint8 .* 3$": lambda r: with_layer(r, "fc", states=changed(r.layers["fc"].states, (0, 0), 3)),
    "1 slots of dead units": lambda r: with_layer(r, "conv1", states=changed(r.layers["conv1"].states, dead_slot(r, "conv1"), 1)),
    "codebook of 9 bits": lambda r: with_layer(r, "fc", bit_width=9),
    "codebook of 3 bits": lambda r: with_layer(r, "fc", bit_width=3),
    r"must ascend .* got \[3, 2, 1, 0\]": lambda r: with_layer(r, "fc", codebook=np.array([3, 2, 1, 0], np.int8)),
    r"must ascend .* got \[-128": lambda r: with_layer(r, "fc", codebook=np.array([-128, 0, 1, 2], np.int8)),
    "own slots need uint8 codes": lambda r: with_layer(r, "fc", codes=r.layers["fc"].codes[:-1]),
    "code 4 is outside": lambda r: with_layer(r, "fc", codes=changed(r.layers["fc"].codes, 0, 4)),
    r"scale must be float32 \(5,\)": lambda r: with_layer(r, "fc", scale=np.ones(4, np.float32)),
    "scale: value .*1.0001": lambda r: with_layer(r, "fc", scale=np.full(5, 1.0001, np.float32)),
    "scale: stored values must be finite, got inf": lambda r: with_layer(r, "fc", scale=np.full(5, np.inf, np.float32)),
    r"norm `bn1 \(gain\)` must hold 0 at dead units, got 1": lambda r: replace(r, norms={"bn1": norm(6)}),
    "norm `bn1 .*has 6 entries.*expected 5": lambda r: replace(r, norms={"bn1": norm(5)}),
    "bias `other`: value .*1.0001": lambda r: replace(r, biases={"other": odd(r)}),
    r"codes must be int8 \(3, 5\)": lambda r: replace(r, classes=(1, 2, 3)),
    r"head `head`: codes must lie .* got -128": lambda r: replace(r, head=replace(r.head, codes=changed(r.head.codes, (0, 0), -128))),
    "head `head`: bias: value": lambda r: replace(r, head=replace(r.head, bias=odd(r))),
    "range `input`: scale must be a positive float32, got 0.1": lambda r: replace(r, ranges={"input": ActivationRange(0.1, 0, True)}),
    "16 bits, got 40000": lambda r: replace(r, ranges={"input": ActivationRange(0.5, 40000, True)}),
    "`loss` must be finite, got nan": lambda r: replace(r, validation={"loss": float("nan")}),
}


def plane(result, **changes):
    """The result with layer `fc` as a plane."""
    kept = samples.expand(result.unit_masks, samples.make_graph())["fc"]
    own = LayerPlanes(kept & (np.arange(kept.size).reshape(kept.shape) % 2 == 0), np.full(5, 3, np.int8), np.ones(5, np.float32))
    return replace(result, layers={**result.layers, "fc": replace(own, **changes)})


def refined(result, **changes):
    """The result with every REUSE slot of layer `fc` refined."""
    codes = result.layers["fc"]
    states = np.where(codes.states == samples.REUSE, samples.REFINE, codes.states).astype(np.uint8)
    count = int((states == samples.REFINE).sum())
    residuals = Refinement(np.zeros(count, np.uint8), np.array([-1, 2], np.int8), 1)
    return with_layer(result, "fc", states=states, refinement=replace(residuals, **changes))


BAD_PLANES = {
    r"signs must be bool \(5, 16\), got uint8": lambda r: plane(r, signs=np.zeros((5, 16), np.uint8)),
    r"signs must be bool \(5, 16\), got bool \(5, 15\)": lambda r: plane(r, signs=np.zeros((5, 15), bool)),
    "signs of dead units are not False": lambda r: plane(r, signs=np.ones((5, 16), bool)),
    r"gain must be int8 \(5,\) in 0..127, got int8 \(4,\)": lambda r: plane(r, gain=np.ones(4, np.int8)),
    r"gain must be int8 \(5,\) in 0..127": lambda r: plane(r, gain=np.full(5, -1, np.int8)),
    "fc`: scale: .*1.0001": lambda r: plane(r, scale=np.full(5, 1.0001, np.float32)),
}
BAD_REFINEMENTS = {
    r"0..2 \(REFINE needs a refinement\)": lambda r: with_layer(refined(r), "fc", refinement=None),
    "refinement: a codebook of 0 bits .1..8.": lambda r: refined(r, bit_width=0),
    r"refinement: the codebook must ascend .* got \[2, -1\]": lambda r: refined(r, codebook=np.array([2, -1], np.int8)),
    "REFINE slots need uint8 codes": lambda r: refined(r, codes=np.zeros(1, np.uint8)),
    "refinement: code 2 is outside": lambda r: refined(r, codes=np.full(len(refined(r).layers["fc"].refinement.codes), 2, np.uint8)),
}
BAD_VECTORS = {
    r"vector_precision must be one of .'half', 'int8'., got `int4`": lambda r: replace(r, vector_precision="int4"),
    r"Round the vector with round_vector\(vector, \"int8\"\)": lambda r: replace(r, vector_precision="int8"),
    "granularity is element, unit, block.k. or n:m .* got '5:4'": lambda r: with_layer(r, "fc", granularity="5:4"),
    "granularity is element, unit, block.k. or n:m .* got 'rows'": lambda r: with_layer(r, "fc", granularity="rows"),
}
BAD |= BAD_PLANES | BAD_REFINEMENTS | BAD_VECTORS


@pytest.mark.parametrize("make", [plane, refined])
def test_planes_and_refinements_are_taken(store, make):
    result = make(samples.make_task(store, "a"))
    store.commit(result, {})
    assert (store.states("a")["fc"] == samples.REFINE).any()


@pytest.mark.parametrize("message", BAD)
def test_refuses_a_bad_result_and_writes_nothing(store, message):
    result = samples.make_task(store, "a")
    before = sorted(store.path.rglob("*"))
    with pytest.raises(StoreError, match=message):
        store.commit(BAD[message](result), {})
    assert sorted(store.path.rglob("*")) == before and not Store.open(store.path).entries
    store.commit(result, {})


def test_refuses_reuse_of_nothing(tmp_path):
    store = Store.create(tmp_path / "seed", trunk=samples.SEED_TRUNK, graph=samples.make_graph(), recipe={})
    result = samples.make_task(store, "a", masked=False)
    states = result.layers["fc"].states
    slot = tuple(np.argwhere(states == samples.PRUNED)[0])
    with pytest.raises(StoreError, match="layer `fc` reuses 1 slots"):
        store.commit(with_layer(result, "fc", states=changed(states, slot, samples.REUSE)), {})


def test_refuses_refinement_of_nothing(tmp_path):
    store = Store.create(tmp_path / "seed", trunk=samples.SEED_TRUNK, graph=samples.make_graph(), recipe={})
    result = samples.make_task(store, "a", masked=False)
    states = result.layers["fc"].states
    slot = tuple(np.argwhere(states == samples.PRUNED)[0])
    residual = Refinement(np.zeros(1, np.uint8), np.array([1, 2], np.int8), 1)
    with pytest.raises(StoreError, match="layer `fc` refines 1 slots that neither"):
        store.commit(with_layer(result, "fc", states=changed(states, slot, samples.REFINE), refinement=residual), {})


def test_refuses_a_name_twice_and_a_recipe_that_is_not_json(store):
    store.commit(samples.make_task(store, "a"), {})
    with pytest.raises(StoreError, match="`a` is committed already"):
        store.commit(samples.make_task(store, "a", seed=1), {})
    with pytest.raises(StoreError, match="recipe of `b` is not a JSON value: Out of range float"):
        store.commit(samples.make_task(store, "b", seed=1), {"x": float("nan")})


def test_dead_inputs_of_the_head_must_be_0(store):
    result = samples.make_task(store, "a", masked=False)
    masks = {"fc": np.array([True, True, False, True, True])}
    states = result.layers["fc"].states.copy()
    own = states == samples.OWN
    states[2] = samples.PRUNED
    codes = result.layers["fc"].codes[states[own] == samples.OWN]
    result = with_layer(replace(result, unit_masks=masks), "fc", states=states, codes=codes)
    with pytest.raises(StoreError, match="dead input features must be 0"):
        store.commit(replace(result, head=replace(result.head, codes=np.ones((2, 5), np.int8))), {})
    store.commit(replace(result, head=replace(result.head, codes=changed(np.ones((2, 5), np.int8), (slice(None), 2), 0))), {})
    assert Store.open(store.path).weights("a").head.codes.tolist() == [[1, 1, 0, 1, 1]] * 2


def full(store, name, parent="trunk", bit_width=8):
    """A task that owns every slot."""
    result = samples.make_task(store, name, parent, masked=False)
    rng = np.random.default_rng(0)
    layers = {layer: samples.own_layer(rng, np.full(codes.states.shape, samples.OWN), 4) for layer, codes in result.layers.items()}
    book = np.arange(-127, 129).clip(-127, 127).astype(np.int8)
    return replace(result, layers={n: replace(c, bit_width=bit_width, codebook=book[: 1 << bit_width]) for n, c in layers.items()})


def test_a_full_word_is_refused(store):
    # The trunk has 4 bits of each word; three tasks that are no relations take 8 each: 28 of 32.
    for name in "abc":
        store.commit(full(store, name), {})
    with pytest.raises(StoreError, match="task `d`: layer `conv1` asks for 5 bits at a slot that has 4 of its 32 left"):
        store.commit(full(store, "d", bit_width=5), {})
    store.commit(full(store, "d", bit_width=4), {})
    with pytest.raises(StoreError, match="asks for 4 bits at a slot that has 0 "):
        Store.open(store.path).commit(full(store, "e", bit_width=4), {})


def test_planes_and_residuals_take_bits_of_the_word(tmp_path):
    # 2 bits of the trunk, 8 of a, 1 of the plane b, 3 of c's residuals: 14 of 16.
    trunk = samples.make_trunk(samples.make_graph())
    layers = {name: replace(codes, bit_width=2, codebook=codes.codebook[:4], codes=codes.codes % 4) for name, codes in trunk.layers.items()}
    store = Store.create(tmp_path / "words", trunk=replace(trunk, layers=layers, word_bits=16), graph=samples.make_graph(), recipe={})
    store.commit(full(store, "a"), {})
    planes = {name: LayerPlanes(np.ones(shape, bool), np.ones(shape[0], np.int8), np.ones(shape[0], np.float32)) for name, shape in SHAPES.items()}
    store.commit(replace(samples.make_task(store, "b", masked=False), layers=planes), {})
    store.commit(residuals(store, "c", 3), {})
    with pytest.raises(StoreError, match="`d`: layer `conv1` asks for 3 bits at a slot that has 2 of its 16 left .54 such slots.. .* retire a task"):
        store.commit(residuals(store, "d", 3), {})
    store.commit(residuals(store, "d", 2), {})
    with pytest.raises(StoreError, match="asks for 1 bits at a slot that has 0 of"):
        Store.open(store.path).commit(replace(samples.make_task(store, "e", masked=False), layers=planes), {})


def residuals(store, name, bit_width):
    """A task that refines every slot of the trunk."""
    book = np.arange(1 << bit_width).astype(np.int8)
    layers = {
        layer: LayerCodes(
            np.full(shape, samples.REFINE, np.uint8),
            np.zeros(0, np.uint8),
            np.zeros(0, np.int8),
            0,
            np.ones(shape[0], np.float32),
            refinement=Refinement(np.zeros(int(np.prod(shape)), np.uint8), book, bit_width),
        )
        for layer, shape in SHAPES.items()
    }
    return replace(samples.make_task(store, name, masked=False), layers=layers)


def test_a_wider_word_holds_more_owners(tmp_path):
    # 4 bits of the trunk and 8 for each of 32 tasks: 260 bits, more than one byte can count.
    trunk = replace(samples.make_trunk(samples.make_graph()), word_bits=260)
    store = Store.create(tmp_path / "wide", trunk=trunk, graph=samples.make_graph(), recipe={})
    for number in range(32):
        store.commit(full(store, f"t{number}"), {})
    assert Store.open(store.path).trunk().word_bits == 260
    with pytest.raises(StoreError, match="asks for 4 bits at a slot that has 0 of its 260 left"):
        store.commit(full(store, "last", bit_width=4), {})


def test_revisions_without_isolation_take_no_bits(store):
    for index in range(6):
        store.commit(replace(full(store, f"r{index}"), isolation="none"), {})
    store.commit(full(store, "exact"), {})
    assert [entry.isolation for entry in Store.open(store.path).entries] == ["none"] * 6 + ["exact"]


def test_refuses_bad_trunks(tmp_path):
    graph = samples.make_graph()
    trunk = samples.make_trunk(graph)
    missing = {name: codes for name, codes in trunk.layers.items() if name != "fc"}
    holes = {**trunk.layers, "fc": samples.own_layer(np.random.default_rng(0), np.full((5, 16), samples.PRUNED), 4)}
    for bad, message in (
        (replace(trunk, kind="magic"), "got `magic`"),
        (replace(trunk, seed=-1), "got -1"),
        (replace(trunk, layers=missing), r"got \['conv1', 'conv2'\]"),
        (replace(trunk, layers=holes), "`fc` must own every slot, 80 are not"),
        (replace(trunk, kind="seed", layers={}), "stores no norms"),
        (replace(trunk, head=HeadState(np.zeros((2, 4), np.int8), trunk.head.scale[:2], trunk.head.bias[:2])), r"\(2, 5\)"),
    ):
        with pytest.raises(StoreError, match=message):
            Store.create(tmp_path / "store", trunk=bad, graph=graph, recipe={})
    assert not (tmp_path / "store").exists()


def test_refuses_a_graph_that_contradicts_itself(tmp_path):
    graph = samples.make_graph()
    wrong = UnitGroup("fc", 5, (GroupMember("fc.weight", 0, np.arange(4)),), ("fc",))
    with pytest.raises(StoreError, match=r"dimension 0 of `fc.weight` do not fit its shape \(5, 16\)"):
        Store.create(tmp_path / "store", trunk=samples.SEED_TRUNK, graph=replace(graph, groups=(*graph.groups[:2], wrong)), recipe={})
