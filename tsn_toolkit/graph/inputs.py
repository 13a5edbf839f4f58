"""The inputs of a model: what the user gives as an example, how it is recorded, and random inputs of the same kind."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tsn_toolkit.contracts import InputRecord
from tsn_toolkit.errors import GraphError

Example = torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]


def first_examples(model: nn.Module, example: Example) -> tuple[tuple[InputRecord, ...], tuple[torch.Tensor, ...]]:
    """Records of the inputs, and the first example of each tensor.

    Args:
        model: whose forward names positional inputs.
        example: a tensor, a tuple of tensors in the order of forward's arguments, or tensors by argument name; all (n, ...), n >= 1.

    Raises:
        GraphError: if something else than tensors is given, or one holds no example.
    """
    if isinstance(example, Mapping):
        named = [(str(name), tensor) for name, tensor in example.items()]
    else:
        tensors = example if isinstance(example, (tuple, list)) else (example,)
        named = list(zip(_argument_names(model, len(tensors)), tensors))
    if not named:
        raise GraphError("`example_inputs` holds no input. Give a tensor, a tuple of tensors or a dict of tensors by argument name.")
    records = []
    for name, tensor in named:
        if not isinstance(tensor, torch.Tensor):
            raise GraphError(f"Input `{name}` must be a tensor, got {type(tensor).__name__}. Bind other arguments inside the model.")
        if tensor.ndim < 1 or not len(tensor):
            raise GraphError(f"Input `{name}` must hold at least one example along its first dimension, got shape {tuple(tensor.shape)}.")
        kind = str(tensor.dtype).removeprefix("torch.")
        records.append(InputRecord(name, tuple(tensor.shape[1:]), kind, _upper(tensor), isinstance(example, Mapping)))
    return tuple(records), tuple(tensor[:1] for _, tensor in named)


def _argument_names(model: nn.Module, count: int) -> list[str]:
    """Names of forward's first arguments; `input_0` and so on where it has none."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    names = [parameter.name for parameter in parameters if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)]
    return [names[index] if index < len(names) else f"input_{index}" for index in range(count)]


def _upper(tensor: torch.Tensor) -> int:
    """Exclusive upper bound of an integer input as far as the example tells; 0 for floats."""
    if tensor.is_floating_point() or tensor.is_complex():
        return 0
    return 2 if tensor.dtype == torch.bool or tensor.is_meta else max(int(tensor.max()) + 1 if tensor.numel() else 0, 2)


def with_vocabularies(records: Sequence[InputRecord], vocabularies: Mapping[int, int]) -> tuple[InputRecord, ...]:
    """Records whose bound is the length of the embedding that the input of this position is looked up in."""
    return tuple(replace(record, upper=vocabularies.get(index, record.upper)) for index, record in enumerate(records))


def arguments(records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Positional and keyword arguments of a call."""
    positional = tuple(tensor for record, tensor in zip(records, tensors) if not record.keyword)
    return positional, {record.name: tensor for record, tensor in zip(records, tensors) if record.keyword}


def run_model(model: nn.Module, records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> Any:
    """The model's output without gradients."""
    positional, keywords = arguments(records, tensors)
    with torch.no_grad():
        return model(*positional, **keywords)


def random_inputs(model: nn.Module, records: Sequence[InputRecord], *, seed: int, batch: int) -> tuple[torch.Tensor, ...]:
    """Random inputs of `batch` examples on the model's device: N(0, 1) in the model's own type, ids below their bound, booleans of both kinds.

    The first entry of an integer input is the largest id, and of a boolean one False, then True: a mask never hides everything.
    """
    reference = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for record in records:
        shape = (batch, *record.shape)
        if record.upper and record.dtype == "bool":
            tensor = torch.randint(0, 2, shape, generator=generator).bool()
            flat = tensor.reshape(batch, -1)
            flat[:, :1], flat[:, 1:2] = False, True
        elif record.upper:
            tensor = torch.randint(0, record.upper, shape, generator=generator).to(getattr(torch, record.dtype))
            tensor.reshape(batch, -1)[:, :1] = record.upper - 1
        else:
            tensor = torch.randn(shape, generator=generator, dtype=torch.float64).to(reference.dtype)
        found.append(tensor.to(reference.device))
    return tuple(found)
