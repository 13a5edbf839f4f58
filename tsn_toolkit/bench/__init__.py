"""Latencies and sizes beside what a user would have without the toolkit."""
