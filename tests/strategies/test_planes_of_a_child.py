"""A plane stands over the whole frozen view: also over slots that the parent gave up and the child keeps.

The net is wide enough for planes beside a plan that drops units: `learning_samples.WIDTH` leaves a unit too few inputs.
"""

import functools

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import LayerPlanes
from tsn_toolkit.extract import extract, masked_model
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.trunk import checkpoint_trunk
from tsn_toolkit.plan.make import make_plan
from tsn_toolkit.plan.settings import PlanSettings
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer import finish_task
from tsn_toolkit.trainer.loop import Phase, evaluate, fit

PLANES = ("conv3", "conv4")
FIRST, SECOND = samples.make_data(), samples.make_data("second", (3, 4, 5))


def wide_net():
    with samples.seeded(0):
        return small_cnn(width=8, classes=samples.CLASSES).eval()


@functools.cache
def wide_graph():
    return trace(wide_net(), torch.zeros(1, *samples.IMAGE))


def context_of(store, data, parent, importance):
    """Half of all units go, other ones by each criterion; what a task with a parent does otherwise is planes."""
    settings = PlanSettings(
        units_keep=0.5, density=0.4, bit_width=3, trunk_bit_width=6, child_overrides={name: {"encoding": "planes"} for name in PLANES}
    )
    plan = make_plan(wide_graph(), settings)
    return samples.make_context(
        store, data, parent=parent, factory=wide_net, graph=wide_graph(), plan=plan, epochs=2, importance=importance, learning_rate=0.02
    )


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Over a trained trunk two tasks, each the parent of the next; the store, and the second's integers as they were trained, at small shape."""
    net, data = wide_net(), samples.make_data("all", range(samples.CLASSES), train=256)
    generator = torch.Generator().manual_seed(0)
    fit(net, data, Phase("checkpoint", 2, 0.1), samples.SETTINGS, parameters=[{"params": list(net.parameters())}], generator=generator)
    trunk = checkpoint_trunk(net.eval(), wide_graph(), bit_width=6, max_code=127, seed=0)
    store = Store.create(tmp_path_factory.mktemp("planes") / "store", trunk=trunk, graph=wide_graph(), recipe={})
    store.commit(samples.learn("tsn", context_of(store, FIRST, "trunk", "magnitude")), {})
    trained = {}
    original = finish_task.to_integers_

    def watch(*arguments, **options):
        integers = original(*arguments, **options)
        trained.update(integers.q)
        return integers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish_task, "to_integers_", watch)
        result = samples.learn("tsn", context_of(store, SECOND, "first", "random"))
    store.commit(result, {})
    return Store.open(store.path), result, trained


@pytest.mark.parametrize("layer", PLANES)
def test_the_child_keeps_rows_that_its_parent_gave_up(learned, layer):
    """Else the other tests mean nothing."""
    store, result, _ = learned
    assert isinstance(result.layers[layer], LayerPlanes)
    gone = ~store.weights("first").q[layer].reshape(len(store.weights("first").q[layer]), -1).any(axis=1)
    kept = store.weights("second").q[layer].reshape(len(gone), -1).any(axis=1)
    inherited = store.frozen_view("first")[layer]
    assert (gone & kept).any() and inherited.q[gone & kept].any()


def test_what_was_trained_is_what_is_extracted(learned):
    store, _, trained = learned
    extracted = extract(wide_net, wide_graph(), store.weights("second"))
    for layer in PLANES:
        np.testing.assert_array_equal(extracted.q[layer], trained[layer])


def test_what_was_validated_is_what_is_stored(learned):
    store, result, _ = learned
    model = masked_model(wide_net, wide_graph(), store.weights("second"))
    loss, accuracy = evaluate(model, SECOND.validation, SECOND, samples.CPU)
    assert accuracy == result.validation["accuracy"] and loss == pytest.approx(result.validation["loss"], rel=1e-6)


@pytest.mark.parametrize("layer", PLANES)
def test_integers_are_the_frozen_view_s_plus_the_plane(learned, layer):
    """By hand, at the units that stay: q = clip(inherited + gain * sign)."""
    store, result, trained = learned
    frozen, planes = store.frozen_view("first")[layer].q.astype(int), result.layers[layer]
    q = np.clip(frozen + planes.gain.astype(int).reshape(-1, 1, 1, 1) * np.where(planes.signs, 1, -1), -127, 127)
    group = {"conv3": "conv2", "conv4": "conv4"}[layer]
    np.testing.assert_array_equal(q[np.ix_(result.unit_masks[group], result.unit_masks["conv2"])], trained[layer])
