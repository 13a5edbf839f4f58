"""Data from a Python factory that returns `((x_train, y_train), (x_test, y_test))`, arrays or tensors, or `((x, y), None)` without a test part."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.examples import make_split
from tsn_toolkit.errors import DataError
from tsn_toolkit.factory import call_factory


class Options(BaseModel):
    """Settings of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    factory: str
    """`package.module:factory` or `path/to/file.py:factory`, with literal arguments."""


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Call the factory; x uint8 or float (n, ...), y integers (n,).

    Raises:
        DataError: the factory cannot be called, returns something else, or its arrays do not fit together; or a path is given.
    """
    if path is not None:
        raise DataError(f"data source factory reads no file itself, got `data.path` {path}. Pass it as an argument of `data.options.factory`.")
    result = call_factory(options.factory, error=DataError)
    try:
        (train_x, train_y), held_out = result
        test_x, test_y = ((), ()) if held_out is None else held_out
    except (TypeError, ValueError) as problem:
        raise DataError(
            f"data factory {options.factory!r} returned a {type(result).__name__}; it must return ((x_train, y_train), (x_test, y_test)), or "
            "((x, y), None) where it has no test part."
        ) from problem
    train = make_split(train_x, train_y, origin=f"data factory {options.factory}, train")
    if held_out is None:
        return train, None
    test = make_split(test_x, test_y, origin=f"data factory {options.factory}, test")
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise DataError(
            f"data factory {options.factory!r}: train examples are {train.x.dtype} {tuple(train.x.shape[1:])}, "
            f"test examples {test.x.dtype} {tuple(test.x.shape[1:])}; they must be alike."
        )
    return train, test
