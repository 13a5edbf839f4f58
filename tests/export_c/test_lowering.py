"""Integer operations against the exporter's other integer arithmetic, and what cannot be generated."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.c.operations import Convolution
from tsn_toolkit.export.c.reference import quantize_input, run_reference
from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic
from tsn_toolkit.models.small_vit import small_vit
from tsn_toolkit.quantizers.activations import build_integer_model

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_models import (  # noqa: E402
    SHAPES,
    ConcatNet,
    PlainNet,
    ResidualNet,
    SoftmaxNet,
    examples,
    extracted_of,
    integer_model,
    lowered,
)


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_codes_are_those_of_the_integer_model(kind):
    """The two arithmetics differ in how they round factors alone, so codes are equal but for rare ties; probabilities are rounded to 1/256 in C."""
    x = examples(kind, 64)
    model = integer_model(extracted_of(kind()), x)
    program = lower(model, SHAPES[kind])
    got = run_reference(program, quantize_input(program, x.numpy()))
    outputs, _ = interpret(OnnxRuntimeArithmetic(model), x)
    expected = np.rint(outputs.numpy() / np.float32(program.target.step))
    assert len(np.unique(expected)) > 30, "the outputs must tell something"
    limit, rare = (3, 0.5) if kind is SoftmaxNet else (1, 0.01)
    assert np.abs(got - expected).max() <= limit
    assert np.mean(got != expected) < rare


def test_channels_with_negative_gains_keep_the_stores_integers():
    extracted = extracted_of(ResidualNet())
    model = integer_model(extracted, examples(ResidualNet))
    assert model.negated["conv1"] == (0,)
    convolutions = [item for item in lower(model, SHAPES[ResidualNet]).operations if isinstance(item, Convolution)]
    assert [item.layer for item in convolutions] == ["conv1", "conv2", "linear"]
    for item in convolutions:
        assert np.array_equal(item.codes.reshape(-1), extracted.q[item.layer].reshape(-1))
    assert [np.flatnonzero(item.factors.multipliers < 0).tolist() for item in convolutions] == [[0], [0], []]


def test_buffers_are_written_once():
    for kind in SHAPES:
        targets = [operation.target.buffer for operation in lowered(kind).operations]
        assert len(set(targets)) == len(targets)


def refused(model: nn.Module, x: torch.Tensor, shape: tuple[int, ...] | None = None) -> str:
    extracted = extracted_of(model)
    with pytest.raises(ExportError) as caught:
        lower(build_integer_model(extracted.model, extracted.q, extracted.scale, x), shape or tuple(x.shape[1:]))
    return str(caught.value)


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(3, 4, 4, padding="same"), nn.Flatten(), nn.Linear(256, 2)], "Layer `0` has padding 'same'"),
        ([nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(256, 2)], "Layer `0`.*'reflect'"),
        ([nn.Conv2d(3, 4, 1), nn.MaxPool2d(3, ceil_mode=True), nn.Flatten(), nn.Linear(36, 2)], "Max pooling `1`"),
        ([nn.Conv2d(3, 4, 1), nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Flatten(), nn.Linear(100, 2)], "Average pooling `1`"),
        ([nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2)], r"Adaptive pooling `1` to \(3, 3\)"),
        ([nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.Flatten(), nn.Linear(256, 2)], r"Softmax `1` runs over dimension 1 of 4\. In C"),
        ([nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2), nn.Softmax(0)], r"Softmax `3` runs over dimension 0 of 2\. In C"),
        ([nn.Conv2d(3, 4, 1), nn.LogSoftmax(1), nn.Flatten(), nn.Linear(256, 2)], r"`1` \(LogSoftmax\) has no integer rule in C"),
        ([nn.Conv2d(3, 4, 1), nn.PReLU(), nn.Flatten(), nn.Linear(256, 2)], r"`1` \(PReLU\) has no integer rule in C"),
    ],
)
def test_what_has_no_rule_is_named(layers, message):
    found = refused(nn.Sequential(*layers), IMAGE)
    assert re.search(message, found), found


def test_a_model_that_graph_mode_cannot_take_is_refused_by_its_layers():
    """A transformer's norms have no integer form; a network of convolutions, quantized likewise, has no such layer to name."""
    found = refused(small_vit(width=8, depth=1, heads=2, classes=2), torch.randn(2, 3, 32, 32))
    assert "quantized layerwise, and `blocks.0.norm1` (LayerNorm) and 2 more have no integer rule in C: Brevitas' graph mode" in found
    model = integer_model(extracted_of(PlainNet()), examples(PlainNet))
    model.mode, model.notes = "layerwise", ("Why.",)
    with pytest.raises(ExportError, match=r"quantized layerwise: Why\. Supported are conv"):
        lower(model, SHAPES[PlainNet])


def test_a_kernel_larger_than_the_image_is_named():
    model = integer_model(extracted_of(PlainNet()), examples(PlainNet))
    with pytest.raises(ExportError, match=r"kernel \(3, 3\) of `conv1` does not fit into its input of shape \(3, 0, 9\)"):
        lower(model, (3, 0, 9))


def test_a_wrong_input_shape_is_named():
    model = integer_model(extracted_of(ConcatNet()), examples(ConcatNet))
    with pytest.raises(ExportError, match=r"Layer `conv1` takes 3 dimensions with 3 channels, but its input has shape \(4, 8, 8\)"):
        lower(model, (4, 8, 8))


def test_an_accumulator_beyond_int32_is_named():
    linear = nn.Linear(140_000, 2)
    codes, scale = np.full((2, 140_000), 127, np.int8), np.full(2, 2.0**-10, np.float32)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(codes.astype(np.float32)) * 2.0**-10)
        linear.bias.zero_()
    model = build_integer_model(nn.Sequential(linear).eval(), {"0": codes}, {"0": scale}, torch.ones(1, 140_000))
    with pytest.raises(ExportError, match=rf"accumulator of layer `0`, channel 0, may reach {127 * 128 * 140_000}"):
        lower(model, (140_000,))
