"""The page that compares two networks' bytes."""

from mlperf_tiny import page


def test_ratios_to_the_int8_file():
    ours = {"overrides": ["a=1", "b={*: 1}"], "task": "a"}
    ours |= {"weights": 1000, "macs": 3, "dense_macs": 4, "dense_accuracy": 0.9, "onnx_accuracy": 0.885, "failures": []}
    results = {"processor": "p", "versions": {"torch": "2"}, "theirs": {"int8 .tflite": 200, "float32 .tflite": 700}}
    results["ours"] = {**ours, "bytes": {"C program": 150, "int8 .onnx": 1234}}
    text = page(results)
    assert "| MLPerf Tiny | int8 .tflite | 200 | 1.00 |" in text and "| MLPerf Tiny | float32 .tflite | 700 | 3.50 |" in text
    assert "| ours, task `a` | C program | 150 | 0.75 |" in text and "| ours, task `a` | int8 .onnx | 1,234 | 6.17 |" in text
    assert "`tsn run cifar100_resnet20 --set a=1 --set 'b={*: 1}'`;\n1,000 weights" in text
    assert "90.0 % dense, 88.5 % as int8 .onnx. Both gates passed." in text
    results["ours"]["failures"] = ["Gate (a): no."]
    assert "A gate FAILED: Gate (a): no." in page(results)
