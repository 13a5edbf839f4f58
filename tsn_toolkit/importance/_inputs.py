"""What arrives at layers: their inputs on calibration batches, and the energy of the input behind every weight."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from tsn_toolkit.errors import GraphError
from tsn_toolkit.importance._per_weight import Batches

Visit = Callable[[str, torch.Tensor], None]


def visit_inputs(model: nn.Module, names: Iterable[str], batches: Batches, visit: Visit) -> int:
    """Runs a private copy in eval mode and calls `visit(layer name, input)` for every call of the named layers.

    Returns:
        The number of examples that ran.

    Raises:
        GraphError: if a layer is never called as a module, so that its inputs stay unknown.
    """
    quiet = copy.deepcopy(model).eval()
    called: set[str] = set()

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def observe(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            called.add(name)
            visit(name, arguments[0] if arguments else next(iter(named.values())))

        return observe

    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        quiet.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True)
    examples = 0
    with torch.no_grad():
        for x, _ in batches:
            quiet(x)
            examples += len(x)
    missing = [name for name in wanted if name not in called]
    if missing:
        raise GraphError(
            f"The model uses the weight of `{missing[0]}` without calling that layer, so its inputs cannot be seen. Use `fisher` or `magnitude`."
        )
    return examples


def input_energy(model: nn.Module, names: Iterable[str], batches: Batches) -> dict[str, torch.Tensor]:
    """Layer name -> float64 tensor of the weight's shape: sum over positions, mean over examples, of the squared input that each weight multiplies.

    A layer that is fed squared inputs gives sum(w * x^2), whose derivative by w is that sum, for every stride, padding, dilation and number of
    groups. The input of an embedding is a one-hot row, so the energy of its weights counts tokens.

    Raises:
        GraphError: if a layer is never called as a module.
    """
    wanted = tuple(dict.fromkeys(names))
    probes = {name: copy.deepcopy(model.get_submodule(name)).requires_grad_(True) for name in wanted}
    totals = {name: torch.zeros_like(probes[name].get_parameter("weight"), dtype=torch.float64) for name in wanted}

    def add(name: str, x: torch.Tensor) -> None:
        with torch.enable_grad():
            output = probes[name](x.detach().square() if x.is_floating_point() else x)
            (gradient,) = torch.autograd.grad(output.sum(), [probes[name].get_parameter("weight")])
        totals[name] += gradient.to_dense().double()

    examples = visit_inputs(model, wanted, batches, add)
    return {name: total / examples for name, total in totals.items()}
