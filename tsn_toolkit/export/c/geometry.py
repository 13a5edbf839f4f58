"""Windows of torch's layers, with 1-d layers as 2-d ones of one row, and the shapes that they give."""

from __future__ import annotations

from typing import Any

from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.operations import Pair, Tensor, Window


def layer_window(name: str, layer: Any) -> tuple[Window, int]:
    """(window, groups) of a Conv1d, Conv2d or Linear layer.

    Raises:
        ExportError: the padding is given by a name or is not zeros.
    """
    if isinstance(layer, nn.Linear):
        return Window((1, 1)), 1
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ExportError(f"Layer `{name}` has padding {layer.padding!r} of mode {layer.padding_mode!r}. In C it must be a number of zeros.")
    window = Window(_pair(layer.kernel_size, 1), _pair(layer.stride, 1), _pair(layer.padding, 0), _pair(layer.dilation, 1))
    return window, int(layer.groups)


def max_window(name: str, pool: Any) -> Window:
    """Window of a MaxPool1d or MaxPool2d.

    Raises:
        ExportError: it rounds its output size up or returns indices.
    """
    if pool.ceil_mode or pool.return_indices:
        raise ExportError(f"Max pooling `{name}` has ceil_mode or return_indices, which have no integer rule in C. Use the default of both.")
    ones = (1,) * _dimensions(pool)
    settings = ((pool.kernel_size, 1), (pool.stride, 1), (pool.padding, 0), (pool.dilation, 1))
    return Window(*(_pair(_spread(value, ones), fill) for value, fill in settings))


def average_window(name: str, pool: Any, source: Tensor) -> Window:
    """Window of an average or adaptive average pooling over `source`; each output is a sum over the whole window divided by its size.

    Raises:
        ExportError: the windows of the pooling differ in size.
    """
    ones = (1,) * _dimensions(pool)
    if isinstance(pool, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
        return _adaptive_window(name, _pair(_spread(pool.output_size, ones), 1), source)
    padding = _spread(pool.padding, ones)
    if pool.ceil_mode or getattr(pool, "divisor_override", None) is not None or any(padding) and not pool.count_include_pad:
        raise ExportError(
            f"Average pooling `{name}` must divide by its kernel size everywhere. "
            "Leave ceil_mode, divisor_override and count_include_pad at their defaults."
        )
    return Window(_pair(_spread(pool.kernel_size, ones), 1), _pair(_spread(pool.stride, ones), 1), _pair(padding, 0))


def output_shape(name: str, source: Tensor, channels: int, window: Window) -> tuple[int, ...]:
    """Shape of what a window over `source` gives, with as many dimensions as `source` has.

    Raises:
        ExportError: the window does not fit into the source.
    """
    _, rows, columns = source.planes
    size = window.output(rows, columns)
    if min(size) < 1:
        raise ExportError(f"The kernel {window.kernel} of `{name}` does not fit into its input of shape {source.shape}. Check the input's shape.")
    return (channels, *size[3 - len(source.shape) :])


def _adaptive_window(name: str, wanted: tuple[Any, ...], source: Tensor) -> Window:
    _, *sizes = source.planes
    outputs = [size if output is None else int(output) for size, output in zip(sizes, wanted)]
    if any(size % output for size, output in zip(sizes, outputs)):
        raise ExportError(f"Adaptive pooling `{name}` to {tuple(outputs)} does not divide its input of shape {source.shape}. Change the output size.")
    kernel = (sizes[0] // outputs[0], sizes[1] // outputs[1])
    return Window(kernel, stride=kernel)


def _dimensions(pool: Any) -> int:
    return 1 if isinstance(pool, (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)) else 2


def _spread(value: Any, ones: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(ones)


def _pair(value: tuple[Any, ...], fill: int) -> Pair:
    """(rows, columns) from a value per dimension; `fill` for the row of a 1-d layer."""
    return (fill, value[0]) if len(value) == 1 else (value[0], value[1])
