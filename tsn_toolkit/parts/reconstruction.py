"""What pruning broke, mended in closed form: layer by layer, the pruned network is made to compute what the whole one computed.

In order of execution, on the same inputs:

- a layer that lost inputs gets new weights by ridge regression: the kept inputs, as they arrive in the pruned network, are fitted to the layer's
  output in the whole network (channel pruning, He et al., ICCV 2017, their reconstruction step; here the ridge pulls towards the old weights);
- a batch norm is set so that every channel keeps the mean and variance of its output:

      gain' = gain * std_whole / std_pruned,    shift' = mean of the whole network's output - gain' * mean_pruned

Averaging the norms' statistics anew on one task would also mend the shift, but would trade the statistics of the whole training set for those of a
few classes, which costs more than it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from tsn_toolkit.contracts import NormState
from tsn_toolkit.filling import read_norm, write_norm_
from tsn_toolkit.parts.layer_inputs import input_rows
from tsn_toolkit.parts.slots import kept_rows

MAX_ROWS = 40_000
"""Positions that a regression sees; more are thinned out evenly."""

NORMS = (nn.modules.batchnorm._BatchNorm,)


def reconstruct_(
    small: nn.Module, whole: nn.Module, slots: Mapping[str, torch.Tensor], inputs: torch.Tensor, *, ridge: float, free: frozenset[str]
) -> None:
    """Mends `small` in place.

    Args:
        small: the pruned network, evaluation mode.
        whole: the network it was shrunk from, evaluation mode.
        slots: of the shrunk network.
        inputs: (n, ...), normalised; some hundred examples.
        ridge: pull towards the old weights, relative to the mean squared input.
        free: layers whose weights may change; norms always may.
    """
    for name in _execution_order(whole, inputs[:2]):
        module = small.get_submodule(name)
        if isinstance(module, NORMS):
            _match_norm_(module, name, *_arrivals(small, whole, name, inputs, output=False), slots)
        elif name in free and _lost_inputs(module, whole.get_submodule(name)):
            arrived, wanted = _arrivals(small, whole, name, inputs, output=True)
            rows = kept_rows(slots[f"{name}.weight"], whole.get_submodule(name).weight.shape)
            _regress_(module, arrived, wanted.index_select(_channel_axis(module), rows), ridge)


def _lost_inputs(module: nn.Module, whole: nn.Module) -> bool:
    """Plain convolutions and linear layers only; grouped ones lose inputs together with outputs."""
    if not isinstance(module, nn.Conv2d | nn.Linear) or getattr(module, "groups", 1) != 1:
        return False
    return module.weight.shape[1] < whole.weight.shape[1]


def _channel_axis(module: nn.Conv2d | nn.Linear) -> int:
    """Of what the module gives."""
    return -1 if isinstance(module, nn.Linear) else 1


@torch.no_grad()
def _regress_(module: nn.Conv2d | nn.Linear, arrived: torch.Tensor, wanted: torch.Tensor, ridge: float) -> None:
    """New weights for a layer, so that what arrived (n, in, ...) gives what is wanted (n, out, ...); of a linear layer (..., in) and (..., out).

    Both are centred, since a norm or bias carries the mean.
    """
    design, target = input_rows(module, arrived)[0], wanted.movedim(_channel_axis(module), -1).flatten(0, -2)
    step = max(1, len(design) // MAX_ROWS)
    design, target = design[::step], target[::step]
    mean_in, mean_out = design.mean(0), target.mean(0)
    design, target = design - mean_in, target - mean_out
    old = module.weight.flatten(1).double()  # (out, in * kernel)
    gram = (design.T @ design).double()
    pull = ridge * gram.diagonal().mean()
    right = (design.T @ target).double() + pull * old.T
    new = torch.linalg.solve(gram + pull * torch.eye(len(gram), dtype=gram.dtype), right).T
    module.weight.copy_(new.view_as(module.weight).float())
    if module.bias is not None:
        module.bias.copy_(mean_out - new.float() @ mean_in)


@torch.no_grad()
def _match_norm_(module: nn.Module, name: str, arrived: torch.Tensor, whole_arrived: torch.Tensor, slots: Mapping[str, torch.Tensor]) -> None:
    mean_whole, variance_whole = (moment[slots[f"{name}.running_mean"]] for moment in _moments(whole_arrived))
    mean, variance = _moments(arrived)
    norm = read_norm(module, name)
    gain, shift = torch.from_numpy(norm.gain).double(), torch.from_numpy(norm.shift).double()
    matched = gain * (variance_whole.clamp_min(1e-12) / variance.clamp_min(1e-12)).sqrt().clamp(0.25, 4.0)
    shift = shift + gain * mean_whole - matched * mean
    write_norm_(module, NormState(gain=matched.float().numpy(), shift=shift.float().numpy()), name)


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance per channel, float64."""
    dims = [dim for dim in range(values.dim()) if dim != 1]
    variance, mean = torch.var_mean(values, dims, correction=0)
    return mean.double(), variance.double()


@torch.no_grad()
def _execution_order(model: nn.Module, inputs: torch.Tensor) -> list[str]:
    """Paths of all layers and norms in the order in which they run."""
    order: list[str] = []
    kinds = (nn.Conv2d, nn.Linear, *NORMS)
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(name)) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


class _Arrived(Exception):
    """Stops a forward pass where its value is known."""


@torch.no_grad()
def _arrivals(small: nn.Module, whole: nn.Module, name: str, inputs: torch.Tensor, *, output: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What arrives at a module of `small`, and what arrives at (or leaves, with `output`) the same module of `whole`."""
    seen: dict[str, torch.Tensor] = {}

    def keep(key: str, pick: Callable[..., torch.Tensor]) -> Callable[..., None]:
        def hook(*values: object) -> None:
            seen[key] = pick(*values)
            raise _Arrived

        return hook

    for key, model, leaves in (("small", small, False), ("whole", whole, output)):
        module = model.get_submodule(name)
        if leaves:
            handle = module.register_forward_hook(keep(key, lambda _, __, result: result))
        else:
            handle = module.register_forward_pre_hook(keep(key, lambda _, arguments: arguments[0]))
        try:
            model(inputs)
        except _Arrived:
            pass
        finally:
            handle.remove()
    return seen["small"], seen["whole"]
