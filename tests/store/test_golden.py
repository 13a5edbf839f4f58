"""Stores of schema versions 1 and 2 as they were written once: every later version reads them, and this one gives their bytes again."""

import shutil

import numpy as np
import pytest
import zstandard
from golden_store import FOLDER, PACKED_STORES, graph_of
from plain_reader import PlainStore
from plain_reader_image import PlainImage

from tsn_toolkit.contracts import LayerCodes, LayerPlanes, TaskResult
from tsn_toolkit.numerics.large_runs import decode_large_run
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.mask_forms import Layout, Marks
from tsn_toolkit.store.packing import pack_store
from tsn_toolkit.store.part import BlobReader
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.values import COARSE, CODED, LARGE, PACKED, decode_codes
from tsn_toolkit.store.varint import take_varint

HASHES = {
    "seed": {
        "first": "1720ed602783d913a2d178a737381428a046c677605d64a7da66305e7f912324",
        "patterned": "07301a6232728153ee02f756aa02763fd72d9e5cd093ce4f9316a61cc1504c98",
        "refined": "f43da431eff72ef111cd29672efb560c0c2d60c1c0f94c32e4f9f327660a68b5",
        "beside": "28cba619c0fc2de054c969ab6e85a941171cfcfbda75b22577db760e7edf8153",
    },
    "checkpoint": {"owning": "ddc032a29b24d6722c99d1224bb2a1208da860d2b8cc17c2583771adb97b386c"},
    "free": {
        "first": "ea49ec6fabe6297129567831c37e7029ee12a1c73b99c9eebdfb008e8920ffcd",
        "heir": "7ae9cab88ae10ce889d0f4a2ad41efcb982b01785b4f3d7fc6918fd1e4ca9605",
        "wide": "50bb3a41cf9cea198eb478279b56d3d55f3435dfb44cdefbf0a7933b01f6e30d",
    },
    "free_trunk": {
        "kept": "455c6d209a08b9bb825fef8379cf5a5c05a6a9780fbd19557143b21ceb317a0f",
        "own": "7decd3fadd08f2c1062bfd1d406c0cb09c0216ddd67a1209fc1785e78cbf3459",
    },
    "edges": {
        "gaps": "9c4df991b3a9d49f04453dc0a7b6046eb9f5437b666a285685b30cd3d5cc7b0d",
        "one": "6eb9b17ccc930f856a7cd776b776ed9b401a52f8a0c622d2643d8b2835f47f66",
        "old": "bfda60e517df606bb26965bede7bb9696d868559e51bada274b5c277d1c944bd",
        "new": "43547733bb73df8c438872750aae2932f5b3097583baba168f1ec741e29859b1",
    },
}
LARGE_RUNS_BY = (1, 5, 7)
"""Version of Zstandard that wrote the frames of `edges`; another one may write other bytes for the same codes."""


@pytest.fixture(params=sorted(HASHES))
def golden(request):
    return Store.open(FOLDER / request.param)


def test_integers_are_what_they_were(golden):
    assert {entry.name: golden.codes_hash(entry.name) for entry in golden.entries} == HASHES[golden.path.name]


def test_a_reader_written_from_the_document_reads_the_same(golden):
    assert_reads_the_same(PlainStore(golden.path), golden)


def assert_reads_the_same(plain, store):
    assert set(plain.q) == {"trunk", *HASHES[store.path.name]}
    for entry in store.entries:
        weights = store.weights(entry.name)
        for layer, q in weights.q.items():
            assert q.reshape(-1).tolist() == plain.q[entry.name][layer], (entry.name, layer)
            assert weights.scale[layer].tolist() == plain.scales[entry.name][layer]
        for module, norm in weights.norms.items():
            assert [norm.gain.tolist(), norm.shift.tolist()] == plain.norms[entry.name][module]
        assert [[bias.tolist()] for bias in weights.biases.values()] == list(plain.biases[entry.name].values())
        assert {name: value.reshape(-1).tolist() for name, value in weights.free_parameters.items()} == plain.free[entry.name]
        codes, scale, bias = plain.heads[entry.name]
        assert (weights.head.codes.tolist(), weights.head.scale.tolist(), weights.head.bias.tolist()) == (codes, scale, bias)
        ranges = {name: (span.scale, span.zero_point, span.signed) for name, span in weights.ranges.items()}
        assert ranges == plain.ranges[entry.name]
        revision = store.revision(entry.name)
        described = plain.revisions[entry.name]
        if revision is None:
            assert described is None
            continue
        assert [[task, list(logits)] for task, logits in revision.rows.items()] == described["rows"]
        assert revision.task_known is described["task_known"]
        assert {name: array.reshape(-1).tolist() for name, array in revision.memory.items()} == plain.memory[entry.name]


def test_todays_writer_gives_the_same_bytes(golden, tmp_path):
    if golden.path.name == "edges" and zstandard.ZSTD_VERSION != LARGE_RUNS_BY:
        pytest.skip(f"its large runs are frames of Zstandard {LARGE_RUNS_BY}, this is {zstandard.ZSTD_VERSION}")
    again = Store.create(tmp_path / "store", trunk=golden.trunk(), graph=graph_of(golden.path.name), recipe=golden.recipe("trunk"))
    for entry in golden.entries:
        again.commit(result_of(golden, entry.name), golden.recipe(entry.name))
    for file in sorted(path.relative_to(golden.path) for path in golden.path.rglob("*") if path.is_file()):
        assert (again.path / file).read_bytes() == (golden.path / file).read_bytes(), file


@pytest.mark.parametrize("name", PACKED_STORES)
def test_a_packed_file_gives_its_store_back(name, tmp_path):
    store = Store.open(FOLDER / name)
    image = JointImage.open(FOLDER / f"{name}.tsn")
    assert {entry.name: image.store().codes_hash(entry.name) for entry in image.entries} == HASHES[name]
    files = {path.relative_to(store.path).as_posix(): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    assert image.files() == files
    pack_store(store, tmp_path / "again.tsn")
    assert (tmp_path / "again.tsn").read_bytes() == (FOLDER / f"{name}.tsn").read_bytes()


@pytest.mark.parametrize("name", PACKED_STORES)
def test_a_reader_of_packed_files_written_from_the_document_reads_the_same(name):
    assert_reads_the_same(PlainImage(FOLDER / f"{name}.tsn"), Store.open(FOLDER / name))


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
        revision=store.revision(task),
        free_parameters=store.part(task).free_parameters(),
    )


def test_everything_is_in_them():
    forms, precisions, encodings, code_forms, large, widths, blobs = [], set(), set(), set(), set(), set(), set()
    for folder in HASHES:
        store = Store.open(FOLDER / folder)
        for name in ("trunk", *HASHES[folder]):
            part = store.part(name)
            precisions.add(part.precision)
            values = part.part.blob("values")
            blobs.add(len(part.part.sizes_bytes))
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
                    form = before.take(1)[0] if count else PACKED
                    code_forms.add(form)
                    if form == LARGE:
                        large.add(before.take(take_varint(before))[0])
                    decode_codes(values, count, width)
    assert {form.layout for form in forms} == set(Layout) and {form.marks for form in forms} == set(Marks)
    assert max(form.depth for form in forms) > 0 and precisions == {"half", "int8"}
    assert encodings == {"LayerCodes", "LayerPlanes", "NoneType"} and code_forms == {PACKED, CODED, COARSE, LARGE} and max(widths) > 5
    assert large == {0, 1} and blobs == {9, 10, 11}


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
