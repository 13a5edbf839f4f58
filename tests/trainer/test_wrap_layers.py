"""Which wrapper a layer gets: rule, scores, and what of the frozen view it computes with."""

import learning_samples as samples
import pytest
import torch

from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.plane_weight import plane_wrapped
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import starting_model
from tsn_toolkit.trainer.wrap_layers import wrap_layers_


def store_of(folder, kind):
    return Store.create(folder / kind, trunk=samples.trunk(kind), graph=samples.graph(), recipe={})


def wrap(context, **options):
    """Every layer wrapped, no unit removed; the full module's weights as they were, and the wrapped module."""
    model = starting_model(context)
    small = shrink(model.eval(), samples.graph(), {})
    wrap_layers_(small, context.plan.layers_of(child=context.start is not None), context, **options)
    return {name: model.get_submodule(name).weight.detach() for name in context.inherited}, small.model


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A store over a fresh trunk in which `second` leaves slots of `first` idle."""
    store = store_of(tmp_path_factory.mktemp("chain"), "seed")
    for data, parent in ((samples.make_data(), "trunk"), (samples.make_data("second", (3, 4, 5)), "first")):
        store.commit(samples.learn("tsn", samples.make_context(store, data, parent=parent), fresh_share=1.0), {})
    return store


def test_rules_by_what_is_inherited(tmp_path, chain):
    full = wrap(samples.make_context(store_of(tmp_path, "checkpoint"), samples.make_data()), reuse_bonus=2.0)[1]
    empty = wrap(samples.make_context(store_of(tmp_path, "seed"), samples.make_data()), reuse_bonus=2.0, refine_bits=3)[1]
    gaps = wrap(samples.make_context(chain, samples.make_data("third", (0, 5)), parent="second"), reuse_bonus=2.0, refine_bits=3)[1]
    found = [{(w.rule, w.scored, w.bonus, w.refine_bits) for _, w, _ in wrapped(model)} for model in (full, empty, gaps)]
    assert found == [{("replace", False, 0.0, 0)}, {("select", True, 0.0, 3)}, {("select", True, 2.0, 3)}]
    assert {(w.density, w.bit_width, w.max_code, w.granularity) for _, w, _ in wrapped(gaps)} == {(0.4, 3, 127, "element")}


def test_slots_that_the_parent_uses_are_preferred_and_all_owners_are_inherited(chain):
    context = samples.make_context(chain, samples.make_data("third", (0, 5)), parent="second")
    idle = 0
    for name, wrapper, _ in wrapped(wrap(context)[1]):
        uses, present = torch.from_numpy(context.start.q[name] != 0), torch.from_numpy(context.inherited[name].present)
        assert torch.equal(wrapper.preferred, uses) and torch.equal(wrapper.present, present)
        idle += int((present & ~uses).sum())
    assert idle > 0, "else `preferred` and `present` say the same"


def test_a_changed_layer_inherits_its_parent_alone_and_begins_at_zero_elsewhere(chain):
    plan = samples.plan(child_overrides={"conv3": {"density": 0.2}})
    context = samples.make_context(chain, samples.make_data("third", (0, 5)), parent="second", plan=plan)
    before, model = wrap(context)
    changed = {name: (wrapper, latent) for name, wrapper, latent in wrapped(model) if wrapper.rule == "replace"}
    assert set(changed) == {"conv3"}
    wrapper, latent = changed["conv3"]
    frozen = context.inherited["conv3"]
    present, uses = torch.from_numpy(frozen.present), torch.from_numpy(context.start.q["conv3"] != 0)
    assert wrapper.scored and wrapper.density == 0.2
    assert torch.equal(wrapper.present, present & uses) and torch.equal(wrapper.inherited_q, torch.from_numpy(frozen.q) * uses.float())
    assert torch.equal(latent, before["conv3"] * ~(present & ~uses)) and (before["conv3"][present & ~uses] != 0).any()


def test_planes_stand_over_every_owner_and_shared_layers_are_not_trained(chain):
    plan = samples.plan(units_keep=1.0, child_overrides={"conv3": {"encoding": "planes"}, "conv2": {"encoding": "shared"}})
    context = samples.make_context(chain, samples.make_data("third", (0, 5)), parent="second", plan=plan)
    before, model = wrap(context)
    ((name, plane, _),) = plane_wrapped(model)
    assert name == "conv3" and torch.equal(plane.inherited_q, torch.from_numpy(context.inherited[name].q).float())
    assert {name for name, _, _ in wrapped(model)} == {"conv1", "conv4"}
    assert not model.conv2.weight.requires_grad and torch.equal(model.conv2.weight, before["conv2"])
