"""Layers in flash once: what is stored, how many bytes, and that every task still computes with its own integers."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenLayer
from tsn_toolkit.export.c.layer_weights import LayerWeights, own_weights
from tsn_toolkit.export.c.operations import Convolution
from tsn_toolkit.export.c.packing import unpack_values
from tsn_toolkit.export.c.program import generate
from tsn_toolkit.export.c.read_back import WeightText
from tsn_toolkit.export.c.reference import run_reference, stored_bytes
from tsn_toolkit.export.c.share import OwnerView, TaskSlots, share_weights
from tsn_toolkit.numerics.bits import unpack_bits

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_models import answers, build, main_of, random_bytes  # noqa: E402
from shared_family import KEPT, family  # noqa: E402

SANITIZERS = ("-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")


def unpack_weights(weights: LayerWeights) -> NDArray[np.int8]:
    """int8 (outputs, inputs * taps), what the program computes with."""
    q = unpack_values(weights.values)
    if weights.rows is not None:
        q = q[weights.rows]
    if weights.columns is not None:
        q = q.reshape(len(q), -1, weights.taps)[:, weights.columns].reshape(len(q), -1)
    if weights.used is not None:
        q = q * unpack_bits(weights.used.tobytes(), 1, q.size).reshape(q.shape).astype(np.int8)
    return q


def codes_of(tasks, task, layer):
    return next(item for item in tasks[task].program.operations if item.layer == layer).codes


@pytest.fixture(scope="module")
def shared():
    tasks, owners = family()
    return tasks, share_weights(tasks, owners)


def test_every_task_reads_its_own_integers(shared):
    tasks, weights = shared
    for task, layers in weights.items():
        for layer, item in layers.items():
            codes = codes_of(tasks, task, layer)
            assert np.array_equal(unpack_weights(item), codes.reshape(len(codes), -1)), (task, layer)


def test_what_is_stored(shared):
    """conv2: 3,456 values of the trunk for all; each owner's own values over them; rows, columns and used bits where a task has them."""
    tasks, weights = shared
    child, grandchild, narrow = (weights[task]["conv2"] for task in tasks)
    trunk = narrow.values
    assert trunk.read_in_place and trunk.size_bytes == 3456
    assert child.values.under is trunk and grandchild.values.under is child.values
    own = int((codes_of(tasks, "child", "conv2") != unpack_weights(replace(child, values=trunk)).reshape(24, 16, 3, 3)).sum())
    assert child.values.places == "gaps" and child.values.size_bytes <= -(-own // 2) + 15 + own + 25 * 4
    assert (child.selection_bytes, grandchild.selection_bytes) == (0, 3456 // 8)
    assert narrow.rows.tolist() == KEPT["conv2"].tolist() and narrow.columns.tolist() == KEPT["conv1"].tolist()
    heads = [weights[task]["head"].values for task in tasks]
    assert len({id(values) for values in heads}) == 3


def test_a_layer_is_shared_only_where_that_saves_bytes():
    tasks, owners = family()
    alone = share_weights({"narrow": tasks["narrow"]}, {name: owners[name] for name in ("trunk", "narrow")})["narrow"]
    assert alone["conv2"].rows is None and alone["conv2"].values.size_bytes == 12 * 10 * 9, "one narrow task alone: its own copy is smaller"
    both = share_weights({name: tasks[name] for name in ("child", "narrow")}, owners)
    assert both["narrow"]["conv2"].rows is not None


def test_a_layer_that_is_not_the_stores_is_not_shared():
    """A channel that had to be rounded anew differs from the store; so the task keeps a copy of its own, and so does everybody."""
    tasks, owners = family()
    program = tasks["child"].program
    first = program.operations[0]
    changed = replace(first, codes=first.codes ^ np.int8(1))
    tasks["child"] = TaskSlots(replace(program, operations=(changed, *program.operations[1:])), tasks["child"].slots)
    weights = share_weights(tasks, owners)
    assert np.array_equal(unpack_weights(weights["child"]["conv1"]), changed.codes.reshape(16, -1))
    assert weights["child"]["conv1"].values is not weights["narrow"]["conv1"].values
    assert weights["child"]["conv2"].values.under is weights["narrow"]["conv2"].values


def test_owners_without_a_common_trunk_store_their_slots_alone():
    """A fresh trunk owns nothing: the first task's slots lie at the bottom, those of its child over them; the other slots are 0."""
    random = np.random.default_rng(3)
    tasks, owners = family()
    first = random.random((24, 16, 3, 3)) < 0.3
    second = first | (random.random(first.shape) < 0.05)
    q = np.where(second, codes_of(tasks, "child", "conv2"), 0).astype(np.int8)
    views = {
        "trunk": OwnerView("", {"conv2": FrozenLayer(np.zeros_like(q), np.zeros_like(first), None)}),
        "child": OwnerView("trunk", {"conv2": FrozenLayer(np.where(first, q, 0).astype(np.int8), first, None)}),
        "grandchild": OwnerView("child", {"conv2": FrozenLayer(q, second, None)}),
    }
    given = {}
    for task, codes in (("child", np.where(first, q, 0).astype(np.int8)), ("grandchild", q)):
        program = tasks[task].program
        operations = tuple(replace(item, codes=codes) if item.layer == "conv2" else item for item in program.operations)
        given[task] = TaskSlots(replace(program, operations=operations), {"conv2": tasks[task].slots["conv2"]})
    weights = share_weights(given, views)
    assert weights["grandchild"]["conv2"].values.under is weights["child"]["conv2"].values
    assert np.array_equal(unpack_weights(weights["grandchild"]["conv2"]), q.reshape(24, -1))


def test_the_text_holds_the_integers(shared):
    tasks, weights = shared
    program = generate({task: member.program for task, member in tasks.items()}, weights=weights)
    text = WeightText(program.files["weights.c"])
    for task, records in program.weight_records.items():
        for layer, record in records.items():
            codes = codes_of(tasks, task, layer)
            assert np.array_equal(text.weights(record, codes.shape), codes), (task, layer)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_one_program_gives_every_tasks_own_bytes(shared, tmp_path):
    tasks, weights = shared
    programs = {task: member.program for task, member in tasks.items()}
    together = generate(programs, weights=weights)
    apart = {task: generate({task: program}) for task, program in programs.items()}
    assert together.flash_bytes < 0.75 * sum(program.flash_bytes for program in apart.values())
    for task, program in programs.items():
        inputs = random_bytes(program, 24)
        expected = stored_bytes(run_reference(program, inputs.astype(np.int64) + program.source.offset), program.target).reshape(len(inputs), -1)
        path = build(tmp_path / task, together.files | {"main.c": main_of(task)}, flags=SANITIZERS)
        outputs, best = answers([str(path)], program, inputs)
        assert len(np.unique(expected)) > 30
        assert np.array_equal(outputs, expected) and np.array_equal(best.astype(np.uint8), expected.argmax(1)), task


def test_own_weights_are_exact_for_every_form():
    random = np.random.default_rng(1)
    for density, values in ((1.0, 200), (1.0, 5), (0.4, 15), (0.03, 15)):
        book = random.choice(np.arange(1, 127), min(values, 126), replace=False)
        codes = np.where(random.random((12, 20, 3, 3)) < density, random.choice(book, (12, 20, 3, 3)), 0).astype(np.int8)
        assert np.array_equal(unpack_weights(own_weights(codes, where="conv")), codes.reshape(12, -1))


def test_operations_without_weights_are_left_alone(shared):
    tasks, weights = shared
    for task, member in tasks.items():
        assert set(weights[task]) == {item.layer for item in member.program.operations if isinstance(item, Convolution)}
