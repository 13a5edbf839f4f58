"""Operations of training, counted as it runs: the formula of `tsn_toolkit/parts/training_cost.py` for every pass forward and back.

Counted are the passes of linear layers and convolutions through which gradients flow, replayed examples, penalties and criteria included, and in
training steps the forward passes too through which none do: those of frozen layers, of a teacher, of the choice of examples. A training step goes
from the first pass in training mode until an optimizer has moved; other passes without gradients (validation, measuring) are left out. Masked layers
count by the density of their masks; where scores are learned, the gradient of every weight is asked for. Strategies that count their own sparse
updates say so in the store, and their number is taken.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.wsn_fp32 import WinningWeight
from tsn_toolkit.parts.subnet_weight import SubnetWeight
from tsn_toolkit.parts.training_cost import LayerCost, step_flops


class OperationCounter:
    """Counts while it is entered.

    Attributes:
        flops: so far; a multiply-add is two.
    """

    def __init__(self) -> None:
        self.flops = 0.0

        self._in_step = False

    def __enter__(self) -> OperationCounter:
        self._hooks = (register_module_forward_hook(self._count), register_optimizer_step_post_hook(self._end_step))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or torch.compiler.is_compiling():
            return
        self._in_step |= module.training and torch.is_grad_enabled()
        if not output.requires_grad and not self._in_step:
            return
        channels = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        density, gradient_density = _densities(module) if output.requires_grad else (_densities(module)[0], 0.0)
        macs = output.numel() // channels * _fan_in(module) * channels
        cost = LayerCost(macs, first=not inputs[0].requires_grad, density=density, gradient_density=gradient_density)
        self.flops += step_flops([cost], 1)

    def _end_step(self, *_: object) -> None:
        self._in_step = False


def _fan_in(module: nn.Linear | nn.Conv1d | nn.Conv2d) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    size = module.in_channels // module.groups
    for width in module.kernel_size:
        size *= width
    return size


def _densities(module: Any) -> tuple[float, float]:
    """Fraction of a layer's weights that is active, and of its weight gradients that is asked for; of modules, whose attributes have no types."""
    if not parametrize.is_parametrized(module, "weight"):
        return 1.0, float(module.weight.requires_grad)
    wrapper, latent = module.parametrizations["weight"][0], module.parametrizations["weight"].original
    if isinstance(wrapper, WinningWeight):
        return _fraction(wrapper.mask()), 1.0
    if not isinstance(wrapper, SubnetWeight):
        return 1.0, 1.0
    active = _fraction(wrapper.mask) if wrapper.rule == "select" else 1.0
    if wrapper.learn_scores:
        return active, 1.0
    return active, _fraction(wrapper.own_slots()) if latent.requires_grad else 0.0


def _fraction(mask: Any) -> float:
    """Share of True."""
    return float(mask.float().mean())
