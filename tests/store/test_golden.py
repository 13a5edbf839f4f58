"""Stores of schema version 1 as they were written once: every later version reads them, and this one gives their bytes again."""

import shutil

import numpy as np
import pytest
import store_samples as samples
from golden_store import FOLDER, WIDTH
from plain_reader import PlainStore

from tsn_toolkit.contracts import LayerCodes, LayerPlanes, TaskResult
from tsn_toolkit.numerics.large_runs import decode_large_run
from tsn_toolkit.store.mask_forms import Layout, Marks
from tsn_toolkit.store.part import BlobReader
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.values import COARSE, CODED, LARGE, PACKED, decode_codes

HASHES = {
    "seed": {
        "first": "1720ed602783d913a2d178a737381428a046c677605d64a7da66305e7f912324",
        "patterned": "07301a6232728153ee02f756aa02763fd72d9e5cd093ce4f9316a61cc1504c98",
        "refined": "f43da431eff72ef111cd29672efb560c0c2d60c1c0f94c32e4f9f327660a68b5",
        "beside": "28cba619c0fc2de054c969ab6e85a941171cfcfbda75b22577db760e7edf8153",
    },
    "checkpoint": {"owning": "ddc032a29b24d6722c99d1224bb2a1208da860d2b8cc17c2583771adb97b386c"},
}


@pytest.fixture(params=sorted(HASHES))
def golden(request):
    return Store.open(FOLDER / request.param)


def test_integers_are_what_they_were(golden):
    assert {entry.name: golden.codes_hash(entry.name) for entry in golden.entries} == HASHES[golden.path.name]


def test_a_reader_written_from_the_document_reads_the_same(golden):
    plain = PlainStore(golden.path)
    assert set(plain.q) == {"trunk", *HASHES[golden.path.name]}
    for entry in golden.entries:
        weights = golden.weights(entry.name)
        for layer, q in weights.q.items():
            assert q.reshape(-1).tolist() == plain.q[entry.name][layer], (entry.name, layer)
            assert weights.scale[layer].tolist() == plain.scales[entry.name][layer]
        for module, norm in weights.norms.items():
            assert [norm.gain.tolist(), norm.shift.tolist()] == plain.norms[entry.name][module]
        assert [[bias.tolist()] for bias in weights.biases.values()] == list(plain.biases[entry.name].values())
        codes, scale, bias = plain.heads[entry.name]
        assert (weights.head.codes.tolist(), weights.head.scale.tolist(), weights.head.bias.tolist()) == (codes, scale, bias)


def test_todays_writer_gives_the_same_bytes(golden, tmp_path):
    graph = samples.make_graph(WIDTH)
    again = Store.create(tmp_path / "store", trunk=golden.trunk(), graph=graph, recipe=golden.recipe("trunk"))
    for entry in golden.entries:
        again.commit(result_of(golden, entry.name), golden.recipe(entry.name))
    for file in sorted(path.relative_to(golden.path) for path in golden.path.rglob("*") if path.is_file()):
        assert (again.path / file).read_bytes() == (golden.path / file).read_bytes(), file


def result_of(store: Store, task: str) -> TaskResult:
    """What was committed, from what is decoded."""
    weights, entry = store.weights(task), store.entry(task)
    layers: dict[str, LayerCodes | LayerPlanes] = {}
    for name, held in store.held(task).items():
        if isinstance(held.own, LayerCodes):
            layout, sizes = held.form.layout, held.form.sizes
            granularity = {Layout.BLOCKS: "block({})", Layout.CHOICES: "{}:{}"}.get(layout, "element").format(*sizes)
            layers[name] = LayerCodes(**{**vars(held.own), "granularity": granularity})
        elif held.own is not None:
            layers[name] = held.own
    return TaskResult(
        name=task,
        parent=entry.parent,
        isolation=entry.isolation,
        strategy=entry.strategy,
        classes=weights.classes,
        unit_masks=weights.unit_masks,
        layers=layers,
        norms=weights.norms,
        biases=weights.biases,
        head=weights.head,
        ranges=weights.ranges,
        validation=store.validation(task),
        vector_precision=store.part(task).precision,
    )


def test_everything_is_in_them():
    forms, precisions, encodings, code_forms, widths = [], set(), set(), set(), set()
    for folder in HASHES:
        store = Store.open(FOLDER / folder)
        for name in ("trunk", *HASHES[folder]):
            part = store.part(name)
            precisions.add(part.precision)
            values = part.part.blob("values")
            for layer, held in store.layers(name):
                encodings.add(type(held.own).__name__)
                forms += [held.form] if held.form is not None else []
                kept = store.architecture.kept_slots(part.unit_masks, layer)
                if isinstance(held.own, LayerCodes):
                    widths.add(held.own.bit_width)
                    runs = [(len(held.own.codes), held.own.bit_width)]
                    runs += [] if held.own.refinement is None else [(len(held.own.refinement.codes), held.own.refinement.bit_width)]
                else:
                    runs = [(kept.size, 1)] if held.own is not None else []
                for count, width in runs:
                    before = BlobReader(values._name, values._source, values._offset, values._end - values._offset)
                    code_forms |= {before.take(1)[0]} if count else set()
                    decode_codes(values, count, width)
    assert {form.layout for form in forms} == set(Layout) and {form.marks for form in forms} == set(Marks)
    assert max(form.depth for form in forms) > 0 and precisions == {"half", "int8"}
    assert encodings == {"LayerCodes", "LayerPlanes", "NoneType"} and code_forms == {PACKED, CODED, COARSE} and max(widths) > 5


def test_a_large_run_of_this_version():
    payload = bytes.fromhex("0028b52ffd6088128d00003080000100030003500200754a3b7a1515")
    codes = np.zeros(20_000, np.uint8)
    codes[[3, 700, 19_000]] = [2, 1, 3]
    np.testing.assert_array_equal(decode_large_run(payload, 4, 20_000), codes)
    data = bytes([LARGE, len(payload)]) + payload
    np.testing.assert_array_equal(decode_codes(BlobReader.of("values", data), 20_000, 2), codes)


def test_a_changed_golden_byte_is_seen(tmp_path):
    shutil.copytree(FOLDER / "seed", tmp_path / "seed")
    part = tmp_path / "seed" / "trunk.safetensors"
    part.write_bytes(part.read_bytes().replace(b'"seed\\":7', b'"seed\\":8'))
    with pytest.raises(Exception, match="trunk.safetensors"):
        Store.open(tmp_path / "seed")
