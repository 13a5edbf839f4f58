"""Continual-learning strategies: one file each, the registry name is the file's name."""
