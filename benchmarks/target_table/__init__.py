"""Parts of `targets.py` and `mlperf_tiny.py`: a task that is learned once and kept, its row for one target, and the page."""
