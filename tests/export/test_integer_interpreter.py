"""What a gate may compare with: one output per arithmetic that a processor may choose, each that of its interpreter."""

import export_models as models
import numpy as np
import pytest
import torch

from tsn_toolkit.export.executorch_arithmetic import XnnpackArithmetic
from tsn_toolkit.export.integer_interpreter import Codes, Interpreter, Sum, admissible_by, interpret
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic
from tsn_toolkit.export.openvino_arithmetic import OpenVinoArithmetic
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.export.tensorrt_arithmetic import TensorRtArithmetic

ARITHMETICS = {
    "executorch": [XnnpackArithmetic],
    "tensorrt": [TensorRtArithmetic],
    "onnxruntime": [lambda model: OnnxRuntimeArithmetic(model, "first"), lambda model: OnnxRuntimeArithmetic(model, "second")],
    "openvino": [lambda model, fusion=fusion: OpenVinoArithmetic(model, fusion) for fusion in ("first", "second", "none")],
}


@pytest.mark.parametrize("runtime", ARITHMETICS)
def test_a_runtime_admits_what_its_arithmetics_give(runtime, reference):
    x = models.inputs(20, seed=3)
    found = list(load_runtime(runtime, target="any").admissible_outputs(reference, x))
    expected = [interpret(make(reference), x, batch_size=7) for make in ARITHMETICS[runtime]]
    assert [kind for _, kind in found] == [kind for _, kind in expected] == ["integer"] * len(expected)
    for (outputs, _), (wanted, _) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(outputs, wanted.numpy())


def test_arithmetics_are_computed_when_asked_for(reference):
    made = []

    def make(model):
        made.append(model)
        return Interpreter(model)

    outputs = admissible_by(make, make)(reference, models.inputs(2))
    assert made == []
    next(outputs)
    assert made == [reference]


def test_the_plainest_sum_by_hand(reference):
    """3 steps of 0.5 and -1 of 0.25 are 1.25: 2.5 steps of 0.5, rounded to even; 2.6 steps of 0.48."""
    pair = Sum(*(Codes(torch.tensor([value]), torch.tensor([scale]), signed=True) for value, scale in ((3.0, 0.5), (-1.0, 0.25))))
    assert Interpreter(reference).rounded(pair, torch.tensor(0.5), 128.0).item() == 2.0
    assert Interpreter(reference).rounded(pair, torch.tensor(0.48), 128.0).item() == 3.0
