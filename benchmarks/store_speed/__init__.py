"""What `benchmarks/store.py` measures with: synthetic stores, interleaved timing, child processes."""
