"""A commit reads its part back before anything is written; whatever field an encoder lost or changed, it is refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import store_samples as samples

from tsn_toolkit.contracts import ActivationRange, LayerCodes, NormState, Revision, TaskResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store import prepare as prepare_module
from tsn_toolkit.store.store import Store


def flipped(array):
    """Another entry that may stand there, in the place of the first one that is not 0."""
    copy = array.copy()
    place = np.flatnonzero(copy)[0]
    copy.flat[place] = ~copy.flat[place] if copy.dtype == np.bool_ else copy.flat[place] // 2 if copy.dtype.kind in "iu" else copy.flat[place] * 2
    return copy


def result_of(store) -> TaskResult:
    """Codes with a refinement, a plane, a memory: a value in every field."""
    result = samples.make_task(store, "a", refine_bits=2, planes=("fc",))
    memory = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "nan": np.full(2, np.nan, np.float16)}
    revision = Revision({"older": (0,), "a": (1, 0)}, False, memory)
    return replace(result, isolation="none", revision=revision)


def layer(name, **fields):
    def change(result):
        own = result.layers[name]
        return replace(result, layers={**result.layers, name: replace(own, **{field: make(getattr(own, field)) for field, make in fields.items()})})

    return change


def refinement(field):
    return layer("conv2", refinement=lambda held: replace(held, **{field: flipped(getattr(held, field))}))


def wider(result):
    own = result.layers["conv2"]
    assert isinstance(own, LayerCodes)
    codebook = np.concatenate([own.codebook, np.full(len(own.codebook), own.codebook[-1])])
    return replace(result, layers={**result.layers, "conv2": replace(own, bit_width=own.bit_width + 1, codebook=codebook)})


def pruned(result):
    """One OWN slot less."""
    own = result.layers["conv2"]
    states = own.states.copy()
    states.flat[np.flatnonzero(states == samples.OWN)[0]] = samples.PRUNED
    return replace(result, layers={**result.layers, "conv2": replace(own, states=states, codes=own.codes[1:])})


def norm(**fields):
    return lambda r: replace(r, norms={name: replace(held, **{f: flipped(getattr(held, f)) for f in fields}) for name, held in r.norms.items()})


def head(field):
    return lambda r: replace(r, head=replace(r.head, **{field: flipped(getattr(r.head, field))}))


def revised(**fields):
    return lambda r: replace(r, revision=replace(r.revision, **fields))


CHANGES = {
    "strategy": ("strategy", lambda r: replace(r, strategy="other")),
    "classes": ("classes", lambda r: replace(r, classes=(5, 2))),
    "validation": ("validation", lambda r: replace(r, validation={"accuracy": 0.5})),
    "a missing unit mask": ("unit_masks", lambda r: replace(r, unit_masks={**r.unit_masks, "fc": np.ones(5, bool)})),
    "gain of a norm": ("gain of norms", norm(gain=True)),
    "shift of a norm": ("shift of norms", norm(shift=True)),
    "a norm more": ("gain of norms", lambda r: replace(r, norms={**r.norms, "new": NormState(np.ones(1, np.float32), np.ones(1, np.float32))})),
    "a bias": ("biases", lambda r: replace(r, biases={name: flipped(bias) for name, bias in r.biases.items()})),
    "codes of the head": ("head", head("codes")),
    "scale of the head": ("head", head("scale")),
    "bias of the head": ("head", head("bias")),
    "a range": ("ranges", lambda r: replace(r, ranges={**r.ranges, "input": ActivationRange(0.25, 0, False)})),
    "a range less": ("ranges", lambda r: replace(r, ranges={})),
    "no revision": ("revision", lambda r: replace(r, revision=None)),
    "rows": ("rows of its revision", revised(rows={"older": (1,), "a": (1, 0)})),
    "whether the task is known": ("task_known of its revision", revised(task_known=True)),
    "a memory": ("memory of its revision", revised(memory={"x": np.ones((2, 3), np.float32), "nan": np.full(2, np.nan, np.float16)})),
    "no memory": ("memory of its revision", revised(memory={})),
    "states": ("layer `conv2`", pruned),
    "codes": ("layer `conv2`", layer("conv2", codes=flipped)),
    "a codebook": ("layer `conv2`", layer("conv2", codebook=lambda book: np.sort(flipped(book)))),
    "a wider codebook": ("layer `conv2`", wider),
    "a scale": ("layer `conv2`", layer("conv2", scale=lambda scale: scale * np.float32(2))),
    "residual codes": ("layer `conv2`", refinement("codes")),
    "the residual codebook": ("layer `conv2`", layer("conv2", refinement=lambda held: replace(held, codebook=np.sort(flipped(held.codebook))))),
    "signs": ("layer `fc`", layer("fc", signs=flipped)),
    "a plane's gain": ("layer `fc`", layer("fc", gain=flipped)),
    "a plane's scale": ("layer `fc`", layer("fc", scale=lambda scale: scale * np.float32(2))),
    "a layer less": ("layer `fc`", lambda r: replace(r, layers={name: own for name, own in r.layers.items() if name != "fc"})),
}


@pytest.fixture
def store(tmp_path):
    graph = samples.make_graph()
    return Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})


def files(store):
    return {path.name: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", CHANGES)
def test_a_part_of_another_task_is_refused_by_field_and_nothing_is_written(store, monkeypatch, change):
    field, alter = CHANGES[change]
    encode, before = prepare_module.encode_checked, files(store)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "encode_checked", lambda handed, result, recipe: encode(handed, alter(result), recipe))
        with pytest.raises(StoreError, match=f"task `a`: {field} does not read back"):
            store.commit(result_of(store), {})
    assert files(store) == before
    store.commit(result_of(store), {})


def test_another_recipe_and_bytes_that_break_the_format_are_refused(store, monkeypatch):
    encode = prepare_module.encode_checked
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "encode_checked", lambda handed, result, recipe: encode(handed, result, {"set": {"seed": 4}}))
        with pytest.raises(StoreError, match="task `a`: recipe does not read back"):
            store.commit(result_of(store), {"seed": 3})
        patch.setattr(prepare_module, "encode_checked", lambda *arguments: encode(*arguments)[:-1])
        with pytest.raises(StoreError, match=r"task `a`: its part \(its header or its size .*does not read back"):
            store.commit(result_of(store), {})


def test_scales_of_dead_units_are_nobody_s(store):
    """They are not stored, so whatever was handed over for them is no fault."""
    result = result_of(store)
    dead = ~result.unit_masks["conv2"]
    assert dead.any()
    own = result.layers["conv2"]
    scale = np.where(dead, np.float32(7.123456), own.scale)
    store.commit(replace(result, layers={**result.layers, "conv2": replace(own, scale=scale)}), {})
