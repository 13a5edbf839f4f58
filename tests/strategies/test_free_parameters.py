"""Free parameters under every strategy: who trains and owns them, what is measured is what is stored, and extraction slices them."""

import copy
import dataclasses
import functools

import free_parameter_nets as nets
import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.extract import extract, masked_model
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.numerics.vector_rows import round_rows
from tsn_toolkit.parts.trunk import checkpoint_trunk, seed_trunk
from tsn_toolkit.plan.make import make_plan
from tsn_toolkit.plan.settings import PlanSettings
from tsn_toolkit.store.part import FREE
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import Precision
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import Phase, evaluate, fit

NETS = {"vit": nets.tiny_vit, "cnn": nets.scaled_cnn}
FIRST, SECOND, THIRD = ("first", (0, 1, 2)), ("second", (5, 3, 4)), ("third", (1, 4, 2))
NAMES = {
    "vit": {"cls_token", "pos_embed", "blocks.0.scale1.gamma", "blocks.0.scale2.gamma"},
    "cnn": {"offset", "gamma"},
}


def factory(net):
    with seeded(0):
        return NETS[net]().eval()


@functools.cache
def graph(net):
    return trace(factory(net), torch.zeros(1, *samples.IMAGE))


@functools.cache
def trunk(net, kind):
    if kind == "seed":
        return seed_trunk(0)
    model, data = factory(net), samples.make_data("all", range(6), train=192)
    phase = Phase("checkpoint", 2, 0.05)
    fit(model, data, phase, samples.SETTINGS, parameters=[{"params": list(model.parameters())}], generator=torch.Generator().manual_seed(0))
    return checkpoint_trunk(model.eval(), graph(net), bit_width=6, max_code=127, seed=0)


class Laboratory:
    """A store of one net, in which tasks are learned and committed."""

    def __init__(self, path, net, kind, **plan):
        self.net = net
        self.plan = make_plan(graph(net), PlanSettings(**{"density": 0.5, "bit_width": 3, "trunk_bit_width": 6, **plan}))
        self.store = Store.create(path / f"{net}-{kind}", trunk=trunk(net, kind), graph=graph(net), recipe={})

    def context(self, task, parent="trunk", **changes):
        data = samples.make_data(*task, train=96)
        context = samples.make_context(self.store, data, parent=parent, factory=lambda: factory(self.net), graph=graph(self.net), plan=self.plan)
        revision = None if parent == "trunk" else self.store.revision(parent)
        return dataclasses.replace(context, epochs=2, learning_rate=0.05, revision=revision, **changes)

    def learn(self, strategy, task, parent="trunk", options=None, **changes):
        """The result, committed."""
        result = samples.learn(strategy, self.context(task, parent, **changes), **(options or {}))
        self.store.commit(result, {})
        return result

    def owned(self, task):
        return {record.name for record in self.store.part(task).owned_parameters}

    def values(self, task):
        return Store.open(self.store.path).weights(task).free_parameters


@pytest.fixture
def lab(tmp_path):
    return lambda *arguments, **plan: Laboratory(tmp_path, *arguments, **plan)


def assert_same(one, other, names=None):
    for name in names or one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def kept_entries(net, weights):
    """Free parameter -> bool, its shape: entries of no dead unit, as the graph's members say."""
    kept = {name: np.ones(value.shape, bool) for name, value in weights.free_parameters.items()}
    for group in graph(net).groups:
        for member in group.members:
            if member.parameter in kept and group.name in weights.unit_masks:
                stays = weights.unit_masks[group.name][member.unit]
                kept[member.parameter] &= stays.reshape([-1 if dim == member.dim else 1 for dim in range(kept[member.parameter].ndim)])
    return kept


def assert_measured_is_stored(lab, result):
    """The claim is what the store's numbers score, and the small module that leaves the store answers like the masked one."""
    weights, data = (
        Store.open(lab.store.path).weights(result.name),
        samples.make_data(*next(t for t in (FIRST, SECOND, THIRD) if t[0] == result.name), train=96),
    )
    loss, accuracy = evaluate(masked_model(lambda: factory(lab.net), graph(lab.net), weights), data.validation, data, samples.CPU)
    assert accuracy == result.validation["accuracy"] and loss == pytest.approx(result.validation["loss"], rel=1e-6)
    extracted = extract(lambda: factory(lab.net), graph(lab.net), weights)
    assert extracted.proof_error <= 1e-5
    return extracted


