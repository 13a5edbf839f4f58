"""What a layer and its input must be so that a C program can compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.operations import Tensor

_MAX_ACCUMULATOR = 2**31 - 1


def check_input(name: str, layer: Any, source: Tensor) -> None:
    """The input of a layer must have its dimensions and channels.

    Raises:
        ExportError: it has not.
    """
    dimensions = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3}
    expected = next(count for kind, count in dimensions.items() if isinstance(layer, kind))
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    if len(source.shape) != expected or source.shape[0] != inputs:
        raise ExportError(
            f"Layer `{name}` takes {expected} dimensions with {inputs} channels, but its input has shape {source.shape}. "
            "Check the shape of the model's input, and flatten what goes into a linear layer."
        )


def check_accumulators(name: str, codes: NDArray[np.int8], bias: NDArray[np.int64], source: Tensor) -> None:
    """Any partial sum of the layer, in any order, must fit int32.

    Raises:
        ExportError: one may not; the channel is named.
    """
    peak = 128 if source.signed else 255
    largest = np.abs(codes.reshape(len(codes), -1).astype(np.int64)).sum(1) * peak + np.abs(bias)
    channel = int(largest.argmax())
    if largest[channel] > _MAX_ACCUMULATOR:
        raise ExportError(
            f"The accumulator of layer `{name}`, channel {channel}, may reach {int(largest[channel])}, but must stay below 2**31. "
            "Give the layer fewer inputs or split it."
        )
