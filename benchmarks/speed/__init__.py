"""Parts of `latency.py`: what is timed, and where the time goes."""