@pytest.mark.parametrize("vectors", ["half", "int8"])
@pytest.mark.parametrize("units", [1.0, 0.5])
@pytest.mark.parametrize("net", NETS)
def test_a_root_task_over_a_seed_owns_them_and_its_line_inherits(lab, net, units, vectors):
    lab = lab(net, "seed", units_keep=units)
    precision = Precision(vectors=vectors)
    first = lab.learn("tsn", FIRST, precision=precision)
    extracted = assert_measured_is_stored(lab, first)
    fresh = {name: value.detach().numpy() for name, value in free_parameters(factory(net)).items()}
    assert lab.owned("first") == set(first.free_parameters) == set(fresh) == NAMES[net]
    for name, value in first.free_parameters.items():
        assert not np.array_equal(value, round_rows(fresh[name], vectors)), f"{name} was trained"
        np.testing.assert_array_equal(round_rows(value, vectors), value)
        small, kept = free_parameters(extracted.model)[name].detach().numpy(), kept_entries(net, lab.store.weights("first"))[name]
        np.testing.assert_array_equal(small.reshape(-1), value[kept])
        assert not value[~kept].any()
    second = lab.learn("tsn", SECOND, "first", precision=precision)
    third = lab.learn("tsn", THIRD, "second", precision=precision)
    for task, result, parent in (("second", second, "first"), ("third", third, "second")):
        assert_measured_is_stored(lab, result)
        inherited, values = lab.store.frozen_parameters(parent), lab.values(task)
        kept = kept_entries(net, lab.store.weights(task))
        for name, value in values.items():
            without = not inherited[name].present[kept[name]].all()
            assert (name in lab.owned(task)) == (name in result.free_parameters) == without, (task, name)
            if not without:
                np.testing.assert_array_equal(value, np.where(kept[name], inherited[name].value, 0))
    if net == "vit" or units == 1.0:
        assert lab.owned("second") == lab.owned("third") == set()
        assert FREE not in lab.store.part("third").part.sizes_bytes
        assert_same(lab.values("third"), first.free_parameters)


def test_units_that_the_parent_lacks_make_a_task_an_owner(lab):
    """Of `cnn` the groups run through the parameters: a child that keeps a unit which nobody kept trains and owns what goes through it."""
    lab = lab("cnn", "seed", units_keep=0.5)
    first = lab.learn("tsn", FIRST)
    other = {name: ~mask for name, mask in first.unit_masks.items()}
    from tsn_toolkit.strategies import tsn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsn, "kept_units", lambda *_, **__: other)
        second = lab.learn("tsn", SECOND, "first")
        third = lab.learn("tsn", THIRD, "second")
    assert lab.owned("second") == {"offset", "gamma"} and lab.owned("third") == set()
    assert_measured_is_stored(lab, second)
    assert_measured_is_stored(lab, third)
    assert_same(lab.values("third"), lab.values("second"))
    view = lab.store.frozen_parameters("third")["gamma"]
    assert view.present.all()
    kept = first.unit_masks["conv1"]
    np.testing.assert_array_equal(view.value[kept], first.free_parameters["gamma"][kept])
    np.testing.assert_array_equal(view.value[~kept], second.free_parameters["gamma"][~kept])


@pytest.mark.parametrize("units", [1.0, 0.5])
@pytest.mark.parametrize("net", NETS)
def test_over_a_trained_trunk_they_stay_the_trunks(lab, net, units):
    lab = lab(net, "checkpoint", units_keep=units)
    held = trunk(net, "checkpoint").free_parameters
    for task, parent in ((FIRST, "trunk"), (SECOND, "first")):
        result = lab.learn("tsn", task, parent)
        assert result.free_parameters == {} and lab.owned(task[0]) == set()
        extracted = assert_measured_is_stored(lab, result)
        kept = kept_entries(net, lab.store.weights(task[0]))
        for name, value in lab.values(task[0]).items():
            np.testing.assert_array_equal(value, np.where(kept[name], held[name], 0))
            assert free_parameters(extracted.model)[name].numel() == np.count_nonzero(kept[name])


