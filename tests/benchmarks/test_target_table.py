"""The page of targets and models, how many examples a C program answers, and whose run a folder holds."""

from dataclasses import replace

import pytest
import torch
from target_table import learned, row
from target_table.page import page

from tsn_toolkit.contracts import Split
from tsn_toolkit.target import load_target

TIMES = {"batch_1": {"median": 0.0441, "dense_fp32_median": 0.039}, "batch_32": {"median": 0.606, "dense_fp32_median": 0.918}}
PARITY = {"accuracy": 0.915, "output_steps": 1.0, "top1_agreement": 0.9876, "sqnr_db": 31.26, "not_run": "", "failures": []}


def row_of(target, **changed):
    """A row as `measure` makes it."""
    found = {"bytes": 45171, "parity": PARITY, "limits": {"output_steps": 3.0}, "test_examples": 1000, "times": TIMES}
    return {"target": target, "kind": "cpu", **found, "integer_mac_share": 1.0, "stays_float": [], **changed}


def text_of(*rows):
    """The page of one model."""
    model = {"words": "A net", "recipe": "net", "overrides": ["tasks.count=1"], "task": "a", "weights": 52440, "macs": 5, "dense_macs": 9}
    model |= {"dense_accuracy": 0.92, "store_accuracy": 0.91, "test_examples": 1000, "dense_bytes": 7, "task_bytes": 8, "trunk_bytes": 9}
    return page({"command": "c", "processor": "p", "versions": {"torch": "2"}, "models": {"net": {**model, "rows": list(rows)}}})


def test_a_row_that_was_measured():
    text = text_of(row_of("cpu"))
    assert "| cpu | 45,171 | 91.5 % of 1,000 | 1 (<= 3) | 0.988 | 31.3 | 0.044 | 0.039 | 0.606 | 0.918 | 100.0% |" in text
    assert "`tsn run net --set tasks.count=1`" in text and "[1]" not in text


def test_why_a_cell_is_empty_is_said_once():
    emulated = {"times": {"not_run": "not measured: emulator"}}
    text = text_of(row_of("m0", **emulated), row_of("m4", **emulated), {"target": "m7", "kind": "edge", "refused": "layer `a`\ntakes too much"})
    assert "| m0 | 45,171 | 91.5 % of 1,000 | 1 (<= 3) | 0.988 | 31.3 | not measured here [1] | - | not measured here [1] | - | 100.0% |" in text
    assert text.count("not measured: emulator") == 1
    assert "| m7 | refused [2] | - | - | - | - | - | - | - | - | - |" in text and "- [2] layer `a` takes too much" in text


def test_what_was_not_run_has_not_passed():
    parity = {**PARITY, "accuracy": None, "output_steps": None, "not_run": "no GPU"}
    text = text_of(row_of("gpu", parity=parity, times={"not_run": "no GPU"}, integer_mac_share=None))
    assert "| gpu | 45,171 | not run | weights alone [1] | 0.988 | 31.3 | not measured here [1] |" in text
    assert "| not profiled here |" in text


def test_a_failed_gate_is_named():
    text = text_of(row_of("cpu", parity={**PARITY, "failures": ["Gate (b): too little.", "And this."]}))
    assert "| 0.988; FAILED [1] |" in text and "- [1] Gate (b): too little. And this." in text


def test_floats():
    assert "| 75.0% [1] |" in text_of(row_of("cpu", integer_mac_share=0.75, stays_float=["Softmax a", "Mul b"]))
    assert "- [1] stays in float: Softmax a, Mul b" in text_of(row_of("cpu", integer_mac_share=0.75, stays_float=["Softmax a", "Mul b"]))
    many = text_of(row_of("cpu", integer_mac_share=0.75, stays_float=[f"Add {index}" for index in range(8)]))
    assert "Add 4, Add 5 and 2 more" in many and "Add 6" not in many
    assert "| exact |" in text_of(row_of("cpu", parity={**PARITY, "sqnr_db": None}))
    assert "| float by design |" in text_of(row_of("torch", integer_mac_share=None))


def test_a_c_program_answers_fewer_examples_of_a_large_network():
    test = Split(torch.zeros(1000, 1), torch.zeros(1000))
    m4, ort = load_target("edge_cortex_m4"), load_target("cpu_onnxruntime")
    assert [len(row.examples_for(test, m4, macs)) for macs in (0, 1_000_000, 20_000_000, 1_000_000_000)] == [1000, 1000, 100, 50]
    assert len(row.examples_for(test, ort, 1_000_000_000)) == 1000


def test_a_folder_with_another_run_is_refused(tmp_path, monkeypatch):
    """Nothing is learned here: the folder is looked at first."""
    model = learned.Model("net", "A net", "digits")
    for name in ("found_store", "learn_and_commit"):
        monkeypatch.setattr(learned, name, lambda *_: (_ for _ in ()).throw(KeyError("learning")))
    with pytest.raises(KeyError, match="learning"):
        learned.learn(model, tmp_path, print)
    with pytest.raises(SystemExit, match=r"net holds a run of another recipe.*--work"):
        learned.learn(replace(model, overrides=("training.epochs=1",)), tmp_path, print)
