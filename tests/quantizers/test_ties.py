"""Values at the edge of rounding: what they may cost is measured on the model, and nothing else is excused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.contracts import ActivationRange
from tsn_toolkit.quantizers.activations import build_integer_model
from tsn_toolkit.quantizers.ties import tie_spread
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import compare

TARGET = load_target("cpu_onnxruntime")
STEP = 0.5
"""Of both inputs of layers; a power of two, so that ties are exact."""


class Chain(nn.Module):
    """Two layers with floats in between: control flow keeps Brevitas from quantizing a graph."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        between = self.first(x)
        if between.shape[0] < 0:  # control flow on values keeps fx from tracing it
            raise ValueError
        return self.head(between)


def reference_of(first=((1, 0), (0, 1)), head=((40, 0), (0, 40))):
    model = Chain().eval()
    q = {"first": np.array(first, np.int8), "head": np.array(head, np.int8)}
    scale = {"first": np.full(2, 0.25, np.float32), "head": np.full(2, 0.125, np.float32)}
    with torch.no_grad():
        for name, codes in q.items():
            model.get_submodule(name).weight.copy_(torch.from_numpy(codes * scale[name][:, None]))
    ranges = {f"{name}.input_quant": ActivationRange(STEP, 0, True) for name in q}
    return build_integer_model(model, q, scale, torch.zeros(1, 2), ranges=ranges)


def test_an_exact_tie_costs_one_code_of_its_layer():
    reference = reference_of()
    assert reference.mode == "layerwise"
    # An input of 1.0 makes an output of .25, code .5 of the next layer: a tie. One of 2.0 makes code 1.0, far from any edge.
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    found = tie_spread(reference, x)
    one_code = STEP * 0.125 * 40
    np.testing.assert_allclose(found, [one_code, 0.0, one_code], atol=1e-4)


def test_measuring_changes_nothing_and_is_repeatable():
    reference = reference_of()
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = reference(x)
    state = torch.get_rng_state()
    first, second = tie_spread(reference, x), tie_spread(reference, x)
    assert np.array_equal(first, second) and torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        assert torch.equal(before, reference(x))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in reference.modules())


def test_other_models_have_no_ties():
    assert not tie_spread(nn.Linear(2, 2), torch.ones(3, 2)).any()
    graph = copy.copy(reference_of())
    graph.mode = "graph"
    assert not tie_spread(graph, torch.ones(3, 2)).any()
    assert tie_spread(reference_of(), torch.ones(0, 2)).shape == (0,)


def outputs(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize(("moved", "ties", "passed"), [(3.4, 2.5, True), (3.6, 2.5, False), (1.0, 0.0, True), (1.1, 0.0, False)])
def test_a_gate_allows_an_example_its_own_ties_and_no_other(moved, ties, passed):
    reference = outputs([10.0, 0.0], [0.0, 10.0])
    artefact = reference + outputs([moved, 0.0], [0.0, 0.0])
    parity = compare(artefact, reference, reference, step=1.0, target=TARGET, accuracy=1.0, ties=np.array([ties, 0.0]))
    assert parity.passed is passed and parity.output_steps == pytest.approx(moved, abs=1e-3) and parity.tie_steps == ties
    swapped = compare(artefact, reference, reference, step=1.0, target=TARGET, accuracy=1.0, ties=np.array([0.0, ties]))
    assert swapped.passed is (moved <= 1.0)
    if not passed and ties:
        assert parity.failures[0].endswith("differ by 3.6 output steps; allowed are 1, and 2.5 by values at the edge of rounding.")


def test_a_wrong_weight_is_not_excused_by_ties():
    from tsn_toolkit.verify.gates import _ties_beyond

    right, wrong = reference_of(), reference_of(head=((40, 0), (3, 40)))
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 10
    with torch.no_grad():
        integer, artefact = right(x).numpy(), wrong(x).numpy()
    step = float(np.abs(integer).max()) / 127
    ties = _ties_beyond(artefact, integer, right, x, step, 1.0)
    parity = compare(artefact, integer, integer, step=step, target=TARGET, accuracy=1.0, ties=ties)
    assert not parity.passed and "Gate (a)" in parity.failures[0]
