"""Statistics of batch norms: averaged anew, or stated anew without changing the function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def reestimate_norms_(model: nn.Module, batches: Sequence[torch.Tensor]) -> None:
    """Sets the running statistics of every batch norm to the plain average over `batches` of inputs (each (n, ...)), in place."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for x in batches:
            model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def restate_norms_(model: nn.Module, inputs: torch.Tensor) -> None:
    """Gives every batch norm the statistics of `inputs` and scales its affine parameters so that the function stays, in place.

    A stored norm is two vectors with the statistics folded in. Training from them would apply the folded gain on top of the batch's own statistics,
    and gains would grow from task to task.

    Args:
        model: module as filled from a store.
        inputs: normalised examples (n, ...).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats and m.affine]
    moments: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        values = arguments[0].transpose(0, 1).flatten(1).double()
        moments[norm] = values.mean(1), values.var(1, unbiased=False)

    handles = [norm.register_forward_pre_hook(record) for norm in norms]
    try:
        model.eval()(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for norm in norms:
        if norm not in moments:
            continue
        mean, variance = moments[norm]
        gain = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.double() - norm.running_mean.double() * gain
        norm.weight.copy_(gain * torch.sqrt(variance + norm.eps))
        norm.bias.copy_(shift + gain * mean)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
