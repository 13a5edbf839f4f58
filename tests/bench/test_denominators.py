"""Denominators are bytes of files that were really written: sizes summed up by hand, and the same models without sharing."""

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tsn_toolkit.bench.denominators import _own_layer, _write_alone, _write_dense, _write_int8, dense_state, measure_denominators
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import Precision

sys.path.insert(0, str(Path(__file__).parents[1]))
import learning_samples as samples  # noqa: E402

HEADS = (3, 2)
WEIGHTS = 4 * 9 + 8 * 4 * 9 + 8 * 8 * 9 + 8 * 8 * 9
"""conv1 to conv4 of the net of width 4."""
NORMS = 4 * (4 + 8 + 8 + 8)
"""Gain, shift, mean and variance of bn1 to bn4."""


@pytest.fixture(autouse=True)
def one_thread():
    """Small models run fastest, and always alike, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path):
    """Two learned tasks of three and two classes; the second inherits from the first."""
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    store.commit(samples.learn("tsn", samples.make_context(store, samples.make_data(), epochs=2)), {})
    context = samples.make_context(store, samples.make_data("second", (4, 5)), parent="first", epochs=2)
    store.commit(samples.learn("tsn", context), {})
    return store


def header_bytes(path):
    """Bytes of a safetensors file before its numbers: the length, then the JSON."""
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


def test_sizes_are_those_of_the_numbers_plus_small_headers(store):
    state = torch.get_rng_state()
    found = measure_denominators(samples.factory, samples.graph(), store)
    assert torch.equal(torch.get_rng_state(), state), "global generators are left alone"
    heads = [classes * 32 + classes for classes in HEADS]
    expected = {
        "dense_fp32": 4 * (WEIGHTS + NORMS + sum(heads)),
        "separate_fp32": sum(4 * (WEIGHTS + NORMS + head) for head in heads),
        # a byte per weight, four per scale, norm entry and bias
        "separate_int8": sum(WEIGHTS + 4 * (4 + 8 + 8 + 8) + 4 * NORMS + classes * 32 + 4 * classes + 4 * classes for classes in HEADS),
    }
    for name, size in expected.items():
        files = 1 if name == "dense_fp32" else 2
        assert size < found[name] <= size + 2048 * files, name
    assert set(found) == {*expected, "separate_encoded"}


def test_the_dense_file_holds_all_heads_and_nothing_without_use(tmp_path):
    path = tmp_path / "dense.safetensors"
    size = _write_dense(samples.factory(), "head", list(HEADS), path)
    tensors = load_file(path)
    assert size == path.stat().st_size == header_bytes(path) + 4 * sum(tensor.numel() for tensor in tensors.values())
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items() if "head" in name} == {
        "heads.0.weight": (3, 32),
        "heads.0.bias": (3,),
        "heads.1.weight": (2, 32),
        "heads.1.bias": (2,),
    }
    names = {name for name in samples.factory().state_dict() if not name.startswith("head") and "num_batches_tracked" not in name}
    assert names == {name for name in tensors if not name.startswith("heads")}


def test_one_head_keeps_its_name():
    assert dense_state(samples.factory(), "head", [5])["head.weight"].shape == (5, 32)


def test_the_int8_file_is_the_network_within_half_a_step(tmp_path):
    path = tmp_path / "int8.safetensors"
    size = _write_int8(samples.factory(), samples.graph(), 6, path)
    tensors, model = load_file(path), samples.factory()
    assert size == header_bytes(path) + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    for name in ("conv1", "conv2", "conv3", "conv4"):
        q, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight.scale"].view(-1, 1, 1, 1)
        assert q.dtype == torch.int8 and int(q.abs().amax()) == 127
        assert ((model.get_submodule(name).weight - q * scale).abs() <= scale * 0.5001).all()
    assert tensors["head.weight"].dtype == torch.int8 and tensors["bn1.weight"].dtype == torch.float32


def test_every_task_alone_decodes_to_the_same_model(store, tmp_path):
    total = 0
    for index, entry in enumerate(store.entries):
        task, folder = store.weights(entry.name), tmp_path / f"alone-{index}"
        size = _write_alone(task, "half", {}, samples.graph(), folder)
        assert size == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        total += size
        alone = Store.open(folder)
        assert len(alone.entries) == 1 and alone.trunk().kind == "seed"
        found = alone.weights(entry.name)
        kept = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv2", "conv4": "conv4"}
        for name, q in task.q.items():
            np.testing.assert_array_equal(found.q[name], q)
            rows = task.unit_masks[kept[name]]
            np.testing.assert_array_equal(found.scale[name][rows], task.scale[name][rows])
        assert not any((states == 1).any() for states in alone.states(entry.name).values()), "nothing is shared"
        np.testing.assert_array_equal(found.head.codes, task.head.codes)
        for name, norm in task.norms.items():
            np.testing.assert_array_equal(found.norms[name].gain, norm.gain)
            np.testing.assert_array_equal(found.norms[name].shift, norm.shift)
        assert found.ranges == task.ranges
    assert total == measure_denominators(samples.factory, samples.graph(), store)["separate_encoded"]


def test_a_task_with_small_vectors_keeps_them_alone(tmp_path):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    context = replace(samples.make_context(store, samples.make_data(), epochs=2), precision=Precision(vectors="int8"))
    store.commit(samples.learn("tsn", context), {})
    found = measure_denominators(samples.factory, samples.graph(), store)["separate_encoded"]
    assert found == _write_alone(store.weights("first"), "int8", {}, samples.graph(), tmp_path / "alone")
    alone = Store.open(tmp_path / "alone").weights("first")
    np.testing.assert_array_equal(alone.norms["bn4"].gain, store.weights("first").norms["bn4"].gain)


def test_the_encoder_without_sharing_makes_use_of_blocks(tmp_path):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    context = replace(samples.make_context(store, samples.make_data(), epochs=2), plan=samples.plan(granularity="block(9)"))
    store.commit(samples.learn("tsn", context), {})
    blocks = {layer.name: layer.granularity for layer in context.plan.layers}
    with_blocks, without = (
        measure_denominators(samples.factory, samples.graph(), store, granularity=granularity)["separate_encoded"] for granularity in (blocks, {})
    )
    assert with_blocks < without


@pytest.mark.parametrize("distinct", [0, 1, 2, 3, 254])
def test_a_codebook_of_the_distinct_integers_loses_nothing(distinct):
    numbers = np.array([number for number in range(-127, 128) if number][:distinct], np.int8)
    q = np.concatenate([np.zeros(7, np.int8), numbers, numbers]).reshape(1, -1)
    codes = _own_layer(q, np.ones(1, np.float32))
    decoded = np.zeros_like(q)
    decoded[codes.states == 2] = codes.codebook[codes.codes]
    np.testing.assert_array_equal(decoded, q)
    assert codes.bit_width == {0: 1, 1: 1, 2: 1, 3: 2, 254: 8}[distinct] and len(codes.codebook) == 2**codes.bit_width


def test_names_in_the_header_are_all_that_is_not_a_number(tmp_path):
    path = tmp_path / "dense.safetensors"
    _write_dense(samples.factory(), "head", [3], path)
    header = json.loads(path.read_bytes()[8 : header_bytes(path)])
    assert set(header) == set(load_file(path))


def test_int8_vectors_over_a_trunk_with_finer_scales(tmp_path):
    """Layers that a task shares have the trunk's scales, which are no int8 steps; alone they are stored like the task's own."""
    store = Store.create(tmp_path / "store", trunk=samples.trunk("checkpoint"), graph=samples.graph(), recipe={})
    context = samples.make_context(store, samples.make_data(), epochs=1, plan=samples.plan(layer_overrides={"conv[34]": {"encoding": "shared"}}))
    store.commit(samples.learn("tsn", replace(context, precision=Precision(vectors="int8"))), {})
    task = store.weights("first")
    assert not np.array_equal(round_vector(task.scale["conv3"], "int8"), task.scale["conv3"])
    found = measure_denominators(samples.factory, samples.graph(), store)["separate_encoded"]
    assert sum(q.size for q in task.q.values()) / 4 < found < 2 * sum(q.size for q in task.q.values()) + 8192
