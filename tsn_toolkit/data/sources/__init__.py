"""Data sources, one file each: `Options`, the pydantic model of the source's settings, and `load(path, options) -> (train, test)`.

Test is None where the data has no test part; the recipe's `data.test_split` then takes one out of train. A source that knows subjects or superclasses
says them in `Split.group`.
"""
