import json

from tsn_toolkit.numerics.paired import paired_difference
from tsn_toolkit.parts.step_record import LayerChange, StepRecord


def test_lines_sum_up_and_give_each_layer_its_numbers_or_its_reason():
    layers = (LayerChange("a", 3, 10, 0.25, 0.125), LayerChange("b", reason="owns no codes"), LayerChange("c", 0, 5))
    record = StepRecord("rounding (gptq)", "codes", "kept", layers, paired_difference([1.0, 2.0], [1.5, 2.0]))
    assert record.lines() == [
        "rounding (gptq): kept, 3 of 15 codes changed; validation loss -0.2500 (standard error 0.2500) on 2 examples",
        "  a: 3 of 10 codes, relative output error 0.25 -> 0.125",
        "  b: owns no codes",
        "  c: 0 of 5 codes",
    ]
    assert StepRecord("x", "codes", "idle", reason="nothing to do").lines() == ["x: idle, 0 of 0 codes changed; nothing to do"]


def test_a_record_is_json_even_with_one_example_whose_error_is_unknown():
    record = StepRecord("x", "codes", "undone", (LayerChange("a", 1, 2, 0.5, 0.25),), paired_difference([1.0], [0.0]))
    plain = json.loads(json.dumps(record.as_plain(), allow_nan=False))
    assert plain["loss"] == {"mean": 1.0, "standard_error": None, "count": 1}
    assert plain["layers"][0] == {"layer": "a", "changed": 1, "total": 2, "error_before": 0.5, "error_after": 0.25, "reason": ""}
