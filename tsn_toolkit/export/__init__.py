"""From a small model with its integers to files that a runtime loads.

One exporter file per runtime (`onnxruntime.py`) and one runner, `run_<runtime>.py`, that executes its files in a process of its own.
"""
