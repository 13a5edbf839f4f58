"""A net of width 4, two tasks of three classes each, and what learning them gives; made once, on first use."""

import dataclasses
import functools
from dataclasses import replace

import numpy as np
import torch

from tsn_toolkit import registry
from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.trunk import checkpoint_trunk, seed_trunk, trunk_weights
from tsn_toolkit.plan.make import make_plan
from tsn_toolkit.plan.settings import PlanSettings
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import Phase, TrainingSettings, fit

WIDTH, CLASSES, IMAGE = 4, 6, (1, 8, 8)
CPU = torch.device("cpu")
SETTINGS = TrainingSettings(
    batch_size=32, optimizer="sgd", momentum=0.9, weight_decay=1e-3, augment=(), label_smoothing=0.0, device=CPU, dtype=torch.float32
)


def factory():
    """The pristine net, always the same one."""
    with seeded(0):
        return small_cnn(width=WIDTH, classes=CLASSES).eval()


@functools.cache
def graph():
    return trace(factory(), torch.zeros(1, *IMAGE))


def make_data(name="first", classes=(0, 1, 2), *, train=160, held=45, noise=0.35, seed=0):
    """Images of blurred class patterns with noise, uint8; labels 0..len(classes)-1."""
    patterns = np.random.default_rng(7).random((CLASSES, *IMAGE))
    random = np.random.default_rng([seed, *classes])

    def split(count):
        y = random.integers(len(classes), size=count)
        x = patterns[np.array(classes)[y]] * 0.5 + 0.25 + noise * random.standard_normal((count, *IMAGE))
        return Split(torch.from_numpy((x.clip(0, 1) * 255).astype(np.uint8)), torch.from_numpy(y))

    return TaskData(name, tuple(classes), split(train), split(held), split(held), (0.5,), (0.25,))


@functools.cache
def trained_net():
    """The net after two epochs on all six classes."""
    model = factory()
    data = make_data("all", range(CLASSES), train=256)
    phase = Phase("checkpoint", 2, 0.1)
    fit(model, data, phase, SETTINGS, parameters=[{"params": list(model.parameters())}], generator=torch.Generator().manual_seed(0))
    return model.eval()


@functools.cache
def trunk(kind):
    """`seed` or `checkpoint`."""
    return seed_trunk(0) if kind == "seed" else checkpoint_trunk(trained_net(), graph(), bit_width=6, max_code=127, seed=0)


def plan(**settings):
    return make_plan(graph(), PlanSettings(**{"units_keep": 0.75, "density": 0.4, "bit_width": 3, "trunk_bit_width": 6, **settings}))


def make_context(store, data, *, parent="trunk", seed=11, epochs=3, **changes):
    """What a strategy is given to learn `data` over `parent` in `store`."""
    start, classes = None, ()
    if parent != "trunk":
        start = store.weights(parent)
        classes = start.classes
    elif store.trunk().kind == "checkpoint":
        start = trunk_weights(store.trunk())
        classes = tuple(range(CLASSES))
    context = TaskContext(
        factory=factory,
        graph=graph(),
        plan=plan(),
        parent=parent,
        inherited=store.frozen_view(parent),
        start=start,
        start_classes=classes,
        data=data,
        trunk_seed=0,
        seed=seed,
        epochs=epochs,
        learning_rate=0.1,
        importance="magnitude",
        settings=SETTINGS,
        trained_trunk=store.trunk().kind == "checkpoint",
        inherited_free=store.frozen_parameters(parent),
    )
    return replace(context, **changes)


def learn(strategy, context, **options):
    module = registry.load("tsn_toolkit.strategies", strategy)
    return module.learn(context, module.Config(**options))


def values(item, path=""):
    """Every number, array and word of a nested value, with where it stands."""
    if dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from values(getattr(item, field.name), f"{path}.{field.name}")
    elif isinstance(item, dict):
        yield f"{path}.keys", list(item)
        for key, entry in item.items():
            yield from values(entry, f"{path}[{key}]")
    elif isinstance(item, tuple | list):
        yield f"{path}.len", len(item)
        for position, entry in enumerate(item):
            yield from values(entry, f"{path}[{position}]")
    else:
        yield path, item


def assert_equal(first, second):
    for (path, a), (other, b) in zip(values(first), values(second), strict=True):
        assert path == other
        if isinstance(a, np.ndarray | torch.Tensor):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=path)
            assert a.dtype == b.dtype, path
        elif not callable(a):
            assert a == b, path
