"""The estimated size of a plan against a store's file, through the real encoder."""

import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import LayerCodes, TaskResult
from tsn_toolkit.graph import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.parts.trunk import channel_scale, code_head, collect_norms, seed_trunk
from tsn_toolkit.plan.candidate import Examiner, LayerOption
from tsn_toolkit.plan.cost_model import CostModel
from tsn_toolkit.plan.sensitivity import measure_sensitivity
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import SlotState

OPTIONS = {
    "conv1": LayerOption(1.0, "element", 8),
    "conv2": LayerOption(0.3, "element", 4),
    "conv3": LayerOption(0.4, "block(8)", 3),
    "conv4": LayerOption(0.7, "element", 5),
}


def stored_layer(weight, option, mask):
    """A layer's codes as a task would own them."""
    scale = channel_scale(weight, 127)
    q = np.clip(weight / scale.reshape(-1, 1, 1, 1), -127, 127)[mask]
    book = fit_codebook(q, option.bit_width, 127)
    states = np.where(mask, SlotState.OWN, SlotState.PRUNED).astype(np.uint8)
    return LayerCodes(states, assign_codes(q, book), book, option.bit_width, scale, option.granularity)


def test_within_a_twentieth_of_the_file(tmp_path):
    torch.manual_seed(0)
    model = small_cnn(width=48, classes=3).eval()
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    graph = trace(model, x[:1])
    examiner = Examiner(model, graph, (x, y), lambda a, b: torch.nn.functional.cross_entropy(a, b, reduction="none"), max_code=127)
    table = measure_sensitivity(examiner, {name: [option] for name, option in OPTIONS.items()}, {}, max_passes=9)
    costs = CostModel(graph, table)
    estimate = costs.total(costs.largest())[0]

    layers = {}
    for name, option in OPTIONS.items():
        with examiner.applied(costs.candidate(costs.largest())) as applied:
            kept = (applied.get_parameter(f"{name}.weight") != 0).numpy()
        weight = model.get_parameter(f"{name}.weight").detach().numpy()
        layers[name] = stored_layer(weight, option, kept)
    store = Store.create(tmp_path / "store", trunk=seed_trunk(0), graph=graph, recipe={})
    result = TaskResult("a", "trunk", "exact", "by_hand", (0, 1, 2), {}, layers, collect_norms(model), {}, code_head(model, graph.head), {})
    store.commit(result, {})
    part = inspect_store(store)["parts"][-1]
    stored = part["bytes"] - part["breakdown"]["metadata"]
    assert stored == pytest.approx(estimate, rel=0.05)
