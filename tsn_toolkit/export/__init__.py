"""From a small model with its integers to files that a runtime loads.

One module per runtime (`onnxruntime.py`, `openvino.py`, `torch.py`, `gcc.py`) with the members that `runtime.py` lists, and one runner,
`run_<runtime>.py`, that executes its files in a process of its own.
"""
