"""From a small model with its integers to files that a runtime loads.

One module per runtime (those that have a runner beside them) with the members that `runtime.py` lists, and one runner, `run_<runtime>.py`, that
executes its files in a process of its own.
"""