@pytest.mark.parametrize("kind", ["seed", "checkpoint"])
def test_tasks_may_own_theirs(lab, kind):
    lab = lab("vit", kind)
    first = lab.learn("tsn", FIRST, own_free_parameters=True, precision=Precision(vectors="int8"))
    second = lab.learn("tsn", SECOND, "first", own_free_parameters=True)
    assert lab.owned("first") == lab.owned("second") == NAMES["vit"]
    for name in NAMES["vit"]:
        assert not np.array_equal(first.free_parameters[name], second.free_parameters[name])
    assert_measured_is_stored(lab, first)
    assert_measured_is_stored(lab, second)


def test_a_parameter_that_asks_for_no_gradient_stays(lab):
    lab = lab("cnn", "seed")

    def fixed():
        model = factory("cnn")
        model.offset.requires_grad_(False)
        return model

    first = lab.learn("tsn", FIRST, factory=fixed)
    offset = round_rows(factory("cnn").offset.detach().numpy(), "half")
    np.testing.assert_array_equal(first.free_parameters["offset"], offset)
    lab.learn("tsn", SECOND, "first", factory=fixed, own_free_parameters=True, precision=Precision(vectors="int8"))
    assert lab.owned("second") == {"gamma"}, "nobody trained the other one, so it is not rounded anew"


def token_data(name, classes):
    """Sentences whose first words tell the class."""
    random = np.random.default_rng([7, *classes])

    def split(count):
        y = random.integers(len(classes), size=count)
        x = random.integers(1, 40, (count, 12))
        x[:, :4] = 6 * np.array(classes)[y][:, None] + random.integers(1, 6, (count, 4))
        return Split(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))

    return TaskData(name, tuple(classes), split(96), split(45), split(45))


@pytest.mark.parametrize("units", [1.0, 0.5])
def test_a_text_model_with_an_embedding(tmp_path, units):
    with seeded(0):
        model = nets.token_net().eval()
    traced = trace(model, torch.zeros(1, 12))
    assert traced.inputs[0].upper == 40 and [layer.name for layer in traced.layers] == ["conv", "head"]
    plan = make_plan(traced, PlanSettings(density=0.5, bit_width=4, units_keep=units))
    store = Store.create(tmp_path / "store", trunk=seed_trunk(0), graph=traced, recipe={})
    results = []
    for task, parent in ((FIRST, "trunk"), (SECOND, "first")):
        data = token_data(*task)
        context = samples.make_context(store, data, parent=parent, factory=lambda: copy.deepcopy(model), graph=traced, plan=plan)
        results.append(samples.learn("tsn", dataclasses.replace(context, epochs=2, learning_rate=0.1)))
        store.commit(results[-1], {})
        weights = Store.open(store.path).weights(task[0])
        masked = masked_model(lambda: copy.deepcopy(model), traced, weights)
        loss, accuracy = evaluate(masked, data.validation, data, samples.CPU)
        assert accuracy == results[-1].validation["accuracy"] and loss == pytest.approx(results[-1].validation["loss"], rel=1e-6)
        extracted = extract(lambda: copy.deepcopy(model), traced, weights)
        assert extracted.proof_error <= 1e-5 and extracted.numbers_below == 40
        assert extracted.model.words.weight.shape == (40, 8 * units) and extracted.model.positions.shape == (12, 8 * units)
    assert set(results[0].free_parameters) == {"words.weight", "positions"}
    first, second = (store.weights(task).free_parameters for task in ("first", "second"))
    kept = [results[i].unit_masks.get("words", np.ones(8, bool)) for i in (0, 1)]
    inherits = bool((~kept[1] | kept[0]).all())
    assert inherits == (results[1].free_parameters == {}) and (units < 1 or inherits)
    if inherits:
        np.testing.assert_array_equal(second["words.weight"], first["words.weight"] * kept[1])


class Warm(nets.ScaledCnn):
    """With a parameter of no dimension."""

    def __init__(self):
        super().__init__()
        self.warmth = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return super().forward(x * self.warmth)


