"""Data sources, one file each: `Options`, the pydantic model of the source's settings, and `load(path, options) -> (train, test)`."""
