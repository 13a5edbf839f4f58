"""The latency page: verdicts against goals, what a speed-up is made of, and shares of a runtime's profile."""

from speed.measure import shares
from speed.page import page

TIMES = {"median": 2.0, "dense_fp32_median": 9.0, "speedup": 4.5, "vendor_int8_median": 2.5, "speedup_over_vendor_int8": 1.25}


def row(**changed):
    """One measured row: a quarter of 8 million MACs in 2 ms against all of them in 9 ms."""
    found = {
        "subject": "net",
        "target": "cpu_onnxruntime",
        "macs": 2_000_000,
        "dense_macs": 8_000_000,
        "accuracy": {"dense_fp32": 0.92, "package": 0.91, "vendor_int8": 0.9},
        "vendor_int8": {"tool": "t", "bytes": 1},
        "times": {"runtime": "onnxruntime", "batch_1": TIMES, "batch_32": {**TIMES, "speedup": 3.9}},
        "profile": {"batch_1": {"QLinearConv": 0.75, "QGemm": 0.25}, "batch_32": {"QLinearConv": 1.0}},
    }
    return {**found, **changed}


def text_of(*rows):
    return page(list(rows), command="c", processor="p", versions={"torch": "2"}, load=0.5)


def test_goals_are_judged_per_runtime_and_batch():
    text = text_of(row())
    assert "| net | cpu_onnxruntime | 1 | 0.250 | 2.000 | 9.000 | 4.50 | 4: reached | 2.500 | 1.25 | 1.5: missed |" in text
    assert "| 3.90 | 4: missed |" in text
    other = row(times={"runtime": "openvino", "batch_1": TIMES, "batch_32": TIMES})
    assert "| 4.50 | - | 2.500 |" in text_of(other) and "| 4.50 | 10: missed |" in text_of(other)


def test_accuracy_within_a_point_of_dense():
    assert "| 0.9200 | 0.9100 | 0.9000 | yes |" in text_of(row())
    assert "| no |" in text_of(row(accuracy={"dense_fp32": 0.92, "package": 0.9099, "vendor_int8": None}))
    assert "0.92" not in text_of(row(accuracy={"dense_fp32": None, "package": None, "vendor_int8": None}))


def test_speed_is_split_into_macs_and_rate():
    """2 MMAC in 2 ms are 1 GMAC/s, 8 MMAC in 9 ms 0.89: 4 * 1.125 = 4.5."""
    assert "- batch 1: 4.00 (MACs) x 1.12 (rate: 1.0 against 0.9 GMAC/s) = 4.50. Time: QLinearConv 75%, QGemm 25%." in text_of(row())


def test_what_the_processor_leaves_possible():
    """A quarter of the MACs and twice the rate: 8 times over fp32, 4 times over int8."""
    text = page([row(), row(target="other")], command="c", processor="p", versions={"torch": "2"}, load=3.0, peak_ratio=2.0)
    assert text.count("- net: 8.00 over fp32, 4.00 over int8.") == 1
    assert "over fp32" not in text_of(row())


def test_a_busy_machine_is_said():
    text = page([row()], command="c", processor="p", versions={"torch": "2"}, load=3.0)
    assert "meanwhile: 3.0. Calls of more than" in text
    assert "meanwhile: 0.5.\n" in text_of(row())


def test_what_a_dense_network_computes_in_is_said_where_it_is_bfloat16():
    assert "the dense fp32 network computes in bfloat16 too" in text_of(
        row(), row(times={"runtime": "openvino_bf16", "batch_1": TIMES, "batch_32": TIMES})
    )
    assert "bfloat16" not in text_of(row())


def test_a_vendor_baseline_that_is_missing_says_why():
    times = {key: value for key, value in TIMES.items() if "vendor" not in key}
    text = text_of(row(times={"runtime": "openvino", "batch_1": times, "batch_32": times}, vendor_int8={"skipped": "nncf is not installed"}))
    assert "| - | - | nncf is not installed |" in text


def test_shares_of_both_runtimes_profiles():
    spent = {"QLinearConv": 30, "QGemm": 9.99, "Flatten": 0.01}
    events = [{"dur": duration, "args": {"op_name": name}} for name, duration in spent.items()]
    assert shares(events) == {"QLinearConv": 0.75, "QGemm": 0.2497}
    nodes = [{"operation": "Convolution", "precision": "u8", "microseconds": 4.0}, {"operation": "Pooling", "precision": "u8", "microseconds": 1.0}]
    assert shares(nodes) == {"Convolution u8": 0.8, "Pooling u8": 0.2}
    assert shares([]) == {}
