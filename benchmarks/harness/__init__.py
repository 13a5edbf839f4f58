"""The measuring harness of `continual.py`: variants, one measured run, results as lines, table and plot."""