@pytest.mark.parametrize("strategy", ["tsn", "ewc", "esacl", "sparcl"])
def test_a_parameter_of_no_dimension(tmp_path, monkeypatch, strategy):
    monkeypatch.setitem(NETS, "warm", Warm)
    graph.cache_clear()
    lab = Laboratory(tmp_path, "warm", "seed")
    first = lab.learn(strategy, FIRST)
    second = lab.learn(strategy, SECOND, "first", earlier=lambda: (samples.make_data(*FIRST, train=96),))
    assert first.free_parameters["warmth"].shape == () and lab.owned("first") == {"warmth", "offset", "gamma"}
    assert ("warmth" in lab.owned("second")) == (strategy != "tsn")
    assert_measured_is_stored(lab, first)
    values = lab.values("second")["warmth"]
    np.testing.assert_array_equal(values, first.free_parameters["warmth"] if strategy == "tsn" else second.free_parameters["warmth"])
    graph.cache_clear()


@pytest.mark.parametrize("strategy", ["wsn", "packnet", "supsup"])
def test_strategies_of_free_slots(lab, strategy):
    lab = lab("cnn", "seed")
    first = lab.learn(strategy, FIRST)
    second = lab.learn(strategy, SECOND, "first")
    assert lab.owned("first") == NAMES["cnn"] and lab.owned("second") == set()
    assert_same(lab.values("second"), first.free_parameters)
    for result in (first, second):
        assert_measured_is_stored(lab, result)
    trained = not np.array_equal(first.free_parameters["gamma"], round_rows(factory("cnn").gamma.detach().numpy(), "half"))
    assert trained == (strategy != "supsup"), "supsup trains nothing but its masks"


def test_a_frozen_trunk_keeps_its_own(lab):
    lab = lab("vit", "checkpoint")
    result = lab.learn("frozen_trunk", FIRST, own_free_parameters=True, precision=Precision(vectors="int8"))
    assert lab.owned("first") == set()
    assert_same(lab.values("first"), trunk("vit", "checkpoint").free_parameters)
    assert_measured_is_stored(lab, result)


REVISIONS = {
    "finetune": {},
    "ewc": {"fisher_examples": 32},
    "esacl": {"sparsity": 0.5},
    "sparcl": {"sparsity": 0.5, "granularity": "unit"},
    "der": {"buffer": 20},
}


@pytest.mark.parametrize("kind", ["seed", "checkpoint"])
@pytest.mark.parametrize("strategy", REVISIONS)
@pytest.mark.parametrize("net", NETS)
def test_each_revision_owns_the_whole_network(lab, net, strategy, kind):
    lab = lab(net, kind)
    first = lab.learn(strategy, FIRST, options=REVISIONS[strategy])
    assert_measured_is_stored(lab, first)
    earlier = (samples.make_data(*FIRST, train=96),)
    second = lab.learn(strategy, SECOND, "first", options=REVISIONS[strategy], earlier=lambda: earlier)
    assert lab.owned("first") == lab.owned("second") == NAMES[net]
    assert_same(lab.values("first"), first.free_parameters)
    assert_same(lab.values("second"), second.free_parameters)
    extracted = extract(lambda: factory(net), graph(net), lab.store.weights("second"))
    kept = kept_entries(net, lab.store.weights("second"))
    for name, value in second.free_parameters.items():
        assert free_parameters(extracted.model)[name].numel() == np.count_nonzero(kept[name])
        assert not np.array_equal(value, first.free_parameters[name])


@pytest.mark.parametrize("net", NETS)
def test_the_same_seed_gives_the_same_values_and_the_first_task_never_changes(tmp_path, net):
    stores = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        lab = Laboratory(tmp_path / name, net, "seed", units_keep=0.5)
        lab.learn("tsn", FIRST)
        before = (lab.store.path / lab.store.entry("first").path).read_bytes(), lab.values("first")
        lab.learn("tsn", SECOND, "first")
        assert (lab.store.path / lab.store.entry("first").path).read_bytes() == before[0]
        assert_same(lab.values("first"), before[1])
        stores.append({entry.name: (lab.store.path / entry.path).read_bytes() for entry in lab.store.entries})
    assert stores[0] == stores[1]
