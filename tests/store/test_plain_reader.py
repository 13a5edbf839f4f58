"""What docs/store-format.md says of kept entries and of codes where the golden stores leave a case out: its plain reader and the package agree."""

import numpy as np
import pytest
import store_samples as samples
from plain_reader import PlainStore
from plain_reader_blobs import Blob, codes

from tsn_toolkit.contracts import GroupMember, HeadState, LayerRecord, ModelGraph, NormState, TaskResult, UnitGroup
from tsn_toolkit.store.part import BlobReader
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.values import decode_codes

UNITS = np.arange(6)
VECTORS = {
    # path of a norm or bias -> its members of dimension 0: parameter -> units
    "both": {"both.weight": UNITS, "both.bias": UNITS[::-1]},
    "weighted": {"weighted.weight": UNITS[::-1]},
    "mean": {"mean.running_mean": UNITS, "mean.running_var": UNITS[::-1]},
    "variance": {"variance.running_var": UNITS},
    "itself": {"itself": UNITS[::-1]},
    "neighbour": {"neighbour.weight.extra": UNITS},
}
KEPT = {name: [1, 1, 1, 1, 0, 1] if name in ("both", "weighted", "itself") else [1, 0, 1, 1, 1, 1] for name in VECTORS} | {"neighbour": [1] * 6}


def test_each_vector_is_of_the_entries_that_the_page_names(tmp_path):
    """Unit 1 of six is dead; a vector whose units run backwards lacks entry 4."""
    members = [GroupMember(parameter, 0, units) for named in VECTORS.values() for parameter, units in named.items()]
    members += [GroupMember("fc.weight", 0, UNITS), GroupMember("head.weight", 1, UNITS[::-1]), GroupMember("head.weight", 0, np.arange(2))]
    layers = (LayerRecord("fc", "Linear", (6, 3), 1), LayerRecord("head", "Linear", (2, 6), 1))
    graph = ModelGraph((), (), layers, (UnitGroup("units", 6, tuple(members), ("fc",)),), "head", (3,), "fingerprint")
    store = Store.create(tmp_path / "store", trunk=samples.SEED_TRUNK, graph=graph, recipe={})
    rng, mask = np.random.default_rng(0), UNITS != 1
    vectors = {name: samples.vector(rng, 6, np.array(kept, bool)) for name, kept in KEPT.items()}
    head = HeadState(rng.integers(1, 8, (2, 6)).astype(np.int8) * np.array(KEPT["both"], np.int8), samples.vector(rng, 2), samples.vector(rng, 2))
    layer = samples.own_layer(rng, np.repeat(mask[:, None], 3, 1) * samples.OWN, 2)
    norms = {name: NormState(vectors[name], vectors[name]) for name in list(VECTORS)[:2]}
    biases = {name: vectors[name] for name in list(VECTORS)[2:]}
    store.commit(TaskResult("t", "trunk", "exact", "sample", (0, 1), {"units": mask}, {"fc": layer}, norms, biases, head, {}), {})
    plain = PlainStore(store.path)
    for name, vector in vectors.items():
        assert {**plain.norms["t"], **plain.biases["t"]}[name][0] == vector.tolist(), name
        assert (vector > 0).tolist() == KEPT[name]
    assert plain.heads["t"][0] == head.codes.tolist() == store.weights("t").head.codes.tolist()
    assert plain.q["t"]["fc"] == store.weights("t").q["fc"].reshape(-1).tolist()


@pytest.mark.parametrize(
    ("data", "width", "expected"),
    [
        ("02 00000000 00", 2, [0] * 9),  # a table of counts that are all 0: everything is symbol 0
        ("02 0000ff00 00", 2, [2] * 9),
        ("01 0000 0000 0080 00", 2, [2] * 9),
        ("01 0000 0000 0000 00", 2, [3] * 9),
        ("00 1b", 2, [3, 2, 1, 0]),
    ],
)
def test_codes_of_one_symbol(data, width, expected):
    data = bytes.fromhex(data)
    plain, blob = Blob(data), BlobReader.of("values", data)
    assert codes(plain, len(expected), width) == decode_codes(blob, len(expected), width).tolist() == expected
    assert plain.at == len(data)
    blob.finish()
